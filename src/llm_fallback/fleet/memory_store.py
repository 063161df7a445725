"""A store in the memory of one process: for tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_fallback._forks import fork_safe_lock
from llm_fallback.fleet.messages import Request, Response, in_ms
from llm_fallback.fleet.state import FleetState


class MemoryStore:
    """Members in one process, or on one virtual clock. Threads may share it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = fork_safe_lock()
        self.state = FleetState()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def exchange(self, request: Request) -> Response:
        with self._lock:
            response = self.state.exchange(request, in_ms(self._now()))
            waiting, self._waiting = (self._waiting, []) if request.is_news else ([], self._waiting)
        for loop, told in waiting:
            loop.call_soon_threadsafe(told.set)
        return response

    async def news(self) -> None:
        told = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), told))
        await told.wait()

    async def close(self) -> None:
        """It holds nothing."""
