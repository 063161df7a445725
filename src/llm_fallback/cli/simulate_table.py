"""The outcome of a simulation as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from llm_fallback.cli.shared import console, named
from llm_fallback.errors import counted
from llm_fallback.ledger.quantiles import Distribution
from llm_fallback.simulate import Outcome
from llm_fallback.spec.shown import shown

if TYPE_CHECKING:
    from rich.table import Table


def show(outcome: Outcome) -> None:
    """Print the outcome: a table of the deployments, and lines on what callers saw."""
    from rich.padding import Padding
    from rich.text import Text

    out, total = console(), outcome.total
    out.print(
        Text.assemble(
            f"{counted(total.calls, 'call')} of the chain ",
            (shown(outcome.chain), "bold"),
            f" in {outcome.seconds:,.0f} s of simulated time, seed {outcome.seed}:",
        )
    )
    out.print(_deployments(outcome))
    for line in _lines(outcome):
        out.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _deployments(outcome: Outcome) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("deployment", style="bold", overflow="fold")
    for title in ("asked", "answered", "passed over", "opened"):
        table.add_column(title, justify="right")
    table.add_column("failures", overflow="fold")
    for name, share in outcome.deployments.items():
        counts = (share.asked, share.answered, share.passed_over, share.breaker_openings)
        table.add_row(named(name), *(f"{count:,}" for count in counts), "\n".join(_kinds(share.failures)) or "-")
    return table


def _lines(outcome: Outcome) -> Iterator[str]:
    total = outcome.total
    yield f"answered      {total.answered:,} of {total.calls:,} ({_percent(total.answered, total.calls)})"
    if total.fallbacks:
        yield f"fell back     {total.fallbacks:,} of these ({_percent(total.fallbacks, total.answered)})"
    if outcome.unanswered:
        yield f"unanswered    {outcome.unanswered:,}: {', '.join(_kinds(total.unanswered))}"
    if total.time_to_first_token_s.count:
        yield f"first token   {_times(total.time_to_first_token_s)}"
    if total.latency_s.count:
        yield f"whole answer  {_times(total.latency_s)}"
    yield (
        f"requests      {outcome.requests_per_call:.2f} a call; the most of one call {outcome.most_requests}, "
        f"of {outcome.max_requests} it may make"
    )
    yield f"longest wait  {outcome.longest_s:.1f} s, of {outcome.max_seconds:g} s it may take"


def _kinds(counts: Mapping[str, int]) -> list[str]:
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:,} {kind}" for kind, count in most_first]


def _times(seconds: Distribution) -> str:
    percentiles = {"p50": seconds.p50, "p95": seconds.p95, "p99": seconds.p99}
    return "   ".join(f"{name} {value:.2f} s" for name, value in percentiles.items() if value is not None)


def _percent(part: int, whole: int) -> str:
    """The percentage, rounded down: 100 % only if it is all."""
    return f"{part * 1000 // whole / 10:g} %"
