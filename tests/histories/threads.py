"""Threads that take turns with the loop: one runs at a time, up to where it waits, and the loop draws which is next.

Sync callers, the portal's callers and the thread that writes a budget's file run in these. What blocks a thread in
production (the result of a step on the portal, an exchange with a file) gives its turn back here, so that threads
follow from the seed as tasks do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

from llm_fallback.chat_model import driver as driver_module
from llm_fallback.chat_model import portal as portal_module
from llm_fallback.chat_model.portal import Portal
from llm_fallback.engine import bookkeeper as bookkeeper_module
from tests.histories.loop import SeededLoop, Stuck

_T = TypeVar("_T")


class Abandoned(BaseException):
    """Its process was killed, and its history is over."""


class TurnTakingThread:
    """A thread of a history. It inherits the context it is made in, and with it the process it belongs to."""

    def __init__(self, threads: Threads, target: Callable[[], object]) -> None:
        self._threads, self._target = threads, target
        self._context = copy_context()
        self._turn, self._turn_is_over = threading.Semaphore(0), threading.Semaphore(0)
        self._waits_for: object = None
        """None while it need not wait."""
        self._thrown: BaseException | None = None
        self.has_ended = False

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()
        self._threads.alive.append(self)
        self._threads.loop.call_soon(self._take_turn, context=self._context)

    def wait(self, until: Future[Any] | None = None, seconds: float | None = None) -> None:
        """Give the turn back until that is done, or so much time has passed."""
        waits_for = self._waits_for = object()
        if until is not None:
            until.add_done_callback(lambda _: self._go_on(waits_for))
        timer = None
        if seconds is not None:
            timer = self._threads.loop.call_later(seconds, self._go_on, waits_for, context=self._context)
        self._turn_is_over.release()
        self._turn.acquire()
        if timer is not None:
            timer.cancel()
        thrown, self._thrown = self._thrown, None
        if thrown is not None:
            raise thrown

    def interrupt(self, error: BaseException) -> None:
        """Raise an error where it waits, as Ctrl-C does."""
        self._thrown = error
        if self._waits_for is not None:
            self._go_on(self._waits_for)

    def abandon(self) -> None:
        """Let it end, whatever it waits for."""
        while not self.has_ended:
            self._thrown, self._waits_for = Abandoned(), None
            self._take_turn()

    def _go_on(self, waited_for: object) -> None:
        """Let it run soon, unless it has gone on meanwhile."""
        if waited_for is self._waits_for and not self.has_ended:
            self._waits_for = None
            self._threads.loop.call_soon(self._take_turn, context=self._context)

    def _take_turn(self) -> None:
        """Called by the loop, which waits for it."""
        if not self.has_ended:
            self._turn.release()
            self._turn_is_over.acquire()

    def _run(self) -> None:
        self._turn.acquire()
        _here.thread = self
        try:
            if not isinstance(self._thrown, Abandoned):
                # The loop runs what belongs to this thread in the context itself, and two cannot at once.
                self._context.copy().run(self._target)
        except Abandoned:
            pass
        except BaseException as error:
            self._threads.loop.call_exception_handler({"message": "a thread", "exception": error})
        finally:
            self.has_ended = True
            self._threads.alive.remove(self)
            self._turn_is_over.release()


_here = threading.local()
"""`thread`: the one of a history that this is."""


class TurnTakingFuture(Future[_T]):
    """Who waits for it gives the turn back."""

    def result(self, timeout: float | None = None) -> _T:
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        if not self.done():
            _this_thread().wait(self, timeout)


def sleep(seconds: float) -> None:
    """Let time pass in this thread."""
    _this_thread().wait(seconds=seconds)


def _this_thread() -> TurnTakingThread:
    thread: TurnTakingThread | None = getattr(_here, "thread", None)
    if thread is None:
        raise Stuck("the loop would wait for itself")
    return thread


class Threads:
    """The threads of one history."""

    def __init__(self, loop: SeededLoop) -> None:
        self.loop = loop
        self.alive: list[TurnTakingThread] = []

    def start(self, target: Callable[[], object]) -> TurnTakingThread:
        thread = TurnTakingThread(self, target)
        thread.start()
        return thread

    @contextmanager
    def instead_of_real_ones(self) -> Iterator[None]:
        """What of the library starts threads or waits for them, starts these and waits like them."""
        make = SimpleNamespace(Thread=lambda target, **_: TurnTakingThread(self, target))
        with (
            patch.object(portal_module, "_portal", self._portal()),
            patch.object(portal_module, "Future", TurnTakingFuture),
            patch.object(bookkeeper_module, "Future", TurnTakingFuture),
            patch.object(bookkeeper_module, "threading", make),
            patch.object(driver_module, "threading", make),
        ):
            yield

    def _portal(self) -> Portal:
        """The portal, whose loop is that of the history: it needs no thread of its own."""
        portal = Portal.__new__(Portal)
        portal.pid, portal.loop, portal._thread = os.getpid(), self.loop, threading.current_thread()
        return portal

    def interrupt(self, error: BaseException) -> None:
        for thread in self.alive:
            thread.interrupt(error)

    def abandon(self) -> None:
        """End those that wait for what will not come any more."""
        for thread in list(self.alive):
            thread.abandon()
