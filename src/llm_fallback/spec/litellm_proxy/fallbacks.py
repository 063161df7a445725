"""Chains, from groups of rows and the fallbacks between them.

LiteLLM falls back by reference: when a group fails, the groups its entry names are asked, and when one of those fails,
those that its own entry names. Here every such walk is laid out as the tiers of a chain, each deployment once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_fallback.spec.litellm_proxy.draft import NO_COUNTERPART, Listing
from llm_fallback.spec.locations import Path
from llm_fallback.spec.providers import PROVIDERS

Tiers = list[tuple[str, ...]]
EVERYBODY = "*"


class Fallbacks:
    """One kind of fallbacks: for a group, the groups that are asked when it fails."""

    def __init__(self, entries: Any, path: Path, listing: Listing) -> None:
        self._listing = listing
        self._paths: dict[str, Path] = {}
        self.targets: dict[str, list[str]] = {}
        for group, targets in _pairs(entries):
            self.add(group, targets, path)

    def add(self, group: str, targets: Any, path: Path) -> None:
        """Add an entry. Of two for one group LiteLLM takes the first, of two for everybody the last."""
        if isinstance(targets, str):
            self._listing.add(path, f"{group!r} falls back to a text, not a list: read as [{targets!r}]")
            targets = [targets]
        if not isinstance(targets, list):
            self._listing.add(path, f"{group!r} falls back to no list of models: left out")
        elif group == EVERYBODY or group not in self.targets:
            self._paths[group] = path
            self.targets[group] = [self._name(group, target, path) for target in targets]

    def _name(self, group: str, target: Any, path: Path) -> str:
        if not isinstance(target, Mapping):
            return str(target)
        if len(target) > 1:
            self._listing.add(path, f"what {group!r} sends {target.get('model')!r} besides {NO_COUNTERPART}")
        return str(target.get("model"))

    def of(self, group: str) -> list[str] | None:
        """The groups that stand in for one; None where nothing is said of it."""
        provider, _, bare = group.partition("/")
        by_its_model = self.targets.get(bare) if provider in PROVIDERS else None
        return self.targets.get(group, self.targets.get(EVERYBODY) if by_its_model is None else by_its_model)

    def check(self, known: Mapping[str, Any]) -> None:
        """List what names no group."""
        for group, targets in self.targets.items():
            for name in (*([] if group == EVERYBODY else [group]), *targets):
                if name not in known:
                    self._listing.add(self._paths[group], f"{name!r} is none of the models carried over")


def _pairs(entries: Any) -> Iterator[tuple[str, Any]]:
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, Mapping):
            yield from ((str(group), targets) for group, targets in entry.items())


class Map:
    """Groups and what leads from one to another."""

    def __init__(self, groups: Mapping[str, Tiers], aliases: Mapping[str, str]) -> None:
        self._groups, self._aliases = groups, aliases

    def tiers(self, group: str) -> Tiers:
        return self._groups.get(self._aliases.get(group, group), [])

    def targets(self, kind: Fallbacks, group: str) -> list[str] | None:
        """Where a group falls back to; an alias without an entry of its own, where its group does."""
        own = kind.targets.get(group)
        return kind.of(self._aliases.get(group, group)) if own is None else own

    def route(self, group: str, kinds: Sequence[Fallbacks]) -> Tiers | None:
        """Everybody who is asked, in order, when a group fails in a way for which the first kind is meant."""
        first = self.targets(kinds[0], group)
        return None if first is None else list(self._walk(first, {self._aliases.get(group, group), group}, kinds))

    def _walk(self, targets: Sequence[str], seen: set[str], kinds: Sequence[Fallbacks]) -> Iterator[tuple[str, ...]]:
        for target in targets:
            group = self._aliases.get(target, target)
            if group in seen:
                continue
            seen.add(group)
            yield from self.tiers(group)
            for kind in kinds:
                yield from self._walk(self.targets(kind, group) or (), seen, kinds)


def each_once(tiers: Tiers, taken: Sequence[tuple[str, ...]] = ()) -> list[list[str]]:
    """The tiers without deployments that stand in an earlier one, or in `taken`."""
    seen = {name for tier in taken for name in tier}
    result = []
    for tier in tiers:
        fresh = [name for name in dict.fromkeys(tier) if name not in seen]
        seen.update(fresh)
        if fresh:
            result.append(fresh)
    return result
