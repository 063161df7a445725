"""`llm-fallback fleet`: how the processes of a fleet stand, in a table that lives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.shared import EXIT_FAILED, console, files_option, json_option, named, print_json
from llm_fallback.engine.clock import RealClock
from llm_fallback.fleet.messages import StoreError
from llm_fallback.fleet.observer import observe
from llm_fallback.fleet.status import FleetStatus, LimitStatus, SharedBudgetStatus
from llm_fallback.plan.plan import Plan
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import Spec, load_spec
from llm_fallback.spec.secrets import shown_address
from llm_fallback.spec.shown import shown, told

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType

_COLOURS = {"closed": "green", "half_open": "yellow", "open": "red"}


@click.command("fleet")
@files_option
@json_option
@click.option("--once", is_flag=True, help="Print how it stands now, and end.")
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], as_json: bool, once: bool) -> None:
    """Show how the processes of a fleet stand: breakers, limits, money, members.

    On a terminal the table is kept up to date until Ctrl-C. Exit code 1 if the store does not answer.
    """
    spec = load_spec(*files)
    if spec.fleet is None:
        raise click.UsageError("the spec names no fleet; write one as in 'fleet: {store: redis://host:6379/0}'", ctx)
    plan = _plan(spec)
    out = console()
    try:
        asyncio.run(_print_once(plan, as_json, out) if once or as_json or not out.is_terminal else _watch(plan, out))
    except StoreError as error:
        assert plan.fleet is not None
        click.echo(f"fleet store {shown_address(plan.fleet.store)} does not answer: {told(str(error))}", err=True)
        ctx.exit(EXIT_FAILED)


def _plan(spec: Spec) -> Plan:
    """The plan of the spec. Keys need not be set here: deployments are known by their names and addresses."""
    keys = {reference.name: "unset" for path, reference in spec.references() if "api_key" in path or "params" in path}
    return resolve_spec(spec, {**keys, **spec.environment(os.environ)})


async def _print_once(plan: Plan, as_json: bool, out: Console) -> None:
    assert plan.fleet is not None
    async with aclosing(observe(plan.fleet, plan, RealClock(), 1.0)) as states:
        state = await anext(states)
    if as_json:
        print_json({"name": plan.fleet.name, "store": shown_address(plan.fleet.store), **_data(state)})
    else:
        out.print(_picture(plan.fleet.name, state))


async def _watch(plan: Plan, out: Console) -> None:
    from rich.live import Live

    assert plan.fleet is not None
    async with aclosing(observe(plan.fleet, plan, RealClock(), 1.0)) as states:
        with Live(console=out) as live:
            async for state in states:
                live.update(_picture(plan.fleet.name, state))


def _data(state: FleetStatus) -> dict[str, Any]:
    return {"members": state["members"], "deployments": state["deployments"], "budgets": state["budgets"]}


def _picture(name: str, state: FleetStatus) -> Group:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    deployments = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("deployment", "breaker", "reported by", "of its limits"):
        deployments.add_column(title, overflow="fold")
    for deployment, known in state["deployments"].items():
        word = known["breaker"] + (f" ({known['failure']})" if known["failure"] else "")
        by = f"{len(known['reported_by'])} of {state['members']}" if known["reported_by"] else "-"
        deployments.add_row(
            named(deployment), Text(word, _COLOURS[known["breaker"]]), by, ", ".join(_limits(known["limits"])) or "-"
        )
    lines: list[RenderableType] = [
        Text(f"fleet {shown(name)}: {state['members']} processes that make calls"),
        deployments,
    ]
    lines += [Text(f"{shown(budget['scope'])}, {budget['day']}: {_money(budget)}") for budget in state["budgets"]]
    return Group(*lines)


def _limits(limits: Mapping[str, LimitStatus]) -> Iterator[str]:
    for word, known in limits.items():
        used = 0 if known["used_by_all"] is None else known["used_by_all"]
        yield f"{used:g}/{known['limit']:g} {word}"


def _money(budget: SharedBudgetStatus) -> str:
    return f"${budget['spent_by_all_usd'] or 0:.4f} of ${budget['limit_usd']:g} spent or in hand"
