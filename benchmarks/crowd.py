"""Many calls in flight at once: what each holds while it waits, and whether all are answered.

    python -m benchmarks.crowd [--calls 5000]

The server answers nobody before all have asked; memory is that of this process alone, the server has its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from pathlib import Path

from benchmarks.serving import served
from llm_fallback import build_chat_model


def resident_kb() -> int:
    """Memory of this process that is in use, in KB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def crowd(calls: int) -> None:
    with served() as url:
        deployment = {"backend": "vllm", "model": "slow", "api_base": f"{url}/slow", "api_key": "none", "price": "free"}
        spec = {"deployments": {"a": deployment, "b": deployment}, "chains": {"c": {"tiers": ["a", "b"]}}}
        async with build_chat_model(spec) as model:
            await model.ainvoke("warm up", max_tokens=1)
            gc.collect()
            before, began = resident_kb(), time.perf_counter()
            tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(calls)]
            while model.state()["a"]["in_flight"] < calls:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            held, asked = resident_kb() - before, time.perf_counter() - began
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            right = sum(getattr(answer, "content", None) is not None for answer in answers)
    print(f"{calls} calls in flight: {held / calls:.1f} KB each; all had asked after {asked:.1f} s; {right} answered")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000)
    asyncio.run(crowd(parser.parse_args().calls))
