"""When the next of many calls should start: where the deployments that it would be asked of have room.

A call passes over a deployment that is at its limit. That is right for somebody who waits, and wrong for a million rows
that nobody waits for: all that the first tier has no room for would go to the next one, at its price. So they are
started only as the first tier that works can take them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llm_fallback.engine.health import Health, Unavailable
from llm_fallback.plan.plan import ChainPlan, Member, Tier


class Start(NamedTuple):
    """When the next call may start: ask again then, or when some request or call has ended."""

    at: float
    """Infinite: nobody knows, only an end helps."""
    is_outage: bool = False
    """Whether every breaker of the chain's tiers is open."""


def next_start(chain: ChainPlan, health: Health, now: float, under_way: int) -> Start:
    """When the next call of the chain may start, with so many under way. Called with the lock of health held."""
    for tier in chain.tiers:
        usable = _usable(tier, health, now)
        if usable:
            if under_way >= sum(health[member.name].max_parallel for member, _ in usable):
                return Start(math.inf)
            return Start(min(now if blocked is None else blocked.until for _, blocked in usable))
    # In an outage one call at a time finds out whether it is over.
    return Start(math.inf if under_way else now, is_outage=True)


def _usable(tier: Tier, health: Health, now: float) -> list[tuple[Member, Unavailable | None]]:
    """The members that are asked now, or would be if they were not at a limit."""
    standing = [(member, health[member.name].unavailable(now)) for member in tier.members]
    return [(member, blocked) for member, blocked in standing if blocked is None or blocked.reason == "limit"]
