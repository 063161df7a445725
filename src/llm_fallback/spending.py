"""What a chain may spend: its purses, what an attempt may cost, and whether that is known at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from llm_fallback.budget import Cap, Purse, Window
from llm_fallback.daybook import DayBook
from llm_fallback.events import Usage
from llm_fallback.health import DeploymentHealth
from llm_fallback.plan import Catalogue, ChainPlan, Plan, Target
from llm_fallback.pricing import Prices
from llm_fallback.spec.agreement import price_missing
from llm_fallback.spec.marks import Problem

_FIRST_GUESS_TOKENS = 256
_FIRST_GUESS_S = 10.0
"""What a reply is taken for as long as its deployment has given none: so many tokens, so many seconds of a GPU."""


class Budgets:
    """The purses of a model's chains. What was spent outlives a reload; how much may be, the chain's plan says."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._purses: dict[tuple[str, Window, str | None, str | None], Purse] = {}

    def caps(self, chain: ChainPlan) -> tuple[Cap, ...]:
        """The limits a call of the chain is under."""
        if chain.budget is None:
            return ()
        limits = chain.budget.limits
        return tuple(
            Cap(limits[window], self._purse(chain, window), f"chain {chain.name}, per {window}")
            for window in get_args(Window)
            if window in limits
        )

    def _purse(self, chain: ChainPlan, window: Window) -> Purse:
        assert chain.budget is not None
        per, file = chain.budget.per, chain.budget.file if window == "day" else None
        with self._lock:
            known = self._purses.get((chain.name, window, per, file))
            if known is None:
                book = DayBook(Path(file).expanduser().absolute(), f"chain {chain.name}") if file else None
                known = self._purses[chain.name, window, per, file] = Purse(window, per, self._wall, book)
            return known


def estimate(
    prices: Prices, target: Target, request: Mapping[str, Any], tokens: int, known: DeploymentHealth
) -> Decimal:
    """What an attempt may cost, in US dollars: its prompt, and the longest reply it asks for, else a usual one."""
    likely = known.mean_output_tokens
    output = _longest_reply({**target.parameters, **request})
    if output is None:
        output = _FIRST_GUESS_TOKENS if likely is None else round(likely)
    seconds = known.mean_seconds
    return prices.cost(Usage(tokens, output), _FIRST_GUESS_S if seconds is None else seconds)


def _longest_reply(parameters: Mapping[str, Any]) -> int | None:
    given = [parameters.get(name) for name in ("max_tokens", "max_completion_tokens")]
    most = [int(tokens) for tokens in given if tokens is not None]
    return min(most) * int(parameters.get("n") or 1) if most else None


def unpriced(plan: Plan, catalogue: Catalogue) -> Iterator[Problem]:
    """A mistake for each deployment of a chain with a budget of which nobody knows the price."""
    budgeted = [chain for chain in plan.chains.values() if chain.budget and chain.budget.limits]
    for name, target in plan.targets.items():
        chains = [chain.name for chain in budgeted if any(member.name == name for member in chain.members)]
        if chains and target.prices is None and catalogue.prices(target) is None:
            yield price_missing(name, chains[0], target.model)
