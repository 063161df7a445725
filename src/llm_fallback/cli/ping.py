"""`llm-fallback ping`: one token from every deployment, and what is wrong with those that give none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.shared import (
    FOUND,
    chain_called,
    chain_option,
    console,
    files_option,
    json_option,
    loading_litellm,
    print_json,
)
from llm_fallback.engine.ping import TIMEOUT_S, Ping
from llm_fallback.plan.credential import as_secret_or_none
from llm_fallback.spec import load_spec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from llm_fallback.litellm_adapter.chat_model import FallbackChatModel

_QUESTIONS = ("works", "reachable", "ready", "served", "key_accepted")
_TITLES = ("works", "reachable", "ready", "model", "key", "round trip", "first token")


@dataclass(slots=True)
class Roll:
    """Everybody who is asked, and who has answered so far."""

    chains: Mapping[str, tuple[str, ...]]
    """The deployments of each chain's tiers."""
    deployments: tuple[str, ...]
    pings: dict[str, Ping] = field(default_factory=dict)

    def answers(self, chain: str) -> bool:
        """Whether any deployment of the chain works."""
        return any(self.pings[name].works for name in self.chains[chain])

    @property
    def is_fine(self) -> bool:
        return all(map(self.answers, self.chains))


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
    names = [chain_called(spec, chain)] if chain or not spec.chains else list(spec.chains)
    with loading_litellm():
        from llm_fallback.litellm_adapter.build import build_chat_model

    model = build_chat_model(spec, chain=names[0])
    roll = _roll(model, names)
    asyncio.run(_call(model, roll, timeout_s, None if as_json else console()))
    if as_json:
        print_json(_data(roll))
    else:
        _print_summary(roll, console())
    ctx.exit(0 if roll.is_fine else FOUND)


def _roll(model: FallbackChatModel, names: list[str]) -> Roll:
    chains = model.runtime.plan.chains
    members = {name: tuple(m.name for tier in chains[name].tiers for m in tier.members) for name in names}
    return Roll(members, tuple(dict.fromkeys(m.name for name in names for m in chains[name].members)))


async def _call(model: FallbackChatModel, roll: Roll, timeout_s: float, out: Console | None) -> None:
    """Fill the roll; on a terminal the table is there from the start, and fills as they answer."""
    from rich.live import Live

    targets = [model.runtime.plan.targets[name] for name in roll.deployments]
    keys = {target.name: as_secret_or_none(target.credential.ask()) for target in targets}
    live = Live(_table(roll), console=out) if out is not None and out.is_terminal else None
    async with model:
        with live or nullcontext():
            async for ping in model.runtime.pings(targets, keys, timeout_s):
                roll.pings[ping.deployment] = ping
                if live is not None:
                    live.update(_table(roll))
    if out is not None and live is None:
        out.print(_table(roll))


def _table(roll: Roll) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("deployment", style="bold", overflow="fold")
    for title in _TITLES:
        table.add_column(title, justify="right" if title in ("round trip", "first token") else "left")
    for name in roll.deployments:
        table.add_row(name, *_cells(roll.pings.get(name)))
    return table


def _cells(ping: Ping | None) -> Iterator[str]:
    from llm_fallback.cli.timeline import seconds

    if ping is None:
        yield "[dim]...[/]"
        return
    for question in _QUESTIONS:
        yield {True: "[green]yes[/]", False: "[red]no[/]", None: "[dim]-[/]"}[getattr(ping, question)]
    for duration in (ping.round_trip_s, ping.first_token_s):
        yield "[dim]-[/]" if duration is None else seconds(duration)


def _print_summary(roll: Roll, out: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for name in roll.deployments:
        ping = roll.pings[name]
        if not ping.works:
            out.print(Text.assemble((name, "bold"), ": ", (_failure(ping), "red")))
            for line in dict.fromkeys(filter(None, (ping.remedy, ping.message))):
                out.print(Padding(Text(line), (0, 0, 0, 4), expand=False))
    for chain, names in roll.chains.items():
        working = [name for name in names if roll.pings[name].works]
        said = f"{len(working)} of {len(names)} work" if working else "no deployment works"
        out.print(Text.assemble((chain, "bold"), ": ", (said, "green" if working else "red")))


def _failure(ping: Ping) -> str:
    return f"{ping.failure} ({ping.status})" if ping.status else str(ping.failure)


def _data(roll: Roll) -> dict[str, Any]:
    chains = {name: {"works": roll.answers(name), "deployments": list(roll.chains[name])} for name in roll.chains}
    deployments = {name: roll.pings[name].as_data() for name in roll.deployments}
    return {"ok": roll.is_fine, "chains": chains, "deployments": deployments}
