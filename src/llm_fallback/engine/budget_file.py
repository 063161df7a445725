"""A day's spending in a file: it outlives a process, and processes on one machine share it.

The first line says which day it is, every other is an amount: of which chain, whose, how many US dollars. The first
amount of a new day empties the file. Amounts are appended under a lock of the file, so that none gets lost between
processes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from io import FileIO
from pathlib import Path

logger = logging.getLogger("llm_fallback")

Amount = tuple[str | None, Decimal]
"""Whose, and how many US dollars."""

_LONGEST_HEADER = 200


class DailySpendFile:
    """The part of a file that one chain's budget keeps.

    A disk that fails costs no call: amounts that cannot be written are written with the next that can.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner
        self._lock = threading.Lock()
        self._day = ""
        self._read_to = 0
        self._unwritten: list[Amount] = []
        self._is_failing = False
        if not path.exists():
            logger.warning("budget file %s is not there; what %s has cost today begins at nothing", path, owner)

    def has_changed(self, day: str) -> bool:
        """Whether there may be amounts of the day that were not read yet."""
        try:
            return self._path.stat().st_size != self._read_to or day != self._day
        except OSError:
            return False

    def append_and_read(self, day: str, amounts: Iterable[Amount]) -> list[Amount]:
        """Write our own amounts of the day; what others wrote since the last time."""
        with self._lock:
            if day != self._day:
                self._day, self._read_to, self._unwritten = day, 0, []
            self._unwritten += amounts
            try:
                with self._path.open("a+b", buffering=0) as file, _locked(file):
                    return self._append_and_read_locked(file)
            except OSError as error:
                self._warn_once(error)
                return []

    def _append_and_read_locked(self, file: FileIO) -> list[Amount]:
        file.seek(0)
        first = file.read(_LONGEST_HEADER).partition(b"\n")[0]
        is_todays = self._day_of(file, first) == self._day
        news = list(self._news(file, len(first) + 1)) if is_todays else []
        if self._unwritten:
            if not is_todays:
                file.truncate(0)
            self._append(file, b"" if is_todays else _header(self._day))
        self._is_failing = False
        return news

    def _day_of(self, file: FileIO, first: bytes) -> str | None:
        """The day the file is of; None for an empty one. What is no such file is kept aside, not overwritten."""
        day = _day_in(first)
        if first and day is None:
            aside = self._path.with_name(f"{self._path.name}.unreadable")
            logger.warning("budget file %s is unreadable; it is begun anew, and kept as %s", self._path, aside)
            shutil.copyfile(self._path, aside)
            file.truncate(0)
        return day

    def _news(self, file: FileIO, begin: int) -> Iterator[Amount]:
        file.seek(max(begin, self._read_to))
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            file.write(b"\n")  # What a crash left half; what is appended next begins a line of its own.
        self._read_to = file.seek(0, os.SEEK_END)
        for line in lines:
            amount = _amount(line)
            if amount is None:
                logger.warning("budget file %s has a line that is none; it is passed over", self._path)
            elif amount[0] == self._owner:
                yield amount[1]

    def _append(self, file: FileIO, header: bytes) -> None:
        end = file.seek(0, os.SEEK_END)
        lines = header + b"".join(_line(self._owner, *amount) for amount in self._unwritten)
        if file.write(lines) < len(lines):
            file.truncate(end)
            raise OSError("the disk is full")
        self._unwritten.clear()
        self._read_to = end + len(lines)

    def _warn_once(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "budget file %s cannot be written (%s); %s counts on in memory", self._path, error, self._owner
            )


def _header(day: str) -> bytes:
    return json.dumps({"llm_fallback_budget": day}).encode() + b"\n"


def _day_in(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["llm_fallback_budget"])
    except (ValueError, TypeError, KeyError):
        return None


def _line(owner: str, spender_key: str | None, usd: Decimal) -> bytes:
    return json.dumps([owner, spender_key, str(usd)]).encode() + b"\n"


def _amount(line: bytes) -> tuple[str, Amount] | None:
    try:
        owner, spender_key, usd = json.loads(line)
        return owner, (spender_key, Decimal(usd))
    except (ValueError, TypeError, InvalidOperation):
        return None


if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 30
    """Beyond what is written, because nobody else can read a byte that is locked."""
    _LONGEST_WAIT_S = 10

    @contextmanager
    def _locked(file: FileIO) -> Iterator[None]:
        """Our turn with the file. OSError if it does not come: who holds it that long is stuck."""
        # `LK_LOCK` would sleep a second between two tries.
        until = time.monotonic() + _LONGEST_WAIT_S
        while not _is_our_turn(file):
            if time.monotonic() > until:
                raise OSError("another process holds the lock")
            time.sleep(0.001)
        try:
            yield
        finally:
            # Closing the file gives the lock back as well, but Windows does not say when.
            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

    def _is_our_turn(file: FileIO) -> bool:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    @contextmanager
    def _locked(file: FileIO) -> Iterator[None]:
        """Our turn with the file; it ends when the file is closed."""
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
