"""Keyword arguments of `build_chat_model` and of a call: put where they belong, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_fallback.errors import Mistake, SpecError, did_you_mean
from llm_fallback.spec.load import load_spec
from llm_fallback.spec.model import Spec
from llm_fallback.spec.options import LangChainFields, ModelFields, ModelOptions, RequestParameters
from llm_fallback.spec.typed_dicts import ChainSettingsDict

CHAIN_SETTINGS = tuple(ChainSettingsDict.__annotations__)
LANGCHAIN_FIELDS = frozenset({*LangChainFields.__annotations__, "listeners"})
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

_CHECKED = frozenset({*SHARED, *CHAIN_SETTINGS, "timeout", "max_retries"})
"""Arguments of a call that may be wrong; most calls have none of them."""
_ONE_PROVIDER_ONLY = "what only one provider knows goes into model_kwargs={...}"


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
    mistakes = [*_shared(words), *_unknown(words), *_no_limits(words)]
    if mistakes:
        raise SpecError(mistakes)
    spec = read_spec(source)
    chain = spec.chain_name(settings.get("chain") or settings.get("model"))
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
    kind = type(source).__name__
    raise SpecError([Mistake("", f"a spec cannot be read from {kind}", "give a path, a mapping or a list of models")])


def check_call(words: Mapping[str, Any]) -> None:
    """Raise SpecError for arguments that a call may not have: settings of a chain, what would reach every provider
    alike, and limits that are none."""
    if not _CHECKED.isdisjoint(words):
        mistakes = [*_shared(words), *_of_the_chain(words), *_no_limits(words)]
        if mistakes:
            raise SpecError(mistakes)


def _no_limits(words: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with `timeout` and `max_retries`."""
    timeout, retries = words.get("timeout"), words.get("max_retries")
    if not (timeout is None or (_is_number(timeout) and 0 < timeout < math.inf)):
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_the_chain(words: Iterable[str]) -> list[Mistake]:
    return [
        Mistake(word, "is a setting of the chain and not of a call", "give it to build_chat_model, or in the spec")
        for word in words
        if word in CHAIN_SETTINGS
    ]


def _shared(words: Iterable[str]) -> list[Mistake]:
    return [
        Mistake(word, "would reach every deployment of the chain alike", f"use {SHARED[word]}")
        for word in words
        if word in SHARED
    ]


def _unknown(words: Iterable[str]) -> list[Mistake]:
    known = {*ModelOptions.__annotations__, *LANGCHAIN_FIELDS, *SHARED}
    return [
        Mistake(word, "is no setting, model field or request parameter", did_you_mean(word, known, _ONE_PROVIDER_ONLY))
        for word in words
        if word not in known
    ]


def _translate(words: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Turn `timeout` and `max_retries` into settings of the chain."""
    for word, (setting, part) in LANGCHAIN_WORDS.items():
        value = words.pop(word, None)
        if value is not None:
            chosen[setting] = {part: value, **dict(chosen.get(setting, {}))}
