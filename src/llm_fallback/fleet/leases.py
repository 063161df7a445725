"""A member's part of what the fleet shares: units leased ahead of need, by recent demand.

Units in hand may be used until their lease ends, without asking anybody. Each exchange renews the lease, gives back
what is not needed, and asks for more where calls found too little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from llm_fallback.fleet.messages import Claim, Grant

_STANDBY_PART = 10
"""All idle members together hold no more than this part of a limit."""
_SLICES = 12
"""Uses are told by slices of their window, to the end of the slice."""
_LONGEST_KEPT_S = 7200.0
"""For which a member keeps the lease of a probe: long enough for a fleet whose members are called once an hour."""


class Lease:
    """This member's part of one resource. Not thread-safe: its owner holds a lock.

    `used` counts up with what is used, and down with what is given back by its users; `allotted` is what `used` may
    come to.
    """

    def __init__(self, resource: str, capacity: float, window_s: float) -> None:
        self.resource, self.capacity, self.window_s = resource, capacity, window_s
        self._allotted = 0.0
        self._expires_at = -math.inf
        self.fence = 0
        self.charged: float | None = None
        """What all members had used or held of it when that was last told; None before."""
        self._remembered: Mapping[str, float] = {}
        self._need = self._recent_demand = 0.0
        self._demand = self._refused = 0.0
        self._asks = self._asked_in_vain = False

    @property
    def used(self) -> float:
        raise NotImplementedError

    def _charges(self, now: float) -> Iterable[tuple[float, float]]:
        """What this member has used, and for how many seconds more it counts."""
        raise NotImplementedError

    def _standby(self, members: int) -> float:
        """Units to hold while nobody asks for any, so that the first calls need not wait. Idle members must not hold
        what is missing elsewhere."""
        return self.capacity // (_STANDBY_PART * members)

    def _wanted(self, members: int) -> float:
        """Units to hold until the next exchanges."""
        return max(math.ceil(2 * self._recent_demand), self._standby(members), self._need)

    def available(self, now: float) -> float:
        """Units that may be used now."""
        return self._allotted - self.used if now < self._expires_at else 0.0

    def refuse(self, units: float) -> bool:
        """Note that somebody wanted that many and could not have them. Whether it helps to hurry: where the store had
        nothing to give the last time, it will not in the next moment."""
        self._refused += units
        self._need = units if self._need == 0 else min(self._need, units)
        return not self._asked_in_vain

    def demand(self, units: float) -> None:
        """Note that somebody used that many."""
        self._demand += units

    def claim(self, now: float, members: int, *, restores: bool = False) -> Claim:
        """What to tell the store; what is not needed is given back with it. `restores`: the store has lost data."""
        spare = max(self.available(now), 0.0)
        fading = self._recent_demand / 2 if self._recent_demand > 1 else 0.0
        self._recent_demand = max(self._demand + self._refused, fading)
        wanted = self._wanted(members)
        # What is too little to be of use would only be missing elsewhere, where it may be enough.
        spare = 0.0 if spare < self._need else min(spare, wanted)
        self._allotted = self.used + spare
        claim = Claim(
            *(self.resource, self.capacity, self.window_s, tuple(self._charges(now))),
            held=spare,
            wanted=wanted,
            need=self._need,
            fence=self.fence,
            remembered=self._remembered if restores else {},
        )
        self._demand = self._refused = self._need = 0.0
        self._asks = claim.need > claim.held
        return claim

    def receive(self, grant: Grant, expires_at: float, *, restores: bool = False) -> None:
        """Take what the store granted. It also renews what is held. `restores`: the store has lost data, and knows less
        than was told before."""
        self._allotted += grant.units
        self._asked_in_vain = self._asks and not grant.units
        self._expires_at = expires_at
        self.fence = max(self.fence, grant.fence)
        self.charged = grant.charged
        known = self._remembered if restores else {}
        self._remembered = {
            name: max(known.get(name, 0.0), grant.used.get(name, 0.0)) for name in {**known, **grant.used}
        }


class RateLease(Lease):
    """Requests or tokens of the last minute."""

    def __init__(
        self, resource: str, capacity: float, window_s: float, uses: Callable[[float], Iterable[tuple[float, float]]]
    ) -> None:
        """`uses` are those of the window that ends now: how many, and how many seconds ago."""
        super().__init__(resource, capacity, window_s)
        self._uses = uses
        self._used = 0.0

    @property
    def used(self) -> float:
        return self._used

    def available(self, now: float) -> float:
        return self._allotted - self._used if now < self._expires_at else 0.0

    def use(self, units: float) -> None:
        self._used += units
        self._demand += units

    def give_back(self, units: float) -> None:
        """Take back what was not used after all."""
        self._used -= units

    def _charges(self, now: float) -> Iterable[tuple[float, float]]:
        return in_slices(self._uses(now), self.window_s)


class PlaceLease(Lease):
    """Requests under way at the same time."""

    def __init__(self, resource: str, capacity: float, window_s: float, in_flight: Callable[[], int]) -> None:
        super().__init__(resource, capacity, window_s)
        self._in_flight = in_flight

    @property
    def used(self) -> float:
        return self._in_flight()

    def _charges(self, now: float) -> Iterable[tuple[float, float]]:
        # Counted until the next exchanges say otherwise; if none comes, for as long as such requests may go on.
        return [(self.used, self.window_s)] if self.used else []


class ProbeLease(Lease):
    """One probe of a deployment in each cooldown.

    The call that asks for it goes elsewhere, so it is kept for the next one: for a cooldown, and where no call came in
    that time, for twice as long as it took. Those who are called seldom would give it back before each call. Whoever
    learns that another member has probed begins anew: where one is called often, the others leave it to that one.
    """

    def __init__(self, resource: str) -> None:
        super().__init__(resource, 1.0, 0.0)
        self._used = 0.0
        self._counts_until = self._kept_until = -math.inf
        self._asked_at: float | None = None

    def ask(self, now: float, cooldown_s: float) -> bool:
        """Note that a call would send the probe. Whether it helps to hurry."""
        self.window_s = cooldown_s
        since_s = 0.0 if self._asked_at is None else now - self._asked_at
        self._asked_at = now
        if now >= self._kept_until:
            self._kept_until = now + min(max(cooldown_s, 2 * since_s), _LONGEST_KEPT_S)
        return self.refuse(1.0)

    def forgo(self) -> None:
        """Keep it no longer: it need not be sent, or another member is called often enough to send it. How seldom calls
        come is measured anew, as in another outage."""
        self._kept_until, self._asked_at = -math.inf, None

    @property
    def used(self) -> float:
        return self._used

    def use(self, now: float, cooldown_s: float) -> None:
        """Send the probe: the lease is used up, and no other is given for a cooldown."""
        self._used += 1.0
        self._counts_until = now + cooldown_s
        self._kept_until = -math.inf

    def claim(self, now: float, members: int, *, restores: bool = False) -> Claim:
        if now < self._kept_until:
            self._need = 1.0
        return super().claim(now, members, restores=restores)

    def _charges(self, now: float) -> Iterable[tuple[float, float]]:
        return [(1.0, self._counts_until - now)] if now < self._counts_until else []

    def _standby(self, members: int) -> float:
        return 0.0

    def is_told(self, now: float) -> bool:
        """Whether there is anything of it to tell the store, or to ask."""
        return self._refused > 0 or now < max(self._counts_until, self._kept_until) or self.available(now) > 0


def in_slices(uses: Iterable[tuple[float, float]], window_s: float) -> list[tuple[float, float]]:
    """Uses (how many, how long ago) summed up by slices of the window: how many, and for how long they still count."""
    slice_s = window_s / _SLICES
    slices: dict[int, float] = {}
    for units, ago_s in uses:
        index = math.ceil(max(0.0, window_s - ago_s) / slice_s)
        slices[index] = slices.get(index, 0.0) + units
    return [(units, index * slice_s) for index, units in slices.items() if index > 0]
