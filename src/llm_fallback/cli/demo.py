"""`llm-fallback demo`: a chain answering while its servers fail, one way after another, without a network."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.shared import console, json_option, loading_litellm, print_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from llm_fallback.cli.scenes import Played, Stage
    from llm_fallback.engine.health import DeploymentState


@click.command("demo")
@json_option
def command(as_json: bool) -> None:
    """Watch a chain answer while its servers fail.

    They are down, throttled, hung, cut off, or send garbage. Needs no network, no key and no spec: three fake
    servers run on this machine.
    """
    if as_json:
        print_json(_data())
    else:
        show(console())


def _data() -> dict[str, Any]:
    from llm_fallback.cli.scenes import SCENES, stage

    with stage() as set_up:
        set_up.warm_up()
        scenes = [{"scene": scene.title, **_plain(set_up.play(scene))} for scene in SCENES]
        outage = [_plain(played) for played in set_up.outage()]
    return {"scenes": scenes, "outage": outage}


def _plain(played: Played) -> dict[str, Any]:
    return {
        "answer": played.answer,
        "breaker": played.breaker,
        "llm_fallback": played.record.as_metadata(),
    }


def show(out: Console) -> None:
    """Play every scene, and print each as it ends."""
    began = time.monotonic()
    _introduce(out)
    with out.status("Importing LangChain and litellm..."), loading_litellm():
        from llm_fallback.cli.scenes import SCENES, stage
    with stage() as set_up:
        with out.status("Starting three fake servers..."):
            set_up.warm_up()
        for number, scene in enumerate(SCENES, 1):
            lines = _call(set_up.play(scene))
            out.print(_panel(out, f"{number} {scene.title}", scene.happens, *lines))
        out.print(_explanation(set_up))
        calls = list(set_up.outage())
        happens = f"the primary answers 503, and is repaired before call {len(calls)}"
        out.print(_panel(out, f"{len(SCENES) + 1} outage", happens, _outage(calls)))
    out.print(f"{time.monotonic() - began:.1f} s. Now with your own spec: check, explain, ask.", style="dim")


def _introduce(out: Console) -> None:
    out.print("\n[bold]chain = prompt | build_chat_model(spec) | StrOutputParser()[/]\n")
    out.print("One question, three servers; the first of them has one problem after another.\n")


def _call(played: Played) -> list[RenderableType]:
    from rich.text import Text

    from llm_fallback.cli.timeline import seconds, summary, timeline

    lines: list[RenderableType] = [Text(played.answer, style="bold"), timeline(played.record)]
    lines.append(Text(summary(played.record), style="dim"))
    retry_in_s = played.breaker["retry_in_s"]
    if retry_in_s is not None:
        lines.append(Text(f"the breaker of the primary is open for {seconds(retry_in_s)}", style="dim"))
    return lines


def _panel(out: Console, title: str, happens: str, *lines: RenderableType) -> Panel:
    """A scene in a frame. Where the frame has no room for what happens, that is the first line inside."""
    from rich.console import Group
    from rich.panel import Panel

    heading = f"[bold]{title}[/]: {happens}"
    if len(title) + len(happens) + len("╭─ :  ─╮") > out.width:
        heading, lines = f"[bold]{title}[/]", (f"[cyan]{happens}[/]", *lines)
    return Panel(Group(*lines), title=heading, title_align="left", border_style="cyan")


def _explanation(set_up: Stage) -> Padding:
    """What a chain that does not hold replies back does when the stream is cut off."""
    from rich.padding import Padding

    from llm_fallback.cli.scenes import SCENES

    cut = next(scene for scene in SCENES if scene.title == "cut off")
    played = set_up.play(replace(cut, chain="assistant"))
    assert played.error is not None
    text = (
        "In 5 the chain has [bold]on_stream_break: hold[/]: a reply is delivered once it is whole. With "
        f"[bold]raise[/], the default, its user has read {played.answer!r} when the stream raises "
        "[bold]StreamBroken[/], with that as .partial. Nothing comes twice, and no broken stream passes for a "
        "whole one."
    )
    return Padding(text, (0, 2, 1, 2), expand=False)


def _outage(calls: list[Played]) -> Table:
    from rich.table import Table

    from llm_fallback.cli.scenes import HEALTHY, PRIMARY
    from llm_fallback.cli.timeline import seconds

    second = list(HEALTHY)[1]
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for heading in ("#", PRIMARY, second, "latency", "primary's breaker"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "latency" else "left")
    for number, played in enumerate(calls, 1):
        outcomes = [_outcome(played, name) for name in (PRIMARY, second)]
        table.add_row(str(number), *outcomes, seconds(played.record.latency_s), _state(played.breaker))
    return table


def _outcome(played: Played, deployment: str) -> Text:
    from rich.text import Text

    from llm_fallback.cli.timeline import outcome

    for attempt in played.record.attempts:
        if attempt.deployment == deployment:
            return Text(outcome(attempt), style="red" if attempt.failure else "green")
    return Text("not asked", style="dim")


def _state(breaker: DeploymentState) -> str:
    if breaker["breaker"] == "closed":
        failures = breaker["failures"]
        return f"closed, {failures} failed" if failures else "closed"
    retry_in_s = breaker["retry_in_s"]
    return "half-open" if retry_in_s is None else f"open for {retry_in_s:.1f} s"
