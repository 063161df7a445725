"""The attempts of one call as a table: the deployment, a bar of when it ran, its outcome, how long it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from llm_fallback.cli.shared import named
from llm_fallback.events import Attempt, Record
from llm_fallback.spec.shown import shown

_COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Bar:
    """When an attempt ran: `start` and `end` as fractions of the whole call."""

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
    """A row for each attempt, and for each deployment that was skipped."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=10)
    table.add_column(no_wrap=True, min_width=20)
    table.add_column(no_wrap=True, justify="right")
    for skip in record.skipped:
        retry = "" if skip.retry_in_s is None else f"free in {skip.retry_in_s:.1f} s"
        table.add_row(named(skip.deployment), Text("not asked", style="dim"), skip.reason, retry, style="yellow")
    for attempt in record.attempts:
        colour = _COLOURS[attempt.outcome]
        ending = Text(outcome(attempt), style=colour)
        table.add_row(named(attempt.deployment), _bar(attempt, record, colour), ending, seconds(attempt.latency_s))
    return table


def _bar(attempt: Attempt, record: Record, colour: str) -> Bar:
    call_s = max(record.latency_s, 1e-6)
    end = min((attempt.started_at + attempt.latency_s) / call_s, 1.0)
    return Bar(min(attempt.started_at / call_s, end), end, colour)


def summary(record: Record) -> str:
    """One line: which deployment answered, after how long, at what cost."""
    answer = f"answered by {shown(record.deployment)}" if record.deployment else "no answer"
    first = record.time_to_first_token_s
    first_token = "" if first is None else f", first token {seconds(first)}"
    return f"{answer} after {seconds(record.latency_s)}{first_token}, cost {cost(record)}"


def cost(record: Record) -> str:
    """The cost of a call in US dollars; "over" if a part of it is not known."""
    if record.cost_usd is not None:
        return ("about " if record.cost_estimated else "") + dollars(record.cost_usd)
    known = sum((attempt.cost_usd for attempt in record.attempts if attempt.cost_usd is not None), Decimal(0))
    return f"over {dollars(known)}" if known else "unknown"


def outcome(attempt: Attempt) -> str:
    """How an attempt ended: its failure, and the HTTP status if there was one."""
    if attempt.outcome != "failed":
        return "answered" if attempt.outcome == "succeeded" else attempt.outcome
    status = f" {attempt.status}" if attempt.status else ""
    return f"{attempt.failure}{status}"


def seconds(duration: float) -> str:
    """A duration as text, in milliseconds or seconds."""
    return f"{duration * 1000:.0f} ms" if duration < 1 else f"{duration:.2f} s"


def dollars(amount: Decimal) -> str:
    """An amount of US dollars as text, with six places below one dollar."""
    if 0 < amount < _SMALLEST:
        return f"below ${_SMALLEST}"
    if amount >= 1:
        return f"${amount:.2f}"
    return f"${amount:.6f}" if amount else "$0"
