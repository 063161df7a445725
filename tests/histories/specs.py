"""The spec of a history, at random: some of the features only."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any, Literal

NAMES = ("a", "b", "c", "d")
ZONES = ("own", "eu", "us")
DEAREST_USD = Decimal("0.03")
"""Of the dearest deployment an attempt is estimated at less."""
Shares = Literal["nothing", "a fleet", "a file"]
"""By what processes know of each other."""


def some(rng: Random, share: float) -> bool:
    return rng.random() < share


def spec_of(rng: Random, shares: Shares) -> dict[str, Any]:
    """`a file` is that of a budget, whose name stands for its path."""
    names = NAMES[: rng.choice([1, 2, 2, 3, 3, 4])]
    has_zones, has_budget, has_key_functions = (some(rng, share) for share in (0.25, 0.35, 0.2))
    deployments = {name: _deployment(rng, has_zones=has_zones) for name in names}
    if has_key_functions:
        for name in names:
            if some(rng, 0.7):
                deployments[name]["api_key"] = rng.choice(["function", "async function"])
    chains = {"main": _chain(rng, list(names), has_budget=has_budget or shares == "a file")}
    if shares == "a file":
        chains["main"]["budget"] |= {"usd_per_day": rng.choice([0.1, 0.3, 1]), "file": "a file"}
    if has_zones and some(rng, 0.6):
        zones = {deployments[name]["zone"] for name in names}
        chains["main"]["zones"] = sorted(rng.sample(sorted(zones), rng.randint(1, len(zones))))
    if some(rng, 0.3):
        chains["other"] = _chain(rng, rng.sample(names, rng.randint(1, len(names))), has_budget=False)
    fleet = {"fleet": {"store": "redis://store.invalid", "secret": "s"}} if shares == "a fleet" else {}
    return {"deployments": deployments, "chains": chains, "default_chain": "main", **fleet}


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
    if some(rng, 0.2):
        deployment["limits"] = rng.choice(
            [{"rpm": 3}, {"rpm": 6}, {"max_parallel": 1}, {"max_parallel": 2}, {"tpm": 200}]
        )
    if some(rng, 0.2):
        deployment["breaker"] = rng.choice(["off", {"failures": 1, "cooldown_s": 2}, {"failures": 2, "cooldown_s": 5}])
    if some(rng, 0.1):
        deployment["weight"] = rng.choice([2, 5])
    if some(rng, 0.15):
        deployment["context_window"] = rng.choice([100, 1000])
    if some(rng, 0.08):
        deployment["cold_start"] = {"max_wait_s": 10}
    return deployment


def _chain(rng: Random, names: list[str], *, has_budget: bool) -> dict[str, Any]:
    rng.shuffle(names)
    timeouts: dict[str, Any] = {"total_s": rng.choice([3, 8, 20, 60])}
    for name, values in (("attempt_s", [1, 2, 5]), ("first_token_s", [0.5, 1, 2]), ("idle_s", [0.5, 1, 3])):
        if some(rng, 0.7):
            timeouts[name] = rng.choice(values)
    chain: dict[str, Any] = {"tiers": _tiers(rng, names), "timeouts": timeouts}
    chain["on_stream_break"] = rng.choice(["raise", "continue", "continue", "hold"])
    if some(rng, 0.6):
        chain["retries"] = {"max": rng.choice([0, 1, 3]), "wait_initial_s": 0.25, "wait_max_s": 2}
    if some(rng, 0.35):
        chain["hedge"] = {"after_s": rng.choice([0.1, 0.3, 1, "p95"])}
    if has_budget:
        chain["budget"] = _budget(rng)
    if some(rng, 0.15):
        chain["accept"] = "tests.histories.history:is_sense"
        chain["on_stream_break"] = "hold"
    if some(rng, 0.2):
        chain["balance"] = "weighted"
    if some(rng, 0.2):
        chain["affinity"] = rng.choice(["thread", "prefix"])
    for route in ("on_context_window", "on_content_policy"):
        if some(rng, 0.25):
            chain[route] = [rng.choice(names)] if some(rng, 0.8) else []
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
    limits = {"usd_per_call": [0.03, 0.06], "usd_per_day": [0.05, 0.1, 0.3]}
    chosen = rng.choice([["usd_per_call"], ["usd_per_day"], ["usd_per_day"], [*limits]])
    return {**{name: rng.choice(limits[name]) for name in chosen}, "on_limit": rng.choice(["raise", "cheaper"])}
