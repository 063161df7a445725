"""A site on a port of this machine, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread, current_thread

from aiohttp import web

from llm_fallback.testing.site import Site, unlimited_request

HOST = "127.0.0.1"
_BACKLOG = 1024
_GRACE_S = 0.01
"""For answers under way when the site closes; aiohttp takes 0 for ever."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A site that is being served."""

    port: int
    ended: Future[None]
    """Done when the last connection, task and the loop are gone."""
    _thread: Thread
    _loop: asyncio.AbstractEventLoop
    _stop: asyncio.Event

    def stop(self) -> Future[None]:
        """Ends every connection, whatever is being sent; the future is `ended`."""
        self._loop.call_soon_threadsafe(self._stop.set)
        return self.ended

    def join(self) -> None:
        """Waits for the thread; at once when `ended` is done."""
        self._thread.join()


def host(site: Site) -> Future[Hosted]:
    """Serves the site on a free port, from now until it is stopped."""
    started: Future[Hosted] = Future()
    Thread(target=_run, args=(site, started), name="FakeServer", daemon=True).start()
    return started


def _run(site: Site, started: Future[Hosted]) -> None:
    ended: Future[None] = Future()
    try:
        asyncio.run(_serve(site, started, ended))
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)
    finally:
        ended.set_result(None)


async def _serve(site: Site, started: Future[Hosted], ended: Future[None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server = web.Server(
        site,
        request_factory=unlimited_request,
        handler_cancellation=True,
        access_log=None,
        tcp_keepalive=False,
    )
    listener = await loop.create_server(server, HOST, 0, backlog=_BACKLOG)
    port = listener.sockets[0].getsockname()[1]
    started.set_result(Hosted(port, ended, current_thread(), loop, stop))
    await stop.wait()
    listener.close()
    site.closing = True
    server.pre_shutdown()
    await server.shutdown(_GRACE_S)
