"""One call of a chat model through the engine: the request, and the reply or the chunks that come back.

The names are those of LangChain and ChatLiteLLM, whose own methods look up logins, thoughts and endpoints on the way;
here those are the deployments'.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from inspect import signature
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.utils.function_calling import convert_to_openai_tool

from llm_fallback.chat_model.caller import CallContext, current_caller
from llm_fallback.chat_model.chunks import aiter_chunks, iter_chunks
from llm_fallback.chat_model.conversion import (
    answered,
    as_cached,
    count_tokens,
    to_call,
)
from llm_fallback.chat_model.driver import adrive, drive
from llm_fallback.chat_model.managed import ManagedChatModel
from llm_fallback.chat_model.replies import to_result
from llm_fallback.engine.engine import Answered
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.tokens import made_up_token_ids, read_choices
from llm_fallback.spec.overrides import check_call

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _with_signature(method: _Method) -> _Method:
    """Keep a method's signature for LangChain, which asks for it at every call."""
    method.__signature__ = signature(method)  # type: ignore[attr-defined]
    return method


class GeneratingChatModel(ManagedChatModel):
    """The part of a model over a chain that LangChain's entries end in."""

    def _merged(self, defaults: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call's parameters over the model's, with the chain it asks for as `model`, LangChain's word."""
        check_call(kwargs)
        chosen = kwargs.get("chain") or kwargs.get("model") or self.chain
        return {**defaults, **kwargs, "model": self._chain_name(chosen)}

    def _ask(self, request: dict[str, Any], caller: CallContext) -> Answered:
        """One call through the chain for a whole reply."""
        execution = self._start(request, caller)
        next(drive(execution, caller), None)  # A whole reply has no chunks.
        return answered(execution)

    async def _aask(self, request: dict[str, Any], caller: CallContext) -> Answered:
        """Like `_ask`."""
        execution = self._start(request, caller)
        await anext(adrive(execution, caller), None)
        return answered(execution)

    def _start(self, kwargs: dict[str, Any], caller: CallContext) -> CallExecution:
        """The call that merged kwargs ask for."""
        self._check_open()
        if self.runtime.fleet is not None:
            self.runtime.fleet.called()
        _, plan, engine = self.runtime.state
        chain = plan.chain(kwargs["model"])
        if self.zones is not None:
            chain = chain.within(self.zones)
        if "zones" in kwargs:
            chain = chain.within(plan.zones(kwargs["zones"]))
        return CallExecution(engine, to_call(kwargs, chain, self.structured, caller.spender(), caller.thread))

    def _caller(self, run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> CallContext:
        known = current_caller.get()
        if run_manager is None:
            return known or CallContext(self.listeners)
        return CallContext(
            self.listeners,
            run_manager.run_id,
            run_manager.tags,
            run_manager.metadata,
            lambda: run_manager.handlers,
            thread=known.thread if known else None,
        )

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The request for a whole reply: messages as they are sent, and merged parameters."""
        raise NotImplementedError

    def _stream_request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The request for a stream; it asks for the usage, which prices the reply, unless the caller says otherwise."""
        options = {"include_usage": True} if self.stream_options is None else self.stream_options
        request = {"stream_options": options, **self._request(messages, stop, kwargs), "stream": True}
        return {name: value for name, value in request.items() if value is not None or name in kwargs}

    @_with_signature
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        stream: bool | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.streaming if stream is None else stream:
            return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))
        request = self._request(messages, stop, kwargs)
        return self._result(self._ask(request, self._caller(run_manager)), request)

    @_with_signature
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        stream: bool | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.streaming if stream is None else stream:
            return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))
        request = self._request(messages, stop, kwargs)
        return self._result(await self._aask(request, self._caller(run_manager)), request)

    def _result(self, answer: Answered, request: Mapping[str, Any]) -> ChatResult:
        return to_result(answer, several=read_choices(request.get("n")) > 1)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for message in self._chunks(messages, self._caller(run_manager), stop=stop, **kwargs):
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        # Closed here, and not by the garbage collector: the request is to be dropped when the caller leaves.
        async with aclosing(self._achunks(messages, self._caller(run_manager), stop=stop, **kwargs)) as messages_:
            async for message in messages_:
                chunk = ChatGenerationChunk(message=message)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _chunks(
        self, messages: list[BaseMessage], caller: CallContext, stop: list[str] | None = None, **kwargs: Any
    ) -> Generator[AIMessageChunk, None, None]:
        """One call through the chain, streamed."""
        return iter_chunks(self._start(self._stream_request(messages, stop, kwargs), caller), caller)

    def _achunks(
        self, messages: list[BaseMessage], caller: CallContext, stop: list[str] | None = None, **kwargs: Any
    ) -> AsyncGenerator[AIMessageChunk, None]:
        """Like `_chunks`."""
        return aiter_chunks(self._start(self._stream_request(messages, stop, kwargs), caller), caller)

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        return super()._convert_cached_generations([as_cached(generation) for generation in cache_val])

    @property
    def _llm_type(self) -> str:
        return "llm-fallback"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """For traces, which look prices up by it: the model of the chain's first deployment, as LangChain names it."""
        params = super()._get_ls_params(stop=stop, **kwargs)
        asked = kwargs.get("chain") or kwargs.get("model") or self.chain
        chain = self.runtime.state.plan.chains.get(asked)
        params["ls_model_name"] = asked if chain is None else chain.first_model
        return params

    def _dict_for_compat(self) -> dict[str, Any]:
        """What describes the model to handlers, past `dict()`, which is deprecated and costs a dozen function calls."""
        return self.asdict()

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Of several replies at once; the name is there only if one model served them all."""
        combined = super()._combine_llm_outputs(llm_outputs)
        combined.pop("model_name", None)
        if len(llm_outputs) == 1:
            return {**combined, **(llm_outputs[0] or {})}
        names = {output["model_name"] for output in llm_outputs if output and "model_name" in output}
        return {**combined, "model_name": names.pop()} if len(names) == 1 else combined

    def get_token_ids(self, text: str) -> list[int]:
        """Of litellm's tokenizer, where it is on this machine; of the fake, and where it is not, made-up ones, one for
        about each token. Nothing is fetched."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        encode = self.runtime.adapter.encoder()
        return made_up_token_ids(text) if encode is None else encode(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """About as many as a provider would count: texts and tools by `get_token_ids`, a picture as a page of text."""
        written = self._write(messages)
        documents = [convert_to_openai_tool(tool) for tool in tools or ()]
        return count_tokens(written, documents, self.get_num_tokens)
