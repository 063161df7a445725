"""Turns one row of `model_list` into a deployment: address, key, limits, breaker, price and parameters.

Values that a spec would refuse are dropped and reported with the spec's own reason.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from llm_fallback.spec import consistency
from llm_fallback.spec.entries import Defaults, Deployment
from llm_fallback.spec.error_messages import validate
from llm_fallback.spec.litellm_proxy import words
from llm_fallback.spec.litellm_proxy.draft import NO_COUNTERPART, Draft, LossReport, Section, first
from llm_fallback.spec.litellm_proxy.words import (
    ABILITIES,
    NOT_OF_A_REQUEST,
    PRICES,
    SETTINGS,
    breaker_failures,
    convert_references,
    is_price,
    parse_number,
)
from llm_fallback.spec.locations import Path, Problem
from llm_fallback.spec.providers import BACKENDS, KEY_VARIABLES, KNOWN_PROVIDERS, likely_provider, split_model
from llm_fallback.spec.variables import references

_CHATS = (None, "chat", "completion", "responses")
_VIRTUAL = ("auto_router", "complexity_router", "adaptive_router", "quality_router")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `model_list`, as the draft of a deployment."""

    group: str
    """Its `model_name`: rows of one group share the load."""
    path: Path
    draft: Draft
    id: str | None
    order: float | None
    """Lower ones are asked first within the group."""

    @property
    def number(self) -> int:
        """Its index in `model_list`."""
        return int(self.path[1])


def read_rows(
    rows: Any, credentials: Mapping[str, Any], losses: LossReport, variables: Container[str] = ()
) -> Iterator[Row]:
    """Every row that can be a deployment; the others are reported with the reason."""
    for index, raw in enumerate(rows if isinstance(rows, list) else ()):
        path = ("model_list", index)
        reason = _reason_to_skip(raw)
        if reason:
            meant = _misspelt(raw, path)
            losses.add(path, f"{reason}: left out{meant}", "warning" if meant else "note")
            continue
        row = _read_row(Section(raw, path), credentials, losses, variables)
        if row is not None:
            yield row


def _reason_to_skip(raw: Any) -> str | None:
    """Why a row cannot be a deployment; None if it can."""
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
    if (provider := _unknown_provider(model, Section(params, ()))) is not None:
        return f"{provider!r}, which {group!r} asks, is no provider of litellm's"
    return None


def _misspelt(raw: Any, path: Path) -> str:
    """What keys of a row were meant that is left out for want of them."""
    row = Section(raw, path)
    params = Section(row.take("litellm_params"), (*path, "litellm_params"))
    for section, word in ((row, "model_name"), (row, "model_info"), (params, "model")):
        section.take(word)
    found = [(key, section.meant_by(key)) for section in (row, params) for key, _ in section.unused()]
    return "".join(f"; {key!r}: {meant}" for key, meant in found if meant)


def _unknown_provider(model: str, params: Section) -> str | None:
    """The provider of a row for which LiteLLM knows none; None if it knows one, by an address too, or may find one."""
    named = params.take("custom_llm_provider")
    provider = named if isinstance(named, str) else split_model(model)[0] if "/" in model else None
    has_address = any(params.take(key) for key in ("api_base", "base_url"))
    is_open = provider is None or has_address or provider in KNOWN_PROVIDERS or model.startswith("os.environ/")
    return None if is_open else provider


def _read_row(
    row: Section, credentials: Mapping[str, Any], losses: LossReport, variables: Container[str]
) -> Row | None:
    group = str(row.take("model_name"))
    written = row.take("litellm_params")
    credential = credentials.get(str(written.get("litellm_credential_name")))
    merged = dict(written) if credential is None else {**credential, **written, "litellm_credential_name": None}
    params = Section(merged, (*row.path, "litellm_params"))
    info = Section(row.take("model_info"), (*row.path, "model_info"))
    identity = info.take("id")
    draft = Draft()
    order = _order(params, info, losses)
    put_address(draft, params, info, losses)
    put_key(draft, params, losses, variables)
    put_settings(draft, params, row)
    put_breaker(draft, params, info)
    put_facts(draft, info, params)
    put_price(draft, (info, params), losses)
    put_parameters(draft, params, losses)
    info.take("mode")
    for section in (row, info):
        losses.report_unused(section, NO_COUNTERPART)
    if not drop_invalid(draft, row.path, group, losses):
        return None
    return Row(group, row.path, draft, None if identity is None else str(identity), order)


