"""What a row of `model_list` says of a deployment beside whom to ask: limits, breaker, model, price, parameters."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from llm_fallback.litellm_config.sections import NO_COUNTERPART, Draft, Listing, Section, first
from llm_fallback.litellm_config.texts import number, ours
from llm_fallback.litellm_config.words import ABILITIES, NOT_OF_A_REQUEST, PRICES, SETTINGS, failures, is_price


def put_settings(draft: Draft, params: Section, row: Section) -> None:
    for word, path in SETTINGS.items():
        # Older configurations have rpm and tpm beside `litellm_params`.
        draft.put(path, number(first((params, word), (row, word))), (*params.path, word))
    if "attempt_s" not in draft.data.get("timeouts", {}):
        draft.put(SETTINGS["timeout"], number(params.take("request_timeout")), (*params.path, "request_timeout"))


def put_breaker(draft: Draft, params: Section, info: Section) -> None:
    cooldown, fails = number(first((info, "cooldown_time"), (params, "cooldown_time"))), info.take("allowed_fails")
    origin = (*params.path, "cooldown_time")
    if cooldown == 0:
        draft.put(("breaker",), "off", origin)
        return
    draft.put(("breaker", "cooldown_s"), cooldown, origin)
    draft.put(("breaker", "failures"), failures(number(fails)), (*info.path, "allowed_fails"))


def put_facts(draft: Draft, info: Section, params: Section) -> None:
    """What is known of the model, beside its price."""
    base = first((info, "base_model"), (params, "base_model"))
    draft.put(("base_model",), None if base is None else ours(str(base)), (*info.path, "base_model"))
    draft.put(("context_window",), number(info.take("max_input_tokens")), (*info.path, "max_input_tokens"))
    for word, ability in ABILITIES.items():
        draft.put(("profile", ability), info.take(word), (*info.path, word))


def put_price(draft: Draft, sections: tuple[Section, Section], listing: Listing) -> None:
    info = sections[0]
    for word, (field, factor) in PRICES.items():
        cost = first(*((section, word) for section in sections))
        if word == "input_cost_per_second" and "price" in draft.data and cost is not None:
            listing.add((*info.path, word), "is passed over by LiteLLM beside a price per token")
            continue
        draft.put(("price", field), _times(cost, factor), (*info.path, word))
    if draft.data.get("price") == {"input_per_million": 0, "output_per_million": 0}:
        draft.put(("price",), "free", (*info.path, "input_cost_per_token"))


def _times(cost: Any, factor: Decimal) -> Any:
    try:
        return None if cost is None else Decimal(str(cost)) * factor
    except InvalidOperation:
        return cost


def put_parameters(draft: Draft, params: Section, listing: Listing) -> None:
    """What is left goes into each request, but for what the proxy keeps to itself."""
    organization = params.take("organization")
    if isinstance(organization, list):
        listing.add((*params.path, "organization"), "is a list: only its first is used")
        organization = next(iter(organization), None)
    draft.put(("params", "organization"), ours(organization), (*params.path, "organization"))
    for word, value in params.left():
        path = (*params.path, word)
        if word in NOT_OF_A_REQUEST or is_price(word):
            listing.add(path, NO_COUNTERPART)
        else:
            draft.put(("params", word), ours(value), path)
