"""What `make test` leaves to `make test-all`: most examples of a property, and most combinations of a factorial."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import settings

FAST = 25


def examples(full: int) -> int:
    """How many examples a property is tried on: `full`, or at most 25 in the profile `fast`."""
    return min(full, FAST) if settings.default.max_examples == FAST else full


def combinations(*axes: Iterable[Any], fast: Callable[..., bool]) -> list[Any]:
    """Every combination of the axes' values, for `parametrize`. Those for which `fast` is false are marked slow."""
    return [
        pytest.param(*values, marks=() if fast(*values) else pytest.mark.slow, id="-".join(map(str, values)))
        for values in product(*axes)
    ]
