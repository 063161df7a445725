"""The rows of `model_list` as deployments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.litellm_config.addresses import put_address, put_key
from llm_fallback.litellm_config.facts import put_breaker, put_facts, put_parameters, put_price, put_settings
from llm_fallback.litellm_config.fitting import fit_deployment
from llm_fallback.litellm_config.sections import NO_COUNTERPART, Draft, Listing, Section, first
from llm_fallback.litellm_config.texts import number
from llm_fallback.spec.marks import Path

_CHATS = (None, "chat", "completion", "responses")
_VIRTUAL = ("auto_router", "complexity_router", "adaptive_router", "quality_router")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `model_list` that can be asked."""

    group: str
    """Its `model_name`: rows of one group share the load."""
    path: Path
    draft: Draft
    id: str | None
    order: float | None
    """Within its group, lower ones are asked first."""


def read_rows(rows: Any, credentials: Mapping[str, Any], listing: Listing) -> Iterator[Row]:
    """Every row that can be a deployment; the others are listed with the reason."""
    for index, raw in enumerate(rows if isinstance(rows, list) else ()):
        path = ("model_list", index)
        row = Section(raw, path)
        why_not = _unfit(raw)
        if why_not:
            listing.add(path, f"{why_not}: left out")
            continue
        read = _row(row, credentials, listing)
        if read is not None:
            yield read


def _unfit(raw: Any) -> str | None:
    """Why no deployment can be made of a row."""
    params = raw.get("litellm_params") if isinstance(raw, Mapping) else None
    model = params.get("model") if isinstance(params, Mapping) else None
    if not isinstance(model, str) or not model or raw.get("model_name") in (None, ""):
        return "has no model_name or no litellm_params.model"
    group, info = str(raw["model_name"]), raw.get("model_info")
    mode = info.get("mode") if isinstance(info, Mapping) else None
    if "*" in group or "*" in model:
        return f"{group!r} stands for any number of models, and a deployment serves one"
    if mode not in _CHATS:
        return f"{group!r} is for {mode}, not for chat"
    if model.startswith(_VIRTUAL):
        return f"{group!r} chooses among other models by the prompt"
    return None


def _row(row: Section, credentials: Mapping[str, Any], listing: Listing) -> Row | None:
    group = str(row.take("model_name"))
    written = row.take("litellm_params")
    named = credentials.get(str(written.get("litellm_credential_name")))
    known = dict(written) if named is None else {**named, **written, "litellm_credential_name": None}
    params = Section(known, (*row.path, "litellm_params"))
    info = Section(row.take("model_info"), (*row.path, "model_info"))
    identity = info.take("id")
    draft = Draft()
    order = _order(params, info, listing)
    put_address(draft, params, info, listing)
    put_key(draft, params, listing)
    put_settings(draft, params, row)
    put_breaker(draft, params, info)
    put_facts(draft, info, params)
    put_price(draft, (info, params), listing)
    put_parameters(draft, params, listing)
    info.take("mode")
    for section in (row, info):
        listing.rest(section, NO_COUNTERPART)
    if not fit_deployment(draft, row.path, group, listing):
        return None
    return Row(group, row.path, draft, None if identity is None else str(identity), order)


def _order(params: Section, info: Section, listing: Listing) -> float | None:
    order = number(first((params, "order"), (info, "order")))
    if order is None or (isinstance(order, int | float) and not isinstance(order, bool)):
        return order
    listing.add((*params.path, "order"), "is no number: left out")
    return None
