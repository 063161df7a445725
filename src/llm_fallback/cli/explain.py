"""`llm-fallback explain`: what one call may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_fallback.cli.shared import (
    chain_named,
    chain_option,
    console,
    files_option,
    json_option,
    named,
    print_json,
)
from llm_fallback.errors import counted
from llm_fallback.plan.explain import Explanation, explain_unresolved, plan_of
from llm_fallback.plan.plan import ChainPlan, Member, Tier
from llm_fallback.spec import load_spec
from llm_fallback.spec.shown import shown, told

if TYPE_CHECKING:
    from rich.table import Table


@click.command("explain")
@files_option
@chain_option
@json_option
def command(files: tuple[Path, ...], chain: str | None, as_json: bool) -> None:
    """Say what one call may do at most.

    Who is asked, how often and for how long. Nothing is sent, and variables need not be set.
    """
    spec = load_spec(*files)
    name = chain_named(spec, chain)
    explained = explain_unresolved(spec, name)
    if as_json:
        print_json(explained)
    else:
        _print(explained, plan_of(spec, name), [other for other in spec.chains if other != name])


def _print(explained: Explanation, plan: ChainPlan, others: list[str]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    out.print(Text.assemble("The chain ", (shown(plan.name), "bold"), " asks, in this order:"))
    out.print(_deployments(plan))
    out.print(
        f"One call: at most [bold]{counted(explained['max_requests'], 'request')}[/], "
        f"[bold]{explained['max_seconds']:g} s[/]."
    )
    for note in explained["notes"]:
        out.print(Padding(Text(f"- {told(note)}"), (0, 0, 0, 2), expand=False))
    if others:
        out.print(Text(f"Other chains (--chain NAME): {', '.join(map(shown, others))}", style="dim"))


def _deployments(plan: ChainPlan) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("when")
    table.add_column("deployment", style="bold", overflow="fold")
    table.add_column("model", overflow="fold")
    for title in ("attempt", "first token", "idle"):
        table.add_column(title, justify="right")
    for when, member, share in _rows(plan):
        limits = member.timeouts
        seconds = map(_seconds, (limits.attempt_s, limits.first_token_s, limits.idle_s))
        table.add_row(when, named(member.name, share), named(member.target.model), *seconds)
    return table


def _rows(plan: ChainPlan) -> Iterator[tuple[str, Member, str]]:
    routes = {
        "": plan.tiers,
        "too long": plan.on_context_window or (),
        "refused": plan.on_content_policy or (),
    }
    for route, tiers in routes.items():
        for number, tier in enumerate((tier for tier in tiers if tier.members), 1):
            when = f"{route} {number}".strip()
            for member in tier.members:
                yield when, member, _share(member, tier)
                when = ""


def _share(member: Member, tier: Tier) -> str:
    if len(tier) == 1:
        return ""
    return f" {member.target.weight / sum(other.target.weight for other in tier.members):.0%}"


def _seconds(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:g} s"
