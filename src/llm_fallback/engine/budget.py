"""What calls may cost, and what is left of it: accounts, reservations, and what an attempt is likely to cost.

The estimated cost of an attempt is reserved before its request goes out and settled to the real one after it, both
under a lock. So calls under way at the same time go over a budget at most by what their estimates were short of.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from llm_fallback._forks import after_fork_in_child, fork_safe_lock
from llm_fallback.engine.bookkeeper import Amount, Bookkeeper, SpendStore
from llm_fallback.engine.budget_file import DailySpendFile
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.engine.shared import SharedBudget
from llm_fallback.engine.tokens import read_choices, read_limit
from llm_fallback.errors import over_budget
from llm_fallback.events import Usage
from llm_fallback.plan.plan import Catalogue, ChainPlan, Plan, Target
from llm_fallback.plan.pricing import FINEST, FIRST_GUESS_TOKENS, Prices
from llm_fallback.spec.consistency import price_missing
from llm_fallback.spec.locations import Problem

Window = Literal["call", "run", "day", "none"]

_NOTHING = Decimal(0)
_DAY_S = 86_400
_MOST_RUNS = 100_000
"""LangChain tells no model when a run ends; those longest without a call are forgotten beyond so many."""


@dataclass(slots=True, eq=False)
class Balance:
    """What one call, run, day or spender has spent of an account, in US dollars."""

    day: str = ""
    """As in `2026-01-31`; empty where the account is not by the day."""
    spender_key: str | None = None
    """The value of the metadata key that spenders are told apart by."""
    spent: Decimal = _NOTHING
    reserved: Decimal = _NOTHING
    """For attempts in flight."""
    unpriced: int = 0
    """Attempts of which nobody knows the cost."""

    @property
    def total(self) -> Decimal:
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True, eq=False)
class Spender:
    """Whose money a call spends. It lives as long as the call."""

    run: str | None = None
    """The outermost run the call belongs to; without one the call is a run of its own."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[BudgetLimit] = ()
    """Limits beside those of the chain."""
    balances: dict[Account, Balance] = field(default_factory=dict)
    """What this call alone has spent, of accounts by the call."""


