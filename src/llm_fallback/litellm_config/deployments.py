"""Deployments, from the rows of all groups: named, the same one once, with their timeouts where they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_fallback.litellm_config.naming import deployment_name, owner
from llm_fallback.litellm_config.routes import Fallbacks, Tiers
from llm_fallback.litellm_config.rows import Row
from llm_fallback.litellm_config.sections import Draft
from llm_fallback.litellm_config.timeouts import Levels, Use, levelled

Groups = Mapping[str, list[list[Row]]]


class Deployments:
    """The rows of a configuration as deployments. Rows that say the same under the same name are one."""

    def __init__(self, groups: Groups, owners: Mapping[str, str], *, by_timeouts: bool = False) -> None:
        self.owners = owners
        """The chain that a group is only a tier of."""
        self.groups: dict[str, Tiers] = {}
        self.ids: dict[str, str] = {}
        """Deployments by the id of their row."""
        self.uses: list[Use] = []
        self.levels = Levels()
        self._rows: dict[str, Row] = {}
        self._by_timeouts = by_timeouts
        for group, tiers in groups.items():
            called = _called(group, tiers, owners.get(group))
            self.groups[group] = [tuple(self._add(row, next(called)) for row in tier) for tier in tiers]

    def _add(self, row: Row, called: str) -> str:
        name = next(name for name in _variants(called) if self._is(name, row))
        self._rows.setdefault(name, row)
        self.uses.append(Use(name, self.owners.get(row.group, row.group), row.draft.data.get("timeouts", {})))
        if row.id is not None:
            self.ids[row.id] = name
        return name

    def _is(self, name: str, row: Row) -> bool:
        """Whether the deployment of that name, or nobody, says what a row does."""
        known = self._rows.get(name, row)
        return self._said(known) == self._said(row)

    def _said(self, row: Row) -> dict[str, Any]:
        return row.draft.data if self._by_timeouts else _without_timeouts(row)

    def write(self, spec: Draft) -> None:
        """Write them into a spec."""
        for name, row in self._rows.items():
            timeouts = self.levels.deployments.get(name)
            path = ("deployments", name)
            spec.put(path, {**_without_timeouts(row), **({"timeouts": timeouts} if timeouts else {})}, row.path)
            spec.origins.update({(*path, *inner): origin for inner, origin in row.draft.origins.items()})


def put_deployments(spec: Draft, groups: Groups, kinds: Sequence[Fallbacks]) -> Deployments:
    """Write every row into a spec, and tell what was made of them."""
    owners = {group: chain for group in groups if (chain := owner(group, groups, kinds)) is not None}
    found = Deployments(groups, owners)
    levels = levelled(found.uses)
    if levels is None:
        found = Deployments(groups, owners, by_timeouts=True)
        levels = levelled(found.uses)
    found.levels = levels or Levels()
    found.write(spec)
    return found


def _without_timeouts(row: Row) -> dict[str, Any]:
    return {word: value for word, value in row.draft.data.items() if word != "timeouts"}


def _called(group: str, tiers: Sequence[Sequence[Row]], chain: str | None) -> Iterator[str]:
    """What the rows of a group want to be called: by their id, else by their group."""
    rows = [row for tier in tiers for row in tier]
    for number, row in enumerate(rows, 1):
        if row.id is not None:
            yield deployment_name(row.id, group, chain)
        else:
            yield group if len(rows) == 1 else f"{group}-{number}"


def _variants(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}#{number}"
        number += 1
