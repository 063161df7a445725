"""The server of the command: uvicorn with a drain, in one process or several.

On SIGTERM a process goes on answering what was begun and refuses what comes, until nothing is under way; a second
signal ends it at once. On SIGHUP it reads its spec again. Several processes share one socket, and a parent that
restarts what dies and hands on signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

try:
    import uvicorn
except ImportError as error:
    raise ImportError('serving needs uvicorn: pip install "langchain-llm-fallback[serve]"') from error

from llm_fallback.errors import SpecError
from llm_fallback.serving.app import ServedChains, keep_what_is_loaded
from llm_fallback.spec import load_spec

logger = logging.getLogger("llm_fallback")

KEEP_ALIVE_S = 120
"""Seconds for which an idle connection is kept: longer than clients and balancers keep theirs, as one that is closed
from this side under a request loses it."""
_GRACE_S = 5
"""Seconds beyond the longest call for which a drain waits: a slow reader's pauses do not count as the call's."""
_EXIT_STARTUP = 3
"""uvicorn's exit code of a process that could not start, and would not the next time."""
_RESTART_S = 1.0
"""Seconds between the deaths of processes after which they are started again."""


class DrainingServer(uvicorn.Server):
    """One process's server."""

    def __init__(
        self, chains: ServedChains, files: Sequence[Path], announce: Callable[[], None], parent: int | None = None
    ) -> None:
        """`announce` is called once requests are answered. `parent`: the process without which this one is to end."""
        super().__init__(
            uvicorn.Config(
                chains.app,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",  # Left waiting by an end at once, it would be told as an error: `shutdown` closes.
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,
            )
        )
        self._chains, self._files, self._announce, self._parent = chains, files, announce, parent
        self._ends_at = 0.0
        logging.getLogger("uvicorn.error").addFilter(_is_of_no_end)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain, the second ends it."""
        if self._chains.is_draining:
            self.should_exit = self.force_exit = True
            return
        logger.info("draining: %d under way", self._chains.in_flight)
        self._chains.is_draining = True
        self._ends_at = time.monotonic() + self._chains.longest_call_s + _GRACE_S

    async def on_tick(self, counter: int) -> bool:
        """Asked ten times a second whether to end."""
        chains = self._chains
        if self._parent is not None and os.getppid() != self._parent and not chains.is_draining:
            self.handle_exit(signal.SIGTERM, None)
        if chains.is_draining and (chains.in_flight == 0 or time.monotonic() > self._ends_at):
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        keep_what_is_loaded()
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.force_exit:
            # Python 3.12 and later wait for each to end, and uvicorn would tell as an error that they do not.
            for open_connection in self.server_state.connections:
                open_connection.transport.abort()
        await super().shutdown(sockets)
        if not self.force_exit:
            await self._chains.aclose()

    def _reload(self) -> None:
        try:
            self._chains.reload(load_spec(*self._files))
        except (SpecError, OSError) as error:
            logger.error("the spec stays as it was: %s", error)
        else:
            logger.info("reloaded %s", ", ".join(map(str, self._files)))


def _is_of_no_end(record: logging.LogRecord) -> bool:
    """Whether a record is no request's that the end of the process cut short."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve(files: Sequence[Path], listener: socket.socket, announce: Callable[[], None], workers: int = 1) -> int:
    """Serve the spec at a socket until a signal ends it; the exit code. `announce` is called once every process answers
    requests."""
    if workers == 1:
        return _serve_one(files, listener, announce)
    with _shared_metrics(), contextlib.closing(_Workers(files, listener, announce, workers)) as crew:
        return crew.run()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError where the address cannot be had."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=2048)


def _serve_one(
    files: Sequence[Path], listener: socket.socket, announce: Callable[[], None], parent: int | None = None
) -> int:
    chains = ServedChains(load_spec(*files))
    server = DrainingServer(chains, files, announce, parent)
    server.run(sockets=[listener])
    return 0 if server.started else _EXIT_STARTUP


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Where processes count together. prometheus-client looks for the variable when it is imported."""
    with tempfile.TemporaryDirectory(prefix="llm-fallback-metrics-") as directory:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", directory)
        yield


def _work(files: Sequence[Path], listener: socket.socket, is_up: Connection, parent: int) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the parent, which hands it on; twice would be an end at once.
    try:
        code = _serve_one(files, listener, lambda: is_up.send(True), parent)
    except SpecError as error:
        logger.error("%s", error)
        code = _EXIT_STARTUP
    raise SystemExit(code)


class _Workers:
    """The processes of one server."""

    def __init__(
        self, files: Sequence[Path], listener: socket.socket, announce: Callable[[], None], count: int
    ) -> None:
        self._files, self._listener, self._announce, self._count = files, listener, announce, count
        self._processes: list[SpawnProcess] = []
        self._starting: dict[Connection, SpawnProcess] = {}
        """Processes that answer no requests yet, by what they tell it through."""
        self._up: set[SpawnProcess] = set()
        self._is_announced = False
        self._is_ending = False
        # A signal is only noted when it comes, which may be while a process is started that nobody knows yet.
        self._signals, self._note = get_context("spawn").Pipe(duplex=False)
        self._handlers = {
            number: signal.signal(number, lambda number, frame: self._note.send(number))
            for name in ("SIGTERM", "SIGINT", "SIGHUP")
            if (number := getattr(signal, name, None)) is not None
        }

    def run(self) -> int:
        self._processes = [self._start() for _ in range(self._count)]
        while self._processes:
            sentinels = [process.sentinel for process in self._processes]
            told = connection.wait([self._signals, *sentinels, *self._starting], timeout=0.5)
            if self._signals in told:
                self._obey(self._signals.recv())
            self._hear([pipe for pipe in self._starting if pipe in told])
            dead = [process for process in self._processes if process.exitcode is not None]
            if any(process.exitcode == _EXIT_STARTUP for process in dead) and not self._is_ending:
                self._end()
            for process in dead:
                self._processes.remove(process)
                self._up.discard(process)
                if not self._is_ending:
                    logger.warning("a process ended with %s and is started again", process.exitcode)
                    self._pause(_RESTART_S)
                process.close()
                if not self._is_ending:
                    self._processes.append(self._start())
        return 0

    def close(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for process in self._processes:
            process.kill()
        for pipe in (self._signals, self._note, *self._starting):
            pipe.close()

    def _pause(self, seconds: float) -> None:
        """Wait that long, or until a signal ends all."""
        until = time.monotonic() + seconds
        while not self._is_ending and connection.wait([self._signals], timeout=max(0.0, until - time.monotonic())):
            self._obey(self._signals.recv())

    def _start(self) -> SpawnProcess:
        context = get_context("spawn")
        heard, is_up = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(self._files, self._listener, is_up, os.getpid()))
        process.start()
        is_up.close()
        self._starting[heard] = process
        return process

    def _hear(self, pipes: Sequence[Connection]) -> None:
        """Read from processes that are up, or died before they were; announce once all of the first ones are up."""
        for pipe in pipes:
            process = self._starting.pop(pipe)
            with pipe, contextlib.suppress(EOFError):
                pipe.recv()
                if process in self._processes:  # It may have died since.
                    self._up.add(process)
        if not self._is_announced and not self._is_ending and self._up.issuperset(self._processes):
            self._is_announced = True
            self._announce()

    def _obey(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._end()
        else:
            self._hand_on(number)

    def _end(self) -> None:
        self._is_ending = True
        # Nobody is to wait at this door for processes that do not open it any more.
        self._listener.close()
        self._hand_on(signal.SIGTERM)

    def _hand_on(self, number: int) -> None:
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)
