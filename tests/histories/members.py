"""What must hold over all processes of a history: limits, outages and money that they share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import get_args

from llm_fallback.engine.budget import Balance
from llm_fallback.events import AttemptFailed, BreakerOpened, Event
from llm_fallback.fleet.evidence import ACCOUNT_FAILURES
from tests.histories.breakers import healed_by
from tests.histories.calls import Call
from tests.histories.history import History
from tests.histories.plans import Mishap, OfDisks
from tests.histories.process import SimulatedProcess
from tests.histories.servers import Request

_EXACT = 1e-6
MINUTE_S = 60.0
EXCHANGED_S = 1.25
"""Until a process has heard of what was told, also where one answer is lost."""


@dataclass(frozen=True)
class _Opening:
    """A breaker that a process's own requests have opened."""

    process: SimulatedProcess
    at: float
    until: float
    is_account: bool
    """Whether it holds at once for all that use the key."""


class Members:
    """Looks on at processes that share a fleet's store; alone, one shares with nobody."""

    def __init__(self, history: History) -> None:
        self._history, self._world = history, history.world
        self.are_a_fleet = "fleet" in history.plan.spec
        self._disk_is_troubled = any(
            isinstance(action, Mishap) and action.what in get_args(OfDisks) for action in history.plan.actions
        )
        self._openings: dict[str, list[_Opening]] = defaultdict(list)
        self._probed: dict[str, float] = {}

    # Limits.

    def over_rate(self, call: Call, request: Request) -> str | None:
        """Whether a request is one too many of a minute for its deployment."""
        limits, name, now = call.target(request.deployment).limits, request.deployment, self._world.now
        if limits is None or limits.rpm is None or not self._are_limits_kept(call, name):
            return None
        recent = sum(
            each.deployment == name and each.at > now - MINUTE_S + _EXACT and self._share_limits(call, each)
            for each in self._history.servers.requests
        )
        return f"{recent} requests to {name} in a minute, of {limits.rpm}" if recent > limits.rpm else None

    def over_places(self, open_requests: Sequence[Request]) -> str | None:
        """Whether too many requests are open at once. To be asked when nothing moves: of who leaves the place is free
        before the connection is closed, in the same moment."""
        for request in open_requests:
            call, name = self._history.calls[request.call], request.deployment
            limits = call.target(name).limits
            if limits is None or not isinstance(limits.max_parallel, int) or not self._are_limits_kept(call, name):
                continue
            open_ = sum(each.deployment == name and self._share_limits(call, each) for each in open_requests)
            if open_ > limits.max_parallel:
                return f"{open_} requests at once to {name}, of {limits.max_parallel}"
        return None

    def _sharing(self, call: Call) -> Sequence[SimulatedProcess]:
        return self._history.processes if self.are_a_fleet else [call.process]

    def _share_limits(self, call: Call, other: Request) -> bool:
        return self._history.calls[other.call].process in self._sharing(call)

    def _are_limits_kept(self, call: Call, name: str) -> bool:
        """Whether no reload has changed them, and the store has been answering."""
        return all(process.is_as_ever(name) for process in self._sharing(call) if process.is_built) and (
            not self.are_a_fleet or self._history.store.answered(self._world.now - MINUTE_S, self._world.now)
        )

    # Breakers.

    def hear(self, call: Call, event: Event) -> None:
        now = self._world.now
        if (healed := healed_by(event)) is not None:
            self._openings[healed].clear()
            self._probed.pop(healed, None)
        match event:
            # A process whose model is closed has left the fleet: what its last calls find, it tells nobody.
            case BreakerOpened(deployment=name, failure=failure, retry_in_s=seconds, source="requests") if (
                not call.process.is_closed
            ):
                asked = [request for request in call.requests if request.deployment == name]
                names_a_time = failure == "rate_limited" and asked and asked[-1].retry_after_s is not None
                is_account = failure in ACCOUNT_FAILURES or bool(names_a_time)
                self._note(name, _Opening(call.process, now, now + seconds, is_account))
            case AttemptFailed(attempt=attempt) if attempt.failure == "rate_limited":
                self._probed.pop(attempt.deployment, None)

    def _note(self, name: str, latest: _Opening) -> None:
        """A process's last word replaces what it found before: a server that is asked in spite of its open breaker may
        name an earlier time than was guessed. What it said of an account stays until it says something else of it."""
        self._openings[name] = [
            opening
            for opening in self._openings[name]
            if opening.process is not latest.process or (opening.is_account and not latest.is_account)
        ] + [latest]

    def left_alone(self, call: Call, name: str) -> str | None:
        """Why a deployment is not to be asked, by what other processes have told long enough ago."""
        now = self._world.now
        if not self._is_known(call, name, now - EXCHANGED_S) or self._history.store.store.lost_at > now - EXCHANGED_S:
            return None  # What a store has lost it is told again.
        if any(opening.process is call.process for opening in self._openings[name]):
            return None  # It has found so itself, and goes by its own cooldown: who may probe then is one of all.
        answered_at = self._answered_at(call.process, name)
        heard = [
            opening
            for opening in self._openings[name]
            if opening.process.is_alive
            and answered_at < opening.at < now - EXCHANGED_S
            and opening.until > now + _EXACT
        ]
        if any(opening.is_account for opening in heard):
            return "whose account another process has found in trouble"
        if len({opening.process for opening in heard}) > 1:
            return "which two processes have left alone"
        return None

    def _answered_at(self, process: SimulatedProcess, name: str) -> float:
        """When the deployment has last answered a process, which its caller may not have been told yet."""
        return max(
            (
                request.ended_at
                for request in self._history.servers.requests
                if request.deployment == name
                and request.is_finished
                and self._history.calls[request.call].process is process
            ),
            default=-math.inf,
        )

    def probed(self, call: Call, name: str) -> str | None:
        """Whether a probe is one too many."""
        now, breaker = self._world.now, call.target(name).breaker
        last, self._probed[name] = self._probed.get(name, -1.0), now
        if breaker is None or not self._is_known(call, name, last) or last < 0:
            return None
        return f"{now - last:.2f} s after another" if now - last < breaker.cooldown_s - _EXACT else None

    def _is_known(self, call: Call, name: str, since: float) -> bool:
        return (
            self.are_a_fleet
            and call.process.is_as_ever(name)
            and not call.target(name).cold_start
            and self._history.store.answered(since, self._world.now)
        )

    # Money.

    def overspent(self) -> str | None:
        """Which day all have overspent together."""
        if not self.are_a_fleet or not self._history.store.keeps_money:
            return None
        spent: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        limits: dict[str, Decimal | None] = {}
        for process in self._history.processes:
            if process.is_built:
                for chain, limit, balance in days(process):
                    spent[chain, balance.day] += balance.total
                    limits[chain] = limit
        for (chain, day), usd in spent.items():
            limit = limits[chain]
            if limit is not None and usd > limit:
                return f"all have spent {usd} of {limit} on {day} in {chain}"
        return None

    def unread(self, call: Call) -> str | None:
        """What stood in a budget's file when a call began that its process does not know of when it asks somebody."""
        if self._disk_is_troubled or (budget := call.chain.budget) is None or budget.file is None:
            return None
        known = [balance for chain, _, balance in days(call.process) if chain == call.chain.name]
        for balance in known:
            stood = sum(
                (each.usd for each in self._history.disk.appended if each.at < call.began and each.day == balance.day),
                Decimal(0),
            )
            if balance.spent < stood:
                return f"by {balance.spent}, and {stood} stood in the file"
        return None


def days(process: SimulatedProcess) -> Iterator[tuple[str, Decimal | None, Balance]]:
    """What a process knows of each chain's day: its limit, and what was spent. Of a file's there is no limit: others
    may be learnt to have gone over it."""
    chains = process.model.runtime.plan.chains
    for (name, window, *_), account in process.engine.budgets._accounts.items():
        budget = chains[name].budget
        assert budget is not None
        if window == "day":
            limit = None if account.is_kept else budget.limits.get(window)
            yield from ((name, limit, balance) for balance in account.balances())
