"""What models cost that are nobody's deployment, by litellm's list."""

from __future__ import annotations

from collections.abc import Iterable

import litellm

from llm_fallback.price_list import prices_in
from llm_fallback.pricing import Prices


def listed_prices(names: Iterable[str]) -> Prices | None:
    """The prices of the first of these names that litellm's list has; None if it has none of them."""
    entries = (litellm.model_cost.get(name) for name in names)
    entry = next((entry for entry in entries if entry), None)
    return None if entry is None else prices_in(entry)
