"""litellm's list of models and prices, read from the file it ships in 0.1 s; importing litellm takes three."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
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


@cache
def bundled() -> Mapping[str, Any]:
    """The list that litellm ships; empty if there is none."""
    package = find_spec("litellm")
    folders = package.submodule_search_locations if package else None
    files = [Path(folder, _FILE) for folder in folders or ()]
    return next((json.loads(file.read_bytes()) for file in files if file.exists()), {})


def entry_of(
    model: str,
    base_model: str | None,
    backend: str | None,
    find: Callable[[str], Mapping[str, Any] | None] = lookup,
) -> Mapping[str, Any] | None:
    """The entry of a deployment's model; None if there is none. It stands under `base_model`, with or without provider,
    else under the model itself, or what litellm makes of it when it looks for a price; then it is its provider's own,
    as others that sell the same model take another price. A self-hosted model is on no list."""
    provider, name = split_model(model)
    if base_model is not None:
        return next(filter(None, map(find, (base_model, f"{provider}/{base_model}"))), None)
    if backend is not None:
        return None
    provider = provider.removesuffix("_beta")  # vertex_ai_beta is another road to what vertex_ai sells.
    names = (model, f"{provider}/{name}", *_own_names(provider, name))
    entries = map(find, dict.fromkeys((*names, *map(str.lower, names))))
    return next((entry for entry in entries if entry and _is_sold_by(provider, entry)), None)


_PASSES_ON = ("litellm_proxy", "github", "nadir")
"""Who takes, as litellm has it, what those take whose models it passes on."""


def _is_sold_by(provider: str, entry: Mapping[str, Any]) -> bool:
    """Whether an entry is of what this provider sells, as litellm judges."""
    seller: str | None = entry.get("litellm_provider")
    if seller in (None, provider) or provider in _PASSES_ON:
        return True
    match provider:
        case "azure_ai":
            return seller in ("azure", "openai")
        case "vertex_ai" | "fireworks_ai":
            return seller.startswith(provider)
        case _:
            return provider.startswith("bedrock") and seller.startswith("bedrock")


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
    entry = next(filter(None, map(entries.get, names)), None)
    return None if entry is None else prices_in(entry)
