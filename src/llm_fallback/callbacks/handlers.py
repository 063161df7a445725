"""LangChain callback handlers that know what calls cost and how long they took.

    with get_cost_callback(by=("tenant",)) as costs:
        graph.invoke(..., config={"metadata": {"tenant": "acme"}})
    costs.snapshot()["by_tenant"]

Our own models tell them how each call ended, also one whose caller left; of other chat models they know what
`usage_metadata` tells and what time shows. Replies from LangChain's cache count nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from langchain_core.tracers.context import register_configure_hook

from llm_fallback.callbacks.budget import BudgetCallbackHandler
from llm_fallback.callbacks.observer import CallObserver
from llm_fallback.events import CallEnded
from llm_fallback.ledger.ledger import Ledger, Snapshot
from llm_fallback.ledger.tally import Summary

__all__ = [
    "BudgetCallbackHandler",
    "CostCallbackHandler",
    "LatencyCallbackHandler",
    "get_cost_callback",
    "get_latency_callback",
]

_SPLITS = ("chain", "deployment", "model", "tag")


class _LedgerHandler(CallObserver):
    """Keeps books of the calls."""

    def __init__(self, *, by: str | Sequence[str] = ()) -> None:
        super().__init__()
        self._ledger = Ledger(by=by)

    def record(self, event: CallEnded) -> None:
        self._ledger(event)

    def report(self) -> str:
        """The books as text."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ledger.snapshot().total.calls} calls)"

    def _splits(self, books: Snapshot) -> Iterator[tuple[str, Mapping[str, Summary]]]:
        for dimension in (*_SPLITS, *self._ledger.metadata_keys):
            yield dimension, dict(sorted(books.by[dimension].items()))


class CostCallbackHandler(_LedgerHandler):
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
        lines = [_cost_text(books.total)]
        for dimension, names in self._splits(books):
            lines += _section(dimension, {name: _cost_text(own) for name, own in names.items()})
        return "\n".join(lines)


class LatencyCallbackHandler(_LedgerHandler):
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
        lines = [_latency_text(books.total)]
        for dimension, names in self._splits(books):
            lines += _section(dimension, {name: _latency_text(own) for name, own in names.items()})
        return "\n".join(lines)


# Everywhere below a with block, as `get_usage_metadata_callback` does it.

_Books = TypeVar("_Books", bound=_LedgerHandler)
_everywhere: list[ContextVar[_LedgerHandler | None]] = []
_everywhere_lock = threading.Lock()


@contextmanager
def get_cost_callback(*, by: str | Sequence[str] = ()) -> Iterator[CostCallbackHandler]:
    """What every call within costs, however deep in chains, graphs and agents it is made."""
    with _attached(CostCallbackHandler(by=by)) as handler:
        yield handler


@contextmanager
def get_latency_callback(*, by: str | Sequence[str] = ()) -> Iterator[LatencyCallbackHandler]:
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


def _free_variable() -> ContextVar[_LedgerHandler | None]:
    """LangChain never forgets a variable; so there are only as many as blocks were ever nested."""
    with _everywhere_lock:
        for variable in _everywhere:
            if variable.get() is None:
                return variable
        made: ContextVar[_LedgerHandler | None] = ContextVar(f"llm_fallback_books_{len(_everywhere)}", default=None)
        register_configure_hook(made, inheritable=True)
        _everywhere.append(made)
        return made


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


def _cost_text(own: Summary) -> str:
    known = own.known_cost_usd
    cost = "cost unknown" if known is None else f"${known:.6f}"
    missing = f", {own.unpriced} of them unpriced" if own.unpriced and known is not None else ""
    return f"{cost} in {_counted(own.calls)}{missing}, {own.tokens.input} + {own.tokens.output} tokens"


def _latency_text(own: Summary) -> str:
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
