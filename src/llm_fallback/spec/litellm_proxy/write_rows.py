"""Deployments as rows of `model_list`, their variables as LiteLLM knows them: whole values, `os.environ/NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from llm_fallback.spec.dump import VariableNames
from llm_fallback.spec.entries import Deployment
from llm_fallback.spec.litellm_proxy.draft import LossReport
from llm_fallback.spec.litellm_proxy.words import ABILITIES, NO_KEY, PRICES, SETTINGS
from llm_fallback.spec.litellm_proxy.words import BACKENDS as BACKEND_OF
from llm_fallback.spec.locations import Path
from llm_fallback.spec.model import Spec
from llm_fallback.spec.providers import BACKENDS
from llm_fallback.spec.secrets import is_secret_name
from llm_fallback.spec.settings import Breaker, Price
from llm_fallback.spec.variables import Reference, beside, references, resolve

Pairs = Iterator[tuple[str, Any]]


class RowWriter:
    """Writes deployments; what is the same in every chain is worked out once."""

    def __init__(self, spec: Spec, common_breaker: Breaker | None, text_writer: TextWriter, losses: LossReport) -> None:
        self._spec, self._common_breaker, self._text_writer, self._losses = spec, common_breaker, text_writer, losses
        self._asked: dict[str, dict[str, Any]] = {}
        self._known: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys(name for chain in spec.chains.values() for name in chain.deployments()):
            self._asked[name] = dict(self._how_asked(name))
            self._known[name] = dict(self._what_is_known(name))

    def write_row(self, chain: str, group: str, name: str, identity: str, *, shares: bool) -> dict[str, Any]:
        """One row; `shares`: others are in its tier, which would be weighed by rpm without a weight."""
        weight = self._spec.deployments[name].weight
        share = {"weight": _integral(weight)} if shares or weight != 1 else {}
        return {
            "model_name": group,
            "litellm_params": {**self._asked[name], **dict(self._timeouts(chain, name)), **share},
            "model_info": {"id": identity, **self._known[name]},
        }

    def _how_asked(self, name: str) -> Pairs:
        own, path = self._spec.deployments[name], ("deployments", name)
        backend = BACKENDS[own.backend] if own.backend else None
        yield "model", self._text_writer.text(backend.model(own.model) if backend else own.model, (*path, "model"))
        if own.api_base is not None:
            yield "api_base", self._address(own, (*path, "api_base"))
        if own.api_key is not None:
            yield "api_key", self._text_writer.value(own.api_key, (*path, "api_key"))
        elif own.api_base is not None:
            yield "api_key", NO_KEY
        for word, value in self._spec.params(name).items():
            yield word, self._text_writer.value(value, (*path, "params", word))
        limits = self._spec.limits(name)
        for word in ("rpm", "tpm", "max_parallel_requests"):
            value = None if limits is None else getattr(limits, str(SETTINGS[word][-1]))
            if value is not None:
                yield word, value
        yield from self._cooldown(name)

    def _address(self, own: Deployment, path: Path) -> str:
        address = str(own.api_base)
        if own.backend is None:
            return self._text_writer.text(address, path)
        if references(address) and not beside(address):
            self._losses.add(path, "LiteLLM adds no /v1: the variable's value must have it")
            return self._text_writer.text(address, path)
        return self._text_writer.text(BACKENDS[own.backend].base_url(address), path)

    def _cooldown(self, name: str) -> Pairs:
        breaker = self._spec.breaker(name)
        if breaker is None:
            yield from () if self._common_breaker is None else (("cooldown_time", 0),)
        elif self._common_breaker is None or breaker.cooldown_s != self._common_breaker.cooldown_s:
            yield "cooldown_time", _integral(breaker.cooldown_s)

    def _timeouts(self, chain: str, name: str) -> Pairs:
        timeouts = self._spec.timeouts(chain, name)
        attempt_s = timeouts.total_s if timeouts.attempt_s is None else timeouts.attempt_s
        yield "timeout", _integral(attempt_s)
        if timeouts.first_token_s is not None:
            yield "stream_timeout", _integral(timeouts.first_token_s)

    def _what_is_known(self, name: str) -> Pairs:
        own = self._spec.deployments[name]
        if own.backend is not None and own.backend not in BACKEND_OF.values():
            yield "backend", own.backend
        if own.base_model is not None:
            yield "base_model", self._text_writer.text(own.base_model, ("deployments", name, "base_model"))
        if own.context_window is not None:
            yield "max_input_tokens", own.context_window
        for word, ability in ABILITIES.items():
            if ability in own.profile:
                yield word, dict(own.profile)[ability]
        yield from _prices(own)
        breaker = self._spec.breaker(name)
        if breaker is not None and (self._common_breaker is None or breaker.failures != self._common_breaker.failures):
            yield "allowed_fails", breaker.failures


def _prices(own: Deployment) -> Pairs:
    price = Price(input_per_million=0, output_per_million=0) if own.price == "free" else own.price
    for word, (field, factor) in PRICES.items():
        value = None if price is None else getattr(price, field)
        if value is not None:
            yield word, float(value / factor)


def _integral(number: float) -> float:
    """30 rather than 30.0."""
    return int(number) if number == int(number) else number


class TextWriter:
    """The texts of a spec that holds no secret in clear."""

    def __init__(self, fresh: VariableNames, losses: LossReport) -> None:
        self._fresh, self._losses = fresh, losses

    def value(self, value: Any, path: Path) -> Any:
        """Nested data in LiteLLM's way."""
        match value:
            case SecretStr():
                return self.text(value.get_secret_value(), path)
            case str():
                return self.text(value, path)
            case Mapping():
                return {key: self.value(item, (*path, key)) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def text(self, text: str, path: Path) -> str:
        named = references(text)
        if not named:
            return resolve(text, {})
        if len(named) == 1 and not beside(text):
            return self._whole(named[0], path)
        name = self._fresh.name(path)
        value = "what stands there" if _is_secret(path) else repr(text)
        self._losses.add(path, f"LiteLLM takes a variable only as a whole value: set {name} to {value}")
        return f"os.environ/{name}"

    def _whole(self, reference: Reference, path: Path) -> str:
        if reference.default is not None:
            usually = "" if _is_secret(path) else f", usually to {reference.default!r}"
            self._losses.add(path, f"LiteLLM knows no default of a variable: set {reference.name}{usually}")
        return f"os.environ/{reference.name}"


def _is_secret(path: Path) -> bool:
    return any(isinstance(part, str) and is_secret_name(part) for part in path)
