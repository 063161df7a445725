"""LangChain callback handlers that know what calls cost and how long they took.

    with get_cost_callback(by=("tenant",)) as costs:
        graph.invoke(..., config={"metadata": {"tenant": "acme"}})
    costs.snapshot()["by_tenant"]

This library's models report how each call ended, also one that its caller left. Of other chat models' calls only the
`usage_metadata` and the time they took are known. Replies from LangChain's cache are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from langchain_core.tracers.context import register_configure_hook

from llm_fallback._forks import fork_safe_lock
from llm_fallback.callbacks.budget import BudgetCallbackHandler
from llm_fallback.callbacks.observer import CallObserver
from llm_fallback.errors import counted
from llm_fallback.events import CallEnded
from llm_fallback.ledger.ledger import Ledger, Snapshot
from llm_fallback.ledger.quantiles import Distribution
from llm_fallback.ledger.tally import Summary

__all__ = [
    "BudgetCallbackHandler",
    "CostCallbackHandler",
    "LatencyCallbackHandler",
    "get_cost_callback",
    "get_latency_callback",
]

_DIMENSIONS = ("chain", "deployment", "model", "tag")


class _LedgerHandler(CallObserver):
    """Counts the calls in a ledger."""

    def __init__(self, *, by: str | Sequence[str] = ()) -> None:
        super().__init__()
        self._ledger = Ledger(by=by)

    def record(self, event: CallEnded) -> None:
        self._ledger(event)

    def report(self) -> str:
        """Text for people."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(self._ledger.snapshot().total.calls, 'call')})"

    def _dimensions(self, snapshot: Snapshot) -> Iterator[tuple[str, Mapping[str, Summary]]]:
        for dimension in (*_DIMENSIONS, *self._ledger.metadata_keys):
            yield dimension, dict(sorted(snapshot.by[dimension].items()))


class CostCallbackHandler(_LedgerHandler):
    """What calls cost: in total, by chain, deployment, model, tag, and by the keys of `config["metadata"]` in `by`.

    Attempts that failed, broke off or were overtaken by another deployment are included. A cost that is not known
    never counts as 0.
    """

    @property
    def total_usd(self) -> float:
        """The known cost of all calls, in US dollars."""
        return float(self._ledger.snapshot().total.cost_usd)

    def snapshot(self) -> dict[str, Any]:
        """Plain data, in US dollars. If `unpriced_calls` is above 0, `total_usd` is a lower bound; a name without any
        known cost has None."""
        snapshot = self._ledger.snapshot()
        return {
            "total_usd": float(snapshot.total.cost_usd),
            "unpriced_calls": snapshot.total.unpriced,
            "calls": snapshot.total.calls,
            "tokens": snapshot.total.tokens.as_dict(),
            **{
                f"by_{dimension}": {name: summary.known_cost_usd for name, summary in names.items()}
                for dimension, names in self._dimensions(snapshot)
            },
        }

    def report(self) -> str:
        """Text for people: the total, and a line for each name."""
        snapshot = self._ledger.snapshot()
        lines = [_cost_text(snapshot.total)]
        for dimension, names in self._dimensions(snapshot):
            lines += _section(dimension, {name: _cost_text(summary) for name, summary in names.items()})
        return "\n".join(lines)


class LatencyCallbackHandler(_LedgerHandler):
    """How long answers took: in total, by chain, deployment, model, tag, and by metadata keys in `by`.

    Only answers are timed; calls and attempts that failed are just counted.
    """

    def snapshot(self) -> dict[str, Any]:
        """Plain data, in seconds; percentiles are within 1 %."""
        snapshot = self._ledger.snapshot()
        return {
            **_times(snapshot.total),
            **{
                f"by_{dimension}": {name: _times(summary) for name, summary in names.items()}
                for dimension, names in self._dimensions(snapshot)
            },
        }

    def report(self) -> str:
        """Text for people: a line for all calls, and one for each name."""
        snapshot = self._ledger.snapshot()
        lines = [_latency_text(snapshot.total)]
        for dimension, names in self._dimensions(snapshot):
            lines += _section(dimension, {name: _latency_text(summary) for name, summary in names.items()})
        return "\n".join(lines)


_Handler = TypeVar("_Handler", bound=_LedgerHandler)
_variables: list[ContextVar[_LedgerHandler | None]] = []
_variables_lock = fork_safe_lock()


@contextmanager
def get_cost_callback(*, by: str | Sequence[str] = ()) -> Iterator[CostCallbackHandler]:
    """A handler for all calls within the block, however deep in chains, graphs and agents they are made."""
    with _attached(CostCallbackHandler(by=by)) as handler:
        yield handler


@contextmanager
def get_latency_callback(*, by: str | Sequence[str] = ()) -> Iterator[LatencyCallbackHandler]:
    """A handler for all calls within the block, however deep in chains, graphs and agents they are made."""
    with _attached(LatencyCallbackHandler(by=by)) as handler:
        yield handler


@contextmanager
def _attached(handler: _Handler) -> Iterator[_Handler]:
    """The handler, attached to every run within the block, as `get_usage_metadata_callback` does it."""
    variable = _free_variable()
    token = variable.set(handler)
    try:
        yield handler
    finally:
        variable.reset(token)


def _free_variable() -> ContextVar[_LedgerHandler | None]:
    """A registered variable that holds no handler here. LangChain never unregisters one, so they are used again."""
    with _variables_lock:
        for variable in _variables:
            if variable.get() is None:
                return variable
        name = f"llm_fallback_ledger_{len(_variables)}"
        added: ContextVar[_LedgerHandler | None] = ContextVar(name, default=None)
        register_configure_hook(added, inheritable=True)
        _variables.append(added)
        return added


def _times(summary: Summary) -> dict[str, Any]:
    return {
        "calls": summary.calls,
        "answered": summary.answered,
        "latency_s": summary.latency_s.summary(),
        "time_to_first_token_s": summary.time_to_first_token_s.summary(),
        "tokens_per_s": summary.tokens_per_s.summary(),
    }


def _section(dimension: str, lines: Mapping[str, str]) -> Iterator[str]:
    if lines:
        width = max(map(len, lines))
        yield f"by {dimension}"
        yield from (f"  {name:<{width}}  {line}" for name, line in lines.items())


def _cost_text(summary: Summary) -> str:
    known = summary.known_cost_usd
    cost = "cost unknown" if known is None else f"${known:.6f}"
    missing = f", {summary.unpriced} of them unpriced" if summary.unpriced and known is not None else ""
    return (
        f"{cost} in {counted(summary.calls, 'call')}{missing}, {summary.tokens.input} + {summary.tokens.output} tokens"
    )


def _latency_text(summary: Summary) -> str:
    answered = f"{summary.answered} of {counted(summary.calls, 'call')} answered"
    latency, first = summary.latency_s, summary.time_to_first_token_s
    timings = [
        f"{name} {_percentiles(times)}" for name, times in (("latency", latency), ("first token", first)) if times.count
    ]
    return "; ".join([answered, *timings])


def _percentiles(times: Distribution) -> str:
    return f"p50 {times.p50:.3f} s, p95 {times.p95:.3f} s, p99 {times.p99:.3f} s"
