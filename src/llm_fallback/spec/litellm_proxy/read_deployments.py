"""Turns the rows of all groups into deployments: their tiers, names, weights and timeouts.

Names of groups: the first tier of a chain has the chain's name, later ones are `<chain>/2` and so on, the other routes
begin with `<chain>/on_context_window` and `<chain>/on_content_policy`. Ids are `<group>/<deployment>`, and
`<chain>/<deployment>` in the chain's own tiers. A name that is taken gets one more slash, because LiteLLM reads an id
equal to a group's name as that group. Timeouts are written at the deployment, or at the chain where chains differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from llm_fallback.spec.litellm_proxy.draft import Draft, LossReport
from llm_fallback.spec.litellm_proxy.fallbacks import Fallbacks, Tiers
from llm_fallback.spec.litellm_proxy.read_rows import Row
from llm_fallback.spec.settings import SIDE_ROUTES

Groups = Mapping[str, list[list[Row]]]


class Deployments:
    """The rows of a configuration as deployments. Rows with the same name and content become one deployment."""

    def __init__(self, groups: Groups, owners: Mapping[str, str], *, by_timeouts: bool = False) -> None:
        self.owners = owners
        """For a group that is only a tier of a chain: that chain."""
        self.groups: dict[str, Tiers] = {}
        self.ids: dict[str, str] = {}
        """The name of each deployment, by the id of its row."""
        self.uses: list[Use] = []
        self.levels = TimeoutLevels()
        self._rows: dict[str, Row] = {}
        self._by_timeouts = by_timeouts
        for group, tiers in groups.items():
            wanted = _wanted_names(group, tiers, owners.get(group))
            self.groups[group] = [tuple(self._add(row, next(wanted)) for row in tier) for tier in tiers]

    def _add(self, row: Row, wanted: str) -> str:
        name = next(name for name in _variants(wanted) if self._is_free_or_same(name, row))
        self._rows.setdefault(name, row)
        self.uses.append(Use(name, self.owners.get(row.group, row.group), row.draft.data.get("timeouts", {})))
        if row.id is not None:
            self.ids[row.id] = name
        return name

    def _is_free_or_same(self, name: str, row: Row) -> bool:
        """Whether no deployment has this name yet, or one with the same content as the row."""
        return self._content(self._rows.get(name, row)) == self._content(row)

    def _content(self, row: Row) -> dict[str, Any]:
        return row.draft.data if self._by_timeouts else _without_timeouts(row)

    def write(self, spec: Draft) -> None:
        """Write all deployments into a spec, in the order of the file."""
        for name, row in sorted(self._rows.items(), key=lambda named: named[1].number):
            timeouts = self.levels.deployments.get(name)
            path = ("deployments", name)
            spec.put(path, {**_without_timeouts(row), **({"timeouts": timeouts} if timeouts else {})}, row.path)
            spec.origins.update({(*path, *inner): origin for inner, origin in row.draft.origins.items()})


def put_deployments(spec: Draft, groups: Groups, kinds: Sequence[Fallbacks]) -> Deployments:
    """Write every row into a spec, and return the names they got."""
    owners = {group: chain for group in groups if (chain := owning_chain(group, groups, kinds)) is not None}
    deployments = Deployments(groups, owners)
    levels = split_timeouts(deployments.uses)
    if levels is None:
        deployments = Deployments(groups, owners, by_timeouts=True)
        levels = split_timeouts(deployments.uses)
    deployments.levels = levels or TimeoutLevels()
    deployments.write(spec)
    return deployments


def _without_timeouts(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.draft.data.items() if key != "timeouts"}


def _wanted_names(group: str, tiers: Sequence[Sequence[Row]], chain: str | None) -> Iterator[str]:
    """The preferred name of each row of a group: its id, else the group's name with its number in the file."""
    rows = [row for tier in tiers for row in tier]
    numbers = {row.path: number for number, row in enumerate(sorted(rows, key=lambda row: row.number), 1)}
    for row in rows:
        if row.id is not None:
            yield deployment_name(row.id, group, chain)
        else:
            yield group if len(rows) == 1 else f"{group}-{numbers[row.path]}"


def _variants(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}#{number}"
        number += 1


_SHARES: Mapping[str, Callable[[Row], float | None]] = {
    "weight": lambda row: row.draft.data.get("weight"),
    "rpm": lambda row: row.draft.data.get("limits", {}).get("rpm"),
    "tpm": lambda row: row.draft.data.get("limits", {}).get("tpm"),
}
"""Keys by which LiteLLM shares the load of a group: it uses the first one that any row of the group has."""


