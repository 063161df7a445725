"""LangChain callback handlers that know what calls cost and how long they took.

    with get_cost_callback(by=("tenant",)) as costs:
        graph.invoke(..., config={"metadata": {"tenant": "acme"}})
    costs.snapshot()["by_tenant"]

This library's models report how each call ended, also one that its caller left. Of other chat models' calls only the
`usage_metadata` and the time they took are known. Replies from LangChain's cache are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

from langchain_core.tracers.context import register_configure_hook
from typing_extensions import TypedDict

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


class Statistics(TypedDict):
    """Of some values; None where there are none. Percentiles are within 1 %."""

    count: float
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Times(TypedDict):
    """How long answers took, in seconds."""

    calls: int
    answered: int
    latency_s: Statistics
    time_to_first_token_s: Statistics
    tokens_per_s: Statistics


class CostSnapshot(TypedDict):
    """What `CostCallbackHandler.snapshot()` tells, in US dollars; None: the cost of nothing under that name is known.

    For each key of metadata in the handler's `by` there is also a key of its own: `by_tenant` is `by["tenant"]`.
    """

    total_usd: float
    """The known cost; a lower bound if `unpriced_calls` is above 0."""
    unpriced_calls: int
    calls: int
    tokens: dict[str, int]
    by_chain: dict[str, float | None]
    by_deployment: dict[str, float | None]
    by_model: dict[str, float | None]
    by_tag: dict[str, float | None]
    by: dict[str, dict[str, float | None]]
    """By key of metadata and its value."""


class LatencySnapshot(Times):
    """What `LatencyCallbackHandler.snapshot()` tells; `by_tenant` is `by["tenant"]`, as in `CostSnapshot`."""

    by_chain: dict[str, Times]
    by_deployment: dict[str, Times]
    by_model: dict[str, Times]
    by_tag: dict[str, Times]
    by: dict[str, dict[str, Times]]
    """By key of metadata and its value."""


_DIMENSIONS = ("chain", "deployment", "model", "tag")


_Reading = TypeVar("_Reading")


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

    def _by(self, snapshot: Snapshot, reading: Callable[[Summary], _Reading]) -> dict[str, object]:
        """The readings of each dimension's names; those of metadata once more below `by`, where their keys are data."""
        read = {
            dimension: {name: reading(summary) for name, summary in names.items()}
            for dimension, names in self._dimensions(snapshot)
        }
        by_metadata = {key: read[key] for key in self._ledger.metadata_keys}
        return {**{f"by_{dimension}": names for dimension, names in read.items()}, "by": by_metadata}

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

    def snapshot(self) -> CostSnapshot:
        """Plain data, in US dollars. If `unpriced_calls` is above 0, `total_usd` is a lower bound; a name without any
        known cost has None."""
        snapshot = self._ledger.snapshot()
        plain = {
            "total_usd": float(snapshot.total.cost_usd),
            "unpriced_calls": snapshot.total.unpriced,
            "calls": snapshot.total.calls,
            "tokens": snapshot.total.tokens.as_dict(),
            **self._by(snapshot, lambda summary: summary.known_cost_usd),
        }
        return cast("CostSnapshot", plain)

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

    def snapshot(self) -> LatencySnapshot:
        """Plain data, in seconds; percentiles are within 1 %."""
        snapshot = self._ledger.snapshot()
        return cast("LatencySnapshot", {**_times(snapshot.total), **self._by(snapshot, _times)})

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


def _times(summary: Summary) -> Times:
    return {
        "calls": summary.calls,
        "answered": summary.answered,
        "latency_s": _statistics(summary.latency_s),
        "time_to_first_token_s": _statistics(summary.time_to_first_token_s),
        "tokens_per_s": _statistics(summary.tokens_per_s),
    }


def _statistics(values: Distribution) -> Statistics:
    return cast("Statistics", values.summary())


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
