"""Whom of a tier to ask next: by weight alone, or the less loaded of two. No clock, and no randomness of its own."""

from __future__ import annotations

from collections.abc import Callable, Set
from random import Random

from llm_fallback.engine.load import TierLoad
from llm_fallback.plan.plan import Member, Tier

Pick = Callable[[Tier, Set[str], float], Member | None]
"""A member of the tier that is not among the names taken, at that time; None if all are. Whether it may be asked, its
breaker and its limits say."""

BETTER = 0.8
"""Below this part of the first one's score the second is asked. Where all are alike, weights decide."""


def by_weight(rng: Random) -> Pick:
    """Whoever is drawn."""
    return lambda tier, taken, now: tier.draw(rng, taken)


class LeastLoaded:
    """Of two that are drawn by weight the first, unless the second is clearly less loaded."""

    def __init__(self, rng: Random, load_of: Callable[[Tier], TierLoad], *, streamed: bool) -> None:
        self._rng, self._load_of, self._streamed = rng, load_of, streamed

    def __call__(self, tier: Tier, taken: Set[str], now: float) -> Member | None:
        first = tier.draw(self._rng, taken)
        if first is None or len(tier.members) == 1:
            return first
        second = tier.draw(self._rng, taken, first)
        if second is None:
            return first
        load, streamed = self._load_of(tier), self._streamed
        is_better = load.score(second, now, streamed=streamed) < BETTER * load.score(first, now, streamed=streamed)
        return second if is_better else first
