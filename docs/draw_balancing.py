"""Draw the pictures of docs/balancing.md, from the events of calls over scripted deployments.

python docs/draw_balancing.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from drawing import BAD, Drawing, write

from llm_fallback import CallEnded, Event, LLMFallbackError
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.testing import Fail, Reply, fake_chat_model

COLOURS = ("#4477aa", "#e69f00", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#994455", "#332288")
NO_ANSWER = "no answer"
HEIGHT, GAP = 5, 1


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
        shade = BAD if attempt.outcome == "failed" else colour(call, attempt.deployment)
        yield Bar(attempt.deployment, begins, begins + attempt.latency_s, shade)
    if call.failure is not None:
        yield Bar(NO_ANSWER, at, at, BAD)


def draw(title: str, panels: Sequence[Panel]) -> Drawing:
    """The panels below each other, on one axis of time."""
    recorded = [(panel, record(panel)) for panel in panels]
    seconds = max(bar.ends_s for _, bars in recorded for bar in bars)
    drawing = Drawing(title, seconds, width=880, left=90, right=90)
    for panel, bars in recorded:
        drawing.heading(panel.title)
        drawing.y -= 2 * HEIGHT
        for lane in [*panel.scripts, *([NO_ANSWER] if any(bar.lane == NO_ANSWER for bar in bars) else [])]:
            _draw_lane(drawing, lane, [bar for bar in bars if bar.lane == lane])
    drawing.y += 16
    drawing.axis(next(step for step in (1, 2, 5, 10, 20, 30, 60) if seconds / step <= 12))
    return drawing


def _draw_lane(drawing: Drawing, name: str, bars: Sequence[Bar]) -> None:
    """A deployment's requests, in as many rows as there are at once, and how many there were."""
    rows, top = _rows(sorted(bars, key=lambda bar: bar.begins_s)), drawing.y
    height = max(len(rows), 3) * (HEIGHT + GAP) + 6
    drawing.label(name, top + height / 2)
    counted = f"{len(bars)} {'calls' if name == NO_ANSWER else 'requests'}"
    drawing.text(drawing.width - drawing.right + 6, top + height / 2 + 4, counted)
    for number, row in enumerate(rows):
        drawing.y = top + 3 + HEIGHT / 2 + number * (HEIGHT + GAP)
        for bar in row:
            drawing.bar(bar.begins_s, bar.ends_s, bar.colour, height=HEIGHT)
    drawing.y = top + height
    drawing.line()


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
HOUSE = {"own-a": {"zone": "own"}, "hosted": {"zone": "us"}, "own-b": {"zone": "own"}}
ONE_CENT = {"price": {"per_request": 0.01}}


UNLIKE = {"fast": QUICK, "slow": SLOW}
REPLICAS = dict.fromkeys("abc", USUAL)
PAIR = dict.fromkeys("ab", USUAL)
PATIENT = {"b": {"breaker": {"slow_times": 4, "window_s": 10, "cooldown_s": 10}}}
TIERS = {"tiers": list(HOUSE)}
PRICED = {"hosted": Reply("fine", delay_s=0.4), "free": Reply("fine", delay_s=0.8)}


def balance() -> Drawing:
    words = ("weighted", "least_loaded")
    panels = [Panel(f"balance: {word}", UNLIKE, {"balance": word}, steady(120, 20)) for word in words]
    return draw("A fast and a slow replica, by weight and by load", panels)


def affinity() -> Drawing:
    talk, words = conversations(8, 8), ("off", "thread")
    panels = [Panel(f"affinity: {word}", REPLICAS, {"affinity": word}, talk, colour=by_thread) for word in words]
    return draw("Eight conversations, without affinity and with it", panels)


def slow() -> Drawing:
    play, chain = gets_slow(120, 4, 5), {"balance": "weighted"}
    panels = [Panel("b gets slow", PAIR, chain, play), Panel("breaker: {slow_times: 4}", PAIR, chain, play, PATIENT)]
    return draw("A replica that gets slow, and a breaker that opens by it", panels)


def zones() -> Drawing:
    play, house = goes_down(24, 2, 4), dict.fromkeys(HOUSE, USUAL)
    free = Panel("own-a goes down", house, TIERS, play, HOUSE)
    bound = Panel("zones: [own]", house, {**TIERS, "zones": ["own"]}, play, HOUSE)
    return draw("The first deployment goes down, without zones and with them", [free, bound])


def cheaper() -> Drawing:
    chain = {"tiers": ["hosted", "free"]}
    panels = [
        Panel(
            f"usd_per_day: 0.10, on_limit: {word}",
            PRICED,
            {**chain, "budget": {"usd_per_day": "0.10", "on_limit": word}},
            steady(24, 2),
            {"hosted": ONE_CENT},
        )
        for word in ("raise", "cheaper")
    ]
    return draw("A budget that is used up, raising and going on with the free deployment", panels)


PICTURES = {
    "balance.svg": balance,
    "affinity.svg": affinity,
    "slow.svg": slow,
    "zones.svg": zones,
    "cheaper.svg": cheaper,
}


if __name__ == "__main__":
    write(PICTURES)
