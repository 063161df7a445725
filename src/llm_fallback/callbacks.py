"""LangChain callback handlers that know what calls cost and how long they took.

    with get_cost_callback(by=("tenant",)) as costs:
        graph.invoke(..., config={"metadata": {"tenant": "acme"}})
    costs.snapshot()["by_tenant"]

Of our own models they read the facts each reply and each error carries; of other chat models they know what
`usage_metadata` tells and what time shows. Replies from LangChain's cache count nothing.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from llm_fallback.errors import ChainExhausted, StreamBroken
from llm_fallback.events import Attempt, CallEnded, Failure, Record, Usage
from llm_fallback.ledger import Ledger, Snapshot
from llm_fallback.recall import attempt_of, record_of
from llm_fallback.replies import KEY
from llm_fallback.tally import Summary

_SPLITS = ("chain", "deployment", "model", "tag")
_ATTEMPT_FAILED = "llm_fallback.attempt_failed"
_MOST_UNDER_WAY = 10_000
"""LangChain tells no handler how a cancelled `ainvoke` ends; calls that stay open are forgotten beyond so many."""
_LEFT = (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt)
"""What a model sees when its caller leaves."""


@dataclass(slots=True)
class _UnderWay:
    """A call that has begun."""

    tags: Sequence[str]
    metadata: Mapping[str, Any]
    chain: str
    """Empty for models that are not ours."""
    began: float
    first_token_at: float | None = None
    failed: list[Attempt] = field(default_factory=list)

    def ended(self, record: Record, failure: Failure | None = None) -> CallEnded:
        return CallEnded(record.chain, record, failure, tags=tuple(self.tags), metadata=self.metadata)

    def record(self, attempts: Sequence[Attempt], answer: Attempt | None = None) -> Record:
        """A record of what was seen from outside."""
        return Record(
            chain=self.chain,
            deployment=None,
            model=None if answer is None else answer.model,
            fell_back=False,
            attempts=tuple(attempts),
            skipped=(),
            latency_s=time.perf_counter() - self.began,
            time_to_first_token_s=None if answer is None else answer.time_to_first_token_s,
        )


class _CallBooks(BaseCallbackHandler):
    """Books every call of the runs it is attached to, once each. Threads may share it."""

    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_retry = True

    def __init__(self, *, by: Sequence[str] = ()) -> None:
        super().__init__()
        self._keys = tuple(by)
        self._ledger = Ledger(by=by)
        self._lock = threading.Lock()
        self._under_way: OrderedDict[UUID, _UnderWay] = OrderedDict()

    def report(self) -> str:
        """The books as text."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ledger.snapshot().total.calls} calls)"

    # What LangChain tells.

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id, kwargs)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id, kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._under_way.get(run_id)
        if call is not None and token and call.first_token_at is None:
            call.first_token_at = time.perf_counter()

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._under_way.get(run_id)
        if call is not None and name == _ATTEMPT_FAILED:
            call.failed.append(attempt_of(data))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call, message = self._end(run_id), _message(response)
        if call is not None and not _is_from_cache(message, run_id):
            self._ledger(_answered(call, message))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._end(run_id)
        if call is not None:
            self._ledger(_failed(call, error, kwargs.get("response")))

    def _begin(self, run_id: UUID, told: Mapping[str, Any]) -> None:
        call = _UnderWay(told.get("tags") or (), told.get("metadata") or {}, _chain(told), time.perf_counter())
        with self._lock:
            self._under_way[run_id] = call
            if len(self._under_way) > _MOST_UNDER_WAY:
                self._under_way.popitem(last=False)

    def _end(self, run_id: UUID) -> _UnderWay | None:
        with self._lock:
            return self._under_way.pop(run_id, None)

    def _splits(self, books: Snapshot) -> Iterator[tuple[str, Mapping[str, Summary]]]:
        for dimension in (*_SPLITS, *self._keys):
            yield dimension, dict(sorted(books.by[dimension].items()))


