"""An event loop of virtual time: what is ready runs in an order that chance draws, and time jumps when nothing is.

It has no selector and no threads, so that everything that runs on it follows from its seed. A task whose wake-up is due
may run before or after any other that is ready, as with sockets nobody knows in which order they become readable.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

from tests.histories.world import World

MOST_TURNS = 200_000
"""Of one history; more is a loop that never ends."""


class Stuck(Exception):
    """A history that comes to no end."""


class SeededLoop(asyncio.AbstractEventLoop):
    """The loop of one history. `world` keeps its time."""

    def __init__(self, world: World, *, in_order: bool = False) -> None:
        """`in_order`: first come, first served, as asyncio's own loops do it."""
        self.world, self._rng, self._in_order = world, world.rng("order"), in_order
        self.before_time_passes: Callable[[], object] = lambda: None
        """Called whenever nobody has anything to do."""
        self.is_gone: Callable[[Context], bool] = lambda context: False
        """Whether what runs in a context never runs again, because its process was killed."""
        self.errors: list[str] = []
        """What nobody caught."""
        self._ready: list[asyncio.Handle] = []
        self._handed_over = deque[asyncio.Handle]()
        """By threads."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._generators = weakref.WeakSet[AsyncGenerator[Any, Any]]()
        self._contexts = weakref.WeakKeyDictionary[asyncio.Task[Any], Context]()
        self._is_running = self._is_closed = False
        self.turns = 0

    # What runs when.

    def time(self) -> float:
        return self.world.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """In the order in which threads ask for it: they rely on that."""
        handle = asyncio.Handle(callback, args, self, context)
        self._handed_over.append(handle)
        self.call_soon(self._take_over, context=Context())
        return handle

    def _take_over(self) -> None:
        handle = self._handed_over.popleft()
        if not handle.cancelled() and not self.is_gone(handle._context):  # type: ignore[attr-defined]
            handle._run()

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def run_until_complete(self, future: Coroutine[Any, Any, Any]) -> Any:  # type: ignore[override]
        hooks = sys.get_asyncgen_hooks()
        asyncio.events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._generators.add, self._close_generator)
        self._is_running = True
        try:
            task = self.create_task(future)
            while not task.done():
                self._turn()
            return task.result()
        finally:
            self._is_running = False
            sys.set_asyncgen_hooks(*hooks)
            asyncio.events._set_running_loop(None)

    def _turn(self) -> None:
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise Stuck("the history does not end")
        if not self._ready:
            self.before_time_passes()
            self._pass_time()
        self._take_due()
        if self._ready:
            at = 0 if self._in_order else self._rng.randrange(len(self._ready))
            handle = self._ready.pop(at)
            if not handle.cancelled() and not self.is_gone(handle._context):  # type: ignore[attr-defined]
                handle._run()

    def _pass_time(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise Stuck("everybody waits, and nothing will come")
        self.world.now = max(self.world.now, self._timers[0][0])

    def _take_due(self) -> None:
        while self._timers and self._timers[0][0] <= self.world.now:
            self._ready.append(heapq.heappop(self._timers)[2])

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """One that was dropped before its end."""
        self._generators.discard(generator)
        self.create_task(generator.aclose())  # type: ignore[arg-type]

    # What asyncio asks of a loop beside that.

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, context: Context | None = None, **settings: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        context = copy_context() if context is None else context
        task = asyncio.Task(coro, loop=self, context=context, **settings)
        self._contexts[task] = context
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Not in a thread, but later."""

        async def run() -> Any:
            return func(*args)

        return self.create_task(run())

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(context["message"] if error is None else f"{context['message']}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True

    def waiting(self) -> list[str]:
        """The tasks that have not ended, and are not gone."""
        return sorted(repr(task) for task in asyncio.all_tasks(self) if not self.is_gone(self._contexts[task]))

    def end(self, is_over: Callable[[], bool]) -> None:
        """Cancel every task, and run until all have ended and that holds, or nothing more will come."""
        left = asyncio.all_tasks(self)

        async def cancel() -> None:
            for task in left:
                task.cancel()
            while not is_over() or any(not task.done() for task in left):
                await asyncio.sleep(1)

        self.turns = 0
        if left or not is_over():
            with suppress(Stuck):
                self.run_until_complete(cancel())
