"""LiteLLM's fallbacks between groups, followed to a list of tiers.

LiteLLM falls back by reference: when a group fails, it asks the groups named in the group's entry, and when one of
those fails, the groups named in that one's entry. A chain lists all of them as its tiers, each deployment once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_fallback.spec.litellm_proxy.draft import NO_COUNTERPART, LossReport
from llm_fallback.spec.locations import Path
from llm_fallback.spec.providers import PROVIDERS, likely_provider, split_model

Tiers = list[tuple[str, ...]]
DEFAULT_FALLBACK = "*"
"""The entry for groups that have none of their own."""


class Fallbacks:
    """One kind of fallback: for each group, the groups that are asked when it fails."""

    def __init__(self, entries: Any, path: Path, losses: LossReport) -> None:
        self._losses = losses
        self._paths: dict[str, Path] = {}
        self.targets: dict[str, list[str]] = {}
        for entry in entries if isinstance(entries, list) else [] if entries is None else [entries]:
            if not isinstance(entry, Mapping):
                losses.add(path, f"{entry!r} stands where a mapping belongs, which LiteLLM refuses: left out")
                continue
            for group, targets in entry.items():
                self.add(str(group), targets, path)

    def add(self, group: str, targets: Any, path: Path) -> None:
        """Add an entry. LiteLLM takes the first of two entries for one group, but the last of two default entries."""
        if isinstance(targets, str):
            self._losses.add(path, f"{group!r} falls back to a text, not a list: read as [{targets!r}]")
            targets = [targets]
        if not isinstance(targets, list):
            self._losses.add(path, f"{group!r} falls back to no list of models: left out")
        elif group == DEFAULT_FALLBACK or group not in self.targets:
            self._paths[group] = path
            self.targets[group] = [self._name(group, target, path) for target in targets]

    def _name(self, group: str, target: Any, path: Path) -> str:
        if not isinstance(target, Mapping):
            return str(target)
        if len(target) > 1:
            self._losses.add(path, f"what {group!r} sends {target.get('model')!r} besides {NO_COUNTERPART}")
        return str(target.get("model"))

    def targets_of(self, group: str) -> list[str] | None:
        """The groups that are asked when this one fails; None if no entry covers it."""
        entries = (self.targets.get(name) for name in (group, _other_name(group), DEFAULT_FALLBACK))
        return next((targets for targets in entries if targets is not None), None)

    def check(self, known: Mapping[str, Any]) -> None:
        """Report entries and targets that name no known group."""
        others = {_other_name(group) for group in known}
        for group, targets in self.targets.items():
            for name in (*([] if group == DEFAULT_FALLBACK or group in others else [group]), *targets):
                if name not in known:
                    self._losses.add(self._paths[group], f"{name!r} is none of the models carried over")


def _other_name(group: str) -> str:
    """The name by which an entry means a group, too: without its provider, or with that of such models."""
    provider, name = split_model(group)
    if "/" in group:
        return name if provider in PROVIDERS else group
    return f"{likely_provider(group) or provider}/{group}"


class FallbackGraph:
    """The tiers of every group and alias, and the fallbacks between them."""

    def __init__(self, groups: Mapping[str, Tiers], aliases: Mapping[str, str]) -> None:
        self._groups, self._aliases = groups, aliases

    def tiers(self, group: str) -> Tiers:
        return self._groups.get(self._aliases.get(group, group), [])

    def targets(self, kind: Fallbacks, group: str) -> list[str] | None:
        """The groups a group falls back to; an alias without an entry of its own uses its group's."""
        targets = kind.targets.get(group)
        return kind.targets_of(self._aliases.get(group, group)) if targets is None else targets

    def route(self, group: str, kinds: Sequence[Fallbacks]) -> Tiers | None:
        """All tiers asked, in order, when a group fails in the way of the first kind; None if there is no entry."""
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
    """The tiers, without deployments that an earlier tier or `taken` has."""
    seen = {name for tier in taken for name in tier}
    result = []
    for tier in tiers:
        fresh = [name for name in dict.fromkeys(tier) if name not in seen]
        seen.update(fresh)
        if fresh:
            result.append(fresh)
    return result
