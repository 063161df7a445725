"""What models cost that are nobody's deployment, by litellm's list; litellm itself need not be loaded for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_fallback.price_list import prices_in
from llm_fallback.pricing import Prices

_FILE = "model_prices_and_context_window_backup.json"


def listed_prices(names: Iterable[str]) -> Prices | None:
    """The prices of the first of these names that litellm's list has; None if it has none of them."""
    # Half loaded, in another thread, it has no list yet.
    listed: Mapping[str, Any] = getattr(sys.modules.get("litellm"), "model_cost", None) or _shipped()
    entries = (listed.get(name) for name in names)
    entry = next((entry for entry in entries if entry), None)
    return None if entry is None else prices_in(entry)


@cache
def _shipped() -> Mapping[str, Any]:
    """The list as litellm ships it: reading it takes a tenth of a second, loading litellm three."""
    package = find_spec("litellm")
    places = package.submodule_search_locations if package else None
    files = [Path(place, _FILE) for place in places or ()]
    return next((json.loads(file.read_bytes()) for file in files if file.exists()), {})
