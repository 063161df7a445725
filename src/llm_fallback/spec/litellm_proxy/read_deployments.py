"""Deployments from the rows of all groups: tiers, names, weights, and timeouts where they hold.

A chain's name is the group of its first tier, `<chain>/2`, ... are the later ones, `<chain>/on_context_window` and
`<chain>/on_content_policy` begin the other routes; ids are `<group>/<deployment>`, of the tiers
`<chain>/<deployment>`. A name that somebody else has gets a slash more: LiteLLM takes an id that is a group's name for
the group. A timeout stands at a deployment, or at a chain where it differs from chain to chain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from llm_fallback.spec.litellm_proxy.draft import Draft, Listing
from llm_fallback.spec.litellm_proxy.fallbacks import Fallbacks, Tiers
from llm_fallback.spec.litellm_proxy.read_rows import Row

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


_SHARES: Mapping[str, Callable[[Row], float | None]] = {
    "weight": lambda row: row.draft.data.get("weight"),
    "rpm": lambda row: row.draft.data.get("limits", {}).get("rpm"),
    "tpm": lambda row: row.draft.data.get("limits", {}).get("tpm"),
}
"""What LiteLLM weighs a row by: the first of these that any row of its group has."""


def grouped(rows: Sequence[Row], listing: Listing) -> dict[str, list[list[Row]]]:
    """The tiers of every group, with the weights of their rows set."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return {name: _tiers(members, listing) for name, members in groups.items()}


def _tiers(rows: list[Row], listing: Listing) -> list[list[Row]]:
    """By `order`. A row LiteLLM asks only when the others are out, as it has no order or share, comes after them."""
    word = next((word for word, share in _SHARES.items() if any(share(row) for row in rows)), None)
    last_order = max((row.order for row in rows if row.order is not None), default=None)

    def place(row: Row) -> tuple[bool, float, bool]:
        unordered = last_order is not None and row.order is None
        return unordered, row.order or 0, word is not None and _SHARES[word](row) is None

    for row in rows:
        unordered, _, shareless = place(row)
        if unordered or shareless:
            missing = "order" if unordered else str(word)
            listing.add(row.path, f"has no {missing}, as others of {row.group!r} have: it is asked after them")
    tiers = [list(tier) for _, tier in groupby(sorted(rows, key=place), place)]
    for tier in tiers:
        _weigh(tier, word)
    return tiers


def _weigh(tier: list[Row], word: str | None) -> None:
    shares = [None if word is None else _SHARES[word](row) for row in tier]
    differ = len(set(shares)) > 1
    for row, share in zip(tier, shares, strict=True):
        row.draft.data.pop("weight", None)
        if share is not None and share != 1 and (word == "weight" or differ):
            row.draft.data["weight"] = share


_END = r"/+(\d+|(on_context_window|on_content_policy)(/+\d+)?)"
_OF_A_CHAIN, _OF_SOME_CHAIN = re.compile(_END), re.compile(f"{_END}$")


def group_name(chain: str, route: str, number: int, taken: Container[str]) -> str:
    """The group of a route's n-th tier; `taken` are the names of all chains."""
    start = chain if route == "tiers" else free(chain, route, taken)
    return start if number == 1 else free(start, str(number), taken)


def free(start: str, end: str, taken: Container[str]) -> str:
    """`<start>/<end>`, with as many slashes as it takes."""
    name = f"{start}/{end}"
    while name in taken:
        start += "/"
        name = f"{start}/{end}"
    return name


def owner(group: str, groups: Iterable[str], kinds: Iterable[Fallbacks]) -> str | None:
    """The chain that a group is a tier of, by its name and because the chain falls back to it; else None."""
    for chain in groups if _OF_SOME_CHAIN.search(group) else ():
        end = group.removeprefix(chain)
        if end != group and _OF_A_CHAIN.fullmatch(end) and any(group in kind.targets.get(chain, ()) for kind in kinds):
            return chain
    return None


def deployment_name(identity: str, group: str, chain: str | None) -> str:
    """What an id calls a deployment."""
    for start in (group, chain):
        name = identity.removeprefix(f"{start}/")
        if name != identity and name.strip("/"):
            return name.lstrip("/")
    return identity


_FIELDS = ("attempt_s", "first_token_s")


@dataclass(frozen=True, slots=True)
class Use:
    """A deployment as one chain asks it, with the timeouts of that row."""

    deployment: str
    chain: str
    timeouts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Levels:
    """Timeouts by deployment and by chain."""

    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    chains: dict[str, dict[str, Any]] = field(default_factory=dict)


def levelled(uses: Sequence[Use]) -> Levels | None:
    """The timeouts of all uses; None if no spec could say that of deployments that chains share."""
    levels = Levels()
    for word in _FIELDS:
        if not _level(word, uses, levels):
            return None
    return levels


def _level(word: str, uses: Sequence[Use], levels: Levels) -> bool:
    values: dict[str, set[Any]] = {}
    for use in uses:
        values.setdefault(use.deployment, set()).add(use.timeouts.get(word))
    for use in (use for use in uses if len(values[use.deployment]) > 1):
        of_chain = levels.chains.setdefault(use.chain, {})
        if of_chain.setdefault(word, use.timeouts.get(word)) != use.timeouts.get(word):
            return False
    for use in uses:
        (value, *others) = values[use.deployment]
        # What says nothing must say so where its chain says something.
        if not others and (value is not None or word in levels.chains.get(use.chain, {})):
            levels.deployments.setdefault(use.deployment, {})[word] = value
    return True
