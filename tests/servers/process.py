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
        until(lambda: self._has_ended or answers(url), _PATIENCE_S)
        if self._has_ended:
            raise RuntimeError("the server ended before it was up; its log says why")

    def signal(self, number: int) -> None:
        """What a supervisor does: SIGKILL to all there is, anything else to the leader."""
        if number == signal.SIGKILL:
            self.signal_all(number)
        else:
            self._leader.send_signal(number)

    def signal_all(self, number: int) -> None:
        """What supervisors do that know of every process: systemd, by default."""
        for process in self._members():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def await_end(self) -> None:
        """Returns once the leader has ended, whatever becomes of the others."""
        until(lambda: self._has_ended, _PATIENCE_S)

    def end(self) -> None:
        """Nothing of it is left when this returns."""
        doomed = self._members()
        self.signal_all(signal.SIGKILL)
        self._leader.wait()
        until(lambda: not self._members() and _running().keys().isdisjoint(doomed), _PATIENCE_S)

    @property
    def _has_ended(self) -> bool:
        return self._leader.poll() is not None

    def _members(self) -> list[int]:
        """Every process of the session and what they started, parents first: a parent may start anew what it loses.

        The group would not do, because workers of Ray start groups of their own; those of BentoML start sessions.
        """
        running = _running()
        members = [process for process, (_, session) in running.items() if session == self._leader.pid]
        for member in members:  # It grows meanwhile: the offspring of offspring count too.
            members += [child for child, (parent, _) in running.items() if parent == member and child not in members]
        return members


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


def answers(url: str) -> bool:
    try:
        return httpx.get(url, headers={"authorization": f"Bearer {KEY}"}, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _running() -> dict[int, tuple[int, int]]:
    """Parent and session of each process that is not a zombie, the oldest first."""
    stats = {}
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        with suppress(ProcessLookupError, FileNotFoundError):
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                stats[int(entry.name)] = (int(parent), int(session))
    return stats
