"""One deployment as a member of a fleet sees it: its leases, what it reports, and what it learns from the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from llm_fallback.engine.circuit_breaker import Permit
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.engine.sliding_window import MINUTE_S
from llm_fallback.fleet.evidence import ACCOUNT_FAILURES, Fact, Opening, Report, Suspicion, merge
from llm_fallback.fleet.leases import Lease, PlaceLease, ProbeLease, RateLease
from llm_fallback.fleet.status import LimitStatus, SharedDeploymentStatus

PLACE_S = 10.0
"""Seconds for which requests of a member that is heard of no more count as under way."""


class Membership(Protocol):
    """What a deployment needs to know of its member."""

    @property
    def members(self) -> int:
        """How many share the limits."""
        ...

    def now(self) -> float: ...

    def is_answered(self) -> bool:
        """Whether the store answers."""
        ...

    def next_exchange(self) -> float:
        """When the next one is due."""
        ...

    def hurry(self) -> None:
        """Exchange soon: there is something to ask for."""
        ...

    def tell(self) -> None:
        """Exchange soon, and have the others hear of it: there is something they had better know."""
        ...


@dataclass(frozen=True, slots=True)
class DeploymentNames:
    """A deployment's names in the store."""

    deployment: str
    account: str
    """Of the deployment and the key it is asked with."""
    resource: Callable[[str], str]
    """Of a limit of its."""


