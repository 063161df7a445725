"""What calls may cost, and what is left of it.

The estimated cost of an attempt is set aside before its request goes out and settled to the real one after it, both
under a lock. So calls under way at the same time go over a budget at most by what their estimates were short of.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from typing import Any, Literal

from llm_fallback.daybook import DayBook
from llm_fallback.errors import over_budget
from llm_fallback.pricing import FINEST

Window = Literal["call", "run", "day", "none"]

_NOTHING = Decimal(0)
_DAY_S = 86_400
_MOST_RUNS = 100_000
"""LangChain tells no model when a run ends; those longest without a call are forgotten beyond so many."""


@dataclass(slots=True, eq=False)
class Sum:
    """What one call, run, day or spender has had of a purse, in US dollars."""

    day: str = ""
    whose: str | None = None
    spent: Decimal = _NOTHING
    reserved: Decimal = _NOTHING
    """Set aside for attempts under way."""
    unpriced: int = 0
    """Attempts of which nobody knows the cost."""

    @property
    def total(self) -> Decimal:
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True, eq=False)
class Payer:
    """Whose money a call spends. It lives as long as the call."""

    run: str | None = None
    """The outermost run the call belongs to; without one the call is a run of its own."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    caps: Sequence[Cap] = ()
    """Limits beside those of the chain."""
    sums: dict[Purse, Sum] = field(default_factory=dict)
    """What this call alone has had."""


class Purse:
    """Money by the call, by the run, by the day from midnight UTC, or all in all; apart for each value of the metadata
    key `per`. Threads may share it."""

    def __init__(
        self,
        window: Window,
        per: str | None = None,
        wall: Callable[[], float] = time.time,
        book: DayBook | None = None,
    ) -> None:
        self.window, self.per = window, per
        self.lock = threading.Lock()
        self._wall, self._book = wall, book
        self._sums: OrderedDict[tuple[str, str | None], Sum] = OrderedDict()
        self._day, self._date = -1, ""
        self.catch_up()

    def of(self, payer: Payer) -> Sum:
        """The payer's sum; called with the lock held."""
        whose = self.whose(payer)
        match self.window:
            case "day":
                self._turn_page()
                return self._sum(self._date, whose)
            case "none":
                return self._sum("", whose)
            case "run" if payer.run is not None:
                return self._of_run(payer.run, whose)
        return payer.sums.setdefault(self, Sum(whose=whose))

    def whose(self, payer: Payer) -> str | None:
        value = None if self.per is None else payer.metadata.get(self.per)
        return None if value is None else str(value)

    def settle(self, own: Sum, reserved: Decimal, cost: Decimal | None) -> None:
        """Give back what was set aside and book what it came to; None: nobody knows."""
        with self.lock:
            own.reserved -= reserved
            if cost is None:
                own.unpriced += 1
            else:
                own.spent += cost
            is_todays = self._book is not None and own.day == self._date
        if is_todays and cost:
            self._write(own.day, [(own.whose, cost)])

    def spend(self, payer: Payer, cost: Decimal | None) -> None:
        """Book what nothing was set aside for."""
        with self.lock:
            own = self.of(payer)
        self.settle(own, _NOTHING, None if cost is None else cost.quantize(FINEST))

    def catch_up(self) -> None:
        """Learn what other processes, or an earlier life of this one, wrote into the file."""
        if self._book is not None:
            with self.lock:
                self._turn_page()
                day = self._date
            if self._book.has_news(day):
                self._write(day, ())

    def sums(self) -> list[Sum]:
        """Copies of what there is now."""
        with self.lock:
            if self.window == "day":
                self._turn_page()
            return [Sum(own.day, own.whose, own.spent, own.reserved, own.unpriced) for own in self._sums.values()]

    def _write(self, day: str, amounts: Iterable[tuple[str | None, Decimal]]) -> None:
        assert self._book is not None
        news = self._book.exchange(day, amounts)
        with self.lock:
            for whose, usd in news if day == self._date else ():
                self._sum(day, whose).spent += usd

    def _sum(self, key: str, whose: str | None) -> Sum:
        own = self._sums.get((key, whose))
        if own is None:
            own = self._sums[key, whose] = Sum(key if self.window == "day" else "", whose)
        return own

    def _of_run(self, run: str, whose: str | None) -> Sum:
        own = self._sum(run, whose)
        self._sums.move_to_end((run, whose))
        if len(self._sums) > _MOST_RUNS:
            self._sums.popitem(last=False)
        return own

    def _turn_page(self) -> None:
        """Forget what past days cost. A clock that is set back does not bring back yesterday's money."""
        today = int(self._wall() // _DAY_S)
        if today > self._day:
            self._day, self._date = today, datetime.fromtimestamp(today * _DAY_S, UTC).date().isoformat()
            self._sums.clear()


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    """The most that may be spent from each sum of a purse."""

    usd: Decimal
    purse: Purse
    scope: str
    """What is limited, as in `chain assistant, per day`."""

    def overdraft(self, payer: Payer, estimate: Decimal | None) -> Overdraft | None:
        """What keeps an attempt from being paid, if anything does. Where nobody knows what it may cost, it goes while
        anything is left; what costs nothing always goes. Called with the purse's lock held."""
        total = self.purse.of(payer).total
        if estimate == 0 or (total < self.usd if estimate is None else total + estimate <= self.usd):
            return None
        return Overdraft(total, self.usd, self._scope(payer), estimate)

    def _scope(self, payer: Payer) -> str:
        whose = self.purse.whose(payer)
        return self.scope if whose is None else f"{self.scope}, {self.purse.per} {whose}"


@dataclass(frozen=True, slots=True)
class Overdraft:
    """Why an attempt cannot be afforded."""

    spent: Decimal
    limit: Decimal
    scope: str
    estimate: Decimal | None

    @property
    def as_floats(self) -> tuple[float, float, str, float | None]:
        """For an error: spent, limit, scope, estimate."""
        estimate = None if self.estimate is None else float(self.estimate)
        return float(self.spent), float(self.limit), self.scope, estimate

    def __str__(self) -> str:
        return over_budget(*self.as_floats)


class Hold:
    """Money set aside for an attempt."""

    def __init__(self, amount: Decimal = _NOTHING, parts: Sequence[tuple[Purse, Sum]] = ()) -> None:
        self._amount, self._parts = amount, parts

    def settle(self, cost: Decimal | None) -> None:
        """Book what the attempt cost instead; None if nobody knows. Only the first time counts."""
        parts, self._parts = self._parts, ()
        exact = None if cost is None else cost.quantize(FINEST)
        for purse, own in parts:
            purse.settle(own, self._amount, exact)


def reserve(caps: Sequence[Cap], payer: Payer, estimate: Decimal | None) -> Hold | Overdraft:
    """Set an attempt's cost aside in every purse, or in none and say which has too little."""
    amount = _NOTHING if estimate is None else estimate.quantize(FINEST, ROUND_UP)
    with ExitStack() as locks:
        # In an order of their own, so that two calls that share some purses never wait for each other.
        for purse in sorted({cap.purse for cap in caps}, key=id):
            locks.enter_context(purse.lock)
        for cap in caps:
            overdraft = cap.overdraft(payer, None if estimate is None else amount)
            if overdraft is not None:
                return overdraft
        parts = [(cap.purse, cap.purse.of(payer)) for cap in caps]
        for _, own in parts:
            own.reserved += amount
        return Hold(amount, parts)
