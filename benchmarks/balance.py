"""Whom to ask: replicas of different speed, replicas with a queue, conversations, and prompts that stay in the house.

python -m benchmarks.balance [--quick] [--zones CALLS]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from llm_fallback import build_chat_model
from llm_fallback.chat_model.caller import CallContext
from llm_fallback.chat_model.driver import adrive
from llm_fallback.engine.budget import ChainBudgets
from llm_fallback.engine.engine import Call, Engine
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.health import Health
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.plan.catalogue import ListCatalogue
from llm_fallback.plan.explain import plan_of
from llm_fallback.simulate import Trouble
from llm_fallback.simulate.transport import SimulatedTransport
from llm_fallback.simulate.troubles import FAILURES
from llm_fallback.spec import load_spec
from llm_fallback.testing import FakeServer, Reply

SEED = 7


def quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)]


async def ask_at_rate(model: Any, arrivals: Sequence[float]) -> tuple[list[float], Counter[str]]:
    """Make a call at each of these seconds; how long each took, and who answered."""
    took, who = [], Counter[str]()

    async def one(at: float) -> None:
        await asyncio.sleep(at)
        began = time.perf_counter()
        reply = await model.ainvoke("hi")
        took.append(time.perf_counter() - began)
        who[reply.response_metadata["llm_fallback"]["deployment"]] += 1

    await asyncio.gather(*map(one, arrivals))
    return took, who


# Two replicas, one ten times slower.


async def of_different_speed(calls: int) -> None:
    print(f"\nTwo replicas, 0.1 s and 1 s, {calls} calls at 20 a second:\n")
    print("| | median s | p95 s | calls to the slow one |\n|---|---|---|---|")
    arrivals = [number / 20 for number in range(calls)]
    scripts = {"fast": Reply("x", delay_s=0.1), "slow": Reply("x", delay_s=1.0)}
    for name, tiers, balance in (
        ("the fast one alone", ["fast"], "weighted"),
        ("weighted", [["fast", "slow"]], "weighted"),
        ("least_loaded", [["fast", "slow"]], "least_loaded"),
    ):
        with FakeServer(scripts) as server:
            spec = server.spec(backend="vllm", balance=balance)
            next(iter(spec["chains"].values()))["tiers"] = tiers
            async with build_chat_model(spec) as model:
                await model.ainvoke("warm up")
                took, who = await ask_at_rate(model, arrivals)
        print(f"| {name} | {quantile(took, 0.5):.3f} | {quantile(took, 0.95):.3f} | {who['slow']} |")


# Two equal replicas that answer one request at a time, in a random time.

SERVICE_S = 0.2


@asynccontextmanager
async def queueing_replicas(names: Sequence[str]) -> AsyncIterator[dict[str, str]]:
    """Servers that work on one request at a time; their addresses."""
    runners, addresses = [], {}
    for name in names:
        rng, place = random.Random(f"{SEED}/{name}"), asyncio.Lock()

        async def answer(request: web.Request, rng: random.Random = rng, place: asyncio.Lock = place) -> web.Response:
            await request.read()
            async with place:
                await asyncio.sleep(rng.expovariate(1 / SERVICE_S))
            message = {"role": "assistant", "content": "x"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": [choice],
                    "usage": usage,
                }
            )

        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        addresses[name] = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield addresses
    finally:
        for runner in runners:
            await runner.cleanup()


async def under_load(calls: int) -> None:
    print(f"\nTwo equal replicas at 80 % of what they can do, {calls} calls:\n")
    print("| | median s | p99 s |\n|---|---|---|")
    for balance in ("weighted", "least_loaded"):
        rng, at, arrivals = random.Random(SEED), 0.0, []
        for _ in range(calls):
            at += rng.expovariate(0.8 * 2 / SERVICE_S)
            arrivals.append(at)
        async with queueing_replicas(["a", "b"]) as addresses:
            deployments = {
                name: {"backend": "vllm", "model": "m", "api_base": base} for name, base in addresses.items()
            }
            chain = {"tiers": [list(addresses)], "balance": balance}
            async with build_chat_model({"deployments": deployments, "chains": {"c": chain}}) as model:
                took, _ = await ask_at_rate(model, arrivals)
        print(f"| {balance} | {quantile(took, 0.5):.3f} | {quantile(took, 0.99):.3f} |", flush=True)


# Conversations, over processes that know nothing of each other.

PROCESSES, MODELS, REPLICAS = 4, 25, 4


async def turns(spec: dict[str, Any], asked: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, str]]:
    """Who answers each turn of a conversation, by one of this process's models."""
    models, answered = [build_chat_model(spec) for _ in range(MODELS)], []
    for conversation, turn, number in asked:
        config: Any = {"configurable": {"thread_id": f"conversation {conversation}"}}
        reply = await models[number % MODELS].ainvoke("hi", config)
        answered.append((conversation, turn, reply.response_metadata["llm_fallback"]["deployment"]))
    for model in models:
        await model.aclose()
    return answered


def who_answers(spec: dict[str, Any], conversations: int, of_each: int) -> dict[tuple[int, int], str]:
    """Who answers each turn, each asked in a process at random."""
    rng = random.Random(SEED)
    asked = [
        (which, turn, rng.randrange(PROCESSES * MODELS)) for turn in range(of_each) for which in range(conversations)
    ]
    workers = []
    for process in range(PROCESSES):
        own = [entry for entry in asked if entry[2] // MODELS == process]
        environment = {**os.environ, "PYTHONHASHSEED": str(process)}
        command = [sys.executable, "-m", "benchmarks.balance", "--turns", json.dumps([spec, own])]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True))
    lines = [worker.communicate()[0].splitlines()[-1] for worker in workers]
    return {(which, turn): name for line in lines for which, turn, name in json.loads(line)}