class MemberDeployment:
    """A `SharedDeployment`. Called with the lock of health held."""

    def __init__(self, health: DeploymentHealth, names: DeploymentNames, membership: Membership) -> None:
        self._health, self.names, self._membership = health, names, membership
        self._probe = ProbeLease(names.resource("probe"))
        self._rpm, self._tpm, self._places = self._leases(health, names)
        self._limits: tuple[Lease, ...] = tuple(
            lease for lease in (self._rpm, self._tpm, self._places) if lease is not None
        )
        self._probe_fence = 0
        """Of the probe that was sent last."""
        self.healed = 0
        """The highest fence of a probe that succeeded."""
        self._probed_elsewhere = 0
        """The highest fence of a probe that another member has sent in vain."""
        self._opened_at = (0, 0)
        """The last opening that is reported, and the fence that was known then."""
        self._trusted: Suspicion | None = None
        """The report after which a request has succeeded here."""
        self._suspicion: Suspicion | None = None
        self.reporters: tuple[str, ...] = ()

    @staticmethod
    def _leases(
        health: DeploymentHealth, names: DeploymentNames
    ) -> tuple[RateLease | None, RateLease | None, PlaceLease | None]:
        limits = health.limits
        if limits is None:
            return None, None, None
        rpm = tpm = places = None
        if limits.rpm is not None:
            rpm = RateLease(names.resource("rpm"), limits.rpm, MINUTE_S, health.rate.uses)
        if limits.tpm is not None:
            tpm = RateLease(names.resource("tpm"), limits.tpm, MINUTE_S, health.rate.token_uses)
        if isinstance(limits.max_parallel, int):  # What is found here is this process's own.
            places = PlaceLease(names.resource("max_parallel"), limits.max_parallel, PLACE_S, lambda: health.in_flight)
        return rpm, tpm, places

    # What the engine asks.

    def probe_blocked_until(self, now: float) -> float | None:
        breaker = self._health.breaker
        if not breaker.needs_lease or not self._membership.is_answered() or self._probe.available(now) >= 1:
            return None
        if self._probe.ask(now, breaker.cooldown_s):
            self._membership.hurry()
        return self._membership.next_exchange()

    def free_at(self, now: float, tokens: int) -> float | None:
        if not self._membership.is_answered():
            return self._free_by_share(now, tokens)
        wanted = ((self._rpm, 1), (self._tpm, tokens), (self._places, 1))
        for lease, units in wanted:  # Plainly: every call comes by here.
            if lease is not None and lease.available(now) < units:
                break
        else:
            return None
        for lease, units in wanted:
            if lease is None:
                continue
            if lease.available(now) >= units:
                lease.demand(units)  # It is held for the call that waits for the others.
            elif lease.refuse(units):
                self._membership.hurry()
        return self._membership.next_exchange()

    def _free_by_share(self, now: float, tokens: int) -> float | None:
        """Without the store each member keeps to its part of the limits."""
        limits, members = self._health.limits, self._membership.members
        assert limits is not None
        places = limits.max_parallel
        if isinstance(places, int) and self._health.in_flight >= _share(places, members):
            return math.inf
        rpm, tpm = (None if limit is None else _share(limit, members) for limit in (limits.rpm, limits.tpm))
        return self._health.rate.free_at(now, rpm, tpm, tokens)

    def began(self, permit: Permit, tokens: int) -> None:
        if self._rpm is not None:
            self._rpm.use(1)
        if self._tpm is not None:
            self._tpm.use(tokens)
        if self._places is not None:
            self._places.demand(1)
        if permit.kind == "probe":
            if self._probe.available(permit.at) < 1:
                # Sent without a lease it is numbered here, and the next that is leased must not have its number: what
                # this one met would not be healed by it.
                self._probe.fence += 1
            self._probe_fence = self._probe.fence
            self._probe.use(permit.at, self._health.breaker.cooldown_s)

    def withdrawn(self, tokens: int) -> None:
        if self._rpm is not None:
            self._rpm.give_back(1)
        if self._tpm is not None:
            self._tpm.give_back(tokens)

    def succeeded(self, permit: Permit) -> None:
        if permit.kind in ("probe", "forced"):
            if permit.kind == "forced":
                # It has found what a probe would, and takes a number, too: what is met from now on is not healed by it.
                self._probe.fence += 1
                self._probe_fence = self._probe.fence
            self.healed = max(self.healed, self._probe_fence)
            self._membership.tell()
        elif self._suspicion is not None and not self._health.breaker.is_suspected:
            self._trusted, self._suspicion = self._suspicion, None

    def failed(self, permit: Permit) -> None:
        if self._health.breaker.is_open_by_requests:
            self._suspicion = None  # It was right.
            if self._is_news(permit):
                self._membership.tell()
        elif permit.kind == "trial":
            self._membership.hurry()

    def _is_news(self, permit: Permit) -> bool:
        """Whether the breaker has opened since that was looked at last; a probe that failed is news, too."""
        opening = self._health.breaker.openings
        if permit.kind != "probe" and opening == self._opened_at[0]:
            return False
        self._opened_at = (opening, self._probe.fence)
        return True

    # What the member exchanges.

    @property
    def fence(self) -> int:
        """The highest fence of a probe that is known here."""
        return max(self._probe.fence, self.healed)

    def fact(self, now: float) -> Fact | None:
        """What requests from here have learnt; None while they have not left the deployment alone."""
        breaker = self._health.breaker
        if not breaker.is_open_by_requests or breaker.failure is None:
            return None
        reopens_at = breaker.blocked_until(now) if breaker.state(now) == "open" else None
        reopens_in_s = 0.0 if reopens_at is None else reopens_at - now
        opening, fence = self._opened_at
        names_a_time = breaker.failure == "rate_limited" and breaker.retry_after_given
        # What it said last, which is not always what opened the breaker: in a total outage it is asked all the same.
        account = self.names.account if names_a_time or breaker.failure in ACCOUNT_FAILURES else ""
        name = self.names.deployment
        return Fact(name, account, breaker.failure, reopens_in_s, breaker.cooldown_s, opening, fence)

    def learn(self, reports: Iterable[Report], fence: int, healed: int, now: float) -> bool:
        """Take what the others report: it replaces what they reported before. True if it opened the breaker here."""
        breaker = self._health.breaker
        if breaker.is_closed:
            self._probe.forgo()
        self._probe.fence = max(self._probe.fence, fence)
        if healed > self.healed:
            self.healed = healed
            if not breaker.is_open_by_requests or self._opened_at[1] < healed:
                breaker.heal()
        reports = list(reports)
        self.reporters = tuple(report.member for report in reports)
        probed = max((report.fact.fence for report in reports), default=0)
        if probed > self._probed_elsewhere:
            self._probed_elsewhere = probed
            self._probe.forgo()
        if breaker.is_open_by_requests:
            return False  # Whatever others report, it is open.
        match merge(reports, self.healed, (self.names.account,)):
            case Opening(failure, reopens_in_s, cooldown_s, names_a_time):
                return breaker.adopt(failure, now + reopens_in_s, cooldown_s, retry_after_given=names_a_time)
            case Suspicion() as suspicion:
                breaker.disown()
                if suspicion != self._trusted:
                    self._suspicion = suspicion
                    breaker.suspect()
            case None:
                breaker.disown()
                if self._suspicion is not None:
                    self._suspicion = None
                    breaker.trust()
        return False

    def forget_others(self) -> None:
        """Go on by what was learnt here alone, as far as that is no less careful: what is open stays open until its
        time, but a suspicion ends."""
        if self._suspicion is not None:
            self._suspicion = None
            self._health.breaker.trust()

    def leases(self, now: float) -> Iterator[Lease]:
        """Those there is something to tell or to ask about."""
        yield from self._limits
        if self._probe.is_told(now):
            yield self._probe

    @property
    def all_leases(self) -> tuple[Lease, ...]:
        return (*self._limits, self._probe)

    def is_of(self, health: DeploymentHealth) -> bool:
        """Whether it shares this very deployment."""
        return self._health is health

    def snapshot(self, now: float) -> SharedDeploymentStatus:
        """Plain data: how it stands, who reports it and why, and what is held and used of its limits."""
        words = (("rpm", self._rpm), ("tpm", self._tpm), ("max_parallel", self._places))
        limits: dict[str, LimitStatus] = {
            word: {"limit": lease.capacity, "held": lease.available(now), "used_by_all": lease.charged}
            for word, lease in words
            if lease is not None
        }
        breaker = self._health.breaker
        return {
            "breaker": breaker.state(now),
            "failure": breaker.failure,
            "reported_by": list(self.reporters),
            "limits": limits,
        }


def _share(limit: int, members: int) -> int:
    return max(1, limit // members)
