"""Time that jumps: an hour of failures in a moment, for tests and simulations."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from llm_fallback._forks import after_fork_in_child, fork_safe_lock
from llm_fallback.engine.clock import IdleTimer, T


class JumpingClock:
    """Time that passes only when nobody has anything else to do: it jumps to the next wake-up somebody waits for.

    For work that waits on nothing but this clock; a task waiting for a socket would be jumped over. Several event
    loops may share one: each jumps to its own wake-ups only, and sees the time the others have jumped to. What others
    do in the meantime, on another loop or in the thread of a caller, takes real time, and no jump is made over it
    before nothing stirred for some: `patience_s`. No longer, because whoever does it may be waiting for the jump.
    """

    _QUIET_TURNS = 10
    """Turns of the event loop without a jump, so that all that is ready has run before time moves."""
    _LOOK_EVERY_S = 0.001
    """Real time between two looks at whether others are through."""

    def __init__(self, start: float = 0.0, *, patience_s: float = 0.1) -> None:
        self._now = start
        self._patience_s = patience_s
        self._stirred = -math.inf
        """When, in real time, somebody last did something that shows here."""
        self._lock = fork_safe_lock()
        self._order = itertools.count()
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[float, int, _WakeUp]]] = {}
        """The wake-ups of each loop by time; no loop may wake what belongs to another."""
        after_fork_in_child(self, lambda clock: clock._waiting.clear())

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        """Its days begin with its time: at 0 it is midnight."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass by hand; whoever waited for it wakes on the loop's next turns."""
        with self._lock:
            self._now += seconds

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        wake_up = self.call_at(self._now + seconds, lambda: _wake(woken))
        try:
            await woken
        finally:
            wake_up.forget()

    def deadline(self, at: float, *, for_others: bool = False) -> AbstractAsyncContextManager[Any]:
        return _JumpedDeadline(self, at, for_others=for_others)

    def idle_timer(self) -> IdleTimer:
        return _JumpedTimer(self)

    def call_at(self, when: float, wake: Callable[[], object], *, for_others: bool = False) -> _WakeUp:
        """Call `wake` when time has come there; whoever no longer waits for the wake-up forgets it."""
        loop = asyncio.get_running_loop()
        if loop not in self._waiting:
            self._forget_closed_loops()
            self._waiting[loop] = []
            self._tick(loop, self._QUIET_TURNS)
        self._stirred = time.monotonic()
        wake_up = _WakeUp(wake, for_others=for_others)
        heapq.heappush(self._waiting[loop], (when, next(self._order), wake_up))
        return wake_up

    def _tick(self, loop: asyncio.AbstractEventLoop, left: int) -> None:
        if left:
            loop.call_soon(self._tick, loop, left - 1)
            return
        waiting = self._waiting[loop]
        while waiting and waiting[0][2].wake is None:
            heapq.heappop(waiting)
        if not waiting:
            del self._waiting[loop]
            return
        when, _, wake_up = waiting[0]
        if self._must_wait(loop, when, wake_up):
            loop.call_later(self._LOOK_EVERY_S, self._tick, loop, self._QUIET_TURNS)
            return
        heapq.heappop(waiting)
        with self._lock:
            self._now, self._stirred = max(self._now, when), time.monotonic()
        if wake_up.wake is not None:
            wake_up.wake()
        loop.call_soon(self._tick, loop, self._QUIET_TURNS)

    def _must_wait(self, loop: asyncio.AbstractEventLoop, when: float, wake_up: _WakeUp) -> bool:
        """Whether a jump to the wake-up would go over what others may still be doing."""
        if when <= self._now or not (wake_up.for_others or self._is_ahead(loop, when)):
            return False
        return time.monotonic() - self._stirred < self._patience_s

    def _is_ahead(self, loop: asyncio.AbstractEventLoop, when: float) -> bool:
        """Whether another loop that runs has an earlier wake-up to jump to, or is just at one."""
        others = [
            wake_ups for other, wake_ups in list(self._waiting.items()) if other is not loop and other.is_running()
        ]
        # A copy, because another thread takes wake-ups from the list meanwhile.
        return any(not first or first[0][0] < when for first in (wake_ups[:1] for wake_ups in others))

    def _forget_closed_loops(self) -> None:
        for loop in list(self._waiting):
            if loop.is_closed():
                self._waiting.pop(loop, None)


class _WakeUp:
    """A time somebody waits for. Once forgotten, no clock jumps to it."""

    def __init__(self, wake: Callable[[], object], *, for_others: bool) -> None:
        self.wake: Callable[[], object] | None = wake
        self.for_others = for_others
        """Whether what is waited for until then is something others do."""

    def forget(self) -> None:
        self.wake = None


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class _JumpedTimer:
    """An idle timer on a JumpingClock, which must know each wake-up that somebody waits for."""

    def __init__(self, clock: JumpingClock) -> None:
        self._clock = clock

    async def limit(self, wait: Callable[[], Awaitable[T]], at: float) -> T:
        if at <= self._clock.now():
            raise TimeoutError  # As a real one does, though what is waited for may be there already.
        async with self._clock.deadline(at):
            return await wait()

    def stop(self) -> None:
        """No timer outlives its wait."""


class _JumpedDeadline:
    """`asyncio.timeout` on a JumpingClock."""

    def __init__(self, clock: JumpingClock, at: float, *, for_others: bool = False) -> None:
        self._clock, self._at, self._for_others = clock, at, for_others
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a deadline holds for a task"
        self._task, self._cancelled_before = task, task.cancelling()
        self._wake_up = self._clock.call_at(self._at, self._expire, for_others=self._for_others)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake_up.forget()
        # With more cancellations than ours under way, the task's own or an outer deadline's, theirs goes on.
        if self._expired and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error
