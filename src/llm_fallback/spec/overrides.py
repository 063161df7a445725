"""Keyword arguments of `build_chat_model` and of a call: put where they belong, or refused with the reason."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llm_fallback.errors import Mistake, SpecError, did_you_mean
from llm_fallback.spec.entries import Deployment
from llm_fallback.spec.error_messages import mistaken_values, place_of
from llm_fallback.spec.load import load_spec, no_source
from llm_fallback.spec.locations import Problem
from llm_fallback.spec.model import Spec, of_build
from llm_fallback.spec.options import LangChainFields, ModelFields, ModelOptions, RequestParameters
from llm_fallback.spec.settings import Part
from llm_fallback.spec.typed_dicts import ChainSettingsDict

logger = logging.getLogger("llm_fallback")

CHAIN_SETTINGS = tuple(name for name in ChainSettingsDict.__annotations__ if name != "zones")
"""Without zones, which are a field of the model: what is given there narrows the chain's, and widens nothing."""
LANGCHAIN_FIELDS = frozenset({*LangChainFields.__annotations__, "listeners", "zones"})
MODEL_FIELDS = frozenset(ModelFields.__annotations__)
REQUEST_PARAMETERS = frozenset(RequestParameters.__annotations__)
LANGCHAIN_WORDS = {"timeout": ("timeouts", "total_s"), "max_retries": ("retries", "max")}
"""LangChain's words for settings of a chain: the setting, and the key in it."""

SHARED: Mapping[str, str] = {
    "api_key": "`api_key` of a deployment",
    "api_base": "`api_base` of a deployment",
    "base_url": "`api_base` of a deployment",
    "organization": "`params.organization` of a deployment",
    "custom_llm_provider": "the provider in a deployment's `model`",
    "extra_headers": "`params.extra_headers` of a deployment",
    "fallbacks": "`tiers` of a chain",
    "num_retries": "`retries.max` of a chain",
    "mock_response": "a FakeServer of llm_fallback.testing",
}
"""Arguments that would reach every provider alike, and where their meaning belongs in a spec."""

_OF_A_DEPLOYMENT = frozenset(Deployment.model_fields) - frozenset(SHARED) - {"model", "profile", *CHAIN_SETTINGS}
_CHECKED = frozenset({*SHARED, *CHAIN_SETTINGS, *_OF_A_DEPLOYMENT, "timeout", "max_retries", "tool_choice"})
"""Arguments of a call that may be wrong; most calls have none of them."""
_ONE_PROVIDER_ONLY = "what only one provider knows goes into model_kwargs={...}"
_REQUEST = frozenset({*MODEL_FIELDS, *REQUEST_PARAMETERS})
_CALL = frozenset(
    {
        *_REQUEST,
        *LANGCHAIN_WORDS,
        *("chain", "model", "stream", "strict", "metadata", "run_manager", "ls_structured_output_format"),
    }
)
"""Words of a call that need no second look."""
_CLEARLY_MEANT = 0.85
"""How like a known word an unknown one is for a slip: `temprature` is, `min_tokens` is not."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The spec and chain a model is built from, and its other constructor arguments."""

    spec: Spec
    chain: str
    chain_settings: Mapping[str, Any]
    """What the arguments set for every chain; it is in the spec."""
    fields: Mapping[str, Any]
    """Fields of the chat model."""


def configure(source: Any, settings: Mapping[str, Any]) -> Configuration:
    """Sort the arguments of `build_chat_model`: chain settings go into the spec, for whichever of its chains is asked;
    the rest become fields of the model.

    Raises one SpecError with every argument that belongs nowhere.
    """
    words = {name: value for name, value in settings.items() if name not in ("chain", "model")}
    mistakes = [*_shared(words), *_unknown(words), *_no_limits(words), *_values(words)]
    if mistakes:
        raise SpecError(mistakes, "arguments")
    spec = read_spec(source)
    word = "model" if settings.get("model") and not settings.get("chain") else "chain"
    chain = spec.chain_name(settings.get(word) or None, word)
    chosen = {name: words.pop(name) for name in CHAIN_SETTINGS if name in words}
    _translate(words, chosen)
    spec = spec.with_chain_settings(*spec.chains, **chosen)
    extra = {name: words.pop(name) for name in list(words) if name in REQUEST_PARAMETERS}
    if extra:
        words["model_kwargs"] = {**words.get("model_kwargs", {}), **extra}
    return Configuration(spec, chain, chosen, words)


def read_spec(source: Any) -> Spec:
    """A spec from whatever `build_chat_model` takes: a Spec, a path, a mapping, or a list of model names."""
    if isinstance(source, str | Path | Mapping | Spec):
        return load_spec(source)
    if isinstance(source, Sequence) and all(isinstance(model, str) for model in source):
        return load_spec(source)
    raise SpecError([no_source(source)], "arguments")


