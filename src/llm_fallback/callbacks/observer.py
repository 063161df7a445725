"""LangChain callback handlers that are told of every call as it ends.

Our own models tell them all there is to know; of other models' calls they know what LangChain tells, and what time
shows.
"""

from __future__ import annotations

import asyncio
import threading
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

from llm_fallback.engine.budget import BudgetLimit
from llm_fallback.events import Attempt, CallEnded, Failure, Record, Usage
from llm_fallback.plan.model_list import listed_prices

_MOST_UNDER_WAY = 10_000
"""LangChain tells no handler how a cancelled `ainvoke` ends; calls that stay open are forgotten beyond so many."""
CALLER_LEFT = (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt)
"""What a model sees when its caller leaves."""


@dataclass(slots=True)
class ForeignCall:
    """A call that has begun, as LangChain told of it."""

    run_id: UUID
    parent_run_id: UUID | None
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    chain: str
    """Empty for models that are not ours."""
    began: float
    first_token_at: float | None = None
    root_run_id: UUID | None = None
    """The outermost run, where a handler had reason to find out."""

    def answered(self, response: LLMResult) -> CallEnded | None:
        """The call with its answer; None if that came from LangChain's cache, and cost nothing."""
        message = _message(response)
        if _is_from_cache(message, self.run_id):
            return None
        answer = self._answer(message)
        return self._ended([answer], answer)

    def failed(self, error: BaseException, response: LLMResult | None) -> CallEnded:
        """The call with nothing, or with what had come when it broke off."""
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
        told = message.response_metadata if message is not None else {}
        usage = _usage(message.usage_metadata) if message is not None and message.usage_metadata else None
        model = str(told.get("model_name") or told.get("model") or self.metadata.get("ls_model_name") or "")
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
        own, provider = str(self.metadata.get("ls_model_name") or model), self.metadata.get("ls_provider")
        prices = listed_prices((model, f"{provider}/{model}", own, f"{provider}/{own}"))
        return None if prices is None else prices.cost(usage)


class CallObserver(BaseCallbackHandler):
    """Books every call of the runs it is attached to, once each. Threads may share it.

    Of our own models the model itself tells how a call ended, also one that its caller left; of others LangChain does.
    """

    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_retry = True
    limit: BudgetLimit | None = None
    """What our own models may spend while this handler is attached."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._under_way: OrderedDict[UUID, ForeignCall] = OrderedDict()

    def before_call(self, call: ForeignCall) -> None:
        """A call is about to begin; raising stops it where `raise_error` is set."""

    def record(self, event: CallEnded) -> None:
        """A call has ended."""
        raise NotImplementedError

    def on_call_ended(self, event: CallEnded) -> None:
        """A model of ours tells how a call ended. Only calls that LangChain told of before count."""
        call = self._end(UUID(event.run_id))
        if call is not None:
            self.record(replace(event, tags=tuple(call.tags), metadata=call.metadata))

    # What LangChain tells.

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs)

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._under_way.get(run_id)
        if call is not None and token and call.first_token_at is None:
            call.first_token_at = time.perf_counter()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._end(run_id)
        # One of ours that still counts as under way was never made: the reply is from LangChain's cache.
        event = None if call is None or call.chain else call.answered(response)
        if event is not None:
            self.record(event)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._under_way.get(run_id)
        if call is not None and call.chain and isinstance(error, CALLER_LEFT):
            return  # The model tells what it came to when the request is dropped, which is after this.
        if self._end(run_id) is not None and call is not None:
            self.record(call.failed(error, kwargs.get("response")))

    def _begin(self, run_id: UUID, parent_run_id: UUID | None, told: Mapping[str, Any]) -> None:
        tags, metadata = told.get("tags") or (), told.get("metadata") or {}
        call = ForeignCall(run_id, parent_run_id, tags, metadata, chain_of_call(told), time.perf_counter())
        self.before_call(call)
        with self._lock:
            self._under_way[run_id] = call
            if len(self._under_way) > _MOST_UNDER_WAY:
                self._under_way.popitem(last=False)

    def _end(self, run_id: UUID) -> ForeignCall | None:
        with self._lock:
            return self._under_way.pop(run_id, None)


def chain_of_call(told: Mapping[str, Any]) -> str:
    """The chain that is asked, if the model is ours, by what LangChain tells as a call begins."""
    asked = told.get("invocation_params") or {}
    return str(asked.get("model") or asked["chain"]) if "deployments" in asked and "chain" in asked else ""


def _message(response: LLMResult) -> AIMessage | None:
    generations = response.generations[0] if response.generations else []
    if generations and isinstance(generations[0], ChatGeneration):
        message = generations[0].message
        return message if isinstance(message, AIMessage) else None
    return None


def _is_from_cache(message: AIMessage | None, run_id: UUID) -> bool:
    """LangChain puts a cost of 0 on what it takes from its cache. It may do so while the call that filled the cache
    still ends; that one's reply has the id of its run."""
    usage: Mapping[str, Any] = (message and message.usage_metadata) or {}
    return usage.get("total_cost") == 0 and str(run_id) not in str(message and message.id)


def _broken_off(response: LLMResult | None) -> Iterator[Attempt]:
    """An attempt that had brought something when the call ended; what it cost nobody said."""
    message = None if response is None else _message(response)
    if message is not None and (message.content or message.tool_calls or message.additional_kwargs):
        yield Attempt(deployment="", model="", outcome="cancelled", cost_usd=None)


def _usage(usage: UsageMetadata) -> Usage:
    given: Mapping[str, Any] = usage.get("input_token_details") or {}
    made: Mapping[str, Any] = usage.get("output_token_details") or {}
    return Usage(
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        cached_tokens=given.get("cache_read") or 0,
        cache_write_tokens=given.get("cache_creation") or 0,
        reasoning_tokens=made.get("reasoning") or 0,
        audio_input_tokens=given.get("audio") or 0,
        audio_output_tokens=made.get("audio") or 0,
    )
