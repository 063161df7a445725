"""Does memory stay flat? Plain and streamed calls by turns, for as long as you like.

python -m benchmarks.soak [--calls 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import gc

from benchmarks.crowd import resident_kb
from benchmarks.serving import served
from benchmarks.tables import table
from llm_fallback import build_chat_model

IN_FLIGHT = 20
REPORTS = 10


async def soak(calls: int) -> None:
    with served() as url:
        chains = {}
        deployments = {}
        for name in ("plain", "streamed"):
            deployments[name] = {"backend": "vllm", "model": name, "api_base": f"{url}/plain", "price": "free"}
            chains[name] = {"tiers": [name]}
        spec = {"deployments": deployments, "chains": chains, "default_chain": "plain"}
        rows = []
        async with build_chat_model(spec) as model:

            async def some(count: int) -> None:
                for number in range(count):
                    if number % 2:
                        await model.ainvoke("hi")
                    else:
                        async for _ in model.astream("hi"):
                            pass

            await asyncio.gather(*(some(2 * IN_FLIGHT) for _ in range(IN_FLIGHT)))
            warm = resident_kb()
            for turn in range(1, REPORTS + 1):
                await asyncio.gather(*(some(calls // REPORTS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
                gc.collect()
                rows.append((f"{turn * calls // REPORTS}", f"{(resident_kb() - warm) / 1024:+.1f} MB"))
                print(*rows[-1], flush=True)
    print(table(("calls", "memory since warm-up"), rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    asyncio.run(soak(parser.parse_args().calls))
