"""`llm-fallback check`: mistakes and unwise choices in a spec, found without sending anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_fallback.cli.shared import EXIT_FAILED, files_option, json_option, print_json
from llm_fallback.errors import Location, Mistake, SpecError, counted
from llm_fallback.plan.checks import Finding, check
from llm_fallback.spec import load_spec
from llm_fallback.spec.shown import shown, told

if TYPE_CHECKING:
    from llm_fallback.plan.explain import Explanation

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True, slots=True)
class Report:
    """The findings, and what one call of each chain may do at most."""

    findings: list[Finding]
    chains: list[Explanation] = field(default_factory=list)
    default_chain: str | None = None

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def is_fine(self, *, strict: bool) -> bool:
        return not (self.count("error") or (strict and self.count("warning")))


@click.command("check")
@files_option
@click.option("--env", is_flag=True, help="Variables that are not set are errors, not warnings.")
@click.option("--strict", is_flag=True, help="Warnings count like errors.")
@json_option
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], env: bool, strict: bool, as_json: bool) -> None:
    """Find mistakes and unwise choices in a spec.

    Nothing is sent. Exit code 1 if there are errors, with --strict also for warnings.
    """
    report = examine(files, env=env)
    fine = report.is_fine(strict=strict)
    if as_json:
        findings = [asdict(finding) for finding in report.findings]
        print_json({"ok": fine, "findings": findings, "chains": report.chains})
    else:
        _print(report, ", ".join(map(str, files)))
    ctx.exit(0 if fine else EXIT_FAILED)


def examine(files: Sequence[Path], *, env: bool) -> Report:
    """All mistakes in a spec; if there are none, everything unwise in it."""
    try:
        spec = load_spec(*files)
    except SpecError as error:
        return Report([_finding(mistake) for mistake in error.mistakes])
    from llm_fallback.plan.explain import explain_unresolved

    # A spec may name functions in modules beside it; `python -m` would find them, too.
    sys.path.insert(0, os.getcwd())
    findings = check(spec, env=env)
    return Report(findings, [explain_unresolved(spec, name) for name in spec.chains], spec.default_chain)


def _finding(mistake: Mistake) -> Finding:
    message = f"{mistake.problem}; {mistake.remedy}" if mistake.remedy else mistake.problem
    return Finding("error", mistake.path, message, mistake.file, mistake.line)


def _print(report: Report, files: str) -> None:
    for finding in report.findings:
        _print_finding(finding)
    errors = report.count("error")
    counts = [counted(errors, "error")] if errors else ["no errors"]
    counts += [counted(count, noun) for noun in ("warning", "note") if (count := report.count(noun))]
    click.secho(f"{files}: {', '.join(counts)}", fg="red" if errors else "green", bold=True)
    if not errors:
        for chain in report.chains:
            _print_chain(chain, is_default=chain["chain"] == report.default_chain)


def _print_finding(finding: Finding) -> None:
    location = str(Location(finding.file, finding.line))
    severity = click.style(finding.severity, fg=_COLOURS[finding.severity], bold=True)
    click.echo(" ".join(part for part in (location, severity, told(finding.path)) if part))
    click.echo(_indented(told(finding.message)))
    click.echo()


def _indented(text: str) -> str:
    """The text, indented; wrapped on a terminal, in one line where it is piped."""
    if not sys.stdout.isatty():
        return f"    {text}"
    width = os.get_terminal_size(sys.stdout.fileno()).columns
    return click.wrap_text(text, width, initial_indent="    ", subsequent_indent="    ")


def _print_chain(chain: Explanation, *, is_default: bool) -> None:
    route = ", then ".join(" or ".join(map(shown, tier)) for tier in chain["tiers"])
    click.echo(f"  {click.style(shown(chain['chain']), bold=True)}{' (default)' if is_default else ''}: {route}")
    click.echo(f"      one call: at most {counted(chain['max_requests'], 'request')}, {chain['max_seconds']:g} s")
    _print_zones(chain["zones"])


def _print_zones(zones: dict[str, str | None]) -> None:
    """Who may see a prompt, where anybody has a zone."""
    if any(zones.values()):
        inside = {zone: [name for name, own in zones.items() if own == zone] for zone in zones.values()}
        places = (f"{shown(zone or 'no zone')} ({', '.join(map(shown, names))})" for zone, names in inside.items())
        click.echo(f"      its prompts may go to {', '.join(places)}")
