"""FallbackChatModel: LangChain and ChatLiteLLM on the outside, the engine on the inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_litellm import ChatLiteLLMRouter

from llm_fallback.chat_model.base import ChainChatModel
from llm_fallback.chat_model.caller import Listener
from llm_fallback.chat_model.conversion import unwritable, write_thoughts
from llm_fallback.chat_model.foreign_messages import carried, mark
from llm_fallback.chat_model.history import with_invalid_calls
from llm_fallback.chat_model.lazy_field import LazyField
from llm_fallback.chat_model.managed import fields_of
from llm_fallback.chat_model.runtime import Adapter, ModelRuntime
from llm_fallback.engine.clock import RealClock
from llm_fallback.engine.protocol.thinking import BLOCKS
from llm_fallback.litellm_adapter.catalogue import LiteLLMCatalogue
from llm_fallback.litellm_adapter.router import router_within
from llm_fallback.litellm_adapter.tokenizer import local_encoder
from llm_fallback.litellm_adapter.transport import LiteLLMTransport
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec.load import Source
from llm_fallback.spec.options import ModelOptions

_LITELLM = Adapter(
    resolve=lambda spec: resolve_spec(spec, spec.environment(os.environ)),
    transport=LiteLLMTransport,
    catalogue=LiteLLMCatalogue,
    clock=RealClock(),
    joins_fleets=True,
    encoder=local_encoder,
)

# Built on first access: a Router leaves callbacks and prices behind in litellm's globals.
_ROUTER = LazyField("router", lambda model: router_within(model.runtime.spec, model.zones), is_kept=True)

# ChatLiteLLM's own field of that name is about something else, and would show its default.
_MAX_RETRIES = LazyField("max_retries", lambda model: model._plan().retries.max)


_PAST_THE_CHAIN = "ChatLiteLLM's way to a litellm Router would pass the chain by; ask by invoke, stream or their twins"


class FallbackChatModel(ChainChatModel, ChatLiteLLMRouter):
    """A chat model over a chain of deployments.

    Every call is answered by the first deployment that can, in bounded time; `response_metadata["llm_fallback"]`
    says who that was and what happened on the way. Build it with `build_chat_model`; the constructor takes the same
    arguments by name. State (breakers, limits) is shared by everything derived from it.

    Raises SpecError for a wrong spec or override, ChainExhausted when nobody answers, StreamBroken when a stream
    ends early after a part of it was delivered.
    """

    lazy_fields: ClassVar[Mapping[str, LazyField]] = {
        **ChainChatModel.lazy_fields,
        "router": _ROUTER,
        "max_retries": _MAX_RETRIES,
    }

    def __init__(
        self,
        *,
        spec: Source,
        chain: str | None = None,
        listeners: Sequence[Listener] = (),
        runtime: ModelRuntime | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        settings = {**options, "chain": chain, "listeners": listeners}
        settings.pop("router", None)
        fields = fields_of(spec, runtime, settings, _LITELLM)
        super().__init__(**{**fields, "router": None, "model_name": None})
        _ROUTER.clear(self)
        _MAX_RETRIES.clear(self)

    def completion_with_retry(self, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any) -> Any:
        raise NotImplementedError(_PAST_THE_CHAIN)

    async def acompletion_with_retry(
        self, run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> Any:
        raise NotImplementedError(_PAST_THE_CHAIN)

    def _merge_call_params(self, params: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return self._merged(params, kwargs)

    def _create_message_dicts(
        self, messages: list[BaseMessage], stop: list[str] | None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        targets = self.runtime.state.plan.targets
        foreign = carried(messages, targets.values())
        if foreign is not None:
            messages = [each.message for each in foreign]
        try:
            written, params = super()._create_message_dicts(messages, stop)
        except Exception as error:  # noqa: BLE001 - what they are not, LangChain finds out by whatever breaks
            written, params = unwritable(messages, error), super()._create_message_dicts([], stop)[1]
        written = with_invalid_calls(messages, written)
        for message in messages:
            if BLOCKS in message.additional_kwargs:
                written = write_thoughts(messages, written, targets)
                break
        return written if foreign is None else mark(written, foreign), params

    def _write(self, messages: list[BaseMessage]) -> list[dict[str, Any]]:
        return self._create_message_dicts(messages, None)[0]

    def _reachable_groups(self, params: Mapping[str, Any]) -> list[str] | None:
        # A chain spans providers: which of them gets a thought back is settled for each request to one.
        return None

    def _is_claude_model(self) -> bool:
        return self._plan().has_claude

    def _thinking_refuses_forced_tools(self, overrides: Mapping[str, Any]) -> bool:
        # Some deployments of a chain may, others may not: likewise.
        return False

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        written, params = self._create_message_dicts(messages, stop)
        return {**self._merged(params, kwargs), "messages": written, "stream": False}

    @property
    def _client_params(self) -> dict[str, Any]:
        return {name: value for name, value in self._default_params.items() if value is not None}

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = {name: value for name, value in self._default_params.items() if value is not None}
        return {**params, **self._chain_identity()}
