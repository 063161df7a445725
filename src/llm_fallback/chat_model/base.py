"""A chat model over a chain of deployments, whoever carries its requests.

`ChainChatModel` stands in front of a class that turns messages into requests and replies into messages: ChatLiteLLM's
in production, one of the testing kit's in fakes. What a call goes through between the two is the engine's, here alike
for both, and nothing here loads litellm.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, TypeVar, cast, overload
from uuid import uuid4

from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from llm_fallback.chat_model.batch.model import BatchChatModel
from llm_fallback.chat_model.caller import CallContext, CallingAs
from llm_fallback.chat_model.generation import GeneratingChatModel
from llm_fallback.chat_model.structured import structured, with_raw
from llm_fallback.chat_model.with_handlers import message_with_handlers
from llm_fallback.chat_model.without_handlers import (
    has_no_handlers,
    is_plain_call,
    is_plain_stream,
    message_of,
    plain_messages,
    without_forms,
)
from llm_fallback.spec.overrides import check_call

_Form = TypeVar("_Form", bound=BaseModel)


class ChainChatModel(BatchChatModel, GeneratingChatModel):
    """What every model over a chain has in common."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """LangChain's. `tool_choice`: a tool's name, "auto", "none", "any", or True for at least one."""
        return super().bind_tools(tools, tool_choice=tool_choice, **kwargs)  # type: ignore[arg-type]

    @overload
    def with_structured_output(
        self,
        schema: type[_Form],
        *,
        method: Any = "json_schema",
        include_raw: Literal[False] = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, _Form]: ...

    @overload
    def with_structured_output(
        self,
        schema: Any,
        *,
        method: Any = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]: ...

    def with_structured_output(
        self,
        schema: Any,
        *,
        method: Any = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """LangChain's, and a reply that does not parse or validate counts as `rejected`: the next deployment
        is asked with the same request. Streamed replies are held until they are judged.

        With `include_raw`, when nobody's reply is of the form, the last one that came is handed over with the error;
        ChainExhausted is raised only if none came."""
        options = {"method": method, "strict": strict, **kwargs}
        trace_format = {"kwargs": {"method": method, "strict": strict}, "schema": convert_to_openai_tool(schema)}
        form = structured(super().with_structured_output(schema, **options), trace_format)
        strictly = self.model_copy(update={"structured": form})
        sequence = super(ChainChatModel, strictly).with_structured_output(schema, **options)
        return with_raw(sequence, form) if include_raw else sequence

    # LangChain's entries, overridden to pass its steps by where nobody listens, and to learn the run and the chain that
    # a config names. It hands no run manager to `_stream`: a context says who calls, around the first step.

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """A whole reply.

        `chain` asks another chain of the spec; so does `llm_fallback_chain` in `config["configurable"]`, or `chain`
        there, which is ignored with a warning where it names none. `timeout` in seconds and `max_retries` are
        `timeouts.total_s` and `retries.max` of this call. What else is given is a request parameter, over the model's
        own.

        Raises ChainExhausted when nobody answers, BudgetExceeded before the attempt that would cost too much, and
        SpecError for what may not be said in a call.
        """
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller = self._caller_from_config(config)
        with CallingAs(caller):
            messages = plain_messages(self, input) if is_plain_call(self, kwargs) else None
            if messages is None or not has_no_handlers(self, caller, config):
                return super().invoke(input, config, **kwargs)
            return message_of(self._generate(messages, **without_forms(kwargs)), config["run_id"])

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Like invoke."""
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller = self._caller_from_config(config)
        with CallingAs(caller):
            messages = plain_messages(self, input) if is_plain_call(self, kwargs) else None
            if messages is None:
                return await super().ainvoke(input, config, **kwargs)
            if has_no_handlers(self, caller, config):
                return message_of(await self._agenerate(messages, **without_forms(kwargs)), config["run_id"])
            message = await message_with_handlers(self, messages, config, kwargs)
            return await super().ainvoke(input, config, **kwargs) if message is None else message

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """The reply in chunks, as they come; the last one carries the facts of the call. The keywords are invoke's.

        Raises what invoke does, and StreamBroken when the stream ends early after a part of it was delivered.
        """
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller, held_s, now = self._caller_from_config(config), 0.0, self.runtime.engine.clock.now
        messages = plain_messages(self, input) if is_plain_stream(self, kwargs) else None
        if messages is None or not has_no_handlers(self, caller, config):
            chunks = cast("Generator[AIMessageChunk, None, None]", super().stream(input, config, **kwargs))
        else:
            chunks = self._chunks(messages, caller, **without_forms(kwargs))
        try:
            with CallingAs(caller):
                chunk = next(chunks, None)
            while chunk is not None:
                # What LangChain does with a chunk keeps the caller waiting; what the caller does with it does not.
                given_at = now()
                yield chunk
                held_s += now() - given_at
                caller.held_s = held_s
                chunk = next(chunks, None)
        finally:
            chunks.close()

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Like stream."""
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller, held_s, now = self._caller_from_config(config), 0.0, self.runtime.engine.clock.now
        messages = plain_messages(self, input) if is_plain_stream(self, kwargs) else None
        if messages is None or not has_no_handlers(self, caller, config):
            answer = cast("AsyncGenerator[AIMessageChunk, None]", super().astream(input, config, **kwargs))
        else:
            answer = self._achunks(messages, caller, **without_forms(kwargs))
        async with aclosing(answer) as chunks:
            with CallingAs(caller):
                chunk = await anext(chunks, None)
            while chunk is not None:
                given_at = now()
                yield chunk
                held_s += now() - given_at
                caller.held_s = held_s
                chunk = await anext(chunks, None)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """A reply to each input, several at a time (`config["max_concurrency"]`); the keywords are invoke's.

        With `return_exceptions` an input that failed has its exception in the list.
        """
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Like batch."""
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        return await super().abatch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _prepare_call(
        self, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> tuple[RunnableConfig, dict[str, Any]]:
        """The config with a run id, and the call's keywords with the chain it asks for as `model`, LangChain's word."""
        config = ensure_config(config)
        if config.get("run_id") is None:
            config["run_id"] = uuid4()
        check_call(kwargs)
        chosen = self._chosen_chain(kwargs, config)
        kwargs.pop("chain", None)
        if chosen is not None:
            kwargs["model"] = chosen
        zones = config.get("configurable", {}).get("zones")
        if zones is not None:
            narrowed = self.runtime.plan.zones(zones) or frozenset()
            asked = self.runtime.plan.zones(kwargs.get("zones"))
            kwargs["zones"] = sorted(narrowed if asked is None else narrowed & asked)
        if self.structured is not None and self.structured.trace_format is not None:
            kwargs.setdefault("ls_structured_output_format", self.structured.trace_format)
        return config, kwargs

    def _caller_from_config(self, config: RunnableConfig) -> CallContext:
        tags = [*(config.get("tags") or ()), *(self.tags or ())]
        metadata = {**(config.get("metadata") or {}), **(self.metadata or {})}
        # Nothing here may hold the model: a kept-alive connection keeps the context it was opened in, and with it
        # the caller of its first request, for as long as it is open.
        handlers = partial(CallbackManager.configure, config.get("callbacks"), self.callbacks, self.verbose)
        known = config.get("configurable", {})
        thread = known.get("thread_id") or known.get("session_id")
        return CallContext(
            self.listeners, config["run_id"], tags, metadata, handlers, thread=thread, reader_is_timed=True
        )


def _given(**words: Any) -> dict[str, Any]:
    """The words of a call that have a value."""
    return {word: value for word, value in words.items() if value is not None}
