"""A file of whole lines that one process appends to, killed when it may be: the answers of a batch.

A line is one write, so that a kill leaves all lines before it. What it cut short is the end of the last line, which is
mended by whoever opens the file next. The file is locked while it is open: a second writer is refused, and the lock of
a process ends with it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from llm_fallback._file_locks import try_lock
from llm_fallback.chat_model.batch.rows import parse_line
from llm_fallback.errors import BatchRefused

_BLOCK = 1 << 16


class Journal:
    """An open journal. Raises BatchRefused if somebody else has it open, OSError if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open_locked(path)
        self.unsynced = 0
        """Lines that the disk may not have yet."""
        self._mend()
        self._end = self._file.seek(0, os.SEEK_END)

    @property
    def is_empty(self) -> bool:
        return self._end == 0

    def append(self, line: bytes) -> None:
        """Write one whole line, or none."""
        written = self._file.write(line)
        if written < len(line):
            self._file.truncate(self._end)
            raise OSError(errno.ENOSPC, "the disk is full", str(self.path))
        self._end += len(line)
        self.unsynced += 1

    def sync(self) -> None:
        """Have the disk keep what was written. It blocks; a thread may do it while others append."""
        unsynced = self.unsynced
        os.fsync(self._file.fileno())
        self.unsynced -= unsynced

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line with its number, from 1."""
        with self.path.open("rb") as lines:
            yield from enumerate(lines, 1)

    def clear(self) -> None:
        """Begin anew."""
        self._file.truncate(0)
        self._end = self._file.seek(0)

    def replace(self, lines: Iterable[bytes]) -> None:
        """Have these lines in place of what is there, all at once: a kill leaves the old file or the new."""
        copy = self.path.with_name(f"{self.path.name}.new")
        anew = _open_locked(copy)
        anew.truncate(0)
        for line in lines:
            anew.write(line)
        os.fsync(anew.fileno())
        copy.replace(self.path)
        self._file.close()
        self._file, self._end = anew, anew.seek(0, os.SEEK_END)

    def discard_empty(self) -> None:
        """Remove the file if nothing was ever written to it."""
        if self.is_empty:
            self.path.unlink()

    def close(self) -> None:
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mend(self) -> None:
        """End the last line where only its end is missing, else take back what there is of it."""
        end = self._file.seek(0, os.SEEK_END)
        begin = self._begin_of_last_line(end)
        self._file.seek(begin)
        torn = self._file.read(end - begin)
        if torn:
            self._file.truncate(begin)
            self._file.seek(begin)
            if torn.endswith(b"}") and _is_whole(torn):
                self._file.write(torn + b"\n")

    def _begin_of_last_line(self, end: int) -> int:
        """Where what follows the last line's end begins."""
        while end > 0:
            begin = max(0, end - _BLOCK)
            self._file.seek(begin)
            newline = self._file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
        return 0


def _is_whole(line: bytes) -> bool:
    try:
        parse_line(line, "")
    except BatchRefused:
        return False
    return True


def _open_locked(path: Path) -> FileIO:
    while True:
        file = path.open("a+b", buffering=0)
        if not try_lock(file):
            file.close()
            raise BatchRefused(f"{path}: another batch is writing it; let it end, or name another target")
        if _is_at(file, path):
            return file
        file.close()  # Whoever had it open has put another in its place meanwhile.


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
