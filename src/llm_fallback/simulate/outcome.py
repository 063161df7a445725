"""The result of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llm_fallback.ledger.tally import Summary


@dataclass(frozen=True, slots=True)
class Share:
    """What one deployment did in a simulation."""

    asked: int = 0
    """Requests it got."""
    answered: int = 0
    """Calls it answered."""
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Its failed requests, by kind."""
    passed_over: int = 0
    """Calls that skipped it, because its breaker was open or it was at a limit."""
    breaker_openings: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "answered": self.answered,
            "failures": dict(sorted(self.failures.items())),
            "passed_over": self.passed_over,
            "breaker_openings": self.breaker_openings,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The calls of a simulation, summed up. Times are in simulated seconds."""

    chain: str
    total: Summary
    """All calls: answered, unanswered by failure, latencies of the answered."""
    deployments: Mapping[str, Share]
    """What each deployment did, in the chain's order."""
    seconds: float
    """From the first call to the end of the last."""
    longest_s: float
    """The longest that a caller waited for a call to end, answered or not."""
    most_requests: int
    """The most requests one call made."""
    max_requests: int
    """The most that `explain` says one call may make."""
    max_seconds: float
    """The longest that `explain` says one call may take."""
    seed: int

    @property
    def unanswered(self) -> int:
        return self.total.calls - self.total.answered

    @property
    def requests_per_call(self) -> float:
        return self.total.attempts / self.total.calls

    def as_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable data."""
        return {
            "chain": self.chain,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "calls": self.total.calls,
            "answered": self.total.answered,
            "fell_back": self.total.fallbacks,
            "unanswered": self.unanswered,
            "unanswered_share": self.unanswered / self.total.calls,
            "unanswered_by": dict(sorted(self.total.unanswered.items())),
            "requests": self.total.attempts,
            "requests_per_call": self.requests_per_call,
            "most_requests": self.most_requests,
            "max_requests": self.max_requests,
            "longest_s": round(self.longest_s, 3),
            "max_seconds": self.max_seconds,
            "failures": dict(sorted(self.total.failures.items())),
            "latency_s": self.total.latency_s.summary(),
            "time_to_first_token_s": self.total.time_to_first_token_s.summary(),
            "deployments": {name: share.as_dict() for name, share in self.deployments.items()},
        }