class Account:
    """Money by the call, by the run, by the day from midnight UTC, or all in all; apart for each value of the metadata
    key `per`. Threads may share it."""

    def __init__(
        self,
        window: Window,
        per: str | None = None,
        wall: Callable[[], float] = time.time,
        store: SpendStore | None = None,
    ) -> None:
        """`store` keeps what a day has cost for longer than the process, and for others too."""
        self.window, self.per = window, per
        self.lock = fork_safe_lock()
        self._wall = wall
        self._balances: OrderedDict[tuple[str, str | None], Balance] = OrderedDict()
        self._superseded: dict[Balance, Decimal] = {}
        """What a forked child knows from its parent until the store has told it."""
        self._day, self._date = -1, ""
        self._bookkeeper = None if store is None else Bookkeeper(store, self._receive)
        self.shared: Callable[[BudgetLimit, Balance], SharedBudget] | None = None
        """Where other processes spend the same money: what is shared of a balance, by its limit."""
        after_fork_in_child(self, Account._begin_child)
        self.sync()

    @property
    def is_kept(self) -> bool:
        """Whether a store of its own keeps what a day has cost."""
        return self._bookkeeper is not None

    def of(self, spender: Spender) -> Balance:
        """The spender's balance; called with the lock held."""
        spender_key = self.spender_key(spender)
        match self.window:
            case "day":
                self._roll_over()
                return self._balance(self._date, spender_key)
            case "none":
                return self._balance("", spender_key)
            case "run" if spender.run is not None:
                return self._of_run(spender.run, spender_key)
        return spender.balances.setdefault(self, Balance())

    def spender_key(self, spender: Spender) -> str | None:
        """What tells this spender from others: its value of the metadata key `per`; None without one."""
        value = None if self.per is None else spender.metadata.get(self.per)
        return None if value is None else str(value)

    def settle(self, balance: Balance, reserved: Decimal, cost: Decimal | None) -> None:
        """Replace what was reserved by what it cost; None: nobody knows."""
        with self.lock:
            balance.reserved -= reserved
            if cost is None:
                balance.unpriced += 1
            else:
                balance.spent += cost
        if self._bookkeeper is not None and cost and self._is_ours_today(balance):
            self._bookkeeper.settle(balance.day, balance.spender_key, cost)

    def spend(self, spender: Spender, cost: Decimal | None) -> None:
        """Add a cost that nothing was reserved for."""
        with self.lock:
            balance = self.of(spender)
        self.settle(balance, _NOTHING, None if cost is None else cost.quantize(FINEST))

    def sync(self) -> None:
        """Learn from the store what other processes, or an earlier life of this one, have spent; for a second at most.
        A thread may wait that long, an event loop does better to `keep_up`."""
        if self._bookkeeper is not None:
            self._bookkeeper.wait(self._today())

    async def keep_up(self, clock: Clock, deadline: float) -> None:
        """Learn what others have spent, and have them learn what was spent here; for a tenth of the time until the
        deadline at most."""
        if self._bookkeeper is not None:
            await self._bookkeeper.keep_up(self._today(), clock, deadline)

    def balances(self) -> list[Balance]:
        """Copies of what there is now."""
        with self.lock:
            if self.window == "day":
                self._roll_over()
            return [
                Balance(balance.day, balance.spender_key, balance.spent, balance.reserved, balance.unpriced)
                for balance in self._balances.values()
            ]

    def _today(self) -> str:
        with self.lock:
            self._roll_over()
            return self._date

    def _is_ours_today(self, balance: Balance) -> bool:
        """Whether it is of this day, and of this process: what a parent has under way, its child never books."""
        with self.lock:
            return self.is_todays(balance)

    def is_todays(self, balance: Balance) -> bool:
        """The same, called with the lock held."""
        self._roll_over()
        return self._balances.get((balance.day, balance.spender_key)) is balance

    def _receive(self, day: str, news: Sequence[Amount]) -> None:
        with self.lock:
            if day != self._date:
                return
            if news:
                for balance, usd in self._superseded.items():
                    balance.spent -= usd
                self._superseded.clear()
            for spender_key, usd in news:
                self._balance(day, spender_key).spent += usd

    def _begin_child(self) -> None:
        """Go on with what the parent has spent, but not with what it has reserved, which is settled there."""
        for key, known in self._balances.items():
            self._balances[key] = Balance(known.day, known.spender_key, known.spent, unpriced=known.unpriced)
        if self._bookkeeper is not None:
            # The store tells it again, with what the parent still owed it when it was forked.
            self._superseded = {balance: balance.spent for balance in self._balances.values()}

    def _balance(self, key: str, spender_key: str | None) -> Balance:
        balance = self._balances.get((key, spender_key))
        if balance is None:
            balance = self._balances[key, spender_key] = Balance(key if self.window == "day" else "", spender_key)
        return balance

    def _of_run(self, run: str, spender_key: str | None) -> Balance:
        balance = self._balance(run, spender_key)
        self._balances.move_to_end((run, spender_key))
        if len(self._balances) > _MOST_RUNS:
            self._balances.popitem(last=False)
        return balance

    def _roll_over(self) -> None:
        """Start a new day's balances when the UTC date advances. If the wall clock goes backwards, the newer day
        stays."""
        today = int(self._wall() // _DAY_S)
        if today > self._day:
            self._day, self._date = today, datetime.fromtimestamp(today * _DAY_S, UTC).date().isoformat()
            self._balances.clear()


@dataclass(frozen=True, slots=True, eq=False)
class BudgetLimit:
    """The most that each balance of an account may come to."""

    usd: Decimal
    account: Account
    scope: str
    """What is limited, as in `chain assistant, per day`."""
    goes_cheaper: bool = False
    """Whether a call that it stops may go on with another deployment, which it suffices for."""

    def shortfall(self, spender: Spender, estimate: Decimal | None) -> BudgetShortfall | None:
        """Why an attempt cannot be afforded; None if it can. If nobody knows what it may cost, it can while anything is
        left; what costs nothing always can. Called with the account's lock held."""
        balance = self.account.of(spender)
        if self.account.shared is not None and estimate != 0:
            lacking = self.account.shared(self, balance).shortfall(estimate)
            if lacking is None:
                return None
            scope = self._scope(spender)
            return BudgetShortfall(lacking[0], self.usd, scope, estimate, self.goes_cheaper, is_momentary=lacking[1])
        total = balance.total
        if estimate == 0 or (total < self.usd if estimate is None else total + estimate <= self.usd):
            return None
        return BudgetShortfall(total, self.usd, self._scope(spender), estimate, self.goes_cheaper)

    def _scope(self, spender: Spender) -> str:
        spender_key = self.account.spender_key(spender)
        return self.scope if spender_key is None else f"{self.scope}, {self.account.per} {spender_key}"


@dataclass(frozen=True, slots=True)
class BudgetShortfall:
    """Why an attempt cannot be afforded."""

    spent: Decimal
    limit: Decimal
    scope: str
    estimate: Decimal | None
    goes_cheaper: bool = False
    is_momentary: bool = False
    """Whether there is money, but none of it here yet: other processes have a part of it in hand."""

    @property
    def as_floats(self) -> tuple[float, float, str, float | None]:
        """For an error: spent, limit, scope, estimate."""
        estimate = None if self.estimate is None else float(self.estimate)
        return float(self.spent), float(self.limit), self.scope, estimate

    def __str__(self) -> str:
        return over_budget(*self.as_floats)


class Reservation:
    """Money reserved for an attempt."""

    def __init__(self, amount: Decimal = _NOTHING, parts: Sequence[tuple[Account, Balance]] = ()) -> None:
        self._amount, self._parts = amount, parts

    def settle(self, cost: Decimal | None) -> None:
        """Replace the reservation by what the attempt cost; None if nobody knows. Only the first time counts."""
        parts, self._parts = self._parts, ()
        exact = None if cost is None else cost.quantize(FINEST)
        for account, balance in parts:
            account.settle(balance, self._amount, exact)


def reserve(limits: Sequence[BudgetLimit], spender: Spender, estimate: Decimal | None) -> Reservation | BudgetShortfall:
    """Reserve an attempt's cost in every account; if one has too little, in none, and say which."""
    amount = _NOTHING if estimate is None else estimate.quantize(FINEST, ROUND_UP)
    with ExitStack() as locks:
        # Always in the same order, so that two calls that share some accounts never wait for each other.
        for account in sorted({limit.account for limit in limits}, key=id):
            locks.enter_context(account.lock)
        for limit in limits:
            shortfall = limit.shortfall(spender, None if estimate is None else amount)
            if shortfall is not None:
                return shortfall
        parts = [(limit.account, limit.account.of(spender)) for limit in limits]
        for _, balance in parts:
            balance.reserved += amount
        return Reservation(amount, parts)


_FIRST_GUESS_S = 10.0
"""How many seconds of a GPU a reply is taken to need before its deployment has given one."""


class ChainBudgets:
    """The accounts of a model's chains. What was spent outlives a reload; how much may be, the chain's plan says."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._lock = fork_safe_lock()
        self._accounts: dict[tuple[str, Window, str | None, str | None], Account] = {}

    def limits(self, chain: ChainPlan) -> tuple[BudgetLimit, ...]:
        """The limits a call of the chain is under."""
        if chain.budget is None:
            return ()
        limits, goes_cheaper = chain.budget.limits, chain.budget.on_limit == "cheaper"
        return tuple(
            BudgetLimit(limits[window], self._account(chain, window), f"chain {chain.name}, per {window}", goes_cheaper)
            for window in get_args(Window)
            if window in limits
        )

    def _account(self, chain: ChainPlan, window: Window) -> Account:
        assert chain.budget is not None
        per, file = chain.budget.per, chain.budget.file if window == "day" else None
        with self._lock:
            account = self._accounts.get((chain.name, window, per, file))
            if account is None:
                store = DailySpendFile(Path(file).expanduser().absolute(), f"chain {chain.name}") if file else None
                account = Account(window, per, self._wall, store)
                self._accounts[chain.name, window, per, file] = account
            return account


def estimate_cost(
    prices: Prices, target: Target, request: Mapping[str, Any], tokens: int, health: DeploymentHealth
) -> Decimal:
    """What an attempt may cost, in US dollars: a prompt of so many tokens, and the longest reply the request allows,
    else the mean of the deployment's last ones."""
    output, seconds = estimate_output_tokens(target, request, health), health.mean_seconds
    return prices.cost(Usage(tokens, output), _FIRST_GUESS_S if seconds is None else seconds)


def estimate_output_tokens(target: Target, request: Mapping[str, Any], health: DeploymentHealth) -> int:
    """The longest reply the request allows, else the mean of the deployment's last ones."""
    longest, mean = _longest_reply({**target.parameters, **request}), health.mean_output_tokens
    if longest is not None:
        return longest
    return FIRST_GUESS_TOKENS if mean is None else round(mean)


def _longest_reply(parameters: Mapping[str, Any]) -> int | None:
    given = [read_limit(parameters.get(name)) for name in ("max_tokens", "max_completion_tokens")]
    most = [tokens for tokens in given if tokens is not None]
    return read_limit(min(most) * read_choices(parameters.get("n"))) if most else None


def find_unpriced(plan: Plan, catalogue: Catalogue) -> Iterator[Problem]:
    """A mistake for each deployment of a chain with a budget of which nobody knows the price."""
    budgeted = [chain for chain in plan.chains.values() if chain.budget and chain.budget.limits]
    for name, target in plan.targets.items():
        chains = [chain.name for chain in budgeted if any(member.name == name for member in chain.members)]
        if chains and target.prices is None and catalogue.prices(target) is None:
            yield price_missing(name, chains[0], target.model)
