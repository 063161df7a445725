"""The background loop on which sync callers run the engine: one per process, made on first use.

A step of the engine is handed over with the caller's context variables, the caller waits for it in its own thread,
and an interrupt of the caller cancels it. Of the user's only what is async runs here: a predicate, a key function.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from llm_fallback._forks import fork_safe_lock

T = TypeVar("T")


class Portal:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="llm_fallback portal", daemon=True)
        self._thread.start()
        atexit.register(self._shut)

    def _shut(self) -> None:
        """Close what async generators hold on the loop, connections among it, before the interpreter ends."""
        if self.is_ours() and self._thread.is_alive():
            closing = asyncio.run_coroutine_threadsafe(self.loop.shutdown_asyncgens(), self.loop)
            with suppress(TimeoutError):
                closing.result(timeout=1)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, step: Coroutine[Any, Any, T], context: contextvars.Context) -> T:
        """Run one step to its end in that context and return its result. Raises RuntimeError in a forked child of the
        portal's process, where nothing would end it.

        An exception raised in the waiting thread, as by Ctrl-C, cancels the step and waits for its end first.
        """
        if not self.is_ours():
            step.close()
            raise RuntimeError("a call goes on in the process that began it, not in one that was forked meanwhile")
        future: Future[T] = Future()
        task = _Task(step, future)
        try:
            self.loop.call_soon_threadsafe(task.start, self.loop, context)
            return future.result()
        except BaseException:
            if not future.done():
                self.loop.call_soon_threadsafe(task.cancel)
                _settle(future)
            raise

    def send(self, step: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        """Run a step whose end nobody waits for; in a forked child nothing, for it is the parent's to end."""
        if not self.is_ours():
            step.close()
            return
        task = _Task(step, Future())
        self.loop.call_soon_threadsafe(task.start, self.loop, context)

    def is_ours(self) -> bool:
        """Whether it is of this process, and not of one that this was forked from."""
        return self.pid == os.getpid()

    def is_current(self) -> bool:
        """Whether the caller is this loop's own thread, which must never wait for itself."""
        # Not by current_thread(): that takes a lock, and a finaliser asks this too.
        return threading.get_ident() == self._thread.ident


class _Task(Generic[T]):
    """A step on the loop, and the future its caller waits for."""

    def __init__(self, step: Coroutine[Any, Any, T], future: Future[T]) -> None:
        self._step, self._future = step, future
        self._task: asyncio.Task[T] | None = None

    def start(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self._task = loop.create_task(self._step, context=context)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # The interrupt came before the step was handed over.
            self._step.close()
            self._future.cancel()

    def _done(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._future.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())


def _settle(future: Future[Any]) -> None:
    """Wait for a cancelled step to end, so that its request is closed when the interrupt goes on."""
    with suppress(BaseException):  # The interrupt that brought us here is the one to report.
        future.exception(timeout=5)


_portal: Portal | None = None
_lock = fork_safe_lock()


def portal() -> Portal:
    """The process's portal; a forked child gets its own, as threads do not survive a fork."""
    global _portal
    if _portal is None or _portal.pid != os.getpid():
        with _lock:
            if _portal is None or _portal.pid != os.getpid():
                # The loop keeps the context it is made in, and would keep its first caller's for ever.
                _portal = contextvars.Context().run(Portal)
    return _portal


def may_wait() -> bool:
    """Whether this thread may wait for the portal, and run what may wait for anything.

    Not the portal itself; nor anybody while the interpreter ends, for the portal stands still then; nor a finaliser
    that the garbage collector runs. That comes wherever something is allocated, also where this thread holds the very
    lock that the portal or a listener needs, and both would wait for ever.
    """
    if sys.is_finalizing() or _collecting_in == threading.get_ident():
        return False
    return _portal is None or not _portal.is_current()


_collecting_in: int | None = None
"""The thread that collects garbage now; there is never a second one."""


# The function is bound here, because collections go on at the interpreter's end, when a module's names are gone.
def _note_collection(phase: str, info: object, this_thread: Callable[[], int] = threading.get_ident) -> None:
    global _collecting_in
    _collecting_in = this_thread() if phase == "start" else None


gc.callbacks.append(_note_collection)


def _begin_child() -> None:
    """The thread that collected is none of the child's; another may get its number."""
    global _collecting_in
    _collecting_in = None


if hasattr(os, "register_at_fork"):  # Windows has no fork.
    os.register_at_fork(after_in_child=_begin_child)
