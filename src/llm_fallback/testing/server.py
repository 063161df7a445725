"""FakeServer: a real HTTP server that speaks OpenAI's protocol and misbehaves as scripted."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread, current_thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from aiohttp import web

from llm_fallback._forks import after_fork_in_child
from llm_fallback.testing.deployments import FakeDeployments, RequestLog
from llm_fallback.testing.http_app import FakeApp, unlimited_request
from llm_fallback.testing.recorder import RecordingApp
from llm_fallback.testing.recordings import recorded
from llm_fallback.testing.scripts import Script, Scripted

HOST = "127.0.0.1"
_BACKLOG = 1024
_GRACE_S = 0.01
"""Seconds for answers that are being sent when the server closes; aiohttp reads 0 as no limit."""


class FakeServer(FakeDeployments):
    """Serves one deployment per script on 127.0.0.1, each under its own path, from a separate thread.

        with FakeServer({"primary": [Cut(), "fine now"], "backup": "hello"}) as server:
            model = build_chat_model(server.spec())

    Without scripts it serves one deployment, `fake`, with sensible answers. It is a context manager in sync and in
    async code. It may be started again after it was closed, on another port. In a forked child it is the parent's: it
    answers there too, and closing it there ends nothing.
    """

    def __init__(
        self,
        scripts: Mapping[str, Scripted] | None = None,
        *,
        chain: str = "default",
        app: Callable[[Mapping[str, Script], RequestLog], FakeApp] = FakeApp,
    ) -> None:
        """`app` makes the application that answers the requests, a new one at each start."""
        super().__init__(scripts, chain=chain)
        self._app = app
        self._running: RunningServer | None = None
        after_fork_in_child(self, FakeServer._begin_child)

    @classmethod
    def record(cls, upstream: str | Mapping[str, str], file: str | Path, *, chain: str = "default") -> FakeServer:
        """A server that forwards requests to real ones and writes the exchanges to a file, a new one at each start.

        `upstream` has the `api_base` of each deployment; a single one is called `upstream`. Prompts, replies,
        errors, cut streams and pauses are written as they come. API keys are not, even where a server repeats them.
        """
        addresses = {"upstream": upstream} if isinstance(upstream, str) else upstream
        app = partial(RecordingApp, upstream=addresses, file=Path(file))
        return cls(dict.fromkeys(addresses), chain=chain, app=app)

    @classmethod
    def replay(cls, file: str | Path, *, pace: float = 1.0, chain: str = "default") -> FakeServer:
        """A server that plays recorded exchanges, each once, with pauses `pace` times as long."""
        return cls(recorded(file, pace=pace), chain=chain)

    @property
    def url(self) -> str:
        """The server's address, as in `http://127.0.0.1:40123`; RuntimeError if it is not running."""
        if self._running is None:
            raise RuntimeError("this FakeServer is not running; use it in a with block, or start() it")
        return f"http://{HOST}:{self._running.port}"

    def base(self, name: str) -> str:
        """The `api_base` of a deployment, without /v1."""
        self._check(name)
        return f"{self.url}/{quote(name, safe='')}"

    def spec(
        self,
        *,
        backend: str = "openai-compatible",
        deployments: Mapping[str, Mapping[str, Any]] | None = None,
        **chain_settings: Any,
    ) -> dict[str, Any]:
        """A spec for `load_spec`: a chain that tries the deployments in their order.

        `deployments` adds keys to some of them; `chain_settings` are settings of the chain.
        """
        return self.chain_spec(self.base, backend, deployments or {}, chain_settings)

    def wait_until(self, predicate: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Return once the predicate is true, as in `lambda: server.received()[0].client_gone_at`.

        It is tested after every change of the requests received. Raises TimeoutError, with the requests, if it stays
        false.
        """
        if not self._log.wait_until(predicate, timeout_s):
            raise self._timeout(timeout_s)

    async def await_until(self, predicate: Callable[[], object], timeout_s: float = 5.0) -> None:
        """`wait_until` for a coroutine: other tasks run meanwhile; the predicate is called in another thread."""
        await asyncio.to_thread(self.wait_until, predicate, timeout_s)

    def wait_idle(self, timeout_s: float = 5.0) -> None:
        """Return once no request is being answered."""
        self.wait_until(lambda: not any(received.under_way for received in self.received()), timeout_s)

    def start(self) -> Self:
        """Listen; returns once it does. RuntimeError if the server is running already."""
        self._running = self._launch().result()
        return self

    def close(self) -> None:
        """End every connection, whatever is being sent, and the thread. Does nothing if it is not running."""
        running = self._take_running()
        if running is not None:
            running.stop().result()
            running.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._running = await asyncio.wrap_future(self._launch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._take_running()
        if running is not None:
            await asyncio.wrap_future(running.stop())
            running.join()

    def _launch(self) -> Future[RunningServer]:
        if self._running is not None:
            raise RuntimeError("this FakeServer is running already")
        return _serve_in_thread(self._app(self._scripts, self._log))

    def _take_running(self) -> RunningServer | None:
        """What is to be stopped; None if that is nothing, or another process's."""
        running, self._running = self._running, None
        return running if running is not None and running.pid == os.getpid() else None

    def _begin_child(self) -> None:
        """Let go of the port, which would otherwise stay open after the parent closed it."""
        if self._running is not None:
            self._running.listener.close()

    def _timeout(self, timeout_s: float) -> TimeoutError:
        lines = [f"  {received}" for received in self.received()] or ["  nothing"]
        return TimeoutError("\n".join([f"not so after {timeout_s:g} s; received:", *lines]))


@dataclass(frozen=True, slots=True)
class RunningServer:
    """An app that is being served."""

    port: int
    ended: Future[None]
    """Done when the last connection, the last task and the loop have ended."""
    listener: socket.socket
    _thread: Thread
    _loop: asyncio.AbstractEventLoop
    _stop: asyncio.Event
    pid: int = field(default_factory=os.getpid)
    """The process that serves it."""

    def stop(self) -> Future[None]:
        """End every connection, whatever is being sent; returns `ended`."""
        self._loop.call_soon_threadsafe(self._stop.set)
        return self.ended

    def join(self) -> None:
        """Wait for the thread, which is over when `ended` is done."""
        self._thread.join()


def _serve_in_thread(app: FakeApp) -> Future[RunningServer]:
    """Serve the app on a free port, in a new thread, until it is stopped."""
    started: Future[RunningServer] = Future()
    Thread(target=_run, args=(app, started), name="FakeServer", daemon=True).start()
    return started


def _run(app: FakeApp, started: Future[RunningServer]) -> None:
    ended: Future[None] = Future()
    try:
        asyncio.run(_serve(app, started, ended))
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)
    finally:
        ended.set_result(None)


async def _serve(app: FakeApp, started: Future[RunningServer], ended: Future[None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server = web.Server(
        app,
        request_factory=unlimited_request,
        handler_cancellation=True,
        access_log=None,
        tcp_keepalive=False,
    )
    listener = socket.create_server((HOST, 0), backlog=_BACKLOG)
    accepting = await loop.create_server(server, sock=listener, backlog=_BACKLOG)
    port = listener.getsockname()[1]
    started.set_result(RunningServer(port, ended, listener, current_thread(), loop, stop))
    await stop.wait()
    accepting.close()
    app.closing = True
    server.pre_shutdown()
    await server.shutdown(_GRACE_S)
