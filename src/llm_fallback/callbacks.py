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

from llm_fallback.budget_callback import BudgetCallbackHandler
from llm_fallback.events import CallEnded
from llm_fallback.ledger import Ledger, Snapshot
from llm_fallback.observing import CallObserver
from llm_fallback.tally import Summary

__all__ = [
    "BudgetCallbackHandler",
    "CostCallbackHandler",
    "LatencyCallbackHandler",
    "get_cost_callback",
    "get_latency_callback",
]

_SPLITS = ("chain", "deployment", "model", "tag")


class _CallBooks(CallObserver):
    """Keeps books of the calls."""

    def __init__(self, *, by: Sequence[str] = ()) -> None:
        super().__init__()
        self._keys = tuple(by)
        self._ledger = Ledger(by=by)

    def book(self, event: CallEnded) -> None:
        self._ledger(event)

    def report(self) -> str:
        """The books as text."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ledger.snapshot().total.calls} calls)"

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


class BudgetCallbackHandler(CallObserver):
    """Stops calls that would spend more than `limit_usd` US dollars: they raise BudgetExceeded, and nothing is sent.

    `window` is what the limit is for: each `call`, each `run` (an outermost one of LangChain, as of an agent or a
    graph), each `day` from midnight UTC, or `none`: all calls together. `per` names a key of `config["metadata"]`, each
    value of which has the whole limit for itself.

    An attempt of one of our own models is paid for beforehand by its estimate, so calls at the same time do not
    overspend. Of other models the handler learns the cost as a call ends, by litellm's list, and stops the next one.
    Raises ValueError for a limit that is no amount of money, or an unknown window.
    """

    raise_error = True

    def __init__(
        self,
        limit_usd: float | Decimal,
        per: str | None = None,
        window: Window = "none",
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`wall` tells the time, in seconds since the epoch."""
        super().__init__()
        if window not in get_args(Window):
            raise ValueError(f"window must be one of {', '.join(get_args(Window))}, got {window!r}")
        self._purse = Purse(window, per, wall)
        scope = type(self).__name__ if window == "none" else f"{type(self).__name__}, per {window}"
        self.cap: Cap = Cap(_dollars(limit_usd), self._purse, scope)
        self._lineage = Lineage()
        # Who pays by the run has to see runs begin.
        self.ignore_chain = self.ignore_agent = self.ignore_retriever = window != "run"

    def admit(self, call: CallUnderWay) -> None:
        """Stop a call when there is nothing left; our own models ask for each attempt themselves."""
        if call.chain:
            return
        call.root_run_id = self._lineage.root(call.run_id, call.parent_run_id)
        with self._purse.lock:
            overdraft = self.cap.overdraft(Payer(str(call.root_run_id), call.metadata), None)
        if overdraft is not None:
            raise BudgetExceeded(*overdraft.as_floats)

    def book(self, event: CallEnded) -> None:
        self._purse.spend(Payer(event.root_run_id, event.metadata), event.record.cost_usd)

    def on_call_ended(self, event: CallEnded) -> None:
        """A model of ours has ended a call; what it cost was settled attempt by attempt."""
        self._end(UUID(event.run_id))

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._lineage.begin(run_id, parent_run_id)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._lineage.begin(run_id, parent_run_id)

    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._lineage.begin(run_id, parent_run_id)

    def snapshot(self) -> dict[str, Any]:
        """Plain data, in US dollars: what was spent and what is set aside for calls under way, today with `day`, in the
        runs that are remembered with `run`, ever with `none`. Where `unpriced_attempts` is above 0, the cost of some is
        not known and not in it."""
        sums, per = self._purse.sums(), self._purse.per
        by = {} if per is None else {f"by_{per}": _by_spender(sums)}
        return {
            "limit_usd": float(self.cap.usd),
            "window": self._purse.window,
            "spent_usd": float(sum((own.spent for own in sums), Decimal(0))),
            "reserved_usd": float(sum((own.reserved for own in sums), Decimal(0))),
            "unpriced_attempts": sum(own.unpriced for own in sums),
            **by,
        }

    def report(self) -> str:
        """Text a person reads."""
        told = self.snapshot()
        lines = [f"${told['spent_usd']:.6f} spent, ${told['limit_usd']:.6f} allowed ({_OF_WINDOW[self._purse.window]})"]
        if self._purse.per is not None:
            spenders = told[f"by_{self._purse.per}"]
            lines += _section(self._purse.per, {name: f"${usd:.6f}" for name, usd in spenders.items()})
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.report().splitlines()[0]})"


_OF_WINDOW = {"call": "for each call", "run": "for each run", "day": "today", "none": "in all"}


def _dollars(limit_usd: float | Decimal) -> Decimal:
    try:
        usd = Decimal(str(limit_usd))
    except InvalidOperation:
        usd = Decimal(-1)
    if not (usd.is_finite() and usd >= 0) or isinstance(limit_usd, bool):
        raise ValueError(f"limit_usd must be an amount of US dollars, 0 or more, got {limit_usd!r}")
    return usd


def _by_spender(sums: Sequence[Sum]) -> dict[str, float]:
    """By the value of `per`; what had none stands under an empty name."""
    spent: dict[str, Decimal] = {}
    for own in sums:
        whose = own.whose or ""
        spent[whose] = spent.get(whose, Decimal(0)) + own.spent
    return {name: float(usd) for name, usd in sorted(spent.items())}


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