def _order(params: Section, info: Section, losses: LossReport) -> float | None:
    order = parse_number(first((params, "order"), (info, "order")))
    if order is None or (isinstance(order, int | float) and not isinstance(order, bool)):
        return order
    losses.add((*params.path, "order"), "is no number: left out")
    return None


def put_address(draft: Draft, params: Section, info: Section, losses: LossReport) -> None:
    """Write `backend`, `model` and `api_base`.

    A backend is written only if requests then go to the same address. A backend appends a missing `/v1`, which an
    `openai/` row does not, so such a row stays a provider's model.
    """
    model = _with_provider(convert_references(params.take("model")), params.take("custom_llm_provider"))
    provider, served = split_model(model)
    address = _address(params)
    if address is None:
        address = words.ADDRESSES.get(provider)
    backend = _backend(provider, info, losses)
    if backend is None or address is None or not _same_address(backend, address):
        backend, served = None, model
    draft.put(("backend",), backend, (*params.path, "model"))
    draft.put(("model",), served, (*params.path, "model"))
    draft.put(("api_base",), address, (*params.path, "api_base"))
    if (
        backend is not None
        and not references(str(address))
        and BACKENDS[backend].base_url(address) != address.rstrip("/")
    ):
        losses.add((*params.path, "api_base"), "has no version in it: requests go to /v1 below it")


def put_key(draft: Draft, params: Section, losses: LossReport, variables: Container[str]) -> None:
    """Write `api_key`: the row's, else its provider's variable if the configuration sets that.

    Report rows without one for which LiteLLM would send OPENAI_API_KEY: here none is sent."""
    key, origin = params.take("api_key"), (*params.path, "api_key")
    if key in (None, "", words.NO_KEY):
        if key is None and "api_base" in draft.data and str(draft.data["model"]).startswith("openai/"):
            losses.add(params.path, "has no api_key: none is sent, where LiteLLM sends OPENAI_API_KEY")
        provider = split_model(str(draft.data["model"]))[0]
        names = words.AZURE_KEYS if provider == "azure" else KEY_VARIABLES.get(provider, ())
        own = next((name for name in names if name in variables), None)
        is_hosted = provider == "azure" or not {"api_base", "backend"} & draft.data.keys()
        if key is None and own is not None and is_hosted:
            draft.put(("api_key",), f"${{{own}}}", origin)
        return
    draft.put(("api_key",), convert_references(str(key)), origin)


def _backend(provider: str, info: Section, losses: LossReport) -> str | None:
    """The backend that a provider of LiteLLM's stands for; `model_info.backend` says which, where several share one."""
    name = info.take("backend")
    backend = BACKENDS.get(str(name))
    if backend is not None and backend.prefix == f"{provider}/":
        return backend.name
    if name is not None:
        losses.add((*info.path, "backend"), f"is no backend that LiteLLM asks by {provider}/")
    return words.BACKENDS.get(provider)


def _with_provider(model: str, provider: Any) -> str:
    if isinstance(provider, str) and not model.startswith(f"{provider}/"):
        return f"{provider}/{model}"
    likely = None if "/" in model else likely_provider(model)
    return f"{likely}/{model}" if likely else model


def _address(params: Section) -> Any:
    base, url = params.take("api_base"), params.take("base_url")
    address = url if base is None else base
    return None if address in (None, "") else convert_references(address)


def _same_address(backend: str, address: Any) -> bool:
    if not isinstance(address, str):
        return False
    if BACKENDS[backend].prefix != "openai/":
        return True
    return not references(address) and BACKENDS[backend].base_url(address) == address.rstrip("/")


def put_settings(draft: Draft, params: Section, row: Section) -> None:
    """Write weight, limits and timeouts."""
    for key, path in SETTINGS.items():
        # Older configurations have rpm and tpm beside `litellm_params`.
        draft.put(path, parse_number(first((params, key), (row, key))), (*params.path, key))
    if "attempt_s" not in draft.data.get("timeouts", {}):
        draft.put(SETTINGS["timeout"], parse_number(params.take("request_timeout")), (*params.path, "request_timeout"))


