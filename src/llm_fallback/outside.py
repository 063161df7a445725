"""What can be known from outside of calls of models that are not ours: what LangChain tells, and what time shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult

from llm_fallback.events import Attempt, CallEnded, Failure, Record, Usage
from llm_fallback.seam.listed import listed_prices

LEFT = (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt)
"""What a model sees when its caller leaves."""


@dataclass(slots=True)
class CallUnderWay:
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
        failure: Failure = "cancelled" if isinstance(error, LEFT) else "server_error"
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


def chain_asked(told: Mapping[str, Any]) -> str:
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
