"""Writes deployments as rows of `model_list`. LiteLLM takes a variable only as a whole value, `os.environ/NAME`."""

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
    """Writes deployments as rows; what is the same in every chain is prepared once."""

    def __init__(self, spec: Spec, common_breaker: Breaker | None, text_writer: TextWriter, losses: LossReport) -> None:
        self._spec, self._common_breaker, self._text_writer, self._losses = spec, common_breaker, text_writer, losses
        self._params: dict[str, dict[str, Any]] = {}
        self._info: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys(name for chain in spec.chains.values() for name in chain.deployments()):
            self._params[name] = dict(self._litellm_params(name))
            self._info[name] = dict(self._model_info(name))

    def write_row(self, chain: str, group: str, name: str, identity: str, *, shares: bool) -> dict[str, Any]:
        """One row. `shares`: its tier has other members, so it needs a weight, or LiteLLM would weigh by rpm."""
        weight = self._spec.deployments[name].weight
        share = {"weight": _integral(weight)} if shares or weight != 1 else {}
        return {
            "model_name": group,
            "litellm_params": {**self._params[name], **dict(self._timeouts(chain, name)), **share},
            "model_info": {"id": identity, **self._info[name]},
        }

    def _litellm_params(self, name: str) -> Pairs:
        deployment, path = self._spec.deployments[name], ("deployments", name)
        backend = BACKENDS[deployment.backend] if deployment.backend else None
        model = backend.model(deployment.model) if backend else deployment.model
        yield "model", self._text_writer.text(model, (*path, "model"))
        if deployment.api_base is not None:
            yield "api_base", self._address(deployment, (*path, "api_base"))
        if deployment.api_key is not None:
            yield "api_key", self._text_writer.value(deployment.api_key, (*path, "api_key"))
        elif deployment.api_base is not None:
            yield "api_key", NO_KEY
        for key, value in self._spec.params(name).items():
            yield key, self._text_writer.value(value, (*path, "params", key))
        limits = self._spec.limits(name)
        for key in ("rpm", "tpm", "max_parallel_requests"):
            value = None if limits is None else getattr(limits, str(SETTINGS[key][-1]))
            if value == "auto":
                self._losses.add(("deployments", name, "limits", "max_parallel"), "LiteLLM finds no limit by itself")
            elif value is not None:
                yield key, value
        yield from self._cooldown(name)

    def _address(self, deployment: Deployment, path: Path) -> str:
        address = str(deployment.api_base)
        if deployment.backend is None:
            return self._text_writer.text(address, path)
        if references(address) and not beside(address):
            self._losses.add(path, "LiteLLM adds no /v1: the variable's value must have it")
            return self._text_writer.text(address, path)
        return self._text_writer.text(BACKENDS[deployment.backend].base_url(address), path)

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

    def _model_info(self, name: str) -> Pairs:
        deployment = self._spec.deployments[name]
        if deployment.backend is not None and deployment.backend not in BACKEND_OF.values():
            yield "backend", deployment.backend
        if deployment.base_model is not None:
            yield "base_model", self._text_writer.text(deployment.base_model, ("deployments", name, "base_model"))
        if deployment.context_window is not None:
            yield "max_input_tokens", deployment.context_window
        for key, ability in ABILITIES.items():
            if ability in deployment.profile:
                yield key, dict(deployment.profile)[ability]
        yield from _prices(deployment)
        breaker = self._spec.breaker(name)
        if breaker is not None and (self._common_breaker is None or breaker.failures != self._common_breaker.failures):
            yield "allowed_fails", breaker.failures


def _prices(deployment: Deployment) -> Pairs:
    price = Price(input_per_million=0, output_per_million=0) if deployment.price == "free" else deployment.price
    for key, (field, factor) in PRICES.items():
        value = None if price is None else getattr(price, field)
        if value is not None:
            yield key, float(value / factor)


def _integral(number: float) -> float:
    """30 rather than 30.0."""
    return int(number) if number == int(number) else number


class TextWriter:
    """Writes the texts of a spec that has no secret in clear. A text with a variable inside becomes a new variable."""

    def __init__(self, names: VariableNames, losses: LossReport) -> None:
        self._names, self._losses = names, losses

    def value(self, value: Any, path: Path) -> Any:
        """Nested data, with every text written by `text`."""
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
        """One text: as it is, or as `os.environ/NAME`; a note says what to set."""
        variables = references(text)
        if not variables:
            return resolve(text, {})
        if len(variables) == 1 and not beside(text):
            return self._whole(variables[0], path)
        name = self._names.name(path)
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
