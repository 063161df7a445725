"""5 % of the calls take 3 s on an otherwise quick deployment: what hedging does to the tail, and what it costs.

python benchmarks/stragglers.py [--calls 400]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from typing import Any

from llm_fallback import build_chat_model
from llm_fallback.testing import FakeServer, Reply

QUICK, SLOW = Reply("quick", delay_s=0.05), Reply("slow", delay_s=3.0)


async def run(calls: int, hedge: dict[str, Any] | None, *, streamed: bool) -> tuple[float, float, float]:
    """Median and p99 in seconds, and requests per call."""
    rng = random.Random(7)
    script = [QUICK] * 60 + rng.choices([QUICK, SLOW], [95, 5], k=2 * calls)
    settings = {"hedge": hedge} if hedge else {}
    times: list[float] = []
    gate = asyncio.Semaphore(10)
    with FakeServer({"a": script, "b": QUICK}) as server:
        async with build_chat_model(server.spec(backend="vllm", **settings)) as model:

            async def one() -> None:
                async with gate:
                    began = time.perf_counter()
                    if streamed:
                        async for _ in model.astream("go"):
                            pass
                    else:
                        await model.ainvoke("go")
                    times.append(time.perf_counter() - began)

            for _ in range(60):
                await one()
            times.clear()
            server.reset()
            await asyncio.gather(*(one() for _ in range(calls)))
        requests = len(server.received())
    ranked = sorted(times)
    return ranked[len(ranked) // 2], ranked[int(0.99 * len(ranked)) - 1], requests / calls


async def main(calls: int) -> None:
    print("| | median s | p99 s | requests per call |")
    print("|---|---|---|---|")
    for streamed in (True, False):
        for name, hedge in (("none", None), ("after 0.3 s", {"after_s": 0.3}), ("after p95", {"after_s": "p95"})):
            median, p99, requests = await run(calls, hedge, streamed=streamed)
            print(f"| {'stream' if streamed else 'invoke'}, hedge {name} | {median:.2f} | {p99:.2f} | {requests:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=400)
    asyncio.run(main(parser.parse_args().calls))
