"""Asking again: what follows from each failure, how long a repeat waits, and how many there may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from tenacity import RetryCallState, Retrying, wait_exponential

from llm_fallback.engine.sliding_window import MINUTE_S, SlidingCounter
from llm_fallback.events import Failure
from llm_fallback.spec import Retries

_SLICES = 12


@dataclass(frozen=True, slots=True)
class Consequences:
    """What follows from a failure for the deployment that failed."""

    breaker: Literal["counts", "cools_down", "opens", "ignores"]
    """`counts`: enough of them open it. `cools_down`: opens until Retry-After, else for `cooldown_s`. `opens`: opens
    for 300 seconds, because only a person mends it. `ignores`: the deployment is none the worse for it."""
    is_repeatable: bool = True
    """Whether the same request could fare better at the same deployment a moment later."""
    may_be_warming_up: bool = False
    """Whether a server fails like this while it starts."""
    is_congestion: bool = False
    """Whether it says that fewer requests under way at once would fare better."""


FAILURES: Mapping[Failure, Consequences] = {
    "connection": Consequences("counts", may_be_warming_up=True),
    "timeout": Consequences("counts", is_congestion=True),
    "first_token_timeout": Consequences("counts", is_congestion=True),
    "idle_timeout": Consequences("counts"),
    "server_error": Consequences("counts"),
    "overloaded": Consequences("counts", may_be_warming_up=True, is_congestion=True),
    "rate_limited": Consequences("cools_down", is_congestion=True),
    "quota_exhausted": Consequences("opens", is_repeatable=False),
    "auth": Consequences("opens", is_repeatable=False),
    "not_found": Consequences("opens", is_repeatable=False),
    "context_window": Consequences("ignores", is_repeatable=False),
    "content_policy": Consequences("ignores", is_repeatable=False),
    "bad_request": Consequences("ignores", is_repeatable=False),
    "invalid_response": Consequences("counts"),
    "empty_response": Consequences("counts"),
    "stream_broken": Consequences("counts"),
    "rejected": Consequences("ignores"),
    "cancelled": Consequences("ignores"),
}
"""The contract's table of failures; whom a call asks next is the policy's."""


def backoff_s(retries: Retries, rng: Random, repeat: int) -> float:
    """Seconds to wait before the n-th repeat of a call, n from 1: exponential, with full jitter."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = repeat
    return rng.uniform(0, wait_exponential(multiplier=retries.wait_initial_s, max=retries.wait_max_s)(state))


class RetryBudget:
    """How many extra requests the calls of the last minute allow: a share of them, or `floor` while traffic is small.

    Without it, a total outage would multiply its own load by what every call repeats.
    """

    def __init__(self, calls: SlidingCounter, *, share: float, floor: int) -> None:
        self._calls, self._share, self._floor = calls, share, floor
        self._spent = recent_count()

    def allows(self, now: float) -> bool:
        """Whether one more may be sent now."""
        (spent,), (calls,) = self._spent.totals(now), self._calls.totals(now)
        return spent + 1 <= max(self._floor, self._share * calls)

    def spend(self, now: float) -> None:
        """Count an extra request."""
        self._spent.add(now, 1)

    def take_back(self, then: float) -> None:
        """Take back one that was counted then, and was not sent after all."""
        self._spent.take_back(then, 1)


def recent_count() -> SlidingCounter:
    """A count over the last minute."""
    return SlidingCounter(MINUTE_S, _SLICES)
