"""Draw the pictures of docs/balancing.md, from the events of calls over scripted deployments.

python docs/draw_balancing.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from llm_fallback import CallEnded, Event, LLMFallbackError
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.testing import Fail, Reply, fake_chat_model

FOLDER = Path(__file__).parent / "pictures"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#994455", "#332288")
RED = "#cc0000"
NO_ANSWER = "no answer"

WIDTH, LEFT, RIGHT, TITLE, AXIS, BAR = 880, 90, 90, 26, 22, 5


@dataclass(frozen=True)
class Bar:
    """One request: in which lane, from when to when, and in which colour."""

    lane: str
    begins_s: float
    ends_s: float
    colour: str


Play = Callable[[Any], Awaitable[None]]
"""Makes calls of a model."""
Colour = Callable[[CallEnded, str], str]
"""Of a request, from its call and its deployment."""


@dataclass(frozen=True)
class Panel:
    """What happened to one chain."""

    title: str
    scripts: Mapping[str, Any]
    chain: Mapping[str, Any]
    play: Play
    deployments: Mapping[str, Any] | None = None
    colour: Colour | None = None


def record(panel: Panel) -> list[Bar]:
    """Play the panel, and say what its calls did."""
    names, clock = list(panel.scripts), JumpingClock(patience_s=0)
    ended: list[tuple[CallEnded, float]] = []
    colours = dict(zip(names, COLOURS, strict=False))

    def note(event: Event) -> None:
        if isinstance(event, CallEnded):
            ended.append((event, clock.now()))

    further = panel.deployments or {}
    entries = {name: {"model": f"openai/{name}", "price": "free", **further.get(name, {})} for name in names}
    spec = {"deployments": entries, "chains": {"c": {"tiers": [names], **panel.chain}}}
    model = fake_chat_model(panel.scripts, spec=spec, clock=clock, listeners=(note,))
    asyncio.run(panel.play(model))
    colour = panel.colour or (lambda call, deployment: colours[deployment])
    return [bar for call, at in ended for bar in _bars(call, at, colour)]


def _bars(call: CallEnded, at: float, colour: Colour) -> Iterator[Bar]:
    began = at - call.record.latency_s
    for attempt in call.record.attempts:
        begins = began + attempt.started_at
        shade = RED if attempt.outcome == "failed" else colour(call, attempt.deployment)
        yield Bar(attempt.deployment, begins, begins + attempt.latency_s, shade)
    if call.failure is not None:
        yield Bar(NO_ANSWER, at, at, RED)


def draw(name: str, panels: Sequence[Panel]) -> None:
    """Write the picture: the panels below each other, on one axis of time."""
    recorded = [(panel, record(panel)) for panel in panels]
    seconds = max(bar.ends_s for _, bars in recorded for bar in bars)
    parts: list[str] = []
    top = 0.0
    for panel, bars in recorded:
        lanes = list(panel.scripts) + [NO_ANSWER] * any(bar.lane == NO_ANSWER for bar in bars)
        parts.append(_text(0, top + 17, panel.title, weight="bold"))
        top += TITLE
        for lane in lanes:
            rows = _rows(sorted((bar for bar in bars if bar.lane == lane), key=lambda bar: bar.begins_s))
            height = max(len(rows), 3) * (BAR + 1) + 6
            parts.append(_text(0, top + height / 2 + 4, lane))
            parts.append(
                f'<line x1="{LEFT}" y1="{top + height:g}" x2="{WIDTH - RIGHT}" y2="{top + height:g}" stroke="#dddddd"/>'
            )
            for number, row in enumerate(rows):
                parts += [_rectangle(bar, top + 3 + number * (BAR + 1), seconds) for bar in row]
            asked = sum(map(len, rows))
            parts.append(
                _text(
                    WIDTH - RIGHT + 6, top + height / 2 + 4, f"{asked} {'calls' if lane == NO_ANSWER else 'requests'}"
                )
            )
            top += height
        top += 8
    parts += _axis(top, seconds)
    body = "\n".join(parts)
    size = f'width="{WIDTH}" height="{top + AXIS:g}" viewBox="0 0 {WIDTH} {top + AXIS:g}"'
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    font = 'font-family="sans-serif" font-size="12"'
    FOLDER.joinpath(f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>\n{background}\n{body}\n</svg>\n', encoding="utf-8"
    )


def _rows(bars: Sequence[Bar]) -> list[list[Bar]]:
    """The bars of a lane in as many rows as there are requests at once."""
    rows: list[list[Bar]] = []
    for bar in bars:
        row = next((row for row in rows if row[-1].ends_s <= bar.begins_s + 1e-9), None)
        if row is None:
            rows.append([bar])
        else:
            row.append(bar)
    return rows


def _x(at: float, seconds: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / seconds


def _rectangle(bar: Bar, y: float, seconds: float) -> str:
    x, end = _x(bar.begins_s, seconds), _x(bar.ends_s, seconds)
    return f'<rect x="{x:.1f}" y="{y:g}" width="{max(end - x - 0.5, 2):.1f}" height="{BAR}" fill="{bar.colour}"/>'


def _text(x: float, y: float, text: str, *, weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-weight="{weight}">{escape(text)}</text>'


def _axis(y: float, seconds: float) -> list[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60) if seconds / step <= 12)
    marks = [number * step for number in range(int(seconds / step) + 1)]
    return [_text(_x(at, seconds), y + 12, f"{at} s") for at in marks]


# What is played.


async def arrivals(model: Any, calls: int, per_second: float, ask: Callable[[int], Awaitable[Any]]) -> None:
    """So many calls, one after the other begun."""

    async def one(number: int) -> None:
        await model.clock.sleep(number / per_second)
        with suppress(LLMFallbackError):  # It is drawn.
            await ask(number)

    await asyncio.gather(*(one(number) for number in range(calls)))


def steady(calls: int, per_second: float) -> Play:
    return lambda model: arrivals(model, calls, per_second, lambda number: model.ainvoke("hi"))


def conversations(count: int, turns: int) -> Play:
    async def play(model: Any) -> None:
        async def turn(number: int) -> None:
            thread = number % count
            await model.ainvoke("hi", {"configurable": {"thread_id": thread}, "metadata": {"thread": thread}})

        await arrivals(model, count * turns, 2 * count / 3, turn)

    return play


def by_thread(call: CallEnded, deployment: str) -> str:
    return COLOURS[call.metadata["thread"] % len(COLOURS)]


def gets_slow(calls: int, per_second: float, at: float) -> Play:
    async def play(model: Any) -> None:
        async def change() -> None:
            await model.clock.sleep(at)
            model.script("b", Reply("fine", delay_s=6.0))

        await asyncio.gather(change(), steady(calls, per_second)(model))

    return play


def goes_down(calls: int, per_second: float, at: float) -> Play:
    async def play(model: Any) -> None:
        async def change() -> None:
            await model.clock.sleep(at)
            model.script("own-a", Fail("connection", delay_s=0.1))

        await asyncio.gather(change(), steady(calls, per_second)(model))

    return play


QUICK, SLOW = Reply("fine", delay_s=0.1), Reply("fine", delay_s=1.0)
USUAL = Reply("fine", delay_s=0.5)
HOUSE = {"own-a": {"zone": "own"}, "own-b": {"zone": "own"}, "hosted": {"zone": "us"}}
ONE_CENT = {"price": {"per_request": 0.01}}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    unlike = {"fast": QUICK, "slow": SLOW}
    draw(
        "balance",
        [
            Panel(f"balance: {balance}", unlike, {"balance": balance}, steady(120, 20))
            for balance in ("weighted", "least_loaded")
        ],
    )
    replicas = dict.fromkeys("abc", USUAL)
    draw(
        "affinity",
        [
            Panel(f"affinity: {affinity}", replicas, {"affinity": affinity}, conversations(8, 8), colour=by_thread)
            for affinity in ("off", "thread")
        ],
    )
    pair = dict.fromkeys("ab", USUAL)
    patient = {"b": {"breaker": {"slow_times": 4, "window_s": 10, "cooldown_s": 10}}}
    draw(
        "slow",
        [
            Panel("b gets slow", pair, {"balance": "weighted"}, gets_slow(120, 4, 5)),
            Panel("breaker: {slow_times: 4}", pair, {"balance": "weighted"}, gets_slow(120, 4, 5), patient),
        ],
    )
    house = dict.fromkeys(HOUSE, USUAL)
    tiers = {"tiers": ["own-a", "hosted", "own-b"]}
    draw(
        "zones",
        [
            Panel("own-a goes down", house, tiers, goes_down(24, 2, 4), HOUSE),
            Panel("zones: [own]", house, {**tiers, "zones": ["own"]}, goes_down(24, 2, 4), HOUSE),
        ],
    )
    priced = {"hosted": Reply("fine", delay_s=0.4), "free": Reply("fine", delay_s=0.8)}
    draw(
        "cheaper",
        [
            Panel(
                f"usd_per_day: 0.10, on_limit: {on_limit}",
                priced,
                {"tiers": ["hosted", "free"], "budget": {"usd_per_day": "0.10", "on_limit": on_limit}},
                steady(24, 2),
                {"hosted": ONE_CENT},
            )
            for on_limit in ("raise", "cheaper")
        ],
    )


if __name__ == "__main__":
    main()
