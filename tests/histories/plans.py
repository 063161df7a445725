"""What is planned for a history: a spec, calls, troubles, reloads. Plain data, so that parts of it can be left out.

Each history has some of the features only (swarm testing): with all of them in each, one would hide another's trouble.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from tests.histories.servers import FAILURES, TICK_S, Trouble

Leaving = Literal["cancels", "cancels twice", "times out", "closes", "drops"]
NAMES = ("a", "b", "c", "d")
ZONES = ("own", "eu", "us")
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
        after = f"{self.leaves_after:g} {'chunks' if self.leaving in ('closes', 'drops') else 's'}"
        leaving = f", {self.leaving} after {after}" if self.leaving else ""
        pause = f", holds each chunk for {self.pause_s:g} s" if self.pause_s and self.streamed else ""
        given = {"timeout": self.total_s, "zones": self.zones, "thread": self.thread, "traced": self.is_traced}
        words = "".join(f", {name}={value}" for name, value in given.items() if value)
        return f"{self.at:7.2f}  {self.name} {what}, {self.words} words{leaving}{pause}{words}"


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


Action = Ask | Reload | Close | Trouble


@dataclass(frozen=True)
class Plan:
    """All that a history follows from."""

    seed: int
    spec: Mapping[str, Any]
    actions: tuple[Action, ...]
    in_order: bool = False
    """Whether tasks run first come, first served."""
    closes_in_s: float = 0.0
    midnight_in_s: float = 50_000.0

    def __str__(self) -> str:
        loop = "in the order they came" if self.in_order else "in any order"
        head = f"seed {self.seed}; tasks run {loop}; midnight in {self.midnight_in_s:g} s\n"
        return head + json.dumps(self.spec, default=str) + "\n" + "\n".join(map(str, self.actions))


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"{seed}/plan")
    spec = _spec(rng)
    lasts_s = rng.choice([5.0, 20.0, 90.0])
    actions = [*_calls(rng, spec, lasts_s), *_troubles(rng, spec, lasts_s)]
    if rng.random() < 0.25:
        actions += [_reload(rng, spec, lasts_s) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.05:
        actions.append(Close(_at(rng, lasts_s)))
    return Plan(
        seed,
        spec,
        tuple(sorted(actions, key=lambda action: action.at)),
        in_order=rng.random() < 0.2,
        closes_in_s=rng.choice([0.0, 0.0, 0.01]),
        midnight_in_s=rng.choice([50_000.0, 50_000.0, lasts_s / 2]),
    )


def _at(rng: Random, lasts_s: float) -> float:
    return round(rng.randrange(int(lasts_s / TICK_S)) * TICK_S, 2)


def _some(rng: Random, share: float) -> bool:
    return rng.random() < share


# The spec.


def _spec(rng: Random) -> dict[str, Any]:
    names = NAMES[: rng.choice([1, 2, 2, 3, 3, 4])]
    has_zones, has_budget = _some(rng, 0.25), _some(rng, 0.35)
    deployments = {name: _deployment(rng, has_zones=has_zones) for name in names}
    chains = {"main": _chain(rng, list(names), has_budget=has_budget)}
    if has_zones and _some(rng, 0.6):
        zones = {deployments[name]["zone"] for name in names}
        chains["main"]["zones"] = sorted(rng.sample(sorted(zones), rng.randint(1, len(zones))))
    if _some(rng, 0.3):
        chains["other"] = _chain(rng, rng.sample(names, rng.randint(1, len(names))), has_budget=False)
    return {"deployments": deployments, "chains": chains, "default_chain": "main"}


def _deployment(rng: Random, *, has_zones: bool) -> dict[str, Any]:
    deployment: dict[str, Any] = {
        "backend": rng.choice(["openai-compatible", "vllm"]),
        "model": rng.choice(["m1", "m2", "m3"]),
        "api_base": "http://server.invalid",
        "price": rng.choice(
            [
                "free",
                {"input_per_million": 100, "output_per_million": 400},
                {"input_per_million": 7, "output_per_million": 11},
            ]
        ),
    }
    if has_zones:
        deployment["zone"] = rng.choice(ZONES)
    if _some(rng, 0.2):
        deployment["limits"] = rng.choice(
            [{"rpm": 3}, {"rpm": 6}, {"max_parallel": 1}, {"max_parallel": 2}, {"tpm": 200}]
        )
    if _some(rng, 0.2):
        deployment["breaker"] = rng.choice(["off", {"failures": 1, "cooldown_s": 2}, {"failures": 2, "cooldown_s": 5}])
    if _some(rng, 0.1):
        deployment["weight"] = rng.choice([2, 5])
    if _some(rng, 0.15):
        deployment["context_window"] = rng.choice([100, 1000])
    if _some(rng, 0.08):
        deployment["cold_start"] = {"max_wait_s": 10}
    return deployment


def _chain(rng: Random, names: list[str], *, has_budget: bool) -> dict[str, Any]:
    rng.shuffle(names)
    timeouts: dict[str, Any] = {"total_s": rng.choice([3, 8, 20, 60])}
    for name, values in (("attempt_s", [1, 2, 5]), ("first_token_s", [0.5, 1, 2]), ("idle_s", [0.5, 1, 3])):
        if _some(rng, 0.7):
            timeouts[name] = rng.choice(values)
    chain: dict[str, Any] = {"tiers": _tiers(rng, names), "timeouts": timeouts}
    chain["on_stream_break"] = rng.choice(["raise", "continue", "continue", "hold"])
    if _some(rng, 0.6):
        chain["retries"] = {"max": rng.choice([0, 1, 3]), "wait_initial_s": 0.25, "wait_max_s": 2}
    if _some(rng, 0.35):
        chain["hedge"] = {"after_s": rng.choice([0.1, 0.3, 1, "p95"])}
    if has_budget:
        chain["budget"] = _budget(rng)
    if _some(rng, 0.15):
        chain["accept"] = "tests.histories.model:is_sense"
        chain["on_stream_break"] = "hold"
    if _some(rng, 0.2):
        chain["balance"] = "weighted"
    if _some(rng, 0.2):
        chain["affinity"] = rng.choice(["thread", "prefix"])
    for route in ("on_context_window", "on_content_policy"):
        if _some(rng, 0.25):
            chain[route] = [rng.choice(names)] if _some(rng, 0.8) else []
    return chain


def _tiers(rng: Random, names: list[str]) -> list[str | list[str]]:
    tiers: list[str | list[str]] = []
    left = list(names)
    while left:
        size = rng.randint(1, min(3, len(left)))
        tiers.append(left[0] if size == 1 else left[:size])
        left = left[size:]
    return tiers


def _budget(rng: Random) -> dict[str, Any]:
    """Of the dearest an attempt is estimated at $0.0283 at most."""
    limits = {"usd_per_call": [0.03, 0.06], "usd_per_day": [0.05, 0.1, 0.3]}
    chosen = rng.choice([["usd_per_call"], ["usd_per_day"], ["usd_per_day"], [*limits]])
    return {**{name: rng.choice(limits[name]) for name in chosen}, "on_limit": rng.choice(["raise", "cheaper"])}


# What happens.


def _calls(rng: Random, spec: Mapping[str, Any], lasts_s: float) -> list[Action]:
    leaves, pauses, traces = (_some(rng, 0.6) for _ in range(3))
    zones = [deployment["zone"] for deployment in spec["deployments"].values() if "zone" in deployment]
    burst_at = _at(rng, lasts_s) if _some(rng, 0.4) else None
    asks: list[Action] = []
    for number in range(rng.choice([1, 3, 8, 8, 15])):
        at = burst_at if burst_at is not None and _some(rng, 0.6) else _at(rng, lasts_s)
        ask = Ask(
            at,
            f"c{number:02}",
            rng.choice([*spec["chains"]]),
            streamed=_some(rng, 0.6),
            words=rng.randint(1, 12),
            total_s=rng.choice([1.0, 2.5]) if _some(rng, 0.1) else None,
            zones=(rng.choice(zones),) if zones and _some(rng, 0.2) else None,
            thread=rng.choice(["t1", "t2"]) if _some(rng, 0.5) else None,
            is_traced=traces and _some(rng, 0.3),
        )
        if leaves and _some(rng, 0.4):
            ask = _leaving(rng, ask)
        if pauses and _some(rng, 0.3):
            ask = replace(ask, pause_s=rng.choice([TICK_S, 0.2, 1.0]))
        asks.append(ask)
    return asks


def _leaving(rng: Random, ask: Ask) -> Ask:
    how: tuple[Leaving, ...] = ("cancels", "cancels twice", "times out")
    leaving = rng.choice((*how, "closes", "drops") if ask.streamed else how)
    after = rng.randint(0, 5) if leaving in ("closes", "drops") else TICK_S * rng.randint(0, 60)
    return replace(ask, leaving=leaving, leaves_after=round(after, 2))


def _troubles(rng: Random, spec: Mapping[str, Any], lasts_s: float) -> list[Action]:
    words = rng.sample([word for word in FAILURES if word != "answer"], rng.randint(1, 6))
    troubles: list[Action] = []
    for _ in range(rng.choice([0, 2, 4, 8])):
        at = _at(rng, lasts_s)
        until = rng.choice([lasts_s, min(lasts_s, at + rng.choice([1, 3, 10]))])
        share = rng.choice([1.0, 1.0, 0.5, 0.2])
        troubles.append(Trouble(at, until, rng.choice([*spec["deployments"]]), rng.choice(words), share))
    if _some(rng, 0.3):
        troubles.append(Trouble(0.0, lasts_s, rng.choice([*spec["deployments"]]), rng.choice(words), 1.0))
    return troubles


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
