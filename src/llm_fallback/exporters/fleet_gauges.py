"""How a model's fleet stands, as gauges that any exporter can read: what `state()["fleet"]` says, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llm_fallback.spec.shown import encodable

State = Callable[[], Mapping[str, Any]]
"""`model.state`."""
Reading = tuple[tuple[str, ...], float]
"""A value, with that of each label."""


@dataclass(frozen=True, slots=True)
class FleetGauge:
    """One gauge. Names and units are OpenTelemetry's way of writing them; labels have as many values as the spec has
    names."""

    name: str
    unit: str
    text: str
    read: Callable[[Mapping[str, Any]], Iterable[Reading]]
    labels: tuple[str, ...] = ()

    def readings(self, state: State) -> list[Reading]:
        """Of a model now; none without a fleet, or where nothing is known yet."""
        fleet = state().get("fleet")
        return [] if fleet is None else list(self.read(fleet))


def _age(fleet: Mapping[str, Any]) -> Iterator[Reading]:
    if fleet["age_s"] is not None:
        yield (), fleet["age_s"]


def _reporters(fleet: Mapping[str, Any]) -> Iterator[Reading]:
    for name, known in fleet["deployments"].items():
        yield (encodable(name),), len(known["reported_by"])


def _of_limits(key: str, fleet: Mapping[str, Any]) -> Iterator[Reading]:
    for name, known in fleet["deployments"].items():
        for word, limit in known["limits"].items():
            if limit[key] is not None:
                yield (encodable(name), word), limit[key]


def _of_budgets(key: str, fleet: Mapping[str, Any]) -> Iterator[Reading]:
    """Of the last day that is known; not of single spenders, of which there may be any number."""
    of_all = [budget for budget in fleet["budgets"] if budget["spender"] is None]
    last = {budget["scope"]: budget for budget in sorted(of_all, key=lambda budget: budget["day"])}
    for scope, budget in last.items():
        if budget[key] is not None:
            yield (encodable(scope),), budget[key]


_LIMIT, _BUDGET = ("deployment", "limit"), ("scope",)

FLEET_GAUGES = (
    FleetGauge("members", "{process}", "Processes of the fleet that make calls.", lambda it: [((), it["members"])]),
    FleetGauge(
        *("store_answers", "1", "Whether the fleet's store answers: 1 or 0."),
        read=lambda fleet: [((), fleet["store"] == "answers")],
    ),
    FleetGauge("exchange.age", "s", "Time since the last exchange with it.", _age),
    FleetGauge(
        *("reporters", "{process}", "Other processes that have left a deployment alone.", _reporters, ("deployment",))
    ),
    FleetGauge("limits.limit", "1", "What all may use of a limit.", partial(_of_limits, "limit"), _LIMIT),
    FleetGauge("limits.usage", "1", "What all use or hold of it.", partial(_of_limits, "used_by_all"), _LIMIT),
    FleetGauge("limits.held", "1", "What this process may use without asking.", partial(_of_limits, "held"), _LIMIT),
    FleetGauge("budget.limit", "{USD}", "What all may spend in a day.", partial(_of_budgets, "limit_usd"), _BUDGET),
    FleetGauge(
        "budget.usage", "{USD}", "What all have spent or hold today.", partial(_of_budgets, "spent_by_all_usd"), _BUDGET
    ),
    FleetGauge(
        "budget.held", "{USD}", "What this process may spend without asking.", partial(_of_budgets, "held_usd"), _BUDGET
    ),
)
