"""What to do next in one call: try a deployment, wait, or stop.

The course is the whole policy of fallback and nothing else: no I/O, no sleep, no clock of its own, no litellm. It is
told the time and what came of each attempt, and answers with the next step, so that production, simulation and
thousands of random histories in the tests all run the same code.

Its promises: every deployment is asked at most once before anything is repeated; nothing waits while another can be
asked; repeats are at most `retries.max`; an open breaker is not tried while a closed one is untried; a deployment that
starts up is waited for, and knocked at no more often than `knocks_within` says; it always ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from llm_fallback.breaker import LASTING
from llm_fallback.cold_start import STARTING, knocks_within
from llm_fallback.events import Failure, Skip, SkipReason
from llm_fallback.faults import Fault
from llm_fallback.health import Block
from llm_fallback.plan import ChainPlan, Feature, Member, Tier, Tiers

ABOUT_THE_REQUEST: frozenset[Failure] = frozenset({"context_window", "content_policy", "bad_request"})
"""Failures that the same deployment will repeat for the same request."""


class Try(NamedTuple):
    """Ask this deployment now."""

    member: Member
    repeat: bool = False
    knock: bool = False
    """Whether it is asked again because it was starting up, which is no repeat."""


class Wait(NamedTuple):
    """Ask again what to do at that time, or earlier when some request has ended."""

    until: float
    """Infinite: nobody knows, only a released place helps."""


class Stop(NamedTuple):
    """There is nothing left to try."""

    failure: Failure
    reason: str


Step = Try | Wait | Stop


class Blocks(Protocol):
    """The health of deployments, as far as the course asks for it."""

    def __call__(self, deployment: str, now: float) -> Block | None: ...


@dataclass(frozen=True, slots=True)
class _Option:
    """A deployment that could be asked at some time from now on."""

    at: float
    member: Member
    repeat: bool
    worth_waiting: bool = True
    """Whether it is a reason to wait, or only shortens a wait there is another reason for."""
    knock: bool = False


@dataclass(slots=True)
class _Walk:
    """A route's deployments in the order of this call: tier by tier, by weight within one, drawn as needed."""

    tiers: Iterator[Tier]
    rng: Random
    tier: Tier | None = None
    taken: set[str] = field(default_factory=set)

    def next(self) -> Member | None:
        while True:
            member = self.tier.draw(self.rng, self.taken) if self.tier else None
            if member is not None:
                self.taken.add(member.name)
                return member
            self.tier = next(self.tiers, None)
            if self.tier is None:
                return None


