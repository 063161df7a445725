"""Writes a spec as a proxy's configuration: chains as groups and fallbacks, and a report of what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_fallback.spec.dump import VariableNames, dump_spec
from llm_fallback.spec.entries import Chain
from llm_fallback.spec.litellm_proxy.draft import LossReport
from llm_fallback.spec.litellm_proxy.read_deployments import free_name, group_name
from llm_fallback.spec.litellm_proxy.words import ABILITIES, ROUTE_BY_KEY
from llm_fallback.spec.litellm_proxy.write_rows import RowWriter, TextWriter
from llm_fallback.spec.locations import Note, Path
from llm_fallback.spec.model import Spec
from llm_fallback.spec.settings import Breaker, Price


def write_config(spec: Spec) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """A configuration that gives a LiteLLM proxy the same chains, and notes on what of the spec is lost.

    Variables become `os.environ/NAME`. So do secrets in clear, under a new name.
    """
    data, notes = dump_spec(spec)
    clean = Spec.model_validate(data)
    losses = LossReport()
    report_losses(clean, losses)
    common_breaker = _common_breaker(clean)
    text_writer = TextWriter(VariableNames(clean), losses)
    rows = RowWriter(clean, common_breaker, text_writer, losses)
    routes = collect_routes(clean)
    config: dict[str, Any] = {
        "model_list": [
            rows.write_row(group.chain, group.name, name, routes.identity(group, name), shares=len(group.members) > 1)
            for group in routes.groups
            for name in group.members
        ],
        "router_settings": _router_settings(routes, common_breaker),
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    if not clean.serve.keys:
        return config, (*notes, *losses.notes(spec.locations), _MASTER_KEY)
    config["general_settings"]["master_key"] = text_writer.value(clean.serve.keys[0], ("serve", "keys", 0))
    return config, (*notes, *losses.notes(spec.locations))


_MASTER_KEY = Note("general_settings.master_key", "a proxy does not start without: set LITELLM_MASTER_KEY")


def _common_breaker(spec: Spec) -> Breaker | None:
    """The breaker of deployments without one of their own; None if breakers are off for all."""
    if all(spec.breaker(name) is None for name in spec.deployments):
        return None
    default = spec.defaults.breaker
    return Breaker(**default.given()) if isinstance(default, Breaker) else Breaker()


def _router_settings(routes: Routes, common_breaker: Breaker | None) -> dict[str, Any]:
    """Settings that make the Router behave like a chain: one request per deployment, no repeats, and every member of
    a group before the next group."""
    cooldowns: dict[str, Any] = {"disable_cooldowns": True}
    if common_breaker is not None:
        cooldowns = {"allowed_fails": common_breaker.failures, "cooldown_time": common_breaker.cooldown_s}
    return {
        "routing_strategy": "simple-shuffle",
        "enable_weighted_failover": True,
        "num_retries": 0,
        "max_fallbacks": routes.most_hops,
        **cooldowns,
        **{key: entries for key, entries in routes.fallbacks.items() if entries},
    }


Fallback = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Group:
    """One tier of a chain, as a group of LiteLLM's."""

    chain: str
    route: str
    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Routes:
    """All groups, in the order of the chains, and the fallbacks between them."""

    groups: list[Group] = field(default_factory=list)
    fallbacks: dict[str, list[Fallback]] = field(default_factory=lambda: {key: [] for key in ROUTE_BY_KEY})

    @property
    def most_hops(self) -> int:
        """The most deployments one call may try; LiteLLM stops after five unless told otherwise."""
        members = dict.fromkeys((group.chain for group in self.groups), 0)
        for group in self.groups:
            members[group.chain] += len(group.members)
        return max(members.values(), default=0)

    def identity(self, group: Group, member: str) -> str:
        """The id of a group member's row."""
        start = group.chain if group.route == "tiers" else group.name
        return free_name(start, member, {known.name for known in self.groups})


def collect_routes(spec: Spec) -> Routes:
    """The routes of every chain, the default chain first."""
    routes = Routes()
    chains = sorted(spec.chains.items(), key=lambda item: item[0] != spec.default_chain)
    is_written = {
        route: any(getattr(chain, route) is not None for _, chain in chains) for route in ROUTE_BY_KEY.values()
    }
    for name, chain in chains:
        groups = {route: list(_groups(spec, name, chain, route)) for route in ROUTE_BY_KEY.values()}
        if not groups["tiers"]:
            continue
        for key, route in ROUTE_BY_KEY.items():
            routes.groups.extend(groups[route])
            targets = _targets(chain, route, groups, is_written[route])
            if targets is not None:
                routes.fallbacks[key].append({name: targets})
    return routes


