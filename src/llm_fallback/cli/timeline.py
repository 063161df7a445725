"""The course of one call, drawn: a bar per attempt, who it was, what came of it, how long it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from llm_fallback.events import Attempt, Record

_COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Bar:
    """When an attempt ran: `start` and `end` as parts of the whole call."""

    start: float
    end: float
    colour: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = options.max_width
        full, track = ("#", ".") if options.ascii_only else ("━", "╌")
        first = min(int(self.start * width), width - 1)
        length = max(1, round(self.end * width) - first)
        faint = Style.parse("dim")
        yield Segment(track * first, faint)
        yield Segment(full * length, Style.parse(self.colour))
        yield Segment(track * (width - first - length), faint)


def timeline(record: Record) -> Table:
    """A line for each attempt, and for each deployment that was passed over."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=10)
    table.add_column(no_wrap=True, min_width=20)
    table.add_column(no_wrap=True, justify="right")
    for skip in record.skipped:
        again = "" if skip.retry_in_s is None else f"free in {skip.retry_in_s:.1f} s"
        table.add_row(skip.deployment, Text("not asked", style="dim"), skip.reason, again, style="yellow")
    for attempt in record.attempts:
        colour = _COLOURS[attempt.outcome]
        what = Text(outcome(attempt), style=colour)
        table.add_row(attempt.deployment, _bar(attempt, record, colour), what, seconds(attempt.latency_s))
    return table


def _bar(attempt: Attempt, record: Record, colour: str) -> Bar:
    whole = max(record.latency_s, 1e-6)
    end = min((attempt.started_at + attempt.latency_s) / whole, 1.0)
    return Bar(min(attempt.started_at / whole, end), end, colour)


def summary(record: Record) -> str:
    """Who answered, after how long, at what cost, in one line."""
    who = f"answered by {record.deployment}" if record.deployment else "no answer"
    first = record.time_to_first_token_s
    began = "" if first is None else f", first token {seconds(first)}"
    return f"{who} after {seconds(record.latency_s)}{began}, cost {cost(record)}"


def cost(record: Record) -> str:
    """US dollars of a call; a part that is not known makes the rest a lower bound."""
    if record.cost_usd is not None:
        return ("about " if record.cost_estimated else "") + dollars(record.cost_usd)
    known = sum((attempt.cost_usd for attempt in record.attempts if attempt.cost_usd is not None), Decimal(0))
    return f"over {dollars(known)}" if known else "unknown"


def outcome(attempt: Attempt) -> str:
    """What came of an attempt, in the words of the failure table."""
    if attempt.outcome != "failed":
        return "answered" if attempt.outcome == "succeeded" else attempt.outcome
    status = f" {attempt.status}" if attempt.status else ""
    return f"{attempt.failure}{status}"


def seconds(duration: float) -> str:
    """A duration as people read it."""
    return f"{duration * 1000:.0f} ms" if duration < 1 else f"{duration:.2f} s"


def dollars(amount: Decimal) -> str:
    """US dollars, with as many places as it takes to see something."""
    if 0 < amount < _SMALLEST:
        return f"below ${_SMALLEST}"
    if amount >= 1:
        return f"${amount:.2f}"
    return f"${amount:.6f}" if amount else "$0"
