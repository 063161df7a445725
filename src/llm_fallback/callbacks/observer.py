"""The base of callback handlers that record every call as it ends.

This library's models report each call with its record. For other models' calls a record is made from what LangChain
reports, and from the time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult

from llm_fallback._forks import fork_safe_lock
from llm_fallback.engine.budget import BudgetLimit
from llm_fallback.events import Attempt, CallEnded, Failure, Record, Usage
from llm_fallback.plan.model_list import listed_prices

_MAX_OPEN_CALLS = 10_000
"""LangChain does not report the end of a cancelled `ainvoke`; the oldest open calls are dropped beyond this number."""
CALLER_LEFT = (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt)
"""The exceptions that a model sees when its caller leaves."""


@dataclass(slots=True)
class ForeignCall:
    """A call that has begun, as LangChain reported it."""

    run_id: UUID
    parent_run_id: UUID | None
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    chain: str
    """Empty for other models than this library's."""
    began: float
    first_token_at: float | None = None
    root_run_id: UUID | None = None
    """The outermost run, where a handler looked for it."""

    def succeeded(self, response: LLMResult) -> CallEnded | None:
        """The call, ended by this answer; None if that came from LangChain's cache, and cost nothing."""
        message = _message(response)
        if _is_from_cache(message, self.run_id):
            return None
        answer = self._answer(message)
        return self._ended([answer], answer)

    def failed(self, error: BaseException, response: LLMResult | None) -> CallEnded:
        """The call, ended by an error; `response` is what had come until then."""
        failure: Failure = "cancelled" if isinstance(error, CALLER_LEFT) else "server_error"
        return self._ended(list(_broken_off(response)), failure=failure)

    def _ended(
        self, attempts: Sequence[Attempt], answer: Attempt | None = None, failure: Failure | None = None
    ) -> CallEnded:
        record = Record(
            chain=self.chain,
            deployment=None,
            model=None if answer is None else answer.model,
            fell_back=False,
            attempts=tuple(attempts),
            skipped=(),
            latency_s=time.perf_counter() - self.began,
            time_to_first_token_s=None if answer is None else answer.time_to_first_token_s,
        )
        return CallEnded(
            chain=self.chain,
            record=record,
            failure=failure,
            run_id=str(self.run_id),
            root_run_id=None if self.root_run_id is None else str(self.root_run_id),
            tags=tuple(self.tags),
            metadata=self.metadata,
        )

    def _answer(self, message: AIMessage | None) -> Attempt:
        metadata = message.response_metadata if message is not None else {}
        usage = _usage(message.usage_metadata) if message is not None and message.usage_metadata else None
        model = str(metadata.get("model_name") or metadata.get("model") or self.metadata.get("ls_model_name") or "")
        first = self.first_token_at
        return Attempt(
            deployment="",
            model=model,
            outcome="succeeded",
            latency_s=time.perf_counter() - self.began,
            time_to_first_token_s=None if first is None else first - self.began,
            cost_usd=None if usage is None else self._listed_cost(model, usage),
            usage=usage,
        )

    def _listed_cost(self, model: str, usage: Usage) -> Decimal | None:
        configured, provider = str(self.metadata.get("ls_model_name") or model), self.metadata.get("ls_provider")
        prices = listed_prices((model, f"{provider}/{model}", configured, f"{provider}/{configured}"))
        return None if prices is None else prices.cost(usage)


class CallObserver(BaseCallbackHandler):
    """Records every call of the runs it is attached to, once each. Threads may share it.

    This library's models report themselves how a call ended, also one that its caller left; for others LangChain does.
    """

    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_retry = True
    limit: BudgetLimit | None = None
    """What this library's models may spend while the handler is attached."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = fork_safe_lock()
        self._open_calls: OrderedDict[UUID, ForeignCall] = OrderedDict()

    def before_call(self, call: ForeignCall) -> None:
        """A call is about to begin; an exception stops it if `raise_error` is set."""

    def record(self, event: CallEnded) -> None:
        """A call has ended."""
        raise NotImplementedError

    def on_call_ended(self, event: CallEnded) -> None:
        """One of this library's models reports how a call ended. It counts if LangChain reported its beginning."""
        call = self._end(UUID(event.run_id))
        if call is not None:
            self.record(replace(event, tags=tuple(call.tags), metadata=call.metadata))

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs)

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._open_calls.get(run_id)
        if call is not None and token and call.first_token_at is None:
            call.first_token_at = time.perf_counter()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._end(run_id)
        # A call of this library's models that is still open was never made: the reply is from LangChain's cache.
        event = None if call is None or call.chain else call.succeeded(response)
        if event is not None:
            self.record(event)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._open_calls.get(run_id)
        if call is not None and call.chain and isinstance(error, CALLER_LEFT):
            return  # The model reports the call itself when its request is dropped, which is later.
        if self._end(run_id) is not None and call is not None:
            self.record(call.failed(error, kwargs.get("response")))

    def _begin(self, run_id: UUID, parent_run_id: UUID | None, started: Mapping[str, Any]) -> None:
        tags, metadata = started.get("tags") or (), started.get("metadata") or {}
        call = ForeignCall(run_id, parent_run_id, tags, metadata, chain_of_call(started), time.perf_counter())
        self.before_call(call)
        with self._lock:
            self._open_calls[run_id] = call
            if len(self._open_calls) > _MAX_OPEN_CALLS:
                self._open_calls.popitem(last=False)

    def _end(self, run_id: UUID) -> ForeignCall | None:
        with self._lock:
            return self._open_calls.pop(run_id, None)


def chain_of_call(started: Mapping[str, Any]) -> str:
    """The chain that is called, from what LangChain reports as a call begins; empty for other models than this
    library's."""
    params = started.get("invocation_params") or {}
    return str(params.get("model") or params["chain"]) if "deployments" in params and "chain" in params else ""


def _message(response: LLMResult) -> AIMessage | None:
    generations = response.generations[0] if response.generations else []
    if generations and isinstance(generations[0], ChatGeneration):
        message = generations[0].message
        return message if isinstance(message, AIMessage) else None
    return None


def _is_from_cache(message: AIMessage | None, run_id: UUID) -> bool:
    """LangChain sets a cost of 0 on replies from its cache. It may do so before the call that filled the cache is
    reported as ended; the reply of that call has the id of its run."""
    usage: Mapping[str, Any] = (message and message.usage_metadata) or {}
    return usage.get("total_cost") == 0 and str(run_id) not in str(message and message.id)


def _broken_off(response: LLMResult | None) -> Iterator[Attempt]:
    """An attempt, of unknown cost, if something had come before the call ended."""
    message = None if response is None else _message(response)
    if message is not None and (message.content or message.tool_calls or message.additional_kwargs):
        yield Attempt(deployment="", model="", outcome="cancelled", cost_usd=None)


def _usage(usage: UsageMetadata) -> Usage:
    of_input: Mapping[str, Any] = usage.get("input_token_details") or {}
    of_output: Mapping[str, Any] = usage.get("output_token_details") or {}
    return Usage(
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        cached_tokens=of_input.get("cache_read") or 0,
        cache_write_tokens=of_input.get("cache_creation") or 0,
        reasoning_tokens=of_output.get("reasoning") or 0,
        audio_input_tokens=of_input.get("audio") or 0,
        audio_output_tokens=of_output.get("audio") or 0,
    )
