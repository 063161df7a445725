"""`llm-fallback ping`: one token from every deployment, and what is wrong with those that give none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from llm_fallback.cli.shared import (
    EXIT_FAILED,
    chain_named,
    chain_option,
    console,
    files_option,
    json_option,
    loading_litellm,
    named,
    print_json,
)
from llm_fallback.engine.ping import TIMEOUT_S, PingResult
from llm_fallback.plan.credential import as_secret
from llm_fallback.spec import load_spec
from llm_fallback.spec.shown import shown, told

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from llm_fallback.litellm_adapter.chat_model import FallbackChatModel

_Check = Literal["works", "reachable", "ready", "served", "key_accepted"]
_CHECKS: tuple[_Check, ...] = get_args(_Check)
_TITLES = ("works", "reachable", "ready", "model", "key", "round trip", "first token")


@dataclass(slots=True)
class Results:
    """The deployments to ping, and the results so far."""

    chains: Mapping[str, tuple[str, ...]]
    """The deployments of each chain's tiers."""
    deployments: tuple[str, ...]
    pings: dict[str, PingResult] = field(default_factory=dict)

    def works(self, chain: str) -> bool:
        """Whether any deployment of the chain works."""
        return any(self.pings[name]["works"] for name in self.chains[chain])

    @property
    def is_fine(self) -> bool:
        return all(map(self.works, self.chains))


@click.command("ping")
@files_option
@chain_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long each deployment has.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], chain: str | None, timeout_s: float, as_json: bool) -> None:
    """Ask every deployment for one token, all at once.

    Says whether it is reachable, ready, has the model, takes the key and answers, and what to do where it does not.
    Exit code 1 if a chain has no deployment that works.
    """
    spec = load_spec(*files)
    names = [chain_named(spec, chain)] if chain or not spec.chains else list(spec.chains)
    with loading_litellm():
        from llm_fallback.litellm_adapter.build import build_chat_model

    model = build_chat_model(spec, chain=names[0])
    results = _no_results(model, names)
    asyncio.run(_ping(model, results, timeout_s, None if as_json else console()))
    if as_json:
        print_json(_data(results))
    else:
        _print_summary(results, console())
    ctx.exit(0 if results.is_fine else EXIT_FAILED)


def _no_results(model: FallbackChatModel, names: list[str]) -> Results:
    chains = model.runtime.plan.chains
    members = {name: tuple(m.name for tier in chains[name].tiers for m in tier.members) for name in names}
    return Results(members, tuple(dict.fromkeys(m.name for name in names for m in chains[name].members)))


async def _ping(model: FallbackChatModel, results: Results, timeout_s: float, out: Console | None) -> None:
    """Ping the deployments; a terminal shows the table from the start, and each result as it comes."""
    from rich.live import Live

    targets = [model.runtime.plan.targets[name] for name in results.deployments]
    keys = {target.name: as_secret(target.credential.ask()) for target in targets}
    live = Live(_table(results), console=out) if out is not None and out.is_terminal else None
    async with model:
        with live or nullcontext():
            async for ping in model.runtime.pings(targets, keys, timeout_s):
                results.pings[ping["deployment"]] = ping
                if live is not None:
                    live.update(_table(results))
    if out is not None and live is None:
        out.print(_table(results))


def _table(results: Results) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("deployment", style="bold", overflow="fold")
    for title in _TITLES:
        table.add_column(title, justify="right" if title in ("round trip", "first token") else "left")
    for name in results.deployments:
        table.add_row(named(name), *_cells(results.pings.get(name)))
    return table


def _cells(ping: PingResult | None) -> Iterator[str]:
    from llm_fallback.cli.timeline import seconds

    if ping is None:
        yield "[dim]...[/]"
        return
    for check in _CHECKS:
        yield {True: "[green]yes[/]", False: "[red]no[/]", None: "[dim]-[/]"}[ping[check]]
    for duration in (ping["round_trip_s"], ping["first_token_s"]):
        yield "[dim]-[/]" if duration is None else seconds(duration)


def _print_summary(results: Results, out: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for name in results.deployments:
        ping = results.pings[name]
        if not ping["works"]:
            out.print(Text.assemble((shown(name), "bold"), ": ", (_failure(ping), "red")))
            for line in dict.fromkeys(filter(None, (ping["remedy"], ping["message"]))):
                out.print(Padding(Text(told(line)), (0, 0, 0, 4), expand=False))
    for chain, names in results.chains.items():
        working = [name for name in names if results.pings[name]["works"]]
        line = f"{len(working)} of {len(names)} work" if working else "no deployment works"
        out.print(Text.assemble((shown(chain), "bold"), ": ", (line, "green" if working else "red")))


def _failure(ping: PingResult) -> str:
    return f"{ping['failure']} ({ping['status']})" if ping["status"] else str(ping["failure"])


def _data(results: Results) -> dict[str, Any]:
    chains = {
        name: {"works": results.works(name), "deployments": list(results.chains[name])} for name in results.chains
    }
    deployments = {name: results.pings[name] for name in results.deployments}
    return {"ok": results.is_fine, "chains": chains, "deployments": deployments}
