"""The clock of an engine: now, sleep, deadline, idle timer. `virtual_clock` has one that jumps.

Every wait of the engine goes through its clock, so a test or a simulation runs an hour of failures in a moment and
still runs the code that production runs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """What the engine needs of time, in seconds on a scale of the clock's own."""

    def now(self) -> float: ...

    def wall(self) -> float:
        """Seconds since the epoch, for what ends with the day."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def deadline(self, at: float, *, for_others: bool = False) -> AbstractAsyncContextManager[Any]:
        """A context that raises TimeoutError when its body is still running at `at`.

        `for_others`: the body waits for work done outside this clock, by another call or a closing connection. A
        virtual clock gives that work real time before it jumps."""
        ...

    def idle_timer(self) -> IdleTimer:
        """Deadlines for many short waits, one after another."""
        ...


class IdleTimer(Protocol):
    """One deadline at a time, set anew for each wait."""

    async def limit(self, wait: Callable[[], Awaitable[T]], at: float) -> T:
        """What `wait()` brings; TimeoutError if it is still under way at `at`."""
        ...

    def stop(self) -> None:
        """Leave no timer behind."""
        ...


class RealClock:
    """Monotonic seconds."""

    # The functions themselves: a call of the engine looks at the clock a dozen times.
    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def deadline(self, at: float, *, for_others: bool = False) -> AbstractAsyncContextManager[Any]:
        # Relative, because an event loop's own clock need not be time.monotonic (uvloop's is not).
        return asyncio.timeout(at - time.monotonic())

    def idle_timer(self) -> IdleTimer:
        return _LazyTimer()


class _LazyTimer:
    """One timer of the event loop for all waits: if it fires too early for the present one, it is set again.

    A stream waits for each chunk, hardly ever long; a timer for each would cost more than all else about a chunk.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = self._at = math.inf
        self._waiting: asyncio.Task[Any] | None = None
        self._expired = False

    async def limit(self, wait: Callable[[], Awaitable[T]], at: float) -> T:
        if at <= time.monotonic():
            # A server that always has the next chunk ready never lets the timer find a wait under way.
            raise TimeoutError
        task = asyncio.current_task()
        assert task is not None, "a timer wakes a task"
        self._waiting, self._at, self._expired, before = task, at, False, task.cancelling()
        if at < self._fires_at:
            self._set(at)
        try:
            return await wait()
        except asyncio.CancelledError as cancelled:
            # With more cancellations than ours under way, the task's own or an outer deadline's, theirs goes on.
            if not self._expired or task.cancelling() > before + 1:
                raise
            raise TimeoutError from cancelled
        finally:
            self._waiting = None
            if self._expired:
                task.uncancel()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires_at = None, math.inf

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, math.inf
        if self._waiting is None or self._at == math.inf:
            return
        if time.monotonic() < self._at:
            self._set(self._at)
        else:
            self._expired = True
            self._waiting.cancel()
