"""The servers of a test run: at most as many up as a test needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.servers.install import Home
from tests.servers.process import HOST, KEY, Process, answers, free_port, listens, until
from tests.servers.systems import System

_LAST_LINES = 60
_LONGEST_FAREWELL_S = 30


class Server:
    """One system at an address that stays, started when needed and again after it was killed."""

    def __init__(self, system: System, environment: Mapping[str, str], log: Path) -> None:
        self.system = system
        self._environment = {"SERVERS_KEY": KEY, **environment, **system.environment}
        self._log = log
        self._port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def _url_when_ready(self) -> str:
        return self.url + self.system.ready

    def start(self) -> None:
        """Returns once it answers; does nothing if it is up."""
        if self._process is None:
            command = self.system.command(Home(self.system.name), self._port)
            self._process = Process(command, self._environment, self._log)
            self._await_answer()

    def _await_answer(self) -> None:
        try:
            self._process.await_answer(self._url_when_ready)
        except BaseException:
            self.end()
            raise

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.signal(number)

    def signal_all(self, number: int) -> None:
        assert self._process is not None
        self._process.signal_all(number)

    def await_refusal(self) -> None:
        """Returns once it takes no more connections."""
        until(lambda: not listens(self._port), _LONGEST_FAREWELL_S)

    def await_silence(self) -> None:
        """Returns once who comes is not answered, though connections may still be taken."""
        until(lambda: not answers(self._url_when_ready), _LONGEST_FAREWELL_S)

    def await_end_of_command(self) -> None:
        """Returns once the process that was started has ended; others it started may go on."""
        assert self._process is not None
        self._process.await_end()

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def last_lines(self) -> str:
        """Of its log; empty if it was never started."""
        return (
            "\n".join(self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]) if self._log.exists() else ""
        )


@contextmanager
def up(server: Server) -> Iterator[Server]:
    """The server, up; it is gone in the end, whatever became of it meanwhile."""
    server.start()
    try:
        yield server
    finally:
        server.end()


class Fleet:
    """A server for each system, none of them up yet."""

    def __init__(self, systems: Iterable[System], environment: Mapping[str, str], logs: Path) -> None:
        self.servers = {system.name: Server(system, environment, logs / f"{system.name}.log") for system in systems}

    def __getitem__(self, system: System) -> Server:
        return self.servers[system.name]

    def end(self) -> None:
        for server in self.servers.values():
            server.end()
