"""The same deployments and fallbacks as a plain litellm Router, for who wants one. No call of ours goes through it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import litellm

from llm_fallback.plan.plan import ChainPlan, Target, Tier, Tiers
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import Spec
from llm_fallback.spec.load import Source
from llm_fallback.spec.overrides import read_spec
from llm_fallback.spec.secrets import unmask
from llm_fallback.spec.settings import ROUTES, SIDE_ROUTES

logger = logging.getLogger("llm_fallback")


def build_router(source: Source) -> litellm.Router:
    """A litellm Router over a spec.

    A chain's name is the group of its first tier, `<chain>/2`, ... are the later ones, and ids are
    `<chain>/<deployment>`. A deployment of a provider that litellm does not know, which its Router would not have, is
    left out with a warning; so is, in silence, what is outside of its chain's zones. Its `model_list` holds keys in
    clear, as litellm's always does.
    """
    return router_within(read_spec(source), None)


def router_within(spec: Spec, zones: frozenset[str] | None) -> litellm.Router:
    """Likewise, with the deployments of these zones only; None: of those in which each chain's prompts may go."""
    plan = resolve_spec(spec, spec.environment(os.environ))
    unknown = {name for name, target in plan.targets.items() if not _is_known(target)}
    for name in sorted(unknown):
        logger.warning("litellm knows no provider of %s, which is left out of the Router", plan.targets[name].model)
    entries: list[dict[str, Any]] = []
    fallbacks: dict[str, list[dict[str, list[str]]]] = {route: [] for route in ROUTES}
    for chain in plan.chains.values():
        _add_chain(_without(chain.within(zones), unknown), entries, fallbacks)
    return litellm.Router(
        model_list=entries,
        fallbacks=fallbacks["tiers"],
        context_window_fallbacks=fallbacks["on_context_window"],
        content_policy_fallbacks=fallbacks["on_content_policy"],
        num_retries=0,
        disable_cooldowns=True,
    )


def _is_known(target: Target) -> bool:
    """Whether litellm finds a provider for the deployment."""
    try:
        litellm.get_llm_provider(target.parameters["model"], api_base=target.parameters.get("api_base"))
    except litellm.BadRequestError:
        return False
    return True


def _without(chain: ChainPlan, names: Set[str]) -> ChainPlan:
    """The chain without these deployments."""

    def kept(tiers: Tiers | None) -> Tiers | None:
        left = [Tier(tuple(member for member in tier.members if member.name not in names)) for tier in tiers or ()]
        return None if tiers is None else tuple(tier for tier in left if tier.members)

    return replace(
        chain,
        tiers=kept(chain.tiers) or (),
        on_context_window=kept(chain.on_context_window),
        on_content_policy=kept(chain.on_content_policy),
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
    # `auto` is nothing that litellm could do.
    return {name: value for name, value in limits.items() if isinstance(value, int)}


def _info(target: Target, identity: str) -> dict[str, Any]:
    info: dict[str, Any] = {"id": identity}
    if target.base_model is not None:
        info["base_model"] = target.base_model
    return info
