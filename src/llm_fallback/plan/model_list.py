"""litellm's list of models and prices, read from the file it ships in 0.1 s; importing litellm takes three."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_fallback.plan.pricing import Prices, prices_in
from llm_fallback.spec.providers import split_model

_FILE = "model_prices_and_context_window_backup.json"


def lookup(name: str) -> Mapping[str, Any] | None:
    """The entry of a model in the bundled list; None if there is none."""
    return bundled().get(name)


def first_entry(
    names: Iterable[str], find: Callable[[str], Mapping[str, Any] | None] = lookup
) -> Mapping[str, Any] | None:
    """The entry of the first of these names that has one; None if none has."""
    return next((entry for entry in map(find, names) if entry), None)


@cache
def bundled() -> Mapping[str, Any]:
    """The list that litellm ships; empty if there is none."""
    package = find_spec("litellm")
    folders = package.submodule_search_locations if package else None
    files = [Path(folder, _FILE) for folder in folders or ()]
    return next((json.loads(file.read_bytes()) for file in files if file.exists()), {})


def candidate_names(model: str, base_model: str | None, backend: str | None) -> Sequence[str]:
    """The names under which a deployment's model may be listed: `base_model`, with and without provider, else the model
    itself. A self-hosted model is on no list, even if a provider sells the same one."""
    provider, name = split_model(model)
    if base_model is not None:
        return (base_model, f"{provider}/{base_model}")
    return () if backend is not None else (model, name)


def listed_prices(names: Iterable[str]) -> Prices | None:
    """The prices of the first of these names that litellm's list has; None if it has none of them."""
    # While another thread imports litellm, the module exists without its list.
    entries: Mapping[str, Any] = getattr(sys.modules.get("litellm"), "model_cost", None) or bundled()
    entry = first_entry(names, entries.get)
    return None if entry is None else prices_in(entry)