class Course:
    """The course of one call over one chain."""

    def __init__(
        self,
        chain: ChainPlan,
        blocks: Blocks,
        *,
        rng: Random,
        backoff: Callable[[int], float],
        deadline: float = math.inf,
        window: Callable[[Member], int | None] = lambda member: member.target.context_window,
        lacks: Callable[[Member], Feature | None] = lambda member: None,
        may_repeat: Callable[[float], bool] = lambda now: True,
    ) -> None:
        self._chain = chain
        self._blocks = blocks
        self._rng = rng
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
        self._knocks: dict[str, int] = {}
        self._repeat_at: float | None = None
        self._too_long_for: int | None = None
        self._refusing: set[str] = set()
        self._barred: set[str] = set()
        self._unfit: set[str] = set()
        self._enter(chain.tiers, side=False)

    def _enter(self, tiers: Tiers, *, side: bool) -> None:
        self._route = tiers
        self._walk = _Walk(iter(tiers), self._rng)
        self._passed: dict[str, Member] = {}
        self._asked_here: dict[str, Member] = {}
        self._in_side_route = side
        self._over: str | None = None

    # What the engine asks.

    def step(self, now: float) -> Step:
        """The next step. A deployment to try counts as asked from then on, a repeat or a knock as made: the engine does
        it, and reports what came of it or that it was not done."""
        return self.another(now) or self._later(now)

    def another(self, now: float) -> Try | None:
        """A deployment nobody asked yet in this call and that may be asked now, if there is one."""
        if self._over is not None:
            return None
        for member in self._passed_over():
            if self._blocks(member.name, now) is None:
                return self._try(member)
        while (drawn := self._walk.next()) is not None:
            member = drawn
            if self._is_barred(member):
                continue
            if self.first is None:
                self.first = member
            block = self._blocks(member.name, now)
            if block is None:
                return self._try(member)
            self._passed[member.name] = member
            self._note_skip(member, block.reason, None if math.isinf(block.until) else block.until - now)
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
            case "bad_request":
                self._refusing.add(member.target.served)
            case _:
                pass

    def unsupported(self, member: Member) -> None:
        """Learn that a deployment cannot take this request; nothing was sent to it."""
        self._unfit.add(member.name)
        if self.first is member:
            self.first = None
        self._asked.pop(member.name, None)
        self._asked_here.pop(member.name, None)
        self._skipped[member.name] = Skip(member.name, "unsupported")

    def unaffordable(self, member: Member) -> None:
        """Learn that there is no money to ask a deployment now; it may be asked when another attempt has cost less than
        was set aside for it."""
        self.not_asked(member)
        self._skipped[member.name] = Skip(member.name, "budget")

    def not_asked(self, member: Member) -> None:
        """Learn that a deployment was not asked after all; it may be asked later."""
        if member.name not in self._faults:
            self._asked.pop(member.name, None)
            self._asked_here.pop(member.name, None)
            self._passed[member.name] = member

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """Whom this call passed over and never asked."""
        skips = self._skipped
        return tuple(skip for name, skip in skips.items() if name not in self._asked) if skips else ()

    # Whom it may ask.

    def _try(self, member: Member, *, repeat: bool = False, knock: bool = False) -> Try:
        self._passed.pop(member.name, None)
        self._asked[member.name] = self._asked_here[member.name] = member
        self.repeats += repeat
        if knock:
            self._knocks[member.name] = self._knocks.get(member.name, 0) + 1
        self._repeat_at = None
        return Try(member, repeat, knock)

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
        if member.target.served in self._refusing or member.name in self._barred or member.name in self._unfit:
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

    def _turn_to(self, tiers: Tiers | None) -> None:
        if tiers is None:
            return
        self._enter(tiers, side=True)
        self._barred.clear()
        if not tiers:
            self._over = "the chain declares to raise here"

    # When nobody is left to ask at once.

    def _later(self, now: float) -> Step:
        options = sorted(self._options(now), key=lambda option: option.at)
        fitting = [option for option in options if option.at < self.deadline or math.isinf(option.at)]
        best = next(iter(fitting), None)
        # A cooldown nobody named is our own guess about a deployment that fails: nobody waits for it alone.
        if best is None or not (best.at <= now or any(option.worth_waiting for option in fitting)):
            return self._stop(now, options)
        if best.at <= now:
            return self._try(best.member, repeat=best.repeat, knock=best.knock)
        return Wait(best.at)

    def _options(self, now: float) -> Iterator[_Option]:
        if self._over is not None:
            return
        waiting = [(member, self._blocks(member.name, now)) for member in self._passed_over()]
        asked = [(member, self._blocks(member.name, now)) for member in self._asked_here.values()]
        soonest = self._soonest([block for _, block in (*waiting, *asked)])
        for member, block in waiting:
            yield self._first_request(member, block, soonest, now)
        may_repeat = not self._in_side_route and self._has_repeats(now)
        for member, block in asked:
            if self._may_knock(member, block):
                yield _Option(block.until if block else now, member, repeat=False, knock=True)
            elif may_repeat and self._is_worth_repeating(member):
                yield self._repeat(member, block, soonest, now)

    def _soonest(self, blocks: list[Block | None]) -> Block | None:
        """If every deployment is open, the block of the one that reopens first (inside the deadline, where it said
        itself when to come back)."""
        opened = [block for block in blocks if block is not None and block.reason == "breaker_open"]
        if len(opened) < len(blocks):
            return None
        fitting = [block for block in opened if not block.named or block.until < self.deadline]
        return min(fitting, key=lambda block: block.until, default=None)

    def _first_request(self, member: Member, block: Block | None, soonest: Block | None, now: float) -> _Option:
        if block is None or block is not soonest or block.named:
            named = block is None or block.reason == "limit" or block.named
            return _Option(block.until if block else now, member, repeat=False, worth_waiting=named)
        if not self._asked_here:
            return _Option(now, member, repeat=False)
        if self._has_repeats(now):
            # In a total outage a call makes one request in spite of open breakers; further ones are repeats.
            return _Option(self._backed_off(now), member, repeat=True)
        return _Option(block.until, member, repeat=False, worth_waiting=False)

    def _repeat(self, member: Member, block: Block | None, soonest: Block | None, now: float) -> _Option:
        free = now if block is None or (block is soonest and not block.named) else block.until
        at = max(free, self._backed_off(now), self._not_before.get(member.name, now))
        cooling = block is not None and block.reason == "breaker_open" and block is not soonest and not block.named
        return _Option(at, member, repeat=True, worth_waiting=not cooling)

    def _may_knock(self, member: Member, block: Block | None) -> bool:
        """Whether it is, or was a moment ago, starting up. All calls together knock once at a time: its breaker lets
        no more pass."""
        cold_start = member.target.cold_start
        if cold_start is None or self._faults.get(member.name) not in STARTING or self._cannot_serve(member):
            return False
        most = knocks_within(min(cold_start.max_wait_s, self._chain.total_s))
        return (block is None or block.starting) and self._knocks.get(member.name, 0) < most

    def _has_repeats(self, now: float) -> bool:
        return self.repeats < self._chain.retries.max and self._may_repeat(now)

    def _is_worth_repeating(self, member: Member) -> bool:
        hopeless = LASTING | ABOUT_THE_REQUEST
        return self._faults.get(member.name) not in hopeless and not self._cannot_serve(member)

    def _backed_off(self, now: float) -> float:
        if self._repeat_at is None:
            self._repeat_at = now + self._backoff(self.repeats + 1)
        return self._repeat_at

    def _stop(self, now: float, options: list[_Option]) -> Stop:
        if self._last is not None:
            return Stop(self._last, self._over or "")
        again = f"; the first is free in {options[0].at - now:.1f} s" if options else ""
        return Stop(self._reason_to_skip_all(now), f"every deployment was passed over{again}")

    def _reason_to_skip_all(self, now: float) -> Failure:
        for member in self._passed.values():
            block = self._blocks(member.name, now)
            if block is not None:
                return block.failure
        windows = any(skip.reason == "context_window" for skip in self._skipped.values())
        return "context_window" if windows else "bad_request"


def _larger(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _tier_mates(member: Member, tiers: Tiers) -> set[str]:
    sharing = [tier for tier in tiers if any(mate.name == member.name for mate in tier.members)]
    return {mate.name for tier in sharing for mate in tier.members}
