"""Locks of open files, between processes: on POSIX of the whole file, on Windows of a byte far behind what is written.

A lock ends with the process that has it, however that ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = (1 << 31) - 2
    """The last that `msvcrt` can name: nobody else can read or write a byte that is locked."""
    _PAUSE_S = 0.001

    def try_lock(file: FileIO) -> bool:
        """Lock the file until it is closed; False if somebody else has it."""
        return _at_locked_byte(file, msvcrt.LK_NBLCK)

    @contextmanager
    def locked(file: FileIO) -> Iterator[None]:
        """Our turn with the file; waits for it."""
        # `LK_LOCK` would sleep a second between two tries, and give up after ten.
        while not try_lock(file):
            time.sleep(_PAUSE_S)
        try:
            yield
        finally:
            # Closing the file gives the lock back as well, but Windows does not say when.
            _at_locked_byte(file, msvcrt.LK_UNLCK)

    def _at_locked_byte(file: FileIO, action: int) -> bool:
        """Whether Windows let us do it; the file stays where it was read."""
        position = file.tell()
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), action, 1)
        except PermissionError:
            return False
        finally:
            file.seek(position)
        return True

else:
    import fcntl

    def try_lock(file: FileIO) -> bool:
        """Lock the file until it is closed; False if somebody else has it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def locked(file: FileIO) -> Iterator[None]:
        """Our turn with the file; waits for it."""
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing it would not do where a process was forked meanwhile: its copy holds the lock, too.
            fcntl.flock(file, fcntl.LOCK_UN)
