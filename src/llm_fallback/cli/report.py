"""`llm-fallback report`: a log of calls summed up, as tables or as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.report_data import Findings, read_findings
from llm_fallback.cli.shared import as_json_text, console, json_option, named, print_json
from llm_fallback.spec.shown import shown

if TYPE_CHECKING:
    from rich.table import Table

    from llm_fallback.ledger.quantiles import Distribution
    from llm_fallback.ledger.tally import Summary

_HOW_TO_LOG = (
    'a log is what llm_fallback.exporters.jsonl.CallLog("calls.jsonl") writes, one of the listeners of a model: '
    "build_chat_model(spec, listeners=[log]). The answers of a batch are none."
)
_DATA_PLACEHOLDER = '"the data of the report"'


@click.command("report")
@click.argument("calls", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--by", multiple=True, metavar="KEY", help="Sum up by a key of metadata, too, as by tenant; repeatable.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of charts, too.")
@json_option
def command(calls: tuple[Path, ...], by: tuple[str, ...], page: Path | None, as_json: bool) -> None:
    """Sum up logs of calls.

    CALLS are files that `llm_fallback.exporters.jsonl.CallLog` wrote, one for each process say; they are summed up
    together. The page needs no network and no other file.
    """
    try:
        findings = read_findings(calls, by)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--by") from None
    if findings is None:
        names = ", ".join(map(str, calls))
        raise click.ClickException(f"there is no line of a log of calls in {names}; {_HOW_TO_LOG}")
    for key in findings.metadata_keys:
        if not findings.snapshot.by[key]:
            keeping = f'the log keeps it by CallLog(path, metadata=("{key}",))'
            click.echo(f"no call has {key!r} in its metadata; {keeping}", err=True)
    if page is not None:
        page.write_text(html_page(findings.as_dict()), encoding="utf-8")
        click.echo(f"wrote {page}", err=True)
    if as_json:
        print_json(findings.as_dict())
    else:
        _print(findings)


def html_page(data: dict[str, Any]) -> str:
    """The page; whatever is in the data is shown as text and never run."""
    template = files("llm_fallback.cli").joinpath("report.html").read_text(encoding="utf-8")
    return template.replace(_DATA_PLACEHOLDER, as_json_text(data).replace("<", "\\u003c"))


def _print(findings: Findings) -> None:
    out, data = console(), findings.as_dict()
    out.print(f"{shown(findings.name)}: {data['from']} to {data['until']}", style="bold", soft_wrap=True, markup=False)
    if findings.period.unreadable:
        out.print(f"not readable: {_counted(findings.period.unreadable, 'line')}", style="yellow")
    out.print(_headline(findings.snapshot.total), soft_wrap=True, markup=False)
    by = findings.snapshot.by
    further = [(key, by[key]) for key in ("tag", *findings.metadata_keys) if by[key]]
    for table in (
        _calls("chain", by["chain"]),
        *(_calls(key, summaries) for key, summaries in further),
        _deployments(by["deployment"]),
        _failures(by["deployment"]),
    ):
        out.print()
        out.print(table)


def _headline(total: Summary) -> str:
    unanswered = ", ".join(f"{count} {shown(kind)}" for kind, count in sorted(total.unanswered.items()))
    line = f"{_counted(total.calls, 'call')}, {total.answered} answered, {total.fallbacks} by a fallback"
    return f"{line}; {unanswered}" if unanswered else line


def _calls(dimension: str, summaries: Mapping[str, Summary]) -> Table:
    """Whole calls, by chain, by tag or by a key of metadata."""
    table = _table(shown(dimension), "calls", "answered", "fell back", "p50", "p95", "first token p95", "cost")
    for name, summary in sorted(summaries.items()):
        counts = (
            str(summary.calls),
            _percent(summary.answered, summary.calls),
            _percent(summary.fallbacks, summary.answered),
        )
        first = _seconds(summary.time_to_first_token_s.p95)
        table.add_row(named(name), *counts, *_p50_and_p95(summary.latency_s), first, _cost(summary))
    return table


def _deployments(deployments: Mapping[str, Summary]) -> Table:
    table = _table("deployment", "attempts", "answers", "p50", "p95", "tokens/s", "cost")
    for name, summary in sorted(deployments.items()):
        speed = summary.tokens_per_s.p50
        numbers = (*_p50_and_p95(summary.latency_s), "-" if speed is None else f"{speed:.0f}", _cost(summary))
        table.add_row(named(name), str(summary.attempts), str(summary.answered), *numbers)
    return table


def _failures(deployments: Mapping[str, Summary]) -> Table:
    table = _table("deployment", "failures")
    table.add_column("of which")
    for name, summary in sorted(deployments.items()):
        kinds = sorted(summary.failures.items(), key=lambda kind: -kind[1])
        table.add_row(
            named(name),
            str(sum(summary.failures.values())),
            named(", ".join(f"{count} {kind}" for kind, count in kinds)),
        )
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


def _percent(count: int, whole: int) -> str:
    """The percentage, rounded down: 100 % only if it is all."""
    return f"{1000 * count // whole / 10:.1f} %" if whole else "-"


def _p50_and_p95(times: Distribution) -> tuple[str, str]:
    return _seconds(times.p50), _seconds(times.p95)


def _seconds(duration: float | None) -> str:
    from llm_fallback.cli.timeline import seconds

    return "-" if duration is None else seconds(duration)


def _cost(summary: Summary) -> str:
    from llm_fallback.cli.timeline import dollars

    if summary.known_cost_usd is None:
        return "unknown"
    return ("> " if summary.unpriced else "") + dollars(summary.cost_usd.normalize())
