"""How many examples a property is tried on: all of them, or those of the profile `fast` that `make test` runs with."""

from __future__ import annotations

from hypothesis import settings

FAST = 25


def examples(full: int) -> int:
    """`full` of them, or the fewer ones of the profile `fast`."""
    return min(full, FAST) if settings.default.max_examples == FAST else full