def check_call(words: Mapping[str, Any]) -> None:
    """Raise SpecError for arguments that a call may not have: settings of a chain or a deployment, what would reach
    every provider alike, limits and choices that are none. Log a warning of words that look misspelt, once for each.
    """
    if not _CHECKED.isdisjoint(words):
        misplaced = [*_shared(words), *_of_the_chain(words), *_of_a_deployment(words)]
        mistakes = [*misplaced, *_no_limits(words), *_no_choice(words)]
        if mistakes:
            raise SpecError(mistakes, "arguments")
    # Nearly every call is over here.
    if not words.keys() <= _CALL:
        for word in words.keys() - _CALL:
            _warn_if_misspelt(word)


@lru_cache(maxsize=256)
def _warn_if_misspelt(word: str) -> None:
    meant = misspelt(word)
    if meant:
        logger.warning("%r is no word of a call that is known; %s It is sent as it is", word, meant)


def misspelt(word: str) -> str:
    """`did you mean 'temperature'?` for a request parameter that looks like a slip of a known one; else empty."""
    return "" if word in _REQUEST else did_you_mean(word, _CALL, likeness=_CLEARLY_MEANT)


def mistaken_parameters(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of known request parameters that are of no type that these take."""
    for kind in (ModelFields, RequestParameters):
        known = kind.__annotations__
        yield from mistaken_values(kind, {name: value for name, value in parameters.items() if name in known})


def _no_limits(words: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with `timeout` and `max_retries`."""
    timeout, retries = words.get("timeout"), words.get("max_retries")
    if not (timeout is None or (_is_number(timeout) and 0 < timeout <= sys.float_info.max)):
        yield Mistake(
            "timeout",
            f"must be a number of seconds greater than 0, got {timeout!r}",
            "write timeout=20, or leave it out for the chain's timeouts.total_s",
        )
    if not (retries is None or (type(retries) is int and retries >= 0)):
        yield Mistake(
            "max_retries",
            f"must be a whole number, at least 0, got {retries!r}",
            "write max_retries=0 for none, or leave it out for the chain's retries.max",
        )


def _no_choice(words: Mapping[str, Any]) -> Iterator[Mistake]:
    if words.get("tool_choice") is False:
        yield Mistake("tool_choice", "no server knows False", "write 'none' for no tool, or leave it out")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _values(words: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the values of request parameters and listeners."""
    for problem in mistaken_parameters({name: value for name, value in words.items() if value is not None}):
        yield of_build(problem)
    listeners = words.get("listeners", ())
    if callable(listeners) or not isinstance(listeners, Iterable):
        text = f"must be a list of functions, got {'a function' if callable(listeners) else repr(listeners)}"
        yield Mistake("build_chat_model(listeners)", text, "write listeners=[...]")


def _of_the_chain(words: Iterable[str]) -> list[Mistake]:
    return [
        Mistake(word, "is a setting of the chain and not of a call", "give it to build_chat_model, or in the spec")
        for word in words
        if word in CHAIN_SETTINGS
    ]


def _of_a_deployment(words: Iterable[str]) -> list[Mistake]:
    return [
        Mistake(word, "is a setting of a deployment and not of a call", f"in the spec it is deployments.<name>.{word}")
        for word in words
        if word in _OF_A_DEPLOYMENT
    ]


def _shared(words: Iterable[str]) -> list[Mistake]:
    return [
        Mistake(word, "would reach every deployment of the chain alike", f"use {SHARED[word]}")
        for word in words
        if word in SHARED
    ]


def _unknown(words: Mapping[str, Any]) -> list[Mistake]:
    known = {*ModelOptions.__annotations__, *LANGCHAIN_FIELDS, *SHARED}
    return [
        Mistake(word, "is no setting, model field or request parameter", _meant(word, value, known))
        for word, value in words.items()
        if word not in known
    ]


def _meant(word: str, value: Any, known: Iterable[str]) -> str:
    """A setting of deployments or of the spec, by its place there; else the nearest word."""
    place = place_of(Spec, word, value)
    return place.replace("here", "in a spec", 1) if place else did_you_mean(word, known, _ONE_PROVIDER_ONLY)


def _translate(words: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Turn `timeout` and `max_retries` into settings of the chain."""
    for word, (setting, part) in LANGCHAIN_WORDS.items():
        value = words.pop(word, None)
        if value is not None:
            given = chosen.get(setting, {})
            chosen[setting] = {part: value, **(given.given() if isinstance(given, Part) else given)}
