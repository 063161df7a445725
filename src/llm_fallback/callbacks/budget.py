"""The LangChain callback handler that stops calls before they cost more than is allowed.

limit = BudgetCallbackHandler(0.50, window="run")
graph.invoke(..., config={"callbacks": [limit]})
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, cast, get_args
from uuid import UUID

from typing_extensions import TypedDict

from llm_fallback.callbacks.observer import CallObserver, ForeignCall
from llm_fallback.callbacks.root_run import RootRunTracker
from llm_fallback.engine.budget import Account, Balance, BudgetLimit, Spender, Window
from llm_fallback.errors import BudgetExceeded
from llm_fallback.events import CallEnded
from llm_fallback.ledger.ledger import metadata_keys


class BudgetSnapshot(TypedDict):
    """What `BudgetCallbackHandler.snapshot()` tells, in US dollars. With `per="tenant"`, `by_tenant` is
    `by["tenant"]`."""

    limit_usd: float
    window: Window
    spent_usd: float
    reserved_usd: float
    """Set aside for calls that have not ended."""
    unpriced_attempts: int
    """Attempts whose cost is not known, and not included."""
    by: dict[str, dict[str, float]]
    """What was spent, by key of metadata and its value."""


class BudgetCallbackHandler(CallObserver):
    """Stops calls that would spend more than `limit_usd` US dollars: they raise BudgetExceeded, and nothing is sent.

    `window` says what the limit applies to: each `call`, each `run` (an outermost one of LangChain, as of an agent or a
    graph), each `day` from midnight UTC, or `none`: all calls together. `per` names a key of `config["metadata"]`; each
    of its values has a limit of its own.

    This library's models reserve an estimate of each attempt's cost before it is sent, so concurrent calls do not
    overspend. For other models the cost is known, from litellm's price list, only as a call ends: the next one is
    stopped.
    Raises ValueError for a limit that is no amount of money, an unknown window, or a `per` that is not one key.
    """

    raise_error = True

    def __init__(
        self,
        limit_usd: float | Decimal,
        per: str | Sequence[str] | None = None,
        window: Window = "none",
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`wall` returns the time, in seconds since the epoch."""
        super().__init__()
        if window not in get_args(Window):
            raise ValueError(f"window must be one of {', '.join(get_args(Window))}, got {window!r}")
        self._account = Account(window, _spender_key(per), wall)
        scope = type(self).__name__ if window == "none" else f"{type(self).__name__}, per {window}"
        self.limit: BudgetLimit = BudgetLimit(_dollars(limit_usd), self._account, scope)
        self._root_runs = RootRunTracker()
        # A limit for each run needs to see runs begin.
        self.ignore_chain = self.ignore_agent = self.ignore_retriever = window != "run"

    def before_call(self, call: ForeignCall) -> None:
        """Stop a call of another model if nothing is left; this library's models reserve for each attempt."""
        if call.chain:
            return
        call.root_run_id = self._root_runs.root(call.run_id, call.parent_run_id)
        with self._account.lock:
            shortfall = self.limit.shortfall(Spender(str(call.root_run_id), call.metadata), None)
        if shortfall is not None:
            raise BudgetExceeded(*shortfall.as_floats)

    def record(self, event: CallEnded) -> None:
        self._account.spend(Spender(event.root_run_id, event.metadata), event.record.cost_usd)

    def on_call_ended(self, event: CallEnded) -> None:
        """A call of this library's models has ended; its cost was settled attempt by attempt."""
        self._end(UUID(event.run_id))

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._root_runs.begin(run_id, parent_run_id)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._root_runs.begin(run_id, parent_run_id)

    def on_retriever_start(
        self, serialized: Any, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._root_runs.begin(run_id, parent_run_id)

    def snapshot(self) -> BudgetSnapshot:
        """Plain data, in US dollars: what was spent, and what is reserved for calls that have not ended. With `day` it
        covers today, with `run` the runs still remembered, with `none` everything. If `unpriced_attempts` is above 0,
        the cost of that many attempts is not known and not included."""
        balances, per = self._account.balances(), self._account.per
        by = {} if per is None else {per: _by_spender(balances)}
        plain = {
            "limit_usd": float(self.limit.usd),
            "window": self._account.window,
            "spent_usd": float(sum((balance.spent for balance in balances), Decimal(0))),
            "reserved_usd": float(sum((balance.reserved for balance in balances), Decimal(0))),
            "unpriced_attempts": sum(balance.unpriced for balance in balances),
            "by": by,
            **{f"by_{key}": spent for key, spent in by.items()},
        }
        return cast("BudgetSnapshot", plain)

    def report(self) -> str:
        """Text for people."""
        snapshot, window, per = self.snapshot(), self._account.window, self._account.per
        lines = [f"${snapshot['spent_usd']:.6f} spent, ${snapshot['limit_usd']:.6f} allowed ({_WINDOW_TEXTS[window]})"]
        if per is not None:
            spenders = snapshot["by"][per].items()
            lines += [f"by {per}", *(f"  {name}  ${usd:.6f}" for name, usd in spenders)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.report().splitlines()[0]})"


_WINDOW_TEXTS = {"call": "for each call", "run": "for each run", "day": "today", "none": "in all"}


def _spender_key(per: str | Sequence[str] | None) -> str | None:
    """The one key of metadata in `per`, which may be written as a list of one."""
    keys = () if per is None else metadata_keys(per, "per")
    if len(keys) > 1:
        raise ValueError(
            f"per takes one key of metadata, got {per!r}; write per={keys[0]!r}, and one more handler for each other"
        )
    return keys[0] if keys else None


def _dollars(limit_usd: float | Decimal) -> Decimal:
    try:
        usd = Decimal(str(limit_usd))
    except InvalidOperation:
        usd = Decimal(-1)
    if not (usd.is_finite() and usd >= 0) or isinstance(limit_usd, bool):
        raise ValueError(f"limit_usd must be an amount of US dollars, 0 or more, got {limit_usd!r}")
    return usd


def _by_spender(balances: Sequence[Balance]) -> dict[str, float]:
    """US dollars spent by each value of `per`; calls without one are under an empty name."""
    spent: dict[str, Decimal] = {}
    for balance in balances:
        spender_key = balance.spender_key or ""
        spent[spender_key] = spent.get(spender_key, Decimal(0)) + balance.spent
    return {name: float(usd) for name, usd in sorted(spent.items())}
