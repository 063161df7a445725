"""Chains as groups of rows and the fallbacks between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from llm_fallback.litellm_config.naming import free, group_name
from llm_fallback.litellm_config.words import ROUTES
from llm_fallback.spec import Chain, Spec

Fallback = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Group:
    """One tier of a chain, as LiteLLM groups it."""

    chain: str
    route: str
    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Routes:
    """All groups, in the order the chains need them, and what leads from one to another."""

    groups: list[Group] = field(default_factory=list)
    fallbacks: dict[str, list[Fallback]] = field(default_factory=lambda: {word: [] for word in ROUTES})

    @property
    def most_hops(self) -> int:
        """The most groups and members one call may go through; LiteLLM stops after five unless it is told."""
        members = dict.fromkeys((group.chain for group in self.groups), 0)
        for group in self.groups:
            members[group.chain] += len(group.members)
        return max(members.values(), default=0)

    def identity(self, group: Group, member: str) -> str:
        """The id of a row."""
        start = group.chain if group.route == "tiers" else group.name
        return free(start, member, {known.name for known in self.groups})


def routes_of(spec: Spec) -> Routes:
    """The routes of every chain, the default chain first."""
    routes = Routes()
    chains = sorted(spec.chains.items(), key=lambda item: item[0] != spec.default_chain)
    said = {route: any(getattr(chain, route) is not None for _, chain in chains) for route in ROUTES.values()}
    for name, chain in chains:
        groups = {route: list(_groups(spec, name, chain, route)) for route in ROUTES.values()}
        if not groups["tiers"]:
            continue
        for word, route in ROUTES.items():
            routes.groups.extend(groups[route])
            targets = _targets(chain, route, groups, said[route])
            if targets is not None:
                routes.fallbacks[word].append({name: targets})
    return routes


def _groups(spec: Spec, name: str, chain: Chain, route: str) -> Iterator[Group]:
    number = 0
    for tier in getattr(chain, route) or ():
        members = tuple(member for member in tier if spec.deployments[member].weight > 0)
        number += bool(members)
        if members:
            yield Group(name, route, group_name(name, route, number, spec.chains), members)


def _targets(chain: Chain, route: str, groups: dict[str, list[Group]], said: bool) -> list[str] | None:
    """Where the chain falls back to; None where nothing need be written.

    Once any chain has an entry for a kind of failure, LiteLLM ends the call of every chain that has none: those get
    what they would do without a word about it, the tiers.
    """
    later = [group.name for group in groups["tiers"][1:]]
    if route == "tiers":
        return later or None
    if getattr(chain, route) is not None:
        return [group.name for group in groups[route]]
    return later if said and later else None
