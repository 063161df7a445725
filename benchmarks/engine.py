"""What the engine itself costs, over deployments that answer at once: policy, breaker, deadlines, facts, ledger.

    python -m benchmarks.engine [--profile call|chunk]

Nothing is sent and nothing is translated: what is left is what a call and a chunk pay for their promises. The least of
many short rounds is told, which is what is left of it when nobody else wants the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from random import Random
from typing import Any

from pydantic import SecretStr

from benchmarks.tables import table
from llm_fallback import load_spec
from llm_fallback.chat_model.caller import CallContext
from llm_fallback.chat_model.driver import adrive
from llm_fallback.engine.budget import ChainBudgets
from llm_fallback.engine.clock import RealClock
from llm_fallback.engine.engine import Answered, Call, Engine
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.health import Health
from llm_fallback.engine.transport import NO_PROVENANCE, Chunk, Reply, StreamEnd
from llm_fallback.events import Usage
from llm_fallback.ledger.ledger import Ledger
from llm_fallback.plan.catalogue import ListCatalogue
from llm_fallback.plan.plan import Target
from llm_fallback.plan.resolve import resolve_spec

CHUNKS = 200
GOAL_CALL_US, GOAL_CHUNK_US, GOAL_FIRST_US = 60.0, 5.0, 200.0
SPEC = {
    "deployments": {
        name: {
            "backend": "vllm",
            "model": name,
            "api_base": "http://localhost:1",
            "price": {"input_per_million": 0.2, "output_per_million": 0.4},
        }
        for name in ("primary", "backup")
    },
    "chains": {"c": {"tiers": ["primary", "backup"], "timeouts": {"first_token_s": 5}}},
}
REQUEST = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
USAGE = Usage(12, CHUNKS)


class Instant:
    """An exchange that has its whole answer ready."""

    dropped_params: tuple[str, ...] = ()
    provenance = NO_PROVENANCE

    came_ns = 0
    """When the last of all first chunks was there."""

    def __init__(self) -> None:
        self._left = CHUNKS

    async def reply(self) -> Reply:
        return Reply({}, text="Paris.", finish="stop", usage=USAGE)

    async def next(self) -> Chunk | StreamEnd:
        if self._left == CHUNKS:
            Instant.came_ns = time.perf_counter_ns()
        self._left -= 1
        if self._left > 0:
            return Chunk({}, text="word ")
        return Chunk({}, finish="stop", usage=USAGE) if self._left == 0 else StreamEnd("stop")

    def with_text(self, piece: Chunk, text: str) -> Chunk:
        return piece

    async def close(self) -> None:
        """There is nothing to close."""


class InstantTransport:
    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Instant:
        return Instant()


class Bench:
    """An engine over two deployments, and a caller with a ledger or without."""

    def __init__(self, *, has_ledger: bool) -> None:
        plan = resolve_spec(load_spec(SPEC), os.environ)
        health = Health.of_targets(plan.targets.values())
        catalogue = ListCatalogue(lambda name: None)
        self._chain = plan.chains["c"]
        self._engine = Engine(InstantTransport(), catalogue, health, RealClock(), ChainBudgets(time.time), Random(1))
        self._listeners = [Ledger()] if has_ledger else []

    async def call(self) -> None:
        await self._drive(streamed=False)

    async def stream(self) -> None:
        await self._drive(streamed=True)

    async def first(self) -> float:
        """Microseconds from a first chunk's arrival until the caller has it."""
        run = CallExecution(self._engine, Call(self._chain, REQUEST, streamed=True, tokens=8))
        async with aclosing(adrive(run, CallContext(self._listeners))) as pieces:
            await anext(pieces)
            return (time.perf_counter_ns() - Instant.came_ns) / 1000

    async def _drive(self, *, streamed: bool) -> None:
        run = CallExecution(self._engine, Call(self._chain, REQUEST, streamed, tokens=8))
        async for _ in adrive(run, CallContext(self._listeners)):
            pass
        assert isinstance(run.end, Answered)
        run.end.record.as_metadata()


async def us_per(work: Callable[[], Awaitable[None]], count: int) -> float:
    """CPU microseconds of the work: the least of many short rounds."""
    rounds = []
    for _ in range(200):
        began = time.process_time_ns()
        for _ in range(count):
            await work()
        rounds.append((time.process_time_ns() - began) / count / 1000)
    return min(rounds)


async def shares(*, has_ledger: bool) -> tuple[float, float, float]:
    """Microseconds of a call, of a chunk, and of the wait for a first chunk that is there."""
    bench = Bench(has_ledger=has_ledger)
    call, stream = await us_per(bench.call, 50), await us_per(bench.stream, 2)
    first = statistics.median([await bench.first() for _ in range(1000)])
    return call, (stream - call) / CHUNKS, first


async def profile(kind: str) -> None:
    bench = Bench(has_ledger=True)
    work, times = (bench.call, 2000) if kind == "call" else (bench.stream, 50)
    await work()
    profiler = cProfile.Profile()
    with profiler:
        for _ in range(times):
            await work()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(35)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["call", "chunk"], help="where the time of one goes, function by function")
    kind = parser.parse_args().profile
    if kind is not None:
        asyncio.run(profile(kind))
        return
    rows = []
    for has_ledger in (False, True):
        call, chunk, first = asyncio.run(shares(has_ledger=has_ledger))
        rows.append(("with a ledger" if has_ledger else "alone", f"{call:.1f}", f"{chunk:.2f}", f"{first:.1f}"))
    heads = ("µs per call", GOAL_CALL_US), ("per chunk", GOAL_CHUNK_US), ("first chunk comes later by", GOAL_FIRST_US)
    print(table(("the engine", *(f"{head} (goal: {goal:g})" for head, goal in heads)), rows))


if __name__ == "__main__":
    main()
