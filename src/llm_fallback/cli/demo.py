"""`llm-fallback demo`: a chain answering while its servers fail, one way after another, without a network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.shared import console, json_option, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    from llm_fallback.cli.scenes import Played, Scene, Stage


@click.command("demo")
@json_option
def command(as_json: bool) -> None:
    """Watch a chain answer while its servers are down, throttled, hung, cut off or talk nonsense.

    Needs no network, no key and no spec: three fake servers run on this machine.
    """
    if as_json:
        print_json(_data())
    else:
        _show(console())


def _data() -> dict[str, Any]:
    from llm_fallback.cli.scenes import SCENES, stage

    with stage() as set_up:
        set_up.warm_up()
        scenes = [{"scene": scene.title, **_plain(set_up.play(scene))} for scene in SCENES]
        outage = [{"call": name, **_plain(played)} for name, played in set_up.outage()]
    return {"scenes": scenes, "outage": outage}


def _plain(played: Played) -> dict[str, Any]:
    return {
        "answer": played.answer,
        "breaker": played.breaker,
        "llm_fallback": played.record.as_metadata(),
    }


def _show(out: Console) -> None:
    began = time.monotonic()
    with out.status("Importing LangChain and litellm..."):
        from llm_fallback.cli.scenes import SCENES, stage
    with stage() as set_up:
        with out.status("Starting three fake servers..."):
            set_up.warm_up()
        _introduce(out, set_up)
        for number, scene in enumerate(SCENES, 1):
            out.print(_panel(number, scene, set_up.play(scene)))
        out.print(_in_words(set_up))
        out.print(_outage(set_up))
    out.print(f"Done in {time.monotonic() - began:.1f} s. Next: llm-fallback check, explain, ask.", style="dim")


def _introduce(out: Console, set_up: Stage) -> None:
    from rich.text import Text

    from llm_fallback.cli.scenes import PROMPT, QUESTION

    tiers = set_up.spec.chains["assistant"].tiers
    out.print()
    out.print(Text("chain = prompt | build_chat_model(spec) | StrOutputParser()", style="bold"))
    out.print(Text(f"prompt  {PROMPT.format(question=QUESTION)}"))
    out.print(Text(f"asks    {', then '.join(' or '.join(tier) for tier in tiers)}"))
    out.print(Text(f"spec    {set_up.file.name}"))
    out.print()


def _panel(number: int, scene: Scene, played: Played) -> Panel:
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    from llm_fallback.cli.timeline import summary, timeline

    lines = (
        Text(played.answer, style="bold"),
        timeline(played.record),
        Text(f"{summary(played.record)}{_breaker(played)}", style="dim"),
    )
    title = f"[bold]{number} {scene.title}[/]: {scene.happens}"
    return Panel(Group(*lines), title=title, title_align="left", box=box.ROUNDED, border_style="cyan")


def _breaker(played: Played) -> str:
    left = played.breaker["retry_in_s"]
    return "" if left is None else f", breaker open for {left:.0f} s"


def _in_words(set_up: Stage) -> str:
    """What the chain that does not hold its replies back does where the stream is cut off."""
    from dataclasses import replace

    from llm_fallback.cli.scenes import SCENES

    cut = next(scene for scene in SCENES if scene.title == "cut off")
    played = set_up.play(replace(cut, chain="assistant"))
    error = type(played.error).__mro__[1].__name__ if played.error else "no error"
    return (
        f"In scene 5 the chain has [bold]on_stream_break: hold[/]: nothing is delivered before it is whole. With "
        f"[bold]raise[/], the default, what came is delivered at once ({played.answer!r}), and then the "
        f"stream raises [bold]{error}[/] with it as .partial: nothing twice, nothing broken passed off as whole.\n"
    )


def _outage(set_up: Stage) -> Table:
    from rich import box
    from rich.table import Table

    from llm_fallback.cli.timeline import outcome, seconds

    table = Table(box=box.SIMPLE_HEAD, title="The breaker of the primary in an outage (503)", title_justify="left")
    table.add_column("")
    table.add_column("asked", overflow="fold")
    table.add_column("latency", justify="right")
    table.add_column("breaker afterwards")
    for name, played in set_up.outage():
        asked = ", ".join(f"{each.deployment} {outcome(each)}" for each in played.record.attempts)
        table.add_row(name, asked, seconds(played.record.latency_s), _state(played.breaker))
    return table


def _state(breaker: dict[str, Any]) -> str:
    if breaker["breaker"] != "closed":
        left = breaker["retry_in_s"]
        return breaker["breaker"] if left is None else f"open, probe in {left:.1f} s"
    return f"closed, {breaker['failures']} failures"
