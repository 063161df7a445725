"""Writes a chain for every group and alias of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.spec.dump import dump_tiers
from llm_fallback.spec.litellm_proxy.draft import Draft, LossReport
from llm_fallback.spec.litellm_proxy.fallbacks import FallbackGraph, Fallbacks, Tiers, each_once
from llm_fallback.spec.litellm_proxy.read_deployments import Deployments
from llm_fallback.spec.locations import Path
from llm_fallback.spec.settings import SIDE_ROUTES, Timeouts

Kinds = Mapping[str, Fallbacks]


def put_chains(
    spec: Draft, deployments: Deployments, kinds: Kinds, aliases: Mapping[str, str], losses: LossReport
) -> None:
    """Write the chains; the first is the default. A group that is only a tier of another chain gets none."""
    groups = deployments.groups
    ids: dict[str, Tiers] = {id_: [(name,)] for id_, name in deployments.ids.items() if id_ not in groups}
    known = {alias: group for alias, group in aliases.items() if group in groups and alias not in groups}
    for kind in kinds.values():
        kind.check({**groups, **ids, **known})
    for alias, group in aliases.items():
        path = ("router_settings", "model_group_alias", alias)
        if alias in groups:
            losses.add(path, f"{alias!r} is a model_name, too: here it stays that")
        elif alias not in known:
            losses.add(path, f"{group!r} is none of the models carried over")
    graph = FallbackGraph({**groups, **ids}, known)
    for group in (*groups, *known):
        if group not in deployments.owners:
            chain = _chain(group, graph, kinds)
            spec.put(("chains", group), chain, _origin(spec, chain))
            _put_timeouts(spec, group, deployments)
    if spec.data.get("chains"):
        first = next(iter(spec.data["chains"]))
        spec.put(("default_chain",), first, spec.origins["chains", first])


def most_hops(spec: Draft) -> int:
    """The largest number of tiers after the first that any chain has."""
    return max((len(chain["tiers"]) for chain in spec.data.get("chains", {}).values()), default=1) - 1


def _chain(group: str, graph: FallbackGraph, kinds: Kinds) -> dict[str, Any]:
    plain = graph.route(group, [kinds["tiers"]])
    chain: dict[str, Any] = {"tiers": dump_tiers(each_once([*graph.tiers(group), *(plain or [])]))}
    for name in SIDE_ROUTES:
        route = graph.route(group, [kinds[name], kinds["tiers"]])
        # A route equal to the usual fallbacks is what happens without writing it.
        if route is not None and (route != plain or not route) and _is_meant(route, kinds[name], graph, group):
            chain[name] = dump_tiers(each_once(route))
    return chain


def _is_meant(route: Tiers, kind: Fallbacks, graph: FallbackGraph, group: str) -> bool:
    """Whether an empty route was written as empty, rather than emptied because its targets were left out."""
    return bool(route) or graph.targets(kind, group) == []


def _origin(spec: Draft, chain: Mapping[str, Any]) -> Path:
    first = chain["tiers"][0]
    return spec.origins["deployments", first if isinstance(first, str) else first[0]]


def _put_timeouts(spec: Draft, chain: str, deployments: Deployments) -> None:
    """Write the timeouts of a chain, and a `total_s` long enough for all its attempts: LiteLLM has no such limit."""
    path = ("chains", chain, "timeouts")
    origin = spec.origins["chains", chain]
    timeouts = deployments.levels.chains.get(chain, {})
    for key, value in timeouts.items():
        spec.put((*path, key), value, origin)
    total = sum(_attempts(spec, chain, timeouts))
    if total > Timeouts().total_s:
        spec.put((*path, "total_s"), total, origin)


def _attempts(spec: Draft, chain: str, timeouts: Mapping[str, Any]) -> list[float]:
    """The `attempt_s` of each attempt of a chain, in seconds; empty if all have the default."""
    default = spec.data.get("defaults", {}).get("timeouts", {})
    tiers = spec.data["chains"][chain]["tiers"]
    names = [name for tier in tiers for name in ([tier] if isinstance(tier, str) else tier)]
    layers = [{**default, **timeouts, **spec.data["deployments"][name].get("timeouts", {})} for name in names]
    if not any("attempt_s" in layer for layer in layers):
        return []
    written = (layer.get("attempt_s", Timeouts().attempt_s) for layer in layers)
    return [seconds for seconds in written if seconds is not None]
