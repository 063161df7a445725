"""What `make test` leaves to `make test-all`: most examples of a property, and most combinations of a factorial."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import settings

FAST = 25
_AT_ONCE = 25
"""Histories in one test unless it says otherwise: enough that starting it costs nothing, few enough to share out among
processes."""


def examples(full: int) -> int:
    """How many examples a property is tried on: `full`, or at most 25 in the profile `fast`."""
    return min(full, FAST) if settings.default.max_examples == FAST else full


def histories(fast: int, full: int, *, at_once: int = _AT_ONCE) -> Callable[[Callable[[int], None]], Any]:
    """Has a test play histories of these many seeds, each once: the first in every run, all of them in
    `make test-all`, and `SOAK` times as many where that variable says so."""
    seeds = range(fast, full * int(os.environ.get("SOAK", "1")))
    rest = [pytest.param(seeds[at : at + at_once], marks=pytest.mark.slow) for at in range(0, len(seeds), at_once)]

    def decorate(test: Callable[[int], None]) -> Any:
        @pytest.mark.parametrize("seeds", [range(fast), *rest], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
        def play(seeds: range) -> None:
            for seed in seeds:
                test(seed)

        play.__name__, play.__doc__, play.__module__ = test.__name__, test.__doc__, test.__module__
        return play

    return decorate


def combinations(*axes: Iterable[Any], fast: Callable[..., bool]) -> list[Any]:
    """Every combination of the axes' values, for `parametrize`. Those for which `fast` is false are marked slow."""
    return [
        pytest.param(*values, marks=() if fast(*values) else pytest.mark.slow, id="-".join(map(str, values)))
        for values in product(*axes)
    ]