def put_breaker(draft: Draft, params: Section, info: Section) -> None:
    cooldown, fails = (
        parse_number(first((info, "cooldown_time"), (params, "cooldown_time"))),
        info.take("allowed_fails"),
    )
    origin = (*params.path, "cooldown_time")
    if cooldown == 0:
        draft.put(("breaker",), "off", origin)
        return
    draft.put(("breaker", "cooldown_s"), cooldown, origin)
    draft.put(("breaker", "failures"), breaker_failures(parse_number(fails)), (*info.path, "allowed_fails"))


def put_facts(draft: Draft, info: Section, params: Section) -> None:
    """Write `base_model`, `context_window` and `profile`."""
    base = first((info, "base_model"), (params, "base_model"))
    draft.put(("base_model",), None if base is None else convert_references(str(base)), (*info.path, "base_model"))
    draft.put(("context_window",), parse_number(info.take("max_input_tokens")), (*info.path, "max_input_tokens"))
    for key, ability in ABILITIES.items():
        draft.put(("profile", ability), info.take(key), (*info.path, key))


def put_price(draft: Draft, sections: tuple[Section, Section], losses: LossReport) -> None:
    """Write `price`."""
    info = sections[0]
    for key, (field, factor) in PRICES.items():
        cost = first(*((section, key) for section in sections))
        if key == "input_cost_per_second" and "price" in draft.data and cost is not None:
            losses.add((*info.path, key), "is passed over by LiteLLM beside a price per token")
            continue
        draft.put(("price", field), _times(cost, factor), (*info.path, key))
    if draft.data.get("price") == {"input_per_million": 0, "output_per_million": 0}:
        draft.put(("price",), "free", (*info.path, "input_cost_per_token"))


def _times(cost: Any, factor: Decimal) -> Any:
    try:
        return None if cost is None else Decimal(str(cost)) * factor
    except InvalidOperation:
        return cost


def put_parameters(draft: Draft, params: Section, losses: LossReport) -> None:
    """Write what is left as `params`, except keys that the proxy does not send on."""
    organization = params.take("organization")
    if isinstance(organization, list):
        losses.add((*params.path, "organization"), "is a list: only its first is used")
        organization = next(iter(organization), None)
    draft.put(("params", "organization"), convert_references(organization), (*params.path, "organization"))
    for key, value in params.unused():
        path = (*params.path, key)
        if key in NOT_OF_A_REQUEST or is_price(key):
            losses.add(path, NO_COUNTERPART)
        else:
            losses.report_misspelt(params, key, "is sent as a parameter of the request")
            draft.put(("params", key), convert_references(value), path)


_WHO_IS_ASKED = ("model", "backend", "api_base", "api_key")
"""A row for which one of these is invalid is left out: without it another server, or another key, would be used."""


def drop_invalid(draft: Draft, row: Path, group: str, losses: LossReport) -> bool:
    """Drop and report what is invalid in a deployment. False if the row has to be left out for it."""
    while problems := _problems(draft.data):
        for problem in problems:
            if problem.path[:1] == () or problem.path[0] in _WHO_IS_ASKED:
                losses.add(row, f"{group!r} is left out: {'.'.join(map(str, problem.path))} {problem.text}")
                return False
        _drop(draft, problems[0], losses)
    return True


def drop_invalid_defaults(draft: Draft, losses: LossReport) -> None:
    """Drop and report what is invalid in the defaults."""
    while isinstance(problems := validate(Defaults, draft.data), list) and problems:
        _drop(draft, problems[0], losses)


def _problems(data: Mapping[str, Any]) -> list[Problem]:
    outcome = validate(Deployment, data)
    inconsistent = consistency.problems({"deployments": {"it": data}})
    return [
        *(outcome if isinstance(outcome, list) else []),
        *(Problem(problem.path[2:], problem.text) for problem in inconsistent),
    ]


def _drop(draft: Draft, problem: Problem, losses: LossReport) -> None:
    path = problem.path[:2]
    losses.add(draft.origin(path), f"{problem.text}: left out")
    draft.drop(path)
