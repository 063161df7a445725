"""A day's spending in a file: it outlives a process, and processes on one machine share it.

The first line says which day it is, every other is an amount: of which chain, whose, how many US dollars. The first
amount of a new day empties the file. Amounts are appended under a lock of the file, so that none gets lost between
processes.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from io import FileIO
from pathlib import Path

from llm_fallback._file_locks import locked
from llm_fallback._forks import after_fork_in_child
from llm_fallback.engine.bookkeeper import Amount

logger = logging.getLogger("llm_fallback")

_LONGEST_HEADER = 200
_MOST_USD = Decimal(10**12)


class DailySpendFile:
    """The part of a file that one chain's budget keeps. One thread at a time may use it, and waits there for its turn
    with the file."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path, self.owner = path, owner
        self._open_file: FileIO | None = None
        self._begin_anew()
        after_fork_in_child(self, DailySpendFile._begin_anew)
        if not path.exists():
            logger.warning("%s is not there; what %s has cost today begins at nothing", self, owner)

    def _begin_anew(self) -> None:
        """Know nothing of the file. A forked child lets go of it, because its copy would hold the parent's lock."""
        if self._open_file is not None:
            self._open_file.close()
        self._open_file, self._day, self._read_to = None, "", 0

    def exchange(self, day: str, amounts: Mapping[str | None, Decimal]) -> list[Amount]:
        """Write our own amounts of the day; what others wrote since the last time.

        Raises OSError if nothing was written."""
        if day != self._day:
            self._day, self._read_to = day, 0
        if not amounts and not self._has_changed():
            return []
        with self._path.open("a+b", buffering=0) as file:
            try:
                self._open_file = file
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError("it is no regular file")
                with locked(file):
                    return self._exchange(file, amounts)
            finally:
                self._open_file = None

    def _has_changed(self) -> bool:
        try:
            return self._path.stat().st_size != self._read_to
        except OSError:
            return False

    def _exchange(self, file: FileIO, amounts: Mapping[str | None, Decimal]) -> list[Amount]:
        file.seek(0)
        first = file.read(_LONGEST_HEADER).partition(b"\n")[0]
        day = self._day_of(file, first)
        if day is not None and day > self._day:
            raise OSError(f"it is of {day}, a day to come")
        is_todays = day == self._day
        news, read_to = self._news(file, len(first) + 1, whole=bool(amounts)) if is_todays else ([], self._read_to)
        if amounts:
            if not is_todays:
                file.truncate(0)
            lines = b"".join(_line(self.owner, *amount) for amount in amounts.items())
            read_to = _append(file, lines if is_todays else _header(self._day) + lines)
        self._read_to = read_to
        return news

    def _day_of(self, file: FileIO, first: bytes) -> str | None:
        """The day the file is of; None for an empty one. What is no such file is kept aside, not overwritten."""
        day = _day_in(first)
        if first and day is None:
            aside = self._path.with_name(f"{self._path.name}.unreadable")
            logger.warning("%s is unreadable; it is begun anew, and kept as %s", self, aside)
            shutil.copyfile(self._path, aside)
            file.truncate(0)
        return day

    def _news(self, file: FileIO, begin: int, *, whole: bool) -> tuple[list[Amount], int]:
        """What others wrote, and how far it was read. An unfinished last line is read only if we go on behind it."""
        begin = file.seek(max(begin, self._read_to))
        written = file.read()
        end = len(written) if whole else written.rfind(b"\n") + 1
        lines = written[:end].splitlines()
        read = [(line, _amount(line)) for line in lines]
        odd = [line for line, amount in read if amount is None]
        if odd:
            logger.warning("%s: passed over what is no amount, in %d lines: %.80r", self, len(odd), odd[0])
        return [amount[1] for _, amount in read if amount is not None and amount[0] == self.owner], begin + end

    def __str__(self) -> str:
        return f"budget file {self._path}"


def _append(file: FileIO, lines: bytes) -> int:
    """Write whole lines behind what is there, or none; returns where they end."""
    end = file.seek(0, os.SEEK_END)
    if end and not _ends_with_a_line(file, end):
        lines = b"\n" + lines
    if file.write(lines) < len(lines):
        file.truncate(end)
        raise OSError(errno.ENOSPC, "the disk is full")
    return end + len(lines)


def _ends_with_a_line(file: FileIO, end: int) -> bool:
    """Whether nobody was killed, and no disk was full, in the middle of the last one."""
    file.seek(end - 1)
    return file.read(1) == b"\n"


def _header(day: str) -> bytes:
    return json.dumps({"llm_fallback_budget": day}).encode() + b"\n"


def _day_in(line: bytes) -> str | None:
    try:
        return date.fromisoformat(json.loads(line)["llm_fallback_budget"]).isoformat()
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _line(owner: str, spender_key: str | None, usd: Decimal) -> bytes:
    return json.dumps([owner, spender_key, str(usd)]).encode() + b"\n"


def _amount(line: bytes) -> tuple[str, Amount] | None:
    """Whose amount it is, and the amount; None for a line that we would not have written."""
    try:
        owner, spender_key, text = json.loads(line)
        usd = Decimal(text)
    except (ValueError, TypeError, InvalidOperation, RecursionError):
        return None
    are_texts = isinstance(owner, str) and isinstance(text, str) and isinstance(spender_key, str | None)
    # Finite first: a comparison with what is no number is an error.
    return (owner, (spender_key, usd)) if are_texts and usd.is_finite() and 0 <= usd <= _MOST_USD else None
