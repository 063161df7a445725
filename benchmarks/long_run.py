"""Hours of work: every feature on, chaos behind, 50 calls in flight; does anything grow, and are the books right?

    python -m benchmarks.long_run [--calls 2000000] [--result long_run.json]

Calls hedge, go on with broken streams, keep conversations together, judge replies, keep to limits and to a budget in a
file, belong to a fleet, and are heard by handlers; some of their callers leave. The server is a process of its own. It
numbers the requests, and what each is billed follows from its number: so each attempt that succeeded is compared with
its bill, to the last digit, and the sums of handler, budget and file with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.chat_server import RunningServer, billed_tokens, running
from benchmarks.crowd import resident_kb
from benchmarks.tables import table
from llm_fallback import CostCallbackHandler, LatencyCallbackHandler, build_chat_model
from llm_fallback.engine.budget_file import DailySpendFile
from llm_fallback.events import BreakerOpened, CallEnded, Event
from llm_fallback.plan.pricing import FINEST

IN_FLIGHT = 50
REPORTS = 20
WARM_UP = 0.1
"""Of all calls: caches, pools and windows fill, and fragments settle."""
MOST_GROWTH_KB = 3 * 1024
INPUT, OUTPUT = Decimal(3), Decimal(15)
"""Dollars for a million tokens."""
CONVERSATION = 10
"""Calls that belong together, and that their deployment keeps."""


def is_good(message: Any) -> bool:
    """The server never says this."""
    return "nonsense" not in message.text


def spec_of(server: RunningServer, folder: Path) -> dict[str, Any]:
    price = {"input_per_million": float(INPUT), "output_per_million": float(OUTPUT)}
    deployments = {
        name: {"backend": "vllm", "model": name, "api_base": f"{server.url}/{name}", "price": price, "zone": "own"}
        for name in ("one", "two", "three", "good")
    }
    for name in ("one", "two", "three"):  # Soon asked again, else `good` would answer all.
        deployments[name]["breaker"] = {"failures": 5, "cooldown_s": 0.2, "slow_times": 8}
    deployments["one"] |= {"limits": {"max_parallel": 40, "rpm": 10_000_000}}
    deployments["two"] |= {"weight": 2}
    shared = {
        "timeouts": {"total_s": 30, "attempt_s": 1, "first_token_s": 1, "idle_s": 1},
        "retries": {"max": 2, "wait_initial_s": 0.05, "wait_max_s": 0.2},
        "hedge": {"after_s": 0.1},
        "affinity": "thread",
        "zones": ["own"],
        "budget": {"usd_per_day": 1_000_000, "file": str(folder / "spent")},
    }
    tiers = [["one", "two", "three"], "good"]
    chains = {
        "goes_on": {**shared, "tiers": tiers, "on_stream_break": "continue"},
        "judged": {**shared, "tiers": tiers, "on_stream_break": "hold", "accept": is_good},
    }
    fleet = {"store": f"file://{folder / 'fleet'}", "name": "long-run"}
    return {"deployments": deployments, "chains": chains, "default_chain": "goes_on", "fleet": fleet}


@dataclass
class Books:
    """What was told of every call, beside what the server must have on its bill."""

    calls: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    """Failures by their word, breakers that opened, replies that another deployment went on with: what was survived."""
    attempts_answered: int = 0
    """Those whose request its server has seen for sure."""
    cost: Decimal = Decimal(0)
    wrong: list[str] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        if isinstance(event, BreakerOpened):
            self.met["breaker_opened"] += 1
        if not isinstance(event, CallEnded):
            return
        self.met["continued"] += bool(event.record.stitches)
        self.calls[event.failure or "answered"] += 1
        for attempt in event.record.attempts:
            self.attempts[attempt.outcome] += 1
            if attempt.failure is not None:
                self.met[attempt.failure] += 1
            self.attempts_answered += attempt.request_id is not None
            self.cost += attempt.cost_usd or Decimal(0)
            if attempt.cost_usd is None:
                self.wrong.append(f"an attempt of unknown cost: {attempt}")
            if attempt.outcome == "succeeded":
                self._compare(attempt.request_id, attempt.cost_usd)
        del self.wrong[20:]

    def _compare(self, number: str | None, cost: Decimal | None) -> None:
        input_tokens, output_tokens = billed_tokens(int(number or -1))
        bill = (input_tokens * INPUT + output_tokens * OUTPUT).scaleb(-6)
        if cost != bill:
            self.wrong.append(f"request {number} cost {cost}, and {bill} is on the bill")


@dataclass
class Sample:
    """The process at a moment."""

    calls: int
    resident_kb: int
    descriptors: int
    threads: int
    tasks: int

    @classmethod
    def now(cls, calls: int) -> Sample:
        gc.collect()
        tasks = len(asyncio.all_tasks())
        return cls(calls, resident_kb(), len(os.listdir("/proc/self/fd")), threading.active_count(), tasks)


async def one_call(model: Any, number: int, handlers: list[Any]) -> None:
    """A call, by its number plain or streamed, on either chain; now and then its caller leaves."""
    chain = "judged" if number % 4 == 3 else "goes_on"
    config = {"configurable": {"thread_id": str(number // CONVERSATION)}, "callbacks": handlers}
    prompt = f"question {number}"
    with suppress(Exception):  # How calls end is in the books.
        if number % 2:
            async with asyncio.timeout(0.02 if number % 41 == 0 else None):
                await model.ainvoke(prompt, config, chain=chain)
            return
        async with aclosing(model.astream(prompt, config, chain=chain)) as chunks:
            async for _ in chunks:
                if number % 37 == 0:
                    break


async def run(calls: int, server: RunningServer, folder: Path) -> dict[str, Any]:
    books, handlers = Books(), [CostCallbackHandler(), LatencyCallbackHandler()]
    numbers, began = iter(range(calls)), time.monotonic()
    samples: list[Sample] = []
    async with build_chat_model(spec_of(server, folder), listeners=[books.hear]) as model:
        first_day = datetime.now(UTC).date().isoformat()

        async def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                await one_call(model, number, handlers)

        share = calls // REPORTS
        for report in range(1, REPORTS + 1):
            some = itertools.islice(numbers, share)
            await asyncio.gather(*(work(some) for _ in range(IN_FLIGHT)))
            samples.append(Sample.now(report * share))
            print(samples[-1], f"{time.monotonic() - began:.0f} s", flush=True)
        state, engine = model.state(), model.runtime.engine
        in_flight = {name: state[name]["in_flight"] for name in ("one", "two", "three", "good")}
        balances = [balance for account in engine.budgets._accounts.values() for balance in account.balances()]
    spent = sum((balance.spent for balance in balances), Decimal(0))
    filed = _filed(folder, balances[0].day)
    received = server.get("received")
    result = {
        "calls": calls,
        "in_flight": IN_FLIGHT,
        "seconds": round(time.monotonic() - began),
        "ended": dict(books.calls),
        "attempts": dict(books.attempts),
        "met": dict(books.met),
        "requests_at_the_server": received,
        "cost_usd": {
            "of_all_attempts": str(books.cost.quantize(FINEST)),
            "budget": str(spent),
            "file": str(filed),
            "handler": handlers[0].snapshot()["total_usd"],
        },
        "days": sorted({first_day, balances[0].day}),
        "reserved_usd": float(sum(balance.reserved for balance in balances)),
        "still_in_flight": in_flight,
        "samples": [vars(sample) for sample in samples],
        "growth_kb": samples[-1].resident_kb - _warm(samples).resident_kb,
    }
    return {**result, "wrong": [*books.wrong, *_wrong(result, books, received, samples)]}


def _filed(folder: Path, day: str) -> Decimal:
    """What the file says was spent that day, read as another process would."""
    owners = [DailySpendFile(folder / "spent", f"chain {chain}") for chain in ("goes_on", "judged")]
    return sum((usd for owner in owners for _, usd in owner.exchange(day, {})), Decimal(0))


def _warm(samples: list[Sample]) -> Sample:
    return samples[max(0, round(WARM_UP * len(samples)) - 1)]


def _wrong(result: dict[str, Any], books: Books, received: int, samples: list[Sample]) -> Iterator[str]:
    cost = result["cost_usd"]
    # Budget and file begin anew at midnight.
    is_alike = cost["budget"] == cost["file"] and (len(result["days"]) > 1 or cost["file"] == cost["of_all_attempts"])
    if not is_alike or abs(cost["handler"] - float(books.cost)) > 1e-6:
        yield f"the books differ: {cost}"
    if sum(books.calls.values()) != result["calls"]:
        yield f"{sum(books.calls.values())} ends of {result['calls']} calls"
    attempts = books.attempts.total()
    if not books.attempts_answered <= received <= attempts:
        yield f"{received} requests and {attempts} attempts"
    if any(result["still_in_flight"].values()) or result["reserved_usd"]:
        yield "places or reservations are left"
    warm, last = _warm(samples), samples[-1]
    if abs(result["growth_kb"]) > MOST_GROWTH_KB:
        yield f"memory has changed by {result['growth_kb'] / 1024:+.1f} MB since warm-up"
    # asyncio's pool of threads grows to so many, as needed.
    most_threads = warm.threads + (os.cpu_count() or 1) + 4
    if last.descriptors > warm.descriptors + IN_FLIGHT or last.threads > most_threads or last.tasks > warm.tasks:
        yield f"descriptors, threads or tasks have grown: {warm}, {last}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2_000_000)
    parser.add_argument("--result", type=Path, help="where to write it as JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running("billing", "1") as server:
        result = asyncio.run(run(asked.calls, server, Path(folder)))
    if asked.result is not None:
        asked.result.write_text(json.dumps(result, indent=1))
    head = ("calls", "memory MB", "descriptors", "threads", "tasks")
    rows = [
        (f"{s['calls']:,}", f"{s['resident_kb'] / 1024:.1f}", *map(str, (s["descriptors"], s["threads"], s["tasks"])))
        for s in result["samples"]
    ]
    print(table(head, rows))
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=1))
    raise SystemExit(bool(result["wrong"]))


if __name__ == "__main__":
    logging.getLogger("llm_fallback").setLevel(logging.ERROR)
    main()