def share_that_stays(answered: dict[tuple[int, int], str]) -> float:
    followed = [(who, answered[which, turn - 1]) for (which, turn), who in answered.items() if turn]
    return sum(who == before for who, before in followed) / len(followed)


def of_conversations(conversations: int, of_each: int) -> None:
    print(
        f"\n{conversations} conversations of {of_each} turns over {REPLICAS} replicas, each turn by one of "
        f"{PROCESSES * MODELS} models in {PROCESSES} processes that share nothing:\n"
    )
    print("| | turns that stay on the replica of the turn before |\n|---|---|")
    homes = {}
    for affinity in ("off", "thread"):
        names = [f"r{number}" for number in range(REPLICAS)]
        with FakeServer(dict.fromkeys(names, Reply("x"))) as server:
            spec = server.spec(backend="vllm", affinity=affinity)
            chain = next(iter(spec["chains"].values()))
            chain["tiers"] = [names]
            answered = who_answers(spec, conversations, of_each)
            print(f"| affinity: {affinity} | {share_that_stays(answered):.1%} |", flush=True)
            if affinity == "thread":
                homes = {which: answered[which, of_each - 1] for which in range(conversations)}
                chain["tiers"] = [names[:-1]]
                del spec["deployments"][names[-1]]
                left = who_answers(spec, conversations, 1)
                moved = [which for which, home in homes.items() if left[which, 0] != home]
                strangers = [which for which in moved if homes[which] != names[-1]]
                share = len(moved) / conversations
                print(f"\nWhen one of {REPLICAS} leaves, {share:.1%} move; {len(strangers)} of them were not its own.")


# Prompts that stay in the house.


class WatchedTransport(SimulatedTransport):
    """Counts requests by zone."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.zones: Counter[str | None] = Counter()

    def exchange(self, target: Any, request: Any, api_key: Any) -> Any:
        self.zones[target.zone] += 1
        return super().exchange(target, request, api_key)


async def within_zones(calls: int) -> None:
    """Random chains over deployments that fail in every way there is."""
    logging.getLogger("llm_fallback").setLevel(logging.CRITICAL)
    rng, total, outside, ends = random.Random(SEED), Counter[Any](), 0, 0
    zones = {"own-a": "own", "own-b": "own", "eu": "eu", "us": "us", "unknown": None}
    chains, of_each = 50, max(calls // 50, 1)
    for number in range(chains):
        deployments = {
            name: {"model": f"openai/{name}", **({"zone": zone} if zone else {})} for name, zone in zones.items()
        }

        def tiers() -> list[Any]:
            order = rng.sample(list(zones), len(zones))
            return [order[:2], *order[2:]]

        chain: dict[str, Any] = {
            "tiers": tiers(),
            "zones": rng.choice([["own"], ["own", "eu"]]),
            "affinity": rng.choice(["off", "thread"]),
            "balance": rng.choice(["least_loaded", "weighted"]),
            "on_stream_break": rng.choice(["raise", "continue", "hold"]),
            "timeouts": {"total_s": 30, "attempt_s": 5, "idle_s": 2},
        }
        if rng.random() < 0.5:
            chain["hedge"] = {"after_s": 0.6}
        for route in ("on_context_window", "on_content_policy"):
            if rng.random() < 0.5:
                chain[route] = tiers()
        plan = plan_of(load_spec({"deployments": deployments, "chains": {"c": chain}}), "c")
        clock = JumpingClock(patience_s=0)
        troubles = [
            Trouble(
                name, failure, share=rng.choice([0.02, 0.1]), begins_s=begins, ends_s=begins + rng.choice([5, 60, 600])
            )
            for name in zones
            for failure in rng.sample(FAILURES, 9)
            for begins in (rng.uniform(0, of_each / 20),)
        ]
        transport = WatchedTransport(clock, troubles, number)
        health = Health.of_targets(member.target for member in plan.members)
        engine = Engine(
            transport, ListCatalogue(lambda model: None), health, clock, ChainBudgets(clock.wall), random.Random(number)
        )
        for streamed in (True, False):
            made = await _calls(engine, Call(plan, {"messages": [], "stream": streamed}, streamed), of_each // 2)
            ends += made
        total += transport.zones
        outside += sum(count for zone, count in transport.zones.items() if zone not in chain["zones"])
        print(f"\r{ends:,} calls", end="", file=sys.stderr, flush=True)
    made = sum(total.values())
    print(f"\n{ends:,} calls of {chains} chains, with failures of every kind: {made:,} requests, {outside} outside.")


async def _calls(engine: Engine, call: Call, calls: int) -> int:
    arrivals, made = random.Random(SEED), 0

    async def one() -> None:
        nonlocal made
        async for _ in adrive(CallExecution(engine, call), CallContext()):
            pass
        made += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            await engine.clock.sleep(arrivals.expovariate(20))
            group.create_task(one())
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--zones", type=int, metavar="CALLS", help="only the last part, with so many calls")
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns:
        spec, asked = json.loads(options.turns)
        print(json.dumps(asyncio.run(turns(spec, asked))))
        return
    if not options.zones:
        asyncio.run(of_different_speed(100 if options.quick else 400))
        asyncio.run(under_load(150 if options.quick else 1000))
        of_conversations(*(60, 4) if options.quick else (200, 8))
    asyncio.run(within_zones(options.zones or (5_000 if options.quick else 50_000)))


if __name__ == "__main__":
    main()