def _groups(spec: Spec, name: str, chain: Chain, route: str) -> Iterator[Group]:
    number = 0
    for tier in getattr(chain, route) or ():
        members = tuple(
            member for member in tier if spec.deployments[member].weight > 0 and spec.is_inside(name, member)
        )
        number += bool(members)
        if members:
            yield Group(name, route, group_name(name, route, number, spec.chains), members)


def _targets(chain: Chain, route: str, groups: dict[str, list[Group]], is_written: bool) -> list[str] | None:
    """The groups a chain falls back to; None if no entry is needed. `is_written`: some chain has such a route.

    Once any chain has an entry for a kind of failure, LiteLLM ends the calls of chains that have none. Those get an
    entry with their later tiers, which is what they would do here.
    """
    later = [group.name for group in groups["tiers"][1:]]
    if route == "tiers":
        return later or None
    if getattr(chain, route) is not None:
        return [group.name for group in groups[route]]
    return later if is_written and later else None


_NO_COUNTERPART = "LiteLLM has no word for it"
_CHAIN_LOSSES: Mapping[str, str] = {
    "hedge": _NO_COUNTERPART,
    "on_stream_break": _NO_COUNTERPART,
    "accept": _NO_COUNTERPART,
    "budget": f"{_NO_COUNTERPART} in a configuration",
    "balance": "LiteLLM is told to draw by weight",
    "affinity": _NO_COUNTERPART,
    "zones": "LiteLLM asks whom it has: what is outside is left out",
    "retries": "LiteLLM repeats before it falls back; so it is told not to repeat at all",
}
_TIMEOUT_LOSSES = {
    "total_s": "nothing bounds a call as a whole in LiteLLM",
    "first_token_s": "as stream_timeout it bounds every pause of the stream, too",
    "idle_s": _NO_COUNTERPART,
}
_BREAKER_LOSSES = {key: _NO_COUNTERPART for key in Breaker.model_fields if key not in ("failures", "cooldown_s")}


def report_losses(spec: Spec, losses: LossReport) -> None:
    """Report every setting that is lost, or that means less in LiteLLM."""
    for path, text in _losses(spec):
        losses.add(path, text)


def _losses(spec: Spec) -> Iterator[tuple[Path, str]]:
    for path, entry in (
        (("defaults",), spec.defaults),
        *((("chains", name), chain) for name, chain in spec.chains.items()),
        *((("deployments", name), deployment) for name, deployment in spec.deployments.items()),
    ):
        given = entry.given()
        for key, text in _CHAIN_LOSSES.items():
            if given.get(key) not in (None, "off", "raise", "weighted"):
                yield (*path, key), text
        yield from _part_losses((*path, "timeouts"), given.get("timeouts"), _TIMEOUT_LOSSES)
        yield from _part_losses((*path, "breaker"), given.get("breaker"), _BREAKER_LOSSES)
        for key in ("cold_start", "finish_reasons", "zone"):
            if given.get(key):
                yield (*path, key), _NO_COUNTERPART
    yield from _deployment_losses(spec)
    for name, chain in spec.chains.items():
        if all(spec.deployments[member].weight == 0 for tier in chain.tiers for member in tier):
            yield ("chains", name), "every deployment of its tiers has weight 0: left out"
    for name in spec.runnables:
        yield ("runnables", name), _NO_COUNTERPART
    yield from _serve_losses(spec)


def _serve_losses(spec: Spec) -> Iterator[tuple[Path, str]]:
    for key in spec.serve.given():
        if key != "keys":
            yield ("serve", key), f"LiteLLM takes it as an option: litellm --{key}"
    if len(spec.serve.keys) > 1:
        yield ("serve", "keys"), "LiteLLM has one master key, the first; others are made at the running proxy"


def _part_losses(path: Path, part: Any, texts: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    given = part.given() if hasattr(part, "given") else {}
    for key, text in texts.items():
        if given.get(key) is not None:
            yield (*path, key), text


def _deployment_losses(spec: Spec) -> Iterator[tuple[Path, str]]:
    named = [name for chain in spec.chains.values() for name in chain.deployments()]
    for name, deployment in spec.deployments.items():
        path = ("deployments", name)
        if name not in named:
            yield path, "no chain asks it: left out"
        elif deployment.weight == 0:
            yield (*path, "weight"), "LiteLLM would ask it when the others are down: left out"
        elif named.count(name) > 1 and spec.limits(name) is not None:
            yield (*path, "limits"), "LiteLLM counts for each chain on its own"
        for key in deployment.profile:
            if key not in ABILITIES.values():
                yield (*path, "profile", key), _NO_COUNTERPART
        given = deployment.price.given() if isinstance(deployment.price, Price) else {}
        if "per_gpu_hour" in given and len(given) > 1:
            yield (*path, "price", "per_gpu_hour"), "LiteLLM passes it over beside a price per token"
