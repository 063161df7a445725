"""What to do next in one call: try a deployment, wait, or stop.

The policy of fallback is all in here, and nothing else is: no I/O, no sleep, no clock of its own, no litellm. It is
told the time and what came of each attempt, and answers with the next step, so that production, simulation and
thousands of random histories in the tests all run the same code.

Its promises: every deployment is asked at most once before anything is repeated; nothing waits while another can be
asked; repeats are at most `retries.max`, and go round; an open breaker is not tried while a closed one is untried, and
when all are open the one asked longest ago is; a deployment that warms up is waited for, and retried no more often than
`warmup_retries_within` says; it always ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from llm_fallback.engine.balancing import Pick
from llm_fallback.engine.health import Unavailable
from llm_fallback.engine.retry import FAILURES, Consequences
from llm_fallback.engine.transport import Fault
from llm_fallback.events import Failure, Skip, SkipReason
from llm_fallback.plan.cold_start import warmup_retries_within
from llm_fallback.plan.plan import RETRY_RULE, ChainPlan, Feature, Member, Target, Tier, Tiers


class Try(NamedTuple):
    """Ask this deployment now."""

    member: Member
    repeat: bool = False
    warmup_retry: bool = False
    """Whether it is asked again because it was warming up, which is no repeat."""


class Wait(NamedTuple):
    """Ask again what to do at that time, or earlier when some request has ended."""

    until: float
    """Infinite: nobody knows, only a request that ends helps."""


class Stop(NamedTuple):
    """There is nothing left to try."""

    failure: Failure
    reason: str


NextStep = Try | Wait | Stop


class Availability(Protocol):
    """Why a deployment cannot be asked now; None if it can. `DeploymentHealth.unavailable` by name."""

    def __call__(self, deployment: str, now: float) -> Unavailable | None: ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A deployment that could be asked at some time from now on."""

    at: float
    member: Member
    repeat: bool
    justifies_waiting: bool = True
    """True if this candidate alone justifies waiting. False: it is tried if we are waiting anyway, but we do not wait
    for it."""
    warmup_retry: bool = False


@dataclass(slots=True)
class _TierOrder:
    """A route's deployments in the order of this call: tier by tier, picked as needed within one."""

    tiers: Iterator[Tier]
    pick: Pick
    on_enter: Callable[[Tier], None]
    stays_with: Member | None = None
    """Comes before all tiers."""
    tier: Tier | None = None
    taken: set[str] = field(default_factory=set)

    def next(self, now: float) -> Member | None:
        first, self.stays_with = self.stays_with, None
        if first is not None:
            return first
        while True:
            member = self.pick(self.tier, self.taken, now) if self.tier else None
            if member is not None:
                self.taken.add(member.name)
                return member
            self.tier = next(self.tiers, None)
            if self.tier is None:
                return None
            if self.tier.outside:
                self.on_enter(self.tier)