def group_tiers(rows: Sequence[Row], losses: LossReport) -> dict[str, list[list[Row]]]:
    """The tiers of every group, with the weight of each row set."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return {name: _tiers(members, losses) for name, members in groups.items()}


def _tiers(rows: list[Row], losses: LossReport) -> list[list[Row]]:
    """The rows of a group by `order`. A row without an order or share comes last: LiteLLM asks it only when the others
    are out."""
    key = next((key for key, share in _SHARES.items() if any(share(row) for row in rows)), None)
    last_order = max((row.order for row in rows if row.order is not None), default=None)

    def sort_key(row: Row) -> tuple[bool, float, bool]:
        unordered = last_order is not None and row.order is None
        return unordered, row.order or 0, key is not None and _SHARES[key](row) is None

    for row in rows:
        unordered, _, shareless = sort_key(row)
        if unordered or shareless:
            missing = "order" if unordered else str(key)
            losses.add(row.path, f"has no {missing}, as others of {row.group!r} have: it is asked after them")
    tiers = [list(tier) for _, tier in groupby(sorted(rows, key=sort_key), sort_key)]
    for tier in tiers:
        _weigh(tier, key)
    return tiers


def _weigh(tier: list[Row], key: str | None) -> None:
    shares = [None if key is None else _SHARES[key](row) for row in tier]
    differ = len(set(shares)) > 1
    for row, share in zip(tier, shares, strict=True):
        row.draft.data.pop("weight", None)
        if share is not None and share != 1 and (key == "weight" or differ):
            row.draft.data["weight"] = share


_END = rf"/+(\d+|({'|'.join(SIDE_ROUTES)})(/+\d+)?)"
_OF_A_CHAIN, _OF_SOME_CHAIN = re.compile(_END), re.compile(f"{_END}$")


def group_name(chain: str, route: str, number: int, taken: Container[str]) -> str:
    """The group name for the `number`-th tier of a route; `taken` are the names of all chains."""
    start = chain if route == "tiers" else free_name(chain, route, taken)
    return start if number == 1 else free_name(start, str(number), taken)


def free_name(start: str, end: str, taken: Container[str]) -> str:
    """`<start>/<end>`, with as many slashes as it takes for the name not to be taken."""
    name = f"{start}/{end}"
    while name in taken:
        start += "/"
        name = f"{start}/{end}"
    return name


def owning_chain(group: str, groups: Iterable[str], kinds: Iterable[Fallbacks]) -> str | None:
    """The chain that a group is a tier of: its name begins with the chain's, and the chain falls back to it."""
    for chain in groups if _OF_SOME_CHAIN.search(group) else ():
        end = group.removeprefix(chain)
        if end != group and _OF_A_CHAIN.fullmatch(end) and any(group in kind.targets.get(chain, ()) for kind in kinds):
            return chain
    return None


def deployment_name(identity: str, group: str, chain: str | None) -> str:
    """The deployment's name in an id: what follows the name of its group or chain."""
    for start in (group, chain):
        name = identity.removeprefix(f"{start}/")
        if name != identity and name.strip("/"):
            return name.lstrip("/")
    return identity


_FIELDS = ("attempt_s", "first_token_s")


@dataclass(frozen=True, slots=True)
class Use:
    """One chain's use of a deployment, with the timeouts of its row."""

    deployment: str
    chain: str
    timeouts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TimeoutLevels:
    """Timeouts to be written at deployments and at chains."""

    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    chains: dict[str, dict[str, Any]] = field(default_factory=dict)


def split_timeouts(uses: Sequence[Use]) -> TimeoutLevels | None:
    """Decide where each timeout is written; None if deployments shared between chains make that impossible."""
    levels = TimeoutLevels()
    for key in _FIELDS:
        if not _split(key, uses, levels):
            return None
    return levels


def _split(key: str, uses: Sequence[Use], levels: TimeoutLevels) -> bool:
    values: dict[str, set[Any]] = {}
    for use in uses:
        values.setdefault(use.deployment, set()).add(use.timeouts.get(key))
    for use in (use for use in uses if len(values[use.deployment]) > 1):
        of_chain = levels.chains.setdefault(use.chain, {})
        if of_chain.setdefault(key, use.timeouts.get(key)) != use.timeouts.get(key):
            return False
    for use in uses:
        (value, *others) = values[use.deployment]
        # A null is written where the chain would otherwise set a value.
        if not others and (value is not None or key in levels.chains.get(use.chain, {})):
            levels.deployments.setdefault(use.deployment, {})[key] = value
    return True
