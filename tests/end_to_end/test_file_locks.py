"""Locks of files between real processes; Windows' half by a stand-in for its `msvcrt`, over this system's locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llm_fallback._file_locks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is over POSIX locks")

WINDOWS = """
import fcntl, runpy, sys, types

def locking(fd, action, count):
    try:
        fcntl.lockf(fd, action, count, 0, 1)
    except BlockingIOError as error:
        raise PermissionError from error

sys.modules["msvcrt"] = types.SimpleNamespace(
    locking=locking, LK_NBLCK=fcntl.LOCK_EX | fcntl.LOCK_NB, LK_UNLCK=fcntl.LOCK_UN
)
sys.platform = "win32"
"""
"""`locking` of a byte where the file stands, as Windows has it."""

WORLDS = pytest.mark.parametrize("world", ["here", "windows"])


def program(world: str, path: Path, body: str) -> list[str]:
    """What runs in a process of its own: `file` is open there, and the locks are as in that world."""
    begin = WINDOWS if world == "windows" else "import runpy, sys"
    names = f"locks = runpy.run_path({llm_fallback._file_locks.__file__!r})"
    opened = f"file = open({str(path)!r}, 'r+b', buffering=0)"
    return [sys.executable, "-c", "\n".join([begin, names, opened, body])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    numbers = tmp_path / "number"
    numbers.write_bytes(b"0")
    return numbers


@WORLDS
def test_each_has_its_turn_alone(world: str, path: Path) -> None:
    """Of four processes that count in a file none undoes what another did; each reads from where it was."""
    count = """
for _ in range(100):
    file.seek(0)
    with locks["locked"](file):
        number = int(file.read()) + 1
        file.seek(0)
        file.write(str(number).encode())
"""
    running = [subprocess.Popen(program(world, path, count)) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert path.read_bytes() == b"400"


@WORLDS
def test_who_does_not_wait_is_told_that_the_file_is_taken(world: str, path: Path) -> None:
    """Until whoever has it is gone, killed or not."""
    hold = "print(locks['try_lock'](file), flush=True); sys.stdin.read()"
    ask = program(world, path, "print(locks['try_lock'](file))")
    with subprocess.Popen(program(world, path, hold), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert subprocess.run(ask, capture_output=True, check=True).stdout == b"False\n"
        holder.kill()
    assert subprocess.run(ask, capture_output=True, check=True).stdout == b"True\n"