class FallbackPolicy:
    """Decides for one call over one chain. It is told what came of each attempt and asked for the next step."""

    def __init__(
        self,
        chain: ChainPlan,
        unavailable: Availability,
        *,
        pick: Pick,
        backoff: Callable[[int], float],
        deadline: float = math.inf,
        window: Callable[[Member], int | None] = lambda member: member.target.context_window,
        lacks: Callable[[Member], Feature | None] = lambda member: None,
        may_repeat: Callable[[float], bool] = lambda now: True,
        stays_with: Member | None = None,
    ) -> None:
        """`pick` says whom of a tier to ask next; `stays_with` is asked before all of them."""
        self._chain = chain
        self._unavailable = unavailable
        self._pick = pick
        self._backoff = backoff
        self._window = window
        self._lacks = lacks
        self._may_repeat = may_repeat
        self.deadline = deadline
        self.first: Member | None = None
        """Whom this call would ask in full health."""
        self.repeats = 0
        self._skipped: dict[str, Skip] = {}
        self._last: Failure | None = None
        self._asked: dict[str, Member] = {}
        self._faults: dict[str, Failure] = {}
        self._not_before: dict[str, float] = {}
        self._warmup_retries: dict[str, int] = {}
        self._repeat_at: float | None = None
        self._too_long_for: int | None = None
        self._refusing: set[str] = set()
        self._untranslatable_for: list[Target] = []
        self._barred: set[str] = set()
        self._put_off: set[str] = set()
        """Who comes after everybody else."""
        self._unfit: set[str] = set()
        self._enter(chain.tiers, side=False, stays_with=stays_with)

    def _enter(self, tiers: Tiers, *, side: bool, stays_with: Member | None = None) -> None:
        self._route = tiers
        self._order = _TierOrder(iter(tiers), self._pick, self._note_outside, stays_with)
        self._passed: dict[str, Member] = {}
        self._asked_here: dict[str, Member] = {}
        self._in_side_route = side
        self._over: str | None = None

    # What the engine asks.

    def next_step(self, now: float) -> NextStep:
        """The next step. A deployment to try counts as asked from then on, a repeat or warm-up retry as made: the
        engine does it, and reports what came of it or that it was not done."""
        return self.next_untried(now) or self._when_none_is_free(now)

    def next_untried(self, now: float) -> Try | None:
        """A deployment nobody asked yet in this call and that may be asked now, if there is one."""
        if self._over is not None:
            return None
        for passed in self._passed_over():
            if passed.name not in self._put_off and self._unavailable(passed.name, now) is None:
                return self._try(passed)
        while (member := self._order.next(now)) is not None:
            if self._is_barred(member):
                continue
            if member.name in self._put_off:
                self._passed[member.name] = member
                continue
            if self.first is None:
                self.first = member
            blocked = self._unavailable(member.name, now)
            if blocked is None:
                return self._try(member)
            self._passed[member.name] = member
            self._note_skip(member, blocked.reason, None if math.isinf(blocked.until) else blocked.until - now)
        return None

    def failed(self, member: Member, fault: Fault, now: float) -> None:
        """Learn what came of an attempt."""
        self._last = fault.failure
        self._faults[member.name] = fault.failure
        if fault.retry_after_s is not None:
            self._not_before[member.name] = now + fault.retry_after_s
        match fault.failure:
            case "context_window":
                self._turn_to(self._chain.on_context_window)
                self._too_long_for = _larger(self._too_long_for, self._window(member))
            case "content_policy":
                self._barred |= _tier_mates(member, self._route)
                self._turn_to(self._chain.on_content_policy)
            case "bad_request" if fault.was_refused_here:
                self._untranslatable_for.append(member.target)
            case "bad_request":
                self._refusing.add(member.target.model_identity)

    def unsupported(self, member: Member) -> None:
        """Learn that a deployment cannot take this request; nothing was sent to it."""
        self._unfit.add(member.name)
        if self.first is member:
            self.first = None
        self._forget_asking(member.name)
        self._skipped[member.name] = Skip(member.name, "unsupported")

    def over_budget(self, member: Member) -> None:
        """Learn that there is no money to ask a deployment now; it may be asked when another attempt has cost less than
        was set aside for it."""
        self.withdraw(member)
        self._skipped[member.name] = Skip(member.name, "budget")

    def too_expensive(self, step: Try) -> None:
        """Learn that the money suffices for others, but not for this one; the call goes on without it."""
        name = step.member.name
        self.repeats -= step.repeat
        self._unfit.add(name)
        if name not in self._faults:
            self._forget_asking(name)
            self._skipped[name] = Skip(name, "budget")

    def put_off(self, member: Member) -> None:
        """Learn that a deployment was not asked for want of its key; it may be asked after everybody else."""
        self._put_off.add(member.name)
        self.withdraw(member)

    def withdraw(self, member: Member) -> None:
        """Learn that a deployment was not asked after all; it may be asked in its turn."""
        if member.name not in self._faults:
            self._forget_asking(member.name)
            self._passed[member.name] = member

    def _forget_asking(self, name: str) -> None:
        self._asked.pop(name, None)
        self._asked_here.pop(name, None)

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """Whom this call passed over and never asked."""
        skips = self._skipped
        return tuple(skip for name, skip in skips.items() if name not in self._asked) if skips else ()

    # Whom it may ask.

    def _try(self, member: Member, *, repeat: bool = False, warmup_retry: bool = False) -> Try:
        self._passed.pop(member.name, None)
        # At the end, so that repeats go round.
        self._asked_here.pop(member.name, None)
        self._asked[member.name] = self._asked_here[member.name] = member
        self.repeats += repeat
        if warmup_retry:
            self._warmup_retries[member.name] = self._warmup_retries.get(member.name, 0) + 1
        self._repeat_at = None
        return Try(member, repeat, warmup_retry)

    def _passed_over(self) -> list[Member]:
        return [member for member in self._passed.values() if not self._cannot_serve(member)]

    def _is_barred(self, member: Member) -> bool:
        if member.name in self._asked or self._cannot_serve(member):
            return True
        if self._lacks(member) is not None:
            self._note_skip(member, "unsupported")
            return True
        return False

    def _cannot_serve(self, member: Member) -> bool:
        if member.target.model_identity in self._refusing or member.name in self._barred or member.name in self._unfit:
            return True
        refused = self._untranslatable_for
        if refused and any(member.target.is_translated_like(target) for target in refused):
            return True
        if self._too_long_for is None or self._in_side_route:
            return False
        window = self._window(member)
        if window is None or window > self._too_long_for:
            return False
        if member.name not in self._asked:
            self._note_skip(member, "context_window")
        return True

    def _note_skip(self, member: Member, reason: SkipReason, retry_in_s: float | None = None) -> None:
        self._skipped.setdefault(member.name, Skip(member.name, reason, retry_in_s))

    def _note_outside(self, tier: Tier) -> None:
        for name in tier.outside:
            self._skipped.setdefault(name, Skip(name, "zone"))

    def _turn_to(self, tiers: Tiers | None) -> None:
        if tiers is None:
            return
        self._enter(tiers, side=True)
        self._barred.clear()
        if not tiers:
            self._over = "the chain declares to raise here"

    # When nobody is left to ask at once.

    def _when_none_is_free(self, now: float) -> NextStep:
        candidates = sorted(self._candidates(now), key=lambda candidate: candidate.at)
        fitting = [candidate for candidate in candidates if candidate.at < self.deadline or math.isinf(candidate.at)]
        best = next(iter(fitting), None)
        # A cooldown nobody named is our own guess about a deployment that fails: nobody waits for it alone.
        if best is None or not (best.at <= now or any(candidate.justifies_waiting for candidate in fitting)):
            return self._stop(now, candidates)
        if best.at <= now:
            return self._try(best.member, repeat=best.repeat, warmup_retry=best.warmup_retry)
        return Wait(best.at)

    def _candidates(self, now: float) -> Iterator[_Candidate]:
        if self._over is not None:
            return
        waiting = [(member, self._unavailable(member.name, now)) for member in self._passed_over()]
        asked = [(member, self._unavailable(member.name, now)) for member in self._asked_here.values()]
        next_in_outage = self._next_in_outage([blocked for _, blocked in (*waiting, *asked)])
        for member, blocked in waiting:
            yield self._first_request(member, blocked, next_in_outage, now)
        may_repeat = not self._in_side_route and self._has_repeats(now)
        for member, blocked in asked:
            if self._may_retry_warm_up(member, blocked):
                yield _Candidate(blocked.until if blocked else now, member, repeat=False, warmup_retry=True)
            elif may_repeat and self._is_worth_repeating(member):
                yield self._repeat(member, blocked, next_in_outage, now)

    def _next_in_outage(self, blocked: list[Unavailable | None]) -> Unavailable | None:
        """When every breaker is open, the deployment to ask all the same, of those whose limits allow it. First those
        whose cooldown is our own guess, the one asked longest ago before the others, so that calls go round and find
        whoever has recovered. None where all but those that only a person can mend have named their return: who returns
        inside the deadline is waited for. Otherwise those that only a person can mend, in the same order."""
        opened = [block for block in blocked if block is not None and block.reason == "breaker_open"]
        if len(opened) < len(blocked):
            return None
        others = [block for block in opened if not (block.return_known or block.is_limited)]
        hopeful = [block for block in others if not block.needs_a_person]
        if not hopeful and any(block.return_known and block.until < self.deadline for block in opened):
            return None
        return min(hopeful or others, key=lambda block: block.last_request, default=None)

    def _first_request(
        self, member: Member, blocked: Unavailable | None, next_in_outage: Unavailable | None, now: float
    ) -> _Candidate:
        if blocked is None or blocked is not next_in_outage or blocked.return_known:
            return_known = blocked is None or blocked.reason == "limit" or blocked.return_known
            at = blocked.until if blocked else now
            return _Candidate(at, member, repeat=False, justifies_waiting=return_known)
        if not self._asked_here:
            return _Candidate(now, member, repeat=False)
        if self._has_repeats(now):
            # In a total outage a call makes one request in spite of open breakers; further ones are repeats.
            return _Candidate(self._backed_off(now), member, repeat=True)
        return _Candidate(blocked.until, member, repeat=False, justifies_waiting=False)

    def _repeat(
        self, member: Member, blocked: Unavailable | None, next_in_outage: Unavailable | None, now: float
    ) -> _Candidate:
        is_next_in_outage = blocked is not None and blocked is next_in_outage and not blocked.return_known
        free = now if blocked is None or is_next_in_outage else blocked.until
        at = max(free, self._backed_off(now), self._not_before.get(member.name, now))
        is_cooling = (
            blocked is not None and blocked.reason == "breaker_open" and not (blocked.return_known or is_next_in_outage)
        )
        return _Candidate(at, member, repeat=True, justifies_waiting=not is_cooling)

    def _may_retry_warm_up(self, member: Member, blocked: Unavailable | None) -> bool:
        """Whether it is, or was a moment ago, warming up. All calls together retry it once at a time: its breaker lets
        no more pass."""
        cold_start = member.target.cold_start
        if cold_start is None or not self._consequences(member).may_be_warming_up or self._cannot_serve(member):
            return False
        most = warmup_retries_within(min(cold_start.max_wait_s, self._chain.total_s))
        return (blocked is None or blocked.warming_up) and self._warmup_retries.get(member.name, 0) < most

    def _has_repeats(self, now: float) -> bool:
        return self.repeats < self._chain.retries.max and self._may_repeat(now)

    def _is_worth_repeating(self, member: Member) -> bool:
        return self._consequences(member).is_repeatable and not self._cannot_serve(member)

    def _consequences(self, member: Member) -> Consequences:
        """Of the member's last failure in this call; without one its request was dropped, as a losing hedge's is."""
        return FAILURES[self._faults.get(member.name, "cancelled")]

    def _backed_off(self, now: float) -> float:
        if self._repeat_at is None:
            self._repeat_at = now + self._backoff(self.repeats + 1)
        return self._repeat_at

    def _stop(self, now: float, candidates: list[_Candidate]) -> Stop:
        if self._last is not None:
            return Stop(self._last, self._over or self._why_not_repeated(now))
        if not self._chain.members:
            return Stop("bad_request", f"no deployment of the chain is in {_named(self._chain.zones)}")
        again = f"; the first is free in {candidates[0].at - now:.1f} s" if candidates else ""
        return Stop(self._reason_to_skip_all(now), f"every deployment was passed over{again}")

    def _why_not_repeated(self, now: float) -> str:
        """That the calls of the last minute were repeated often enough, if that is why this one ends; else nothing."""
        if self._in_side_route or self.repeats >= self._chain.retries.max or self._may_repeat(now):
            return ""
        is_withheld = any(self._is_worth_repeating(member) for member in self._asked_here.values())
        return f"the retry budget withheld repeats: {RETRY_RULE}" if is_withheld else ""

    def _reason_to_skip_all(self, now: float) -> Failure:
        for member in self._passed.values():
            blocked = self._unavailable(member.name, now)
            if blocked is not None:
                return blocked.failure
        return "bad_request"


def _larger(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _named(zones: Set[str] | None) -> str:
    return f"zone {', '.join(sorted(zones))}" if zones else "a zone where its prompts may go"


def _tier_mates(member: Member, tiers: Tiers) -> set[str]:
    sharing = [tier for tier in tiers if any(mate.name == member.name for mate in tier.members)]
    return {mate.name for tier in sharing for mate in tier.members}
