"""How a fleet stands, as a member sees it: plain data, as `model.state()["fleet"]` and `llm-fallback fleet` show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from typing_extensions import TypedDict

from llm_fallback.engine.circuit_breaker import State
from llm_fallback.events import Failure


class LimitStatus(TypedDict):
    """One of a deployment's limits, in requests or tokens."""

    limit: float
    held: float
    """What this member may use without asking."""
    used_by_all: float | None
    """As last told; None before."""


class SharedDeploymentStatus(TypedDict):
    """What a fleet knows of a deployment."""

    breaker: State
    failure: Failure | None
    """Why its breaker is not closed."""
    reported_by: list[str]
    """Members that have left it alone."""
    limits: Mapping[str, LimitStatus]
    """By `rpm`, `tpm` and `max_parallel`, of those that it has."""


class SharedBudgetStatus(TypedDict):
    """A budget of a day that all members spend, in US dollars."""

    scope: str
    day: str
    spender: str | None
    limit_usd: float
    spent_by_all_usd: float | None
    """As last told; None before."""
    held_usd: float
    """What this member may spend without asking."""


class FleetStatus(TypedDict):
    """How the fleet of this process stands."""

    store: Literal["joining", "answers", "gone"]
    age_s: float | None
    """Seconds since the last exchange; None before the first."""
    member: str
    members: int
    """Processes that made a call within a minute."""
    deployments: Mapping[str, SharedDeploymentStatus]
    budgets: list[SharedBudgetStatus]
