"""`llm-fallback report`: what a log of calls adds up to, as tables, or as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.report_data import Findings, findings
from llm_fallback.cli.shared import console, json_option, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from llm_fallback.ledger.quantiles import Distribution
    from llm_fallback.ledger.tally import Summary

_DATA = '"the data of the report"'


@click.command("report")
@click.argument("calls", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of charts, too.")
@json_option
def command(calls: Path, page: Path | None, as_json: bool) -> None:
    """Sum up a log of calls.

    CALLS is a file that `llm_fallback.exporters.jsonl.CallLog` wrote. The page needs no network and no other file.
    """
    found = findings(calls)
    if found is None:
        raise click.ClickException(f"there is no call in {calls}")
    if page is not None:
        _write(found, page)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)


def page(data: dict[str, Any]) -> str:
    """The page; whatever is in the data shows as text and is never run."""
    template = files("llm_fallback.cli").joinpath("report.html").read_text(encoding="utf-8")
    return template.replace(_DATA, json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))


def _write(found: Findings, path: Path) -> None:
    from llm_fallback.cli.report import page

    path.write_text(page(found.as_dict()), encoding="utf-8")
    click.echo(f"wrote {path}", err=True)


def _print(found: Findings) -> None:
    out, data = console(), found.as_dict()
    out.print(f"{found.name}: {data['from']} to {data['until']}", style="bold", soft_wrap=True)
    if found.period.unreadable:
        out.print(f"not readable: {_counted(found.period.unreadable, 'line')}", style="yellow")
    out.print(_headline(found.books.total), soft_wrap=True)
    by = found.books.by
    for table in (_chains(by["chain"]), _deployments(by["deployment"]), _failures(by["deployment"])):
        out.print()
        out.print(table)


def _headline(total: Summary) -> str:
    lost = ", ".join(f"{count} {kind}" for kind, count in sorted(total.unanswered.items()))
    return f"{_counted(total.calls, 'call')}, {total.answered} answered, {total.fallbacks} by a fallback" + (
        lost and f"; {lost}"
    )


def _chains(chains: Mapping[str, Summary]) -> Table:
    table = _table("chain", "calls", "answered", "fell back", "p50", "p95", "first token p95", "cost")
    for name, own in sorted(chains.items()):
        counts = (str(own.calls), _part(own.answered, own.calls), _part(own.fallbacks, own.answered))
        first = _seconds(own.time_to_first_token_s.p95)
        table.add_row(name, *counts, *_middle_and_tail(own.latency_s), first, _cost(own))
    return table


def _deployments(deployments: Mapping[str, Summary]) -> Table:
    table = _table("deployment", "attempts", "answers", "p50", "p95", "tokens/s", "cost")
    for name, own in sorted(deployments.items()):
        speed = own.tokens_per_s.p50
        numbers = (*_middle_and_tail(own.latency_s), "-" if speed is None else f"{speed:.0f}", _cost(own))
        table.add_row(name, str(own.attempts), str(own.answered), *numbers)
    return table


def _failures(deployments: Mapping[str, Summary]) -> Table:
    table = _table("deployment", "failures")
    table.add_column("of which")
    for name, own in sorted(deployments.items()):
        kinds = sorted(own.failures.items(), key=lambda kind: -kind[1])
        table.add_row(name, str(sum(own.failures.values())), ", ".join(f"{count} {kind}" for kind, count in kinds))
    return table


def _table(first: str, *numbers: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _part(count: int, whole: int) -> str:
    """Rounded down: 100 % is said only of all."""
    return f"{1000 * count // whole / 10:.1f} %" if whole else "-"


def _middle_and_tail(times: Distribution) -> tuple[str, str]:
    return _seconds(times.p50), _seconds(times.p95)


def _seconds(duration: float | None) -> str:
    from llm_fallback.cli.timeline import seconds

    return "-" if duration is None else seconds(duration)


def _cost(own: Summary) -> str:
    from llm_fallback.cli.timeline import dollars

    if own.known_cost_usd is None:
        return "unknown"
    return ("> " if own.unpriced else "") + dollars(own.cost_usd.normalize())
