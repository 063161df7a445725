"""The background task by which a member exchanges with the store. No call waits for it, no lock is held meanwhile."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from llm_fallback._forks import after_fork_in_child
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import Overtaken, Store, StoreError

logger = logging.getLogger("llm_fallback")

_LEAVING_S = 0.5
"""Seconds that a process which ends, or a model that is closed, gives the store to hear of it."""


_HURRIED = 0.1
"""Of a pause, before an exchange that hurries."""


class Background(Protocol):
    """A loop of this process that runs beside its calls."""

    def __call__(self, task: Coroutine[Any, Any, None]) -> None: ...


class Exchanger:
    """Runs one member's exchanges. `start` may be called by any thread, as often as one likes."""

    def __init__(self, member: Member, store: Callable[[], Store], shown: str, background: Background) -> None:
        """`store` is made where the task runs, `shown` is its address without secrets."""
        self.member, self._make_store, self._shown, self._background = member, store, shown, background
        self.is_running = False
        self._begin()
        member.hurry = self.hurry
        after_fork_in_child(self, Exchanger._begin)
        _exchangers.add(self)

    def _begin(self) -> None:
        """Nothing runs yet, in a forked child either."""
        self.is_running = self._is_closing = self._is_gone = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: asyncio.Event | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Exchange from now on, in the background."""
        if not self.is_running and not self._is_closing:
            self.is_running = True
            self._background(self._run())

    def called(self) -> None:
        """A call is made: this process is one of those that share, also if it is a child that was just forked."""
        self.member.called_at = self.member.now()
        if not self.is_running:
            self.start()

    def hurry(self) -> None:
        """Do not wait for the next turn."""
        loop, due = self._loop, self._due
        if loop is not None and due is not None and not due.is_set():
            with suppress(RuntimeError):  # The loop is closed: the interpreter ends.
                loop.call_soon_threadsafe(due.set)

    def close(self) -> None:
        """Leave the fleet: tell it once more what was used, and give back what is held. Does not wait for it."""
        self._is_closing = True
        self.hurry()

    def finish(self) -> None:
        """The same, and wait for it a moment."""
        if self.is_running:
            self.close()
            self._ended.wait(_LEAVING_S)

    async def _run(self) -> None:
        self._loop, self._due = asyncio.get_running_loop(), asyncio.Event()
        store = self._make_store()
        listening = asyncio.create_task(self._listen(store))
        try:
            while not self._is_closing:
                await self._exchange(store, self.member.schedule.patience_s)
                await self._pause()
            await self._exchange(store, _LEAVING_S, leaves=True)
        finally:
            self.is_running = False
            listening.cancel()
            try:
                await store.close()
            finally:
                self._ended.set()

    async def _listen(self, store: Store) -> None:
        """Hear what other members tell, between the exchanges."""
        while True:
            try:
                self.member.hear(await store.news())
            except StoreError:
                await asyncio.sleep(self.member.schedule.lease_s)

    async def _pause(self) -> None:
        """Wait for the next turn; what hurries, for a part of it, but for all of it while the store is gone."""
        assert self._due is not None
        pause_s = self.member.pause_s()
        least_s = pause_s if self.member.schedule.failures else _HURRIED * pause_s
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                if not self._is_closing:
                    await asyncio.sleep(least_s)
                await self._due.wait()
        self._due.clear()

    async def _exchange(self, store: Store, patience_s: float, *, leaves: bool = False) -> None:
        member = self.member
        request, sent_at = member.request(leaves=leaves), member.now()
        try:
            async with asyncio.timeout(patience_s):
                response = await store.exchange(request)
            if len(response.grants) != len(request.claims):
                raise StoreError("it answered with grants of other claims")
        except TimeoutError:
            self._lost(f"no answer within {patience_s:.2g} s")
        except (StoreError, Overtaken) as error:
            self._lost(str(error) or "it has had a later request of ours")
        else:
            member.receive(request, sent_at, response)
            if self._is_gone:
                self._is_gone = False
                logger.warning("fleet store %s answers again", self._shown)

    def _lost(self, why: str) -> None:
        if self.member.lost() and not (self._is_gone or self._is_closing):
            self._is_gone = True
            logger.warning(
                "fleet store %s does not answer (%s); this process goes on by what it knows, with 1/%d of each limit",
                *(self._shown, why, self.member.members),
            )


_exchangers = weakref.WeakSet[Exchanger]()


def _leave() -> None:
    for exchanger in list(_exchangers):
        exchanger.finish()


# What a process holds when it ends would be missing to the others, money for the rest of the day.
atexit.register(_leave)
