"""Keeps an account and a store of amounts up with each other, in a thread of its own: no event loop waits for a disk.

What an attempt has cost is owed from the moment it is settled until the store has it. A call waits for the store for a
moment of its time, and goes on by what is known where the store takes longer.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from decimal import Decimal
from typing import Protocol
from weakref import WeakSet

from llm_fallback._forks import after_fork_in_child, fork_safe_lock
from llm_fallback.engine.clock import Clock

logger = logging.getLogger("llm_fallback")

Amount = tuple[str | None, Decimal]
"""Whose, and how many US dollars."""

_SHARE_OF_CALL = 0.1
_SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.02, 1.0
"""A call waits for the store for that share of the time it has left, within these bounds."""


class SpendStore(Protocol):
    """Keeps amounts for longer than a process, and for several of them. It may take its time."""

    @property
    def owner(self) -> str:
        """Whose amounts these are, as in `chain assistant`."""
        ...

    def exchange(self, day: str, amounts: Mapping[str | None, Decimal]) -> Sequence[Amount]:
        """Add our own amounts of the day; returns what others have added since the last time.

        Raises OSError if nothing was added."""
        ...


class Bookkeeper:
    """Exchanges amounts with a store. Its thread lives only while there is something to exchange."""

    def __init__(self, store: SpendStore, receive: Callable[[str, Sequence[Amount]], object]) -> None:
        """`receive` gets the day and the amounts that others have added, in the bookkeeper's thread."""
        self._store, self._receive = store, receive
        self._lock = fork_safe_lock()
        self._day = ""
        self._begin_anew()
        after_fork_in_child(self, Bookkeeper._begin_anew)
        _bookkeepers.add(self)

    def _begin_anew(self) -> None:
        """Owe nothing, and have nothing under way. What the parent of a forked child owes, the parent adds."""
        self._owed: dict[str | None, Decimal] = {}
        self._asking: list[Future[None]] = []
        self._is_asked = self._is_working = self._is_behind = False

    def settle(self, day: str, spender_key: str | None, usd: Decimal) -> None:
        """Owe the store an amount of the day, and have it added. Waits for nothing."""
        with self._lock:
            self._turn_to(day)
            self._owe({spender_key: usd})
        self._work_soon()

    def exchange(self, day: str) -> Future[None]:
        """Have the store add what is owed and tell what others have added; done when it has, or cannot."""
        future: Future[None] = Future()
        with self._lock:
            self._turn_to(day)
            self._asking.append(future)
        self._work_soon()
        return future

    def wait(self, day: str) -> None:
        """Exchange, and wait for it in this thread, for a second at most."""
        try:
            self.exchange(day).result(timeout=LONGEST_WAIT_S)
        except TimeoutError:
            self._fall_behind(_no_turn(LONGEST_WAIT_S))

    async def keep_up(self, day: str, clock: Clock, deadline: float) -> None:
        """Exchange, and wait for it a moment of the time until the deadline; not at all while the store is in trouble,
        of which the first to notice has told."""
        left_s = deadline - clock.now()
        if self._is_behind or left_s <= 0:
            self._work_soon()
            return
        wait_s = min(max(_SHARE_OF_CALL * left_s, _SHORTEST_WAIT_S), LONGEST_WAIT_S)
        exchange = self.exchange(day)
        try:
            async with clock.deadline(clock.now() + wait_s, for_others=True):
                await asyncio.shield(asyncio.wrap_future(exchange))
        except TimeoutError:
            if not exchange.done():  # Else it is this loop that was late.
                self._fall_behind(_no_turn(wait_s))

    def finish(self) -> None:
        """Add what is still owed before the interpreter ends; what cannot be added is told."""
        if self._owed:
            with suppress(TimeoutError):
                self.exchange(self._day).result(timeout=LONGEST_WAIT_S)
        if self._owed:
            owed = sum(self._owed.values())
            logger.warning("%s: %s US dollars that %s has cost are not in it", self._store, owed, self._store.owner)

    def _turn_to(self, day: str) -> None:
        """Forget the amounts of a day that is over: the store holds one day."""
        if day != self._day:
            self._day, self._owed = day, {}

    def _owe(self, amounts: Mapping[str | None, Decimal]) -> None:
        for spender_key, usd in amounts.items():
            owed = self._owed.pop(spender_key, Decimal(0)) + usd
            if owed:
                self._owed[spender_key] = owed

    def _work_soon(self) -> None:
        with self._lock:
            self._is_asked = True
            begins, self._is_working = not self._is_working, True
        if begins:
            try:
                threading.Thread(target=self._work, name="llm_fallback bookkeeper", daemon=True).start()
            except RuntimeError:  # There are too many already, or the interpreter ends.
                self._is_working = False

    def _work(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                self._exchange(*work)
        except BaseException:
            self._is_working = False
            raise

    def _next_work(self) -> tuple[str, dict[str | None, Decimal], list[Future[None]]] | None:
        """The day, what is owed, and who waits for an exchange that begins now; None when nobody has asked for one."""
        with self._lock:
            if not self._is_asked:
                self._is_working = False
                return None
            asking, self._asking, self._is_asked = self._asking, [], False
            return self._day, dict(self._owed), asking

    def _exchange(self, day: str, owed: Mapping[str | None, Decimal], asking: Iterable[Future[None]]) -> None:
        try:
            news = self._store.exchange(day, owed)
        except OSError as error:
            self._fall_behind(str(error))
        else:
            self._is_behind = False
            with self._lock:
                if day == self._day:
                    self._owe({spender_key: -usd for spender_key, usd in owed.items()})
            self._receive(day, news)
        for future in asking:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _fall_behind(self, why: str) -> None:
        if not self._is_behind:
            self._is_behind = True
            logger.warning(
                "%s cannot be written (%s); %s counts on in memory, and what it owes is written later",
                *(self._store, why, self._store.owner),
            )


def _no_turn(wait_s: float) -> str:
    return f"no turn within {wait_s:.1g} s: its disk is slow, or another process holds it"


_bookkeepers = WeakSet[Bookkeeper]()


def _finish() -> None:
    for bookkeeper in list(_bookkeepers):
        bookkeeper.finish()


atexit.register(_finish)
