"""Turns pydantic's validation errors into problems with a remedy.

A text says what is wrong and shows the value, unless it is a secret. The remedy for an unknown key is the nearest valid
one, or the key here that means the same as one of litellm's `completion`, Router or proxy configuration, LangChain's
chat models or a serving system. `SYNONYMS` lists the keys such a one may mean; the first that exists there is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from llm_fallback.errors import did_you_mean
from llm_fallback.spec.locations import LocationMap, Path, Problem
from llm_fallback.spec.secrets import safe_repr

_SHORTHAND: dict[str, str] = {
    "retries": "max",
    "timeouts": "total_s",
    "hedge": "after_s",
    "budget": "usd_per_call",
    "breaker": "failures",
    "limits": "max_parallel",
    "cold_start": "max_wait_s",
}
"""Mappings for which a number alone is often written, and the key it is meant for."""

_M = TypeVar("_M", bound=BaseModel)

_KIND_NAMES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "mapping_type": "a mapping",
    "sequence_str": "a list",
    "callable_type": "a function",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
}
_ALTERNATIVE_TO_WORD = {"after_s": "a number of seconds", "max_parallel": "a whole number"}
_OWNERS = ("deployments", "chains")
_MOST_REMEDIES = 100
"""Unknown keys for which the right one is looked up: it takes a millisecond each, and nobody reads more."""


def validate(
    kind: type[_M],
    data: Mapping[str, Any],
    locations: LocationMap | None = None,
    *,
    whole: type[BaseModel] | None = None,
) -> _M | list[Problem]:
    """The data as a `kind`, or every problem in it.

    `whole` is the model that `kind` is a part of, to say where a key belongs that is unknown here.
    """
    try:
        return kind.model_validate(data, context=locations)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    # Of a key with half a character pydantic tells at the mapping around it, be it the whole.
    told = [
        details
        for details in errors
        if (details["loc"] or details["type"] == "string_unicode") and not _is_consequence(details)
    ]
    return [_problem(kind, whole or kind, details, index < _MOST_REMEDIES) for index, details in enumerate(told)]


def _is_consequence(error: ErrorDetails) -> bool:
    """Whether a list is too short only because its items are invalid, which is reported for each of them."""
    return error["type"] == "too_short" and bool(error["input"])


def _problem(root: type[BaseModel], whole: type[BaseModel], error: ErrorDetails, with_remedy: bool) -> Problem:
    # pydantic puts the tags of our unions into the path; they do not appear in a spec.
    path = tuple(part for part in error["loc"] if not str(part).startswith("<"))
    if error["type"] == "extra_forbidden":
        remedy = _key_remedy(root, whole, path, error["input"]) if with_remedy else None
        return Problem(path, f"unknown key {path[-1]!r}", remedy)
    text, remedy = _text_and_remedy(error, path)
    return Problem(path, text, remedy)


def _text_and_remedy(error: ErrorDetails, path: Path) -> tuple[str, str | None]:
    kind, context = error["type"], error.get("ctx", {})
    got = partial(_with_value, value=error["input"], path=path)
    if kind == "spec":
        return context["text"], context["remedy"]
    if kind == "missing":
        return "is missing", None
    if kind == "too_short" or kind == "string_too_short":
        return "is empty", None
    if kind == "string_unicode":
        return got("there is half a character"), None
    if kind == "literal_error":
        return _choice(got, error, path)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return got(f"must be {words} {context[bound]:g}"), None
    remedy = _in_a_mapping(error["input"], path) if kind == "model_type" else _no_variable(error["input"])
    return got(f"must be {_KIND_NAMES[kind]}" if kind in _KIND_NAMES else error["msg"]), remedy


def _in_a_mapping(value: Any, path: Path) -> str | None:
    """How a number is written where a mapping is asked for: `{max: 1}`."""
    name = str(path[-1])
    key = "attempt_s" if name == "timeouts" and path[0] == "deployments" else _SHORTHAND.get(name)
    if key is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"write {{{key}: {value}}}"


def mistaken_values(kind: Any, values: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with values that are to be of the types that a TypedDict names; what it does not name may be."""
    try:
        _adapter(kind).validate_python(values)
    except ValidationError as error:
        yield from problems_of_values(error)


