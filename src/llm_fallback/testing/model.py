"""A chat model over scripted deployments, in the process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Unpack
from urllib.parse import quote

from langchain_core.messages import BaseMessage
from pydantic import Field

from llm_fallback.chat_model.base import ChainChatModel
from llm_fallback.chat_model.caller import Listener
from llm_fallback.chat_model.managed import fields_of
from llm_fallback.chat_model.runtime import Adapter, ModelRuntime
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.errors import Mistake, SpecError
from llm_fallback.plan.catalogue import ListCatalogue
from llm_fallback.plan.model_list import lookup
from llm_fallback.plan.plan import Plan
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import Spec
from llm_fallback.spec.consistency import suggest
from llm_fallback.spec.load import Source
from llm_fallback.spec.options import ModelOptions
from llm_fallback.spec.overrides import read_spec
from llm_fallback.testing.deployments import FakeDeployments, Received
from llm_fallback.testing.openai_chat import OpenAIChat, messages_of
from llm_fallback.testing.scripts import Scripted
from llm_fallback.testing.transport import ScriptedTransport


def fake_chat_model(
    scripts: Mapping[str, Scripted] | None = None,
    *,
    spec: Source | None = None,
    chain: str | None = None,
    clock: Clock | None = None,
    listeners: Sequence[Listener] = (),
    **options: Unpack[ModelOptions],
) -> FakeChatModel:
    """A chat model that fails as scripted: no sockets, no litellm, no waiting.

    `scripts` says what each deployment does; they are tried in that order. Without a script a deployment makes up a
    sensible answer. `spec` is anything `build_chat_model` takes: its chains are used, all its deployments are replaced
    by fakes, and its variables need not be set. `options` are those of `build_chat_model`.

    Unless another clock is given, time is a `JumpingClock`'s: it passes only where something waits, and then at once.

    Raises SpecError for a wrong spec or override, and for scripts of deployments the spec does not have.
    """
    return FakeChatModel(spec=spec, scripts=scripts, chain=chain, clock=clock, listeners=listeners, **options)


class FakeChatModel(ChainChatModel, OpenAIChat):
    """`FallbackChatModel` over deployments that play scripts.

    Engine, parameters, metadata and errors are the same. It is not a ChatLiteLLMRouter and has no `router`, and its
    deployments accept every parameter.
    """

    fakes: FakeDeployments = Field(exclude=True, repr=False)

    def __init__(
        self,
        *,
        spec: Source | None = None,
        scripts: Mapping[str, Scripted] | None = None,
        chain: str | None = None,
        clock: Clock | None = None,
        listeners: Sequence[Listener] = (),
        fakes: FakeDeployments | None = None,
        runtime: ModelRuntime | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        if runtime is None or fakes is None:
            clock = JumpingClock() if clock is None else clock
            spec = None if spec is None else read_spec(spec)
            fakes = _fake_deployments(scripts, spec, chain, clock)
            spec = fakes.chain_spec(_address, "openai-compatible", {}, {}) if spec is None else spec
            adapter = _adapter(fakes, clock)
        else:
            adapter = runtime.adapter
        settings = {**options, "chain": chain, "listeners": listeners}
        super().__init__(**fields_of(spec, runtime, settings, adapter), fakes=fakes)

    @property
    def clock(self) -> Clock:
        """The clock of this model."""
        return self.runtime.engine.clock

    def script(self, name: str, *steps: Scripted) -> None:
        """Give a deployment another script from its next request on, for every copy of this model.

        One step is repeated for ever; several steps, or one list, are played once. Without any, the deployment makes up
        sensible answers.
        """
        self.fakes.script(name, *steps)

    def received(self, name: str | None = None) -> list[Received]:
        """The requests so far, oldest first; of one deployment if it is named."""
        return self.fakes.received(name)

    def _write(self, messages: list[BaseMessage]) -> list[dict[str, Any]]:
        return messages_of(messages)

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        return self._openai_request(messages, stop, kwargs)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**super()._identifying_params, **self._chain_identity()}


def _fake_deployments(
    scripts: Mapping[str, Scripted] | None, spec: Spec | None, chain: str | None, clock: Clock
) -> FakeDeployments:
    if spec is None:
        return FakeDeployments(scripts, chain=chain or "default", now=clock.now)
    scripts = scripts or {}
    mistakes = [
        Mistake(f"scripts[{name!r}]", f"no deployment is called {name!r}", suggest(name, spec.deployments))
        for name in scripts
        if name not in spec.deployments
    ]
    if mistakes:
        raise SpecError(mistakes, "arguments")
    return FakeDeployments({name: scripts.get(name) for name in spec.deployments}, now=clock.now)


def _address(name: str) -> str:
    return f"http://{quote(name, safe='', errors='replace')}.invalid"


def _adapter(fakes: FakeDeployments, clock: Clock) -> Adapter:
    return Adapter(
        resolve=_resolve_without_keys,
        transport=partial(ScriptedTransport, fakes, clock),
        catalogue=lambda: ListCatalogue(lookup),
        clock=clock,
        rng=lambda: Random(0),
    )


def _resolve_without_keys(spec: Spec) -> Plan:
    """The plan of a spec without its API keys; a variable that is not set has its reference as its value."""
    required = {reference.name for _, reference in spec.references() if reference.default is None}
    environ = spec.environment(os.environ)
    variables = {name: environ.get(name) or f"${{{name}}}" for name in required}
    keyless = {name: deployment.model_copy(update={"api_key": None}) for name, deployment in spec.deployments.items()}
    return resolve_spec(spec.model_copy(update={"deployments": keyless}), {**environ, **variables})
