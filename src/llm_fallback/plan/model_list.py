"""litellm's list of models and prices, read from the file it ships in 0.1 s; importing litellm takes three."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    itself, and without what litellm takes off when it looks for a price. A self-hosted model is on no list, even if a
    provider sells the same one."""
    provider, name = split_model(model)
    if base_model is not None:
        return (base_model, f"{provider}/{base_model}")
    if backend is not None:
        return ()
    names = (model, *_own_names(provider, name))
    return tuple(dict.fromkeys((*names, *map(str.lower, names))))


_ROUTE = re.compile(r"^(?:converse|invoke|chat_completions|openai|mantle)/")
"""Which of Amazon's interfaces litellm is to ask."""
_REGION = re.compile(r"^(?:(?:global|us|eu|apac|jp|au|us-gov)\.|[a-z]{2}(?:-gov)?-[a-z]+-\d/)")
"""Where it is asked: a profile for inference across regions, or a region."""
_THROUGHPUT = re.compile(r"(?<=:\d):\d+k$|\[\w+\]$")
_VERSION = re.compile(r"-\d+$")
_FINE_TUNED = re.compile(r"(?::[^:]*){3}$")
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def _own_names(provider: str, name: str) -> Iterator[str]:
    """A model's name as its provider's may be listed: as it is, and without what says how it is asked for and not which
    it is, as routes, regions, versions and dates."""
    if provider == "fireworks_ai" and "/" not in name:
        yield f"{provider}/accounts/fireworks/models/{name}"
    yield name
    match provider:
        case "bedrock":
            name = _ROUTE.sub("", name)
            name = name.rpartition("/")[2] if name.startswith("arn:") else name
            yield name  # Before its region goes: some regions cost more.
            name = _REGION.sub("", _THROUGHPUT.sub("", name))
        case "vertex_ai" | "gemini" | "databricks":
            name = _VERSION.sub("", name)
        case _:
            name = _FINE_TUNED.sub("", name) if name.startswith("ft:") else _DATE.sub("", name)
    yield f"{provider}/{name}"
    yield name


def listed_prices(names: Iterable[str]) -> Prices | None:
    """The prices of the first of these names that litellm's list has; None if it has none of them."""
    # While another thread imports litellm, the module exists without its list.
    entries: Mapping[str, Any] = getattr(sys.modules.get("litellm"), "model_cost", None) or bundled()
    entry = first_entry(names, entries.get)
    return None if entry is None else prices_in(entry)
