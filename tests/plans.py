"""Plans made by hand, for what reads one: policy, engine, explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_fallback.engine.health import Health
from llm_fallback.engine.retry import FAILURES
from llm_fallback.plan.plan import ChainPlan, Feature, Member, Target, Tier, Tiers
from llm_fallback.plan.pricing import Prices
from llm_fallback.spec import Breaker, Limits, Retries, Timeouts

POLICY = Breaker()

COUNTED = frozenset(failure for failure, follows in FAILURES.items() if follows.breaker == "counts")
"""Failures of which enough open a breaker."""
OPENING = frozenset(failure for failure, follows in FAILURES.items() if follows.breaker == "opens")
"""Failures of which one opens it."""
WARMING_UP = frozenset(failure for failure, follows in FAILURES.items() if follows.may_be_warming_up)
"""What a server fails by while it starts."""


def target(
    name: str,
    *,
    provider: str = "openai",
    params: Mapping[str, Any] | None = None,
    model_identity: str | None = None,
    policy: Breaker | None = POLICY,
    **settings: Any,
) -> Target:
    """A deployment named like its model; each serves a model of its own unless `model_identity` says otherwise."""
    model = f"{provider}/{name}"
    parameters = {"model": model, **(params or {})}
    return Target(name, model, model_identity or name, parameters, breaker=policy, **settings)


def member(name: str, timeouts: Timeouts | None = None, **settings: Any) -> Member:
    """A deployment as a chain asks it."""
    return Member(target(name, **settings), timeouts or Timeouts())


def route(*tiers: Member | Sequence[Member]) -> Tiers:
    """Tiers in order; a single member is a tier of its own."""
    return tuple(Tier((tier,) if isinstance(tier, Member) else tuple(tier)) for tier in tiers)


def chain(
    *tiers: Member | Sequence[Member],
    long: Sequence[Member | Sequence[Member]] | None = None,
    refused: Sequence[Member | Sequence[Member]] | None = None,
    retries: int = 2,
    total_s: float = 300.0,
    **settings: Any,
) -> ChainPlan:
    """A chain; `long` and `refused` are its tiers of `on_context_window` and `on_content_policy`."""
    return ChainPlan(
        "assistant",
        route(*tiers),
        None if long is None else route(*long),
        None if refused is None else route(*refused),
        total_s,
        Retries(max=retries, wait_initial_s=1),
        **settings,
    )


def health_of(plan: ChainPlan) -> Health:
    """The health of a chain's deployments, of which nothing is known yet."""
    return Health.of_targets(found.target for found in plan.members)


class DeclaredCatalogue:
    """Knows of models what their targets say, and nothing else."""

    def prices(self, target: Target, service_tier: str | None = None) -> Prices | None:
        return target.prices

    def context_window(self, target: Target) -> int | None:
        return target.context_window

    def lacks(self, target: Target, feature: Feature) -> bool:
        return target.profile.get(feature) is False

    def prefill(self, target: Target) -> Mapping[str, Any] | None:
        return target.profile.get("prefill")


__all__ = [
    "COUNTED",
    "OPENING",
    "POLICY",
    "WARMING_UP",
    "DeclaredCatalogue",
    "Limits",
    "chain",
    "health_of",
    "member",
    "route",
    "target",
]
