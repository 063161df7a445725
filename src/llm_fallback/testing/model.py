"""A chat model over scripted deployments, in the process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from langchain_core.outputs import ChatResult
from pydantic import Field

from llm_fallback.chat_model.base import ChainChatModel, fields_of
from llm_fallback.chat_model.caller import Listener
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
from llm_fallback.spec.overrides import read_spec
from llm_fallback.testing.deployments import FakeDeployments, Received
from llm_fallback.testing.openai_chat import OpenAIChat, result_of
from llm_fallback.testing.scripts import Scripted
from llm_fallback.testing.transport import ScriptedTransport


def fake_chat_model(
    scripts: Mapping[str, Scripted] | None = None,
    *,
    spec: Any = None,
    chain: str | None = None,
    clock: Clock | None = None,
    listeners: Sequence[Listener] = (),
    **overrides: Any,
) -> FakeChatModel:
    """A chat model that fails as told: no sockets, no litellm, no time lost.

    `scripts` says what each deployment does; they are tried in that order. Without a script a deployment answers
    sensibly. With a `spec`, anything `build_chat_model` takes, its own chains are asked and all its deployments are
    replaced by fakes; variables it names need not be set. `overrides` are those of `build_chat_model`.

    Time is a `JumpingClock`'s unless another clock is given: it passes only where somebody waits, and then at once.

    Raises SpecError for a wrong spec or override, and for scripts of deployments the spec does not have.
    """
    return FakeChatModel(spec=spec, scripts=scripts, chain=chain, clock=clock, listeners=tuple(listeners), **overrides)


class FakeChatModel(ChainChatModel, OpenAIChat):
    """`FallbackChatModel` over deployments that play scripts.

    Engine, parameters, metadata and errors are the same. It is no ChatLiteLLMRouter and has no `router`, and no
    deployment objects to a parameter.
    """

    cast: FakeDeployments = Field(exclude=True, repr=False)

    def __init__(
        self,
        *,
        spec: Any = None,
        scripts: Mapping[str, Scripted] | None = None,
        clock: Clock | None = None,
        cast: FakeDeployments | None = None,
        runtime: ModelRuntime | None = None,
        **settings: Any,
    ) -> None:
        if runtime is None or cast is None:
            clock = JumpingClock() if clock is None else clock
            spec = None if spec is None else read_spec(spec)
            cast = _cast(scripts, spec, settings.get("chain"), clock)
            spec = cast.chain_spec(_address, "openai-compatible", {}, {}) if spec is None else spec
            means = _means(cast, clock)
        else:
            means = runtime.adapter
        super().__init__(**fields_of(spec, runtime, settings, means), cast=cast)

    @property
    def clock(self) -> Clock:
        """The time this model lives in."""
        return self.runtime.engine.clock

    def script(self, name: str, *steps: Scripted) -> None:
        """Gives a deployment another script from its next request on, for every copy of this model.

        One step is played for ever; several, or one list, once. Without any it answers sensibly.
        """
        self.cast.script(name, *steps)

    def received(self, name: str | None = None) -> list[Received]:
        """The requests so far, oldest first; those of one deployment if it is named."""
        return self.cast.received(name)

    def _result(self, answer: Any) -> ChatResult:
        return self._finish_result(result_of(answer.reply.raw), answer)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**super()._identifying_params, **self._chain_identity()}


def _cast(
    scripts: Mapping[str, Scripted] | None, spec: Spec | None, chain: str | None, clock: Clock
) -> FakeDeployments:
    if spec is None:
        return FakeDeployments(scripts, chain=chain or "default", now=clock.now)
    given = scripts or {}
    mistakes = [
        Mistake(f"scripts[{name!r}]", f"no deployment is called {name!r}", suggest(name, spec.deployments))
        for name in given
        if name not in spec.deployments
    ]
    if mistakes:
        raise SpecError(mistakes)
    return FakeDeployments({name: given.get(name) for name in spec.deployments}, now=clock.now)


def _address(name: str) -> str:
    return f"http://{name}.invalid"


def _means(cast: FakeDeployments, clock: Clock) -> Adapter:
    return Adapter(
        resolve=_resolved,
        transport=partial(ScriptedTransport, cast, clock),
        catalogue=lambda: ListCatalogue(lookup),
        clock=clock,
        rng=lambda: Random(0),
    )


def _resolved(spec: Spec) -> Plan:
    """The plan of a spec without its keys; a variable that is not set stands for itself."""
    needed = {reference.name for _, reference in spec.references() if reference.default is None}
    stand_ins = {name: os.environ.get(name) or f"${{{name}}}" for name in needed}
    keyless = {name: own.model_copy(update={"api_key": None}) for name, own in spec.deployments.items()}
    return resolve_spec(spec.model_copy(update={"deployments": keyless}), {**os.environ, **stand_ins})
