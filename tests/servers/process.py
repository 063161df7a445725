"""A server in processes of its own: started, awaited, killed, and in the end gone with all it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

HOST = "127.0.0.1"
KEY = "sk-of-the-servers"
"""What every system that wants a key is given."""
_PATIENCE_S = 300
"""For a server to come up, on a machine that has other things to do."""


class Process:
    """A command as the leader of a session; its output goes to a log."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self._leader = subprocess.Popen(
                command,
                env={**_surroundings(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_answer(self, url: str) -> None:
        """Returns once a GET of the url brings 200; RuntimeError if the process ends before, or takes too long."""
        until(lambda: self._has_ended or _answers(url), _PATIENCE_S)
        if self._has_ended:
            raise RuntimeError("the server ended before it was up; its log says why")

    def signal(self, number: int) -> None:
        """What a supervisor does: SIGKILL to all there is, anything else to the leader."""
        if number == signal.SIGKILL:
            self._kill_all()
        else:
            self._leader.send_signal(number)

    def end(self) -> None:
        """Nothing of it is left when this returns."""
        self._kill_all()
        self._leader.wait()
        until(lambda: not self._members(), _PATIENCE_S)

    @property
    def _has_ended(self) -> bool:
        return self._leader.poll() is not None

    def _kill_all(self) -> None:
        for process in self._members():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _members(self) -> list[int]:
        """Every process of the session. The group would not do: workers of Ray start groups of their own."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_member(int(entry.name))]

    def _is_member(self, process: int) -> bool:
        try:
            return os.getsid(process) == self._leader.pid and not _is_zombie(process)
        except (ProcessLookupError, FileNotFoundError):
            return False


def _surroundings() -> dict[str, str]:
    """The variables of this process, without those for its own Python: its packages, and whether it keeps what it
    compiled. A server that compiles itself anew takes many times as long to start."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def until(is_so: Callable[[], object], timeout_s: float) -> None:
    """Returns once it is so; TimeoutError if it stays otherwise."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {timeout_s:g} s")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, headers={"authorization": f"Bearer {KEY}"}, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _is_zombie(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
