"""A failing history made readable: all is left out that it fails without (delta debugging)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from llm_fallback.errors import SpecError
from tests.histories.plans import Plan

_T = TypeVar("_T")
_MOST_PLAYED = 400


def shrunk(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The plan with as few actions and settings as are needed for `fails`."""
    budget = iter(range(_MOST_PLAYED))

    def still_fails(tried: Plan) -> bool:
        if next(budget, None) is None:
            return False
        try:
            return fails(tried)
        except SpecError:
            return False  # What was left out the rest needs, as a chain's zones need a deployment's.

    actions = _fewest(plan.actions, lambda actions: still_fails(replace(plan, actions=tuple(actions))))
    plan = replace(plan, actions=tuple(actions))
    while (spec := _next_simpler(plan, still_fails)) is not None:
        plan = replace(plan, spec=spec)
    return plan


def _fewest(items: Sequence[_T], fails: Callable[[Sequence[_T]], bool]) -> Sequence[_T]:
    """Ever smaller parts are left out, as long as it fails without one."""
    size = max(1, len(items) // 2)
    while items:
        for at in range(0, len(items), size):
            fewer = [*items[:at], *items[at + size :]]
            if fails(fewer):
                items = fewer
                break
        else:
            if size == 1:
                break
            size //= 2
    return items


def _next_simpler(plan: Plan, fails: Callable[[Plan], bool]) -> dict[str, Any] | None:
    return next((spec for spec in _simpler(plan.spec) if fails(replace(plan, spec=spec))), None)


def _simpler(spec: Any) -> Iterator[dict[str, Any]]:
    """The spec without one of its optional settings."""
    needed = {"model", "backend", "api_base", "price", "tiers", "timeouts", "total_s"}
    for kind in ("chains", "deployments"):
        for name, settings in spec[kind].items():
            for key in settings:
                if key not in needed:
                    yield _without(spec, kind, name, key)
            for key in settings.get("timeouts", ()):
                if key not in needed:
                    yield _without(spec, kind, name, "timeouts", key)


def _without(spec: Any, *path: str) -> dict[str, Any]:
    fewer: dict[str, Any] = deepcopy(dict(spec))
    place = fewer
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return fewer
