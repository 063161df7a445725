"""What models cost that are nobody's deployment, by litellm's list; litellm itself need not be loaded for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from llm_fallback.listed import first_entry, shipped
from llm_fallback.price_list import prices_in
from llm_fallback.pricing import Prices


def listed_prices(names: Iterable[str]) -> Prices | None:
    """The prices of the first of these names that litellm's list has; None if it has none of them."""
    # Half loaded, in another thread, it has no list yet.
    listed: Mapping[str, Any] = getattr(sys.modules.get("litellm"), "model_cost", None) or shipped()
    entry = first_entry(names, listed.get)
    return None if entry is None else prices_in(entry)
