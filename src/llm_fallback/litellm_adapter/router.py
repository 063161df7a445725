"""The same deployments and fallbacks as a plain litellm Router, for who wants one. No call of ours goes through it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import litellm

from llm_fallback.plan.plan import ChainPlan, Target, Tiers
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec.overrides import read_spec
from llm_fallback.spec.secrets import unmask
from llm_fallback.spec.settings import ROUTES, SIDE_ROUTES


def build_router(source: Any) -> litellm.Router:
    """A litellm Router over a spec.

    A chain's name is the group of its first tier, `<chain>/2`, ... are the later ones, and ids are
    `<chain>/<deployment>`. Its `model_list` holds keys in clear, as litellm's always does.
    """
    plan = resolve_spec(read_spec(source), os.environ)
    entries: list[dict[str, Any]] = []
    fallbacks: dict[str, list[dict[str, list[str]]]] = {route: [] for route in ROUTES}
    for chain in plan.chains.values():
        _add_chain(chain, entries, fallbacks)
    return litellm.Router(
        model_list=entries,
        fallbacks=fallbacks["tiers"],
        context_window_fallbacks=fallbacks["on_context_window"],
        content_policy_fallbacks=fallbacks["on_content_policy"],
        num_retries=0,
        disable_cooldowns=True,
    )


def _add_chain(
    chain: ChainPlan, entries: list[dict[str, Any]], fallbacks: dict[str, list[dict[str, list[str]]]]
) -> None:
    groups = _add_route(chain, chain.name, chain.tiers, entries)
    if len(groups) > 1:
        fallbacks["tiers"].append({chain.name: groups[1:]})
    for route in SIDE_ROUTES:
        tiers: Tiers | None = getattr(chain, route)
        if tiers:
            side = _add_route(chain, f"{chain.name}/{route}", tiers, entries)
            fallbacks[route].append({chain.name: side})


def _add_route(chain: ChainPlan, group: str, tiers: Tiers, entries: list[dict[str, Any]]) -> list[str]:
    """Add a route's deployments; the names of its groups, tier by tier."""
    groups = [group if number == 1 else f"{group}/{number}" for number in range(1, len(tiers) + 1)]
    for name, tier in zip(groups, tiers, strict=True):
        for member in tier.members:
            identity = f"{group}/{member.name}" if group != chain.name else f"{chain.name}/{member.name}"
            entries.append(
                {
                    "model_name": name,
                    "litellm_params": _parameters(member.target),
                    "model_info": _info(member.target, identity),
                }
            )
    return groups


def _parameters(target: Target) -> dict[str, Any]:
    parameters: dict[str, Any] = unmask(target.parameters)
    if target.api_key is not None:
        parameters["api_key"] = unmask(target.credential.ask())
    elif not target.uses_provider_credentials:
        parameters["api_key"] = "no-key"
    if target.weight != 1:
        parameters["weight"] = target.weight
    return {**parameters, **_limits(target)}


def _limits(target: Target) -> Mapping[str, Any]:
    if target.limits is None:
        return {}
    limits = {
        "rpm": target.limits.rpm,
        "tpm": target.limits.tpm,
        "max_parallel_requests": target.limits.max_parallel,
    }
    return {name: value for name, value in limits.items() if value is not None}


def _info(target: Target, identity: str) -> dict[str, Any]:
    info: dict[str, Any] = {"id": identity}
    if target.base_model is not None:
        info["base_model"] = target.base_model
    return info
