"""Timeouts of rows, put where they hold: at a deployment, or at a chain where it differs from chain to chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
