"""How busy and how fast deployments are: what one answers like, and how the members of a tier compare.

Answers are compared in their own kind: the time to the first token of those that were streamed, seconds per output
token of those that were not. So the length of an answer says nothing of its deployment.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Protocol

from llm_fallback.plan.plan import Member, Tier

HALF_LIFE_S = 30.0
"""Without an answer, half of the way to what the mates take is forgotten in so many seconds."""
_SMOOTHING = 0.3
"""What each new answer adds to the mean."""
_REMEMBERED = 256
_UNKNOWN_S = 1.0
"""Of a tier of which nobody knows anything: the same for all."""
_SHORTEST_S = 1e-6
"""An answer that took no time at all still leaves requests in flight to be compared."""
_FEWEST_ANSWERS = 3
"""Before an answer can be slow for its deployment."""
SLOW_S = 1.0
"""No answer is slow that took less."""
_SMALL_TIER = 16
"""Members up to which each is compared with exactly the others."""
_REFRESH_S = 1.0


class Pace:
    """How long the answers of one deployment take, of one kind: a moving mean, and what is usual."""

    __slots__ = ("at", "mean_s", "usual")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self.at = -math.inf
        """When the last answer came."""
        self.usual: deque[float] = deque(maxlen=_REMEMBERED)
        """The last ones that were not slow, where anybody asks. With the slow ones among them, a deployment that got
        slow would soon be as slow as usual, before its breaker had seen enough of it."""

    def add(self, seconds: float, now: float) -> None:
        """Learn how long an answer took."""
        mean_s = self.mean_s
        self.mean_s = seconds if mean_s is None else mean_s + _SMOOTHING * (seconds - mean_s)
        self.at = now

    def after(self, now: float, mates_s: float | None) -> float | None:
        """What an answer is expected to take now, where its mates' take so long; None if nobody knows."""
        if self.mean_s is None or mates_s is None:
            return mates_s if self.mean_s is None else self.mean_s
        remembered: float = 0.5 ** ((now - self.at) / HALF_LIFE_S)
        return mates_s + (self.mean_s - mates_s) * remembered


class Loaded(Protocol):
    """What is known of one deployment. `DeploymentHealth` by name."""

    in_flight: int
    streams: Pace
    """To the first token."""
    replies: Pace
    """Per output token."""

    @property
    def is_closed(self) -> bool:
        """Whether its breaker lets every request pass."""
        ...


class TierLoad:
    """The members of a tier beside each other. Whoever reads it holds the lock of the health it is about."""

    def __init__(self, tier: Tier, known: Mapping[str, Loaded]) -> None:
        self._mean_weight = tier.mean_weight
        self._of = {member.name: known[member.name] for member in tier.members}
        self._members = list(self._of.values())
        self._paces = {False: [own.replies for own in self._members], True: [own.streams for own in self._members]}
        """By whether answers are streamed."""
        self._medians: dict[bool, tuple[float, float | None]] = {}
        """Likewise, of a large tier: when it was worked out, and the median of all."""

    def score(self, member: Member, now: float, *, streamed: bool) -> float:
        """About how long a request would take there: what is under way by its capacity, and this one, times the time of
        an answer. The lower the better."""
        own = self._of[member.name]
        expected_s = self.expected_s(own, now, streamed=streamed)
        latency_s = _UNKNOWN_S if expected_s is None else max(expected_s, _SHORTEST_S)
        return (own.in_flight * self._mean_weight / member.target.weight + 1) * latency_s

    def expected_s(self, own: Loaded, now: float, *, streamed: bool) -> float | None:
        """What an answer of this member is expected to take; None if nobody of the tier has given one."""
        pace = own.streams if streamed else own.replies
        return pace.after(now, self._mates_s(pace, now, streamed))

    def in_flight(self, name: str) -> int:
        """Requests under way at that member."""
        return self._of[name].in_flight

    @property
    def all_in_flight(self) -> int:
        """Requests under way at all members together."""
        return sum([own.in_flight for own in self._members])

    def usual_s(self, pace: Pace, now: float, *, streamed: bool) -> float | None:
        """What an answer of a member usually takes, and its mates' usually do: the longer of both. None while too few
        have come to know."""
        mates_s = self._mates_s(pace, now, streamed)
        if mates_s is None or len(pace.usual) < _FEWEST_ANSWERS:
            return None
        return max(median(pace.usual) or 0.0, mates_s)

    def may_lose_one(self) -> bool:
        """Whether half of the tier is left when one more of its members is left alone."""
        closed = sum([own.is_closed for own in self._members])
        return 2 * (closed - 1) >= len(self._members)

    def _mates_s(self, pace: Pace, now: float, streamed: bool) -> float | None:
        """The median of what answers of the other members take. Of a large tier that of all, as of a second ago: to
        look at everybody for each call would cost more than the call."""
        paces = self._paces[streamed]
        if len(paces) <= _SMALL_TIER:
            return median([mate.mean_s for mate in paces if mate is not pace and mate.mean_s is not None])
        at, known_s = self._medians.get(streamed, (-math.inf, None))
        if known_s is None or now - at >= _REFRESH_S:
            known_s = median([mate.mean_s for mate in paces if mate.mean_s is not None])
            self._medians[streamed] = now, known_s
        return known_s


def median(values: Collection[float]) -> float | None:
    """None of no values."""
    ranked, middle = sorted(values), len(values) // 2
    if not ranked:
        return None
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2
