"""What is planned for a history: a spec, calls, troubles, mishaps. Plain data, so that parts of it can be left out.

Each history has some of the features only (swarm testing): with all of them in each, one would hide another's trouble.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal, get_args

from tests.histories.servers import FAILURES, KEY_TROUBLES, TICK_S, Trouble
from tests.histories.specs import Shares, some, spec_of

Leaving = Literal["cancels", "cancels twice", "times out", "closes", "drops"]
SETTLED_S = 700.0
"""After the last trouble: longer than any Retry-After or cooldown lasts."""


@dataclass(frozen=True)
class Ask:
    """A call."""

    at: float
    name: str
    chain: str
    streamed: bool
    words: int
    tools: int = 0
    """How many tool calls it asks for; their results it does not await."""
    process: int = 0
    in_thread: bool = False
    """Whether it is made from a thread, and not from a task."""
    leaving: Leaving | None = None
    leaves_after: float = 0.0
    """Seconds; chunks of who closes or drops a stream."""
    pause_s: float = 0.0
    """For which a reader holds each chunk."""
    total_s: float | None = None
    zones: tuple[str, ...] | None = None
    thread: str | None = None
    is_traced: bool = False
    """Whether a LangChain handler listens."""

    def __str__(self) -> str:
        what = f"streams {self.chain}" if self.streamed else f"invokes {self.chain}"
        where = f"p{self.process}, from a {'thread' if self.in_thread else 'task'}"
        what, tools = f"({where}) {what}", f", {self.tools} tools" if self.tools else ""
        after = f"{self.leaves_after:g} {'chunks' if self.leaving in ('closes', 'drops') else 's'}"
        leaving = f", {self.leaving} after {after}" if self.leaving else ""
        pause = f", holds each chunk for {self.pause_s:g} s" if self.pause_s and self.streamed else ""
        given = {"timeout": self.total_s, "zones": self.zones, "thread": self.thread, "traced": self.is_traced}
        words = "".join(f", {name}={value}" for name, value in given.items() if value)
        return f"{self.at:7.2f}  {self.name} {what}, {self.words} words{tools}{leaving}{pause}{words}"


@dataclass(frozen=True)
class Reload:
    """Another spec from then on."""

    at: float
    changes: Mapping[str, Any]
    """Per chain or deployment, by its path."""

    def __str__(self) -> str:
        return f"{self.at:7.2f}  reload with {json.dumps(dict(self.changes))}"


@dataclass(frozen=True)
class Close:
    """The model is closed."""

    at: float

    def __str__(self) -> str:
        return f"{self.at:7.2f}  close"


OfProcesses = Literal["is killed", "starts"]
OfStores = Literal[
    "is cut off from the store", "the store goes away", "the store loses everything", "the store goes back"
]
OfDisks = Literal["the disk is slow", "the disk is full", "a line is torn"]
Befalling = OfProcesses | OfStores | OfDisks


@dataclass(frozen=True)
class Mishap:
    """What befalls a process, or what processes share."""

    at: float
    what: Befalling
    lasts_s: float = 0.0
    process: int = 0

    def __str__(self) -> str:
        who = f"p{self.process} " if self.what.startswith("is") else "another process " if self.what == "starts" else ""
        return f"{self.at:7.2f}  {who}{self.what}" + (f" for {self.lasts_s:g} s" if self.lasts_s else "")


Action = Ask | Reload | Close | Trouble | Mishap


@dataclass(frozen=True)
class Plan:
    """All that a history follows from."""

    seed: int
    spec: Mapping[str, Any]
    actions: tuple[Action, ...]
    processes: int = 1
    in_order: bool = False
    """Whether tasks run first come, first served."""
    closes_in_s: float = 0.0
    midnight_in_s: float = 50_000.0

    def __str__(self) -> str:
        loop = "in the order they came" if self.in_order else "in any order"
        head = (
            f"seed {self.seed}; processes: {self.processes}; tasks run {loop}; midnight in {self.midnight_in_s:g} s\n"
        )
        return head + json.dumps(self.spec, default=str) + "\n" + "\n".join(map(str, self.actions))


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"{seed}/plan")
    shares: Shares = rng.choices(["nothing", "a fleet", "a file"], [7, 2, 1])[0]  # type: ignore[assignment]
    processes = 1 if shares == "nothing" else rng.randint(2, 4) if shares == "a fleet" else rng.randint(1, 2)
    spec = spec_of(rng, shares)
    lasts_s = rng.choice([5.0, 20.0] if shares == "a fleet" else [5.0, 20.0, 90.0])
    actions = [*_calls(rng, spec, lasts_s, processes), *_troubles(rng, spec, lasts_s)]
    if shares != "nothing":
        actions += _mishaps(rng, shares, lasts_s, processes)
    if rng.random() < 0.25:
        actions += [_reload(rng, spec, lasts_s) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.05:
        actions.append(Close(_at(rng, lasts_s)))
    return Plan(
        seed,
        spec,
        tuple(sorted(actions, key=lambda action: action.at)),
        processes,
        in_order=rng.random() < 0.2,
        closes_in_s=rng.choice([0.0, 0.0, 0.01]),
        midnight_in_s=rng.choice([50_000.0, 50_000.0, lasts_s / 2]),
    )


def _at(rng: Random, lasts_s: float) -> float:
    return round(rng.randrange(int(lasts_s / TICK_S)) * TICK_S, 2)


# What happens.


def _calls(rng: Random, spec: Mapping[str, Any], lasts_s: float, processes: int) -> list[Action]:
    leaves, pauses, traces = (some(rng, 0.6) for _ in range(3))
    has_tools, has_threads = some(rng, 0.3), some(rng, 0.3)
    zones = [deployment["zone"] for deployment in spec["deployments"].values() if "zone" in deployment]
    burst_at = _at(rng, lasts_s) if some(rng, 0.4) else None
    asks: list[Action] = []
    for number in range(rng.choice([1, 3, 8, 8, 15] if processes == 1 else [8, 15, 30])):
        at = burst_at if burst_at is not None and some(rng, 0.6) else _at(rng, lasts_s)
        ask = Ask(
            at,
            f"c{number:02}",
            rng.choice([*spec["chains"]]),
            streamed=some(rng, 0.6),
            words=rng.randint(1, 12),
            total_s=rng.choice([1.0, 2.5]) if some(rng, 0.1) else None,
            zones=(rng.choice(zones),) if zones and some(rng, 0.5) else None,
            thread=rng.choice(["t1", "t2"]) if some(rng, 0.5) else None,
            is_traced=traces and some(rng, 0.3),
            process=rng.randrange(processes + (processes > 1)),  # The last may start meanwhile.
            in_thread=has_threads and some(rng, 0.5),
        )
        if has_tools and some(rng, 0.6):
            ask = replace(ask, words=rng.choice([0, 0, 1, 6]), tools=rng.randint(1, 2))
        if leaves and some(rng, 0.4):
            ask = _leaving(rng, ask)
        if pauses and some(rng, 0.3):
            ask = replace(ask, pause_s=rng.choice([TICK_S, 0.2, 1.0]))
        asks.append(ask)
    return asks


def _leaving(rng: Random, ask: Ask) -> Ask:
    how: tuple[Leaving, ...] = ("cancels", "cancels twice", "times out")
    if ask.in_thread:
        how = ("cancels",)  # As Ctrl-C does it.
    leaving = rng.choice((*how, "closes", "drops") if ask.streamed else how)
    after = rng.randint(0, 5) if leaving in ("closes", "drops") else TICK_S * rng.randint(0, 60)
    return replace(ask, leaving=leaving, leaves_after=round(after, 2))


def _troubles(rng: Random, spec: Mapping[str, Any], lasts_s: float) -> list[Action]:
    words = rng.sample([word for word in FAILURES if word != "answer"], rng.randint(1, 6))
    if any("api_key" in deployment for deployment in spec["deployments"].values()):
        words += KEY_TROUBLES
    troubles: list[Action] = []
    for _ in range(rng.choice([0, 2, 4, 8])):
        at = _at(rng, lasts_s)
        until = rng.choice([lasts_s, min(lasts_s, at + rng.choice([1, 3, 10]))])
        share = rng.choice([1.0, 1.0, 0.5, 0.2])
        troubles.append(Trouble(at, until, rng.choice([*spec["deployments"]]), rng.choice(words), share))
    if some(rng, 0.3):
        troubles.append(Trouble(0.0, lasts_s, rng.choice([*spec["deployments"]]), rng.choice(words), 1.0))
    return troubles


def _mishaps(rng: Random, shares: Shares, lasts_s: float, processes: int) -> list[Action]:
    of_what_is_shared = get_args(OfStores if shares == "a fleet" else OfDisks)
    befalling: list[Befalling] = rng.sample([*get_args(OfProcesses), *of_what_is_shared], 2)
    lasts = [0.5, 2.0, 8.0]
    return [
        Mishap(_at(rng, lasts_s), rng.choice(befalling), rng.choice(lasts), rng.randrange(processes))
        for _ in range(rng.choice([0, 1, 2, 3]))
    ]


def _reload(rng: Random, spec: Mapping[str, Any], lasts_s: float) -> Reload:
    name = rng.choice([*spec["deployments"]])
    changes: list[Mapping[str, Any]] = [
        {"deployments": {name: {"weight": 3}}},
        {"deployments": {name: {"breaker": {"failures": 2, "cooldown_s": 3}}}},
        {"deployments": {name: {"limits": {"max_parallel": 2}}}},
        {"chains": {"main": {"timeouts": {"total_s": 5}}}},
        {"chains": {"main": {"retries": {"max": 1}}}},
        {},
    ]
    return Reload(_at(rng, lasts_s) + TICK_S / 4, rng.choice(changes))  # So that no call begins at that moment.
