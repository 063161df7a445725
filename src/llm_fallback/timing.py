"""The clock of an engine: now, sleep, deadline. One that waits and one that jumps.

Every wait of the engine goes through its clock, so a test or a simulation runs an hour of failures in a moment and
still runs the code that production runs.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol


class Clock(Protocol):
    """What the engine needs of time, in seconds on a scale of the clock's own."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def deadline(self, at: float) -> AbstractAsyncContextManager[Any]:
        """A context that raises TimeoutError when its body is still running at `at`."""
        ...


class RealClock:
    """Monotonic seconds."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def deadline(self, at: float) -> AbstractAsyncContextManager[Any]:
        # Relative, because an event loop's own clock need not be time.monotonic (uvloop's is not).
        return asyncio.timeout(at - time.monotonic())


class JumpingClock:
    """Time that passes only when nobody has anything else to do: it jumps to the next moment somebody waits for.

    For work that waits on nothing but this clock; a task waiting for a socket would be jumped over.
    """

    _QUIET_TURNS = 10
    """Turns of the event loop without a jump, so that all that is ready has run before time moves."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._moving = False

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass by hand; whoever waited for it wakes on the loop's next turns."""
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self.call_at(self._now + seconds, lambda: woken.done() or woken.set_result(None))
        await woken

    def deadline(self, at: float) -> AbstractAsyncContextManager[Any]:
        return _JumpedDeadline(self, at)

    def call_at(self, when: float, wake: Callable[[], object]) -> None:
        heapq.heappush(self._waiting, (when, next(self._order), lambda: (wake(), None)[1]))
        if not self._moving:
            self._moving = True
            self._turn(self._QUIET_TURNS)

    def _turn(self, left: int) -> None:
        loop = asyncio.get_running_loop()
        if left:
            loop.call_soon(self._turn, left - 1)
            return
        when, _, wake = heapq.heappop(self._waiting)
        self._now = max(self._now, when)
        wake()
        self._moving = bool(self._waiting)
        if self._moving:
            loop.call_soon(self._turn, self._QUIET_TURNS)


class _JumpedDeadline:
    """`asyncio.timeout` on a JumpingClock."""

    def __init__(self, clock: JumpingClock, at: float) -> None:
        self._clock, self._at = clock, at
        self._left = self._expired = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        if self._at <= self._clock.now():
            self._expire()
        else:
            self._clock.call_at(self._at, self._expire)

    def _expire(self) -> None:
        if not self._left and self._task is not None:
            self._expired = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        if not self._expired or self._task is None:
            return
        self._task.uncancel()
        if kind is asyncio.CancelledError:
            raise TimeoutError from error