class CostCallbackHandler(_CallBooks):
    """What calls cost: in total, by chain, deployment, model, tag, and by the keys of `config["metadata"]` in `by`.

    Attempts that failed, broke or lost a race are in it. A cost that is not known is never counted as nothing.
    """

    @property
    def total_usd(self) -> float:
        """What is known of the cost of all calls."""
        return float(self._ledger.snapshot().total.cost_usd)

    def snapshot(self) -> dict[str, Any]:
        """Plain data, in US dollars. Where `unpriced_calls` is above 0, `total_usd` is a lower bound; a name of which
        no cost is known at all stands with None."""
        books = self._ledger.snapshot()
        return {
            "total_usd": float(books.total.cost_usd),
            "unpriced_calls": books.total.unpriced,
            "calls": books.total.calls,
            "tokens": books.total.tokens.as_dict(),
            **{
                f"by_{dimension}": {name: own.known_cost_usd for name, own in names.items()}
                for dimension, names in self._splits(books)
            },
        }

    def report(self) -> str:
        """Text a person reads: the sum, and a line for each part of it."""
        books = self._ledger.snapshot()
        lines = [_spent(books.total)]
        for dimension, names in self._splits(books):
            lines += _section(dimension, {name: _spent(own) for name, own in names.items()})
        return "\n".join(lines)


class LatencyCallbackHandler(_CallBooks):
    """How long answers took: in total, by chain, deployment, model, tag, and by metadata keys in `by`.

    Times are those of answers; calls and attempts that failed are counted, not timed.
    """

    def snapshot(self) -> dict[str, Any]:
        """Plain data, in seconds; percentiles to 1 %."""
        books = self._ledger.snapshot()
        return {
            **_times(books.total),
            **{
                f"by_{dimension}": {name: _times(own) for name, own in names.items()}
                for dimension, names in self._splits(books)
            },
        }

    def report(self) -> str:
        """Text a person reads: a line for all calls, and for each part of them."""
        books = self._ledger.snapshot()
        lines = [_took(books.total)]
        for dimension, names in self._splits(books):
            lines += _section(dimension, {name: _took(own) for name, own in names.items()})
        return "\n".join(lines)


# Everywhere below a with block, as `get_usage_metadata_callback` does it.

_Books = TypeVar("_Books", bound=_CallBooks)
_everywhere: list[ContextVar[_CallBooks | None]] = []
_everywhere_lock = threading.Lock()


@contextmanager
def get_cost_callback(*, by: Sequence[str] = ()) -> Iterator[CostCallbackHandler]:
    """What every call within costs, however deep in chains, graphs and agents it is made."""
    with _attached(CostCallbackHandler(by=by)) as handler:
        yield handler


@contextmanager
def get_latency_callback(*, by: Sequence[str] = ()) -> Iterator[LatencyCallbackHandler]:
    """How long every call within took, however deep in chains, graphs and agents it is made."""
    with _attached(LatencyCallbackHandler(by=by)) as handler:
        yield handler


@contextmanager
def _attached(handler: _Books) -> Iterator[_Books]:
    variable = _free_variable()
    token = variable.set(handler)
    try:
        yield handler
    finally:
        variable.reset(token)


def _free_variable() -> ContextVar[_CallBooks | None]:
    """LangChain never forgets a variable; so there are only as many as blocks were ever nested."""
    with _everywhere_lock:
        for variable in _everywhere:
            if variable.get() is None:
                return variable
        made: ContextVar[_CallBooks | None] = ContextVar(f"llm_fallback_books_{len(_everywhere)}", default=None)
        register_configure_hook(made, inheritable=True)
        _everywhere.append(made)
        return made


# What a call came to.


def _chain(told: Mapping[str, Any]) -> str:
    """The chain that is asked, if the model is ours."""
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


