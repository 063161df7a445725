"""A store in the memory of one process: for tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_fallback._forks import fork_safe_lock
from llm_fallback.fleet.messages import News, Request, Response, in_ms
from llm_fallback.fleet.state import FleetState


class MemoryStore:
    """Members in one process, or on one virtual clock. Threads may share it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = fork_safe_lock()
        self.state = FleetState()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[News]]] = []

    async def exchange(self, request: Request) -> Response:
        with self._lock:
            response = self.state.exchange(request, in_ms(self._now()))
            waiting, self._waiting = (self._waiting, []) if request.is_news else ([], self._waiting)
        for loop, told in waiting:
            loop.call_soon_threadsafe(_tell, told, News(request.member, request.evidence))
        return response

    async def news(self) -> News:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[News] = loop.create_future()
        self._waiting.append((loop, told))
        return await told

    async def close(self) -> None:
        """It holds nothing."""


def _tell(told: asyncio.Future[News], news: News) -> None:
    if not told.done():
        told.set_result(news)