def problems_of_values(error: ValidationError) -> Iterator[Problem]:
    """One problem for each value that is of none of the types it may have."""
    told: dict[Any, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        told.setdefault(details["loc"][0], []).append(details)
    for name, all_details in told.items():
        kinds = dict.fromkeys(_kind_of_value(details) for details in all_details)
        text = f"must be {' or '.join(kinds)}"
        yield Problem((str(name),), _with_value(text, value=all_details[0]["input"], path=(str(name),)))


def _kind_of_value(error: ErrorDetails) -> str:
    kind = error["type"]
    for name in (kind, kind.replace("_parsing", "_type"), kind.replace("_from_float", "_type")):
        if name in _KIND_NAMES:
            return _KIND_NAMES[name]
    if kind == "is_instance_of" and error["ctx"]["class"] == "Sequence":
        return "a list"
    return error["msg"].removeprefix("Input should be ")


@lru_cache(maxsize=16)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def place_of(whole: type[BaseModel], word: str, value: Any) -> str | None:
    """Where a key, of ours or a foreign one, belongs in a spec; None if nowhere."""
    return _other_place_remedy(whole, word, value)


def _with_value(text: str, *, value: Any, path: Path) -> str:
    got = safe_repr(value, path)
    return text if got is None else f"{text}, got {got}"


def _choice(got: Callable[[str], str], error: ErrorDetails, path: Path) -> tuple[str, str | None]:
    expected = error["ctx"]["expected"].removesuffix(" or False")
    alternative = _ALTERNATIVE_TO_WORD.get(str(path[-1]), "a mapping") if error["loc"][-1] == "<word>" else None
    text = f"must be {expected} or {alternative}" if alternative else f"must be {expected}"
    return got(text), did_you_mean(error["input"], re.findall(r"'([^']*)'", expected)) or None


def _no_variable(value: Any) -> str | None:
    if isinstance(value, str) and "${" in value:
        return "variables stand only in model, base_model, api_key, api_base, params, budget.file and fleet"
    return None


def _key_remedy(root: type[BaseModel], whole: type[BaseModel], path: Path, value: Any) -> str:
    around, word = path[:-1], str(path[-1])
    here = _keys_at(root, around)
    return (
        _synonym_remedy(root, around, word, value)
        or _section_remedy(root, around, word)
        or did_you_mean(word, here)
        or _other_place_remedy(whole, word, value)
        or f"known are {', '.join(here)}"
    )


def _synonym_remedy(root: type[BaseModel], around: Path, word: str, value: Any) -> str | None:
    """The key here that a foreign key means, if it may be written at this place."""
    for target in _targets(word):
        for reach in (target, target.rpartition(".")[2]):
            if _is_key(root, around, reach):
                return f"here it is {reach!r}" + _converted(word, value)
    return None


def _section_remedy(root: type[BaseModel], around: Path, word: str) -> str | None:
    sections = (section for section in _keys_at(root, around) if word in _keys_at(root, (*around, section)))
    return next((f"it stands in {section!r}: {section}.{word}" for section in sections), None)


def _other_place_remedy(root: type[BaseModel], word: str, value: Any) -> str | None:
    """Where a key, of ours or a foreign one, belongs from the top: `chains.<name>.retries.max`."""
    for owner in _OWNERS:
        around = (owner, "<name>")
        sections = (f"{section}.{word}" for section in _keys_at(root, around) if section != "params")
        for target in (*_targets(word), word, *sections):
            if _is_key(root, around, target):
                return f"here it is '{owner}.<name>.{target}'" + _converted(word, value)
    return next((f"here it is {target!r}" for target in _targets(word) if _is_key(root, (), target)), None)


def _targets(word: str) -> tuple[str, ...]:
    return SYNONYMS.get(word.lower().replace("-", "_"), ())


def _converted(word: str, value: Any) -> str:
    if word not in PER_TOKEN:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f", a million times as much: {value * 1_000_000:.10g}"
    return ", a million times as much"


def _is_key(root: type[BaseModel], around: Path, target: str) -> bool:
    *sections, word = target.split(".")
    section = (*around, *sections)
    return word in _keys_at(root, section) or (section[-1:] == ("params",) and "params" in _keys_at(root, around))


@lru_cache(maxsize=1024)
def _keys_at(root: type[BaseModel], path: Path) -> tuple[str, ...]:
    """The keys that may be written at a path."""
    kinds: list[Any] = [root]
    for part in path:
        kinds = [inner for kind in kinds for inner in _kinds_inside(kind, part)]
    return tuple(word for kind in kinds for word in _fields(kind))


def _kinds_inside(kind: Any, part: str | int) -> list[Any]:
    if get_origin(kind) is dict:
        return _union_members(get_args(kind)[1])
    return _union_members(_fields(kind).get(str(part)))


def _fields(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return dict(kind.__annotations__) if is_typeddict(kind) else {}


def _union_members(annotation: Any) -> list[Any]:
    """The members of a union, without their annotations."""
    origin = get_origin(annotation)
    if origin is dict or not get_args(annotation):
        return [annotation]
    return [member for argument in get_args(annotation) for member in _union_members(argument)]


SYNONYMS: dict[str, tuple[str, ...]] = {
    # address and model
    "api_endpoint": ("api_base",),
    "azure_endpoint": ("api_base",),
    "base_url": ("api_base",),
    "endpoint": ("api_base",),
    "openai_api_base": ("api_base",),
    "url": ("api_base",),
    "apikey": ("api_key",),
    "key": ("api_key",),
    "openai_api_key": ("api_key",),
    "anthropic_api_key": ("api_key",),
    "google_api_key": ("api_key",),
    "token": ("api_key",),
    "model_name": ("model",),
    "model_id": ("model",),
    "served_model_name": ("model",),
    "custom_llm_provider": ("backend",),
    "engine": ("backend",),
    "model_provider": ("backend",),
    "provider": ("backend",),
    "model_kwargs": ("params",),
    "kwargs": ("params",),
    "parameters": ("params",),
    "litellm_params": ("params",),
    "context_length": ("context_window",),
    "max_context": ("context_window",),
    "max_input_tokens": ("context_window", "profile.max_input_tokens"),
    "max_model_len": ("context_window",),
    "max_seq_len": ("context_window",),
    "n_ctx": ("context_window",),
    "model_info": ("profile",),
    "supports_function_calling": ("profile.tool_calling",),
    "supports_vision": ("profile.image_inputs",),
    "supports_response_schema": ("profile.structured_output",),
    # chains and fallbacks
    "models": ("tiers", "deployments"),
    "model_group_alias": ("chains",),
    "model_list": ("deployments",),
    "router_settings": ("defaults",),
    "litellm_settings": ("defaults",),
    "endpoints": ("deployments",),
    "fallbacks": ("tiers",),
    "default_fallbacks": ("tiers",),
    "order": ("tiers",),
    "priority": ("tiers",),
    "targets": ("tiers",),
    "context_window_fallbacks": ("on_context_window",),
    "content_policy_fallbacks": ("on_content_policy",),
    "default_model": ("default_chain",),
    # timeouts
    "timeout": ("timeouts.total_s", "timeouts.attempt_s"),
    "max_time": ("timeouts.total_s",),
    "deadline": ("timeouts.total_s",),
    "total_timeout": ("timeouts.total_s",),
    "request_timeout": ("timeouts.attempt_s",),
    "read_timeout": ("timeouts.idle_s",),
    "stream_idle_timeout": ("timeouts.idle_s",),
    "stream_timeout": ("timeouts.first_token_s",),
    "ttft_timeout": ("timeouts.first_token_s",),
    # retries and breakers
    "max_attempts": ("retries.max",),
    "max_retries": ("retries.max",),
    "num_retries": ("retries.max",),
    "retry": ("retries.max",),
    "stop_after_attempt": ("retries.max",),
    "retry_after": ("retries.wait_initial_s",),
    "allowed_fails": ("breaker.failures",),
    "failure_threshold": ("breaker.failures",),
    "cooldown": ("breaker.cooldown_s",),
    "cooldown_time": ("breaker.cooldown_s",),
    "recovery_timeout": ("breaker.cooldown_s",),
    "circuit_breaker": ("breaker",),
    # limits and prices
    "concurrency": ("limits.max_parallel",),
    "max_concurrency": ("limits.max_parallel",),
    "max_parallel_requests": ("limits.max_parallel",),
    "rate_limit": ("limits.rpm",),
    "max_budget": ("budget.usd_per_day",),
    "input_cost_per_token": ("price.input_per_million",),
    "output_cost_per_token": ("price.output_per_million",),
    "cache_read_input_token_cost": ("price.cached_input_per_million",),
    "cache_creation_input_token_cost": ("price.cache_write_per_million",),
    "output_cost_per_reasoning_token": ("price.reasoning_per_million",),
    "input_cost_per_audio_token": ("price.audio_input_per_million",),
    "output_cost_per_audio_token": ("price.audio_output_per_million",),
    "input_cost_per_query": ("price.per_request",),
    # request parameters
    "headers": ("params.extra_headers",),
    **{
        name: (f"params.{name}",)
        for name in (
            "api_version",
            "aws_region_name",
            "drop_params",
            "extra_body",
            "extra_headers",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "metadata",
            "n",
            "organization",
            "parallel_tool_calls",
            "presence_penalty",
            "reasoning_effort",
            "response_format",
            "safety_settings",
            "seed",
            "service_tier",
            "stop",
            "temperature",
            "thinking",
            "tool_choice",
            "tools",
            "top_k",
            "top_logprobs",
            "top_p",
            "user",
            "verbosity",
            "vertex_location",
            "vertex_project",
        )
    },
}

PER_TOKEN = frozenset(word for word, (target, *_) in SYNONYMS.items() if target.endswith("_per_million"))
"""Synonyms whose value is a price per token; here prices are per million."""

OWNED_PARAMETERS: dict[str, str] = {
    "api_key": "write it as the deployment's own 'api_key'",
    "api_base": "write it as the deployment's own 'api_base'",
    "base_url": "write it as the deployment's own 'api_base'",
    "model": "write it as the deployment's own 'model'",
    "custom_llm_provider": "write the provider into 'model', as in 'openai/gpt-4.1', or name a 'backend'",
    "timeout": "write 'timeouts.attempt_s' in the deployment, or 'timeouts.total_s' in the chain",
    "request_timeout": "write 'timeouts.attempt_s' in the deployment",
    "stream_timeout": "write 'timeouts.first_token_s' in the deployment",
    "num_retries": "write 'retries.max' in the chain",
    "max_retries": "write 'retries.max' in the chain",
    "fallbacks": "write 'tiers' in the chain",
    "stream": "leave it out: stream() and astream() stream, invoke() does not",
    "messages": "leave it out: messages come with the call, or as the 'prompt' of a runnable",
    "mock_response": "leave it out: llm_fallback.testing plays scripted replies",
}
"""Keys that must not stand in a deployment's `params`, and where they belong."""
