"""A chain for every group and alias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.spec.litellm_proxy.draft import Draft, Listing
from llm_fallback.spec.litellm_proxy.fallbacks import Fallbacks, Map, Tiers, each_once
from llm_fallback.spec.litellm_proxy.read_deployments import Deployments
from llm_fallback.spec.locations import Path
from llm_fallback.spec.settings import Timeouts

Kinds = Mapping[str, Fallbacks]


def put_chains(spec: Draft, found: Deployments, kinds: Kinds, aliases: Mapping[str, str], listing: Listing) -> None:
    """Write the chains, the first of which is the default. A group that is only a tier of a chain is none."""
    ids: dict[str, Tiers] = {id_: [(name,)] for id_, name in found.ids.items() if id_ not in found.groups}
    known = {alias: group for alias, group in aliases.items() if group in found.groups and alias not in found.groups}
    for kind in kinds.values():
        kind.check({**found.groups, **ids, **known})
    for alias, group in aliases.items():
        path = ("router_settings", "model_group_alias", alias)
        if alias in found.groups:
            listing.add(path, f"{alias!r} is a model_name, too: here it stays that")
        elif alias not in known:
            listing.add(path, f"{group!r} is none of the models carried over")
    where = Map({**found.groups, **ids}, known)
    for group in (*found.groups, *known):
        if group not in found.owners:
            chain = _chain(group, where, kinds)
            spec.put(("chains", group), chain, _origin(spec, chain))
            _put_timeouts(spec, group, found)
    if spec.data.get("chains"):
        first = next(iter(spec.data["chains"]))
        spec.put(("default_chain",), first, spec.origins["chains", first])


def most_hops(spec: Draft) -> int:
    """The most deployments a chain may go on to after its first."""
    return max((len(chain["tiers"]) for chain in spec.data.get("chains", {}).values()), default=1) - 1


def _chain(group: str, where: Map, kinds: Kinds) -> dict[str, Any]:
    own = where.tiers(group)
    plain = where.route(group, [kinds["tiers"]])
    chain: dict[str, Any] = {"tiers": _written(each_once([*own, *(plain or [])]))}
    for name in ("on_context_window", "on_content_policy"):
        route = where.route(group, [kinds[name], kinds["tiers"]])
        # The same groups as for any other failure: that is what happens without a word about it.
        if route is not None and (route != plain or not route) and _is_meant(route, kinds[name], where, group):
            chain[name] = _written(each_once(route))
    return chain


def _is_meant(route: Tiers, kind: Fallbacks, where: Map, group: str) -> bool:
    """Whether an empty route was written as one, and does not only name what could not be carried over."""
    return bool(route) or where.targets(kind, group) == []


def _written(tiers: list[list[str]]) -> list[Any]:
    return [tier[0] if len(tier) == 1 else tier for tier in tiers]


def _origin(spec: Draft, chain: Mapping[str, Any]) -> Path:
    first = chain["tiers"][0]
    return spec.origins["deployments", first if isinstance(first, str) else first[0]]


def _put_timeouts(spec: Draft, chain: str, found: Deployments) -> None:
    """What rows say of a chain as a whole; and `total_s`, which LiteLLM has none of, so that each attempt has its
    time."""
    path = ("chains", chain, "timeouts")
    origin = spec.origins["chains", chain]
    own = found.levels.chains.get(chain, {})
    for word, value in own.items():
        spec.put((*path, word), value, origin)
    total = sum(_attempts(spec, chain, own))
    if total > Timeouts().total_s:
        spec.put((*path, "total_s"), total, origin)


def _attempts(spec: Draft, chain: str, own: Mapping[str, Any]) -> list[float]:
    """The written limits of a chain's attempts; none where all are the default."""
    default = spec.data.get("defaults", {}).get("timeouts", {})
    tiers = spec.data["chains"][chain]["tiers"]
    names = [name for tier in tiers for name in ([tier] if isinstance(tier, str) else tier)]
    layers = [{**default, **own, **spec.data["deployments"][name].get("timeouts", {})} for name in names]
    if not any("attempt_s" in layer for layer in layers):
        return []
    written = (layer.get("attempt_s", Timeouts().attempt_s) for layer in layers)
    return [seconds for seconds in written if seconds is not None]