def _answered(call: _UnderWay, message: AIMessage | None) -> CallEnded:
    facts = message.response_metadata.get(KEY) if message is not None else None
    usage = _usage(message.usage_metadata) if message is not None and message.usage_metadata else None
    if facts is not None:
        record = record_of(facts)
        return call.ended(replace(record, attempts=_with_usage(record.attempts, usage)))
    answer = _outside_view(call, message, usage)
    return call.ended(call.record([answer], answer))


def _with_usage(attempts: Sequence[Attempt], usage: Usage | None) -> tuple[Attempt, ...]:
    return tuple(replace(attempt, usage=usage) if attempt.outcome == "succeeded" else attempt for attempt in attempts)


def _outside_view(call: _UnderWay, message: AIMessage | None, usage: Usage | None) -> Attempt:
    """The one attempt that is known of an answer of a model that is not ours."""
    told = message.response_metadata if message is not None else {}
    model = str(told.get("model_name") or told.get("model") or call.metadata.get("ls_model_name") or "")
    first = call.first_token_at
    return Attempt(
        deployment="",
        model=model,
        outcome="succeeded",
        latency_s=time.perf_counter() - call.began,
        time_to_first_token_s=None if first is None else first - call.began,
        cost_usd=None if usage is None else _listed_cost(model, call.metadata, usage),
        usage=usage,
    )


def _listed_cost(model: str, metadata: Mapping[str, Any], usage: Usage) -> Decimal | None:
    """The cost by litellm's list, if litellm is there already: nobody waits three seconds for a price."""
    if "litellm" not in sys.modules:
        return None
    from llm_fallback.seam.listed import listed_prices

    own = str(metadata.get("ls_model_name") or model)
    provider = metadata.get("ls_provider")
    prices = listed_prices((model, f"{provider}/{model}", own, f"{provider}/{own}"))
    return None if prices is None else prices.cost(usage)


def _failed(call: _UnderWay, error: BaseException, response: LLMResult | None) -> CallEnded:
    match error:
        case ChainExhausted():
            record = replace(call.record(error.attempts), chain=error.chain)
            return call.ended(record, error.failure)
        case StreamBroken():
            facts = record_of(error.partial.response_metadata[KEY])
            return call.ended(replace(facts, attempts=error.attempts), error.attempts[-1].failure or "stream_broken")
    failure: Failure = "cancelled" if isinstance(error, _LEFT) else "server_error"
    return call.ended(call.record([*call.failed, *_broken_off(response)]), failure)


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


# How it is told.


def _times(own: Summary) -> dict[str, Any]:
    return {
        "calls": own.calls,
        "answered": own.answered,
        "latency_s": own.latency_s.summary(),
        "time_to_first_token_s": own.time_to_first_token_s.summary(),
        "tokens_per_s": own.tokens_per_s.summary(),
    }


def _section(dimension: str, lines: Mapping[str, str]) -> Iterator[str]:
    if lines:
        width = max(map(len, lines))
        yield f"by {dimension}"
        yield from (f"  {name:<{width}}  {line}" for name, line in lines.items())


def _spent(own: Summary) -> str:
    known = own.known_cost_usd
    cost = "cost unknown" if known is None else f"${known:.6f}"
    missing = f", {own.unpriced} of them unpriced" if own.unpriced and known is not None else ""
    return f"{cost} in {_counted(own.calls)}{missing}, {own.tokens.input} + {own.tokens.output} tokens"


def _took(own: Summary) -> str:
    answered = f"{own.answered} of {_counted(own.calls)} answered"
    latency, first = own.latency_s, own.time_to_first_token_s
    told = [
        f"{name} {_percentiles(times)}" for name, times in (("latency", latency), ("first token", first)) if times.count
    ]
    return "; ".join([answered, *told])


def _percentiles(times: Any) -> str:
    return f"p50 {times.p50:.3f} s, p95 {times.p95:.3f} s, p99 {times.p99:.3f} s"


def _counted(calls: int) -> str:
    return "1 call" if calls == 1 else f"{calls} calls"
