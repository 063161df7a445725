"""The sums of a log of calls: in total, by name, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

from llm_fallback.exporters.jsonl import read
from llm_fallback.ledger.ledger import Ledger, Snapshot
from llm_fallback.ledger.tally import Summary

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    *(1, 5, 15, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY),
)
"""Seconds that a column of the charts may stand for."""
_MOST_COLUMNS = 60


@dataclass(slots=True)
class Period:
    """When the calls of a log ended, and how many of its lines cannot be read."""

    first: float = inf
    last: float = -inf
    calls: int = 0
    unreadable: int = 0

    @property
    def step_s(self) -> int:
        """Seconds that a column stands for, so that there are not too many columns."""
        span = self.last - self.first
        return next((step for step in _STEPS if span / step < _MOST_COLUMNS - 1), _STEPS[-1])


@dataclass(slots=True)
class Column:
    """The calls of one interval of the charts."""

    began: float
    ledger: Ledger = field(default_factory=lambda: Ledger(runs=1))


@dataclass(frozen=True, slots=True)
class Findings:
    """The sums of a log, or of several."""

    name: str
    metadata_keys: tuple[str, ...]
    period: Period
    snapshot: Snapshot
    columns: list[Column]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; times in seconds, costs in US dollars."""
        return {
            "file": self.name,
            "metadata_keys": list(self.metadata_keys),
            "from": _moment(self.period.first),
            "until": _moment(self.period.last),
            "unreadable_lines": self.period.unreadable,
            "total": _plain(self.snapshot.total),
            **{
                f"by_{dimension}": {name: _plain(summary) for name, summary in self.snapshot.by[dimension].items()}
                for dimension in ("chain", "deployment", "model", "tag", *self.metadata_keys)
            },
            "step_s": self.period.step_s,
            "over_time": [_over_time(column) for column in self.columns],
        }


def read_findings(paths: Sequence[Path], by: Sequence[str] = ()) -> Findings | None:
    """The sums of logs together, also by keys of metadata; None if they have no call. Each file is read twice, and
    never held in memory. Raises ValueError for a key that cannot be counted by."""
    period = _period(paths)
    if not period.calls:
        return None
    ledger, columns, step_s = Ledger(runs=1, by=by), dict[int, Column](), period.step_s
    for call in chain.from_iterable(map(read, paths)):
        if call is not None:
            ledger(call)
            number = int(call.at // step_s)
            columns.setdefault(number, Column(number * step_s)).ledger(call)
    name = ", ".join(path.name for path in paths)
    return Findings(
        name, ledger.metadata_keys, period, ledger.snapshot(), [columns[number] for number in sorted(columns)]
    )


def _period(paths: Sequence[Path]) -> Period:
    period = Period()
    for call in chain.from_iterable(map(read, paths)):
        if call is None:
            period.unreadable += 1
        else:
            period.calls += 1
            period.first, period.last = min(period.first, call.at), max(period.last, call.at)
    return period


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _plain(summary: Summary) -> dict[str, Any]:
    return {
        **{name: getattr(summary, name) for name in ("calls", "answered", "fallbacks", "attempts")},
        "failures": dict(summary.failures),
        "unanswered": dict(summary.unanswered),
        **{name: getattr(summary, name).summary() for name in ("latency_s", "time_to_first_token_s", "tokens_per_s")},
        "tokens": summary.tokens.as_dict(),
        "cost_usd": summary.known_cost_usd,
        "unpriced": summary.unpriced,
    }


def _over_time(column: Column) -> dict[str, Any]:
    snapshot = column.ledger.snapshot()
    return {
        "at": column.began,
        "calls": snapshot.total.calls,
        "latency_p50_s": snapshot.total.latency_s.p50,
        "latency_p95_s": snapshot.total.latency_s.p95,
        "cost_usd": snapshot.total.known_cost_usd,
        "answered_by": {
            name: summary.answered for name, summary in snapshot.by["deployment"].items() if summary.answered
        },
        "unanswered": sum(snapshot.total.unanswered.values()),
    }
