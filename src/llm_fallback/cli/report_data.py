"""What a log of calls adds up to: in total, by name, and over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from llm_fallback.events import CallEnded
from llm_fallback.exporters.jsonl import read
from llm_fallback.ledger.ledger import Ledger, Snapshot
from llm_fallback.ledger.tally import Summary

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    *(1, 5, 15, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY),
)
"""Seconds a column of the charts may stand for."""
_MOST_COLUMNS = 60


@dataclass(slots=True)
class Period:
    """When the calls of a log ended, and how many lines are none."""

    first: float = inf
    last: float = -inf
    calls: int = 0
    unreadable: int = 0

    @property
    def step_s(self) -> int:
        """Seconds a column stands for, so that there are not too many."""
        span = self.last - self.first
        return next((step for step in _STEPS if span / step < _MOST_COLUMNS - 1), _STEPS[-1])


@dataclass(slots=True)
class Column:
    """The calls of one stretch of time."""

    began: float
    ledger: Ledger = field(default_factory=lambda: Ledger(runs=1))


@dataclass(frozen=True, slots=True)
class Findings:
    """What a log adds up to."""

    name: str
    period: Period
    books: Snapshot
    columns: list[Column]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; times in seconds, costs in US dollars."""
        return {
            "file": self.name,
            "from": _moment(self.period.first),
            "until": _moment(self.period.last),
            "unreadable_lines": self.period.unreadable,
            "total": _plain(self.books.total),
            **{
                f"by_{dimension}": {name: _plain(own) for name, own in self.books.by[dimension].items()}
                for dimension in ("chain", "deployment", "model", "tag")
            },
            "step_s": self.period.step_s,
            "over_time": [_over_time(column) for column in self.columns],
        }


def findings(path: Path) -> Findings | None:
    """What the log adds up to; None without a single call. It is read twice, and never held as a whole."""
    period = _period(path)
    if not period.calls:
        return None
    books, columns, step = Ledger(runs=1), dict[int, Column](), period.step_s
    for call in _calls(path):
        books(call)
        number = int(call.at // step)
        columns.setdefault(number, Column(number * step)).ledger(call)
    return Findings(path.name, period, books.snapshot(), [columns[number] for number in sorted(columns)])


def _period(path: Path) -> Period:
    period = Period()
    for call in read(path):
        if call is None:
            period.unreadable += 1
        else:
            period.calls += 1
            period.first, period.last = min(period.first, call.at), max(period.last, call.at)
    return period


def _calls(path: Path) -> Iterator[CallEnded]:
    return (call for call in read(path) if call is not None)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _plain(own: Summary) -> dict[str, Any]:
    return {
        **{name: getattr(own, name) for name in ("calls", "answered", "fallbacks", "attempts")},
        "failures": dict(own.failures),
        "unanswered": dict(own.unanswered),
        **{name: getattr(own, name).summary() for name in ("latency_s", "time_to_first_token_s", "tokens_per_s")},
        "tokens": own.tokens.as_dict(),
        "cost_usd": own.known_cost_usd,
        "unpriced": own.unpriced,
    }


def _over_time(column: Column) -> dict[str, Any]:
    books = column.ledger.snapshot()
    return {
        "at": column.began,
        "calls": books.total.calls,
        "latency_p50_s": books.total.latency_s.p50,
        "latency_p95_s": books.total.latency_s.p95,
        "cost_usd": books.total.known_cost_usd,
        "answered_by": {name: own.answered for name, own in books.by["deployment"].items() if own.answered},
        "unanswered": sum(books.total.unanswered.values()),
    }
