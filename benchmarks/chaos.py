"""Two flapping deployments before a good one, 2,000 calls at concurrency 50: right answers, tails, what is left behind.

    python benchmarks/chaos.py [--calls 2000] [--only ours]

The same seeded faults for every contestant, from a server in this process; every stream is read to its end and its
text compared with the one right answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from llm_fallback.testing import Cut, Fail, FakeServer, Garbage, Reply, Stall

WORDS = ["alpha ", "beta ", "gamma ", "delta ", "epsilon"]
RIGHT = "".join(WORDS)
ATTEMPT_S = 1.0


def flapping(seed: int, steps: int) -> list[Any]:
    """5xx 36 %, 429 10 %, hang 8 %, cut 6 %, HTML 5 %, no choices 5 %, else the right answer."""
    rng = random.Random(seed)
    good = Reply(RIGHT, chunks=WORDS)
    faults = [
        Fail(500),
        Fail(429),
        Stall(),
        Cut(after_chunks=2, reply=good),
        Garbage("html"),
        Garbage("no_choices"),
        good,
    ]
    return rng.choices(faults, [36, 10, 8, 6, 5, 5, 30], k=steps)


def served(calls: int) -> FakeServer:
    steps = 3 * calls + 100
    return FakeServer({"one": flapping(1, steps), "two": flapping(2, steps), "good": Reply(RIGHT, chunks=WORDS)})


async def ours(server: FakeServer, policy: str) -> tuple[Any, Callable[[], Any]]:
    from llm_fallback import build_chat_model

    limits = {"total_s": 20, "attempt_s": ATTEMPT_S, "first_token_s": ATTEMPT_S, "idle_s": ATTEMPT_S}
    model = build_chat_model(server.spec(backend="vllm", on_stream_break=policy, timeouts=limits))
    return model, model.aclose


async def router(server: FakeServer) -> tuple[Any, Callable[[], Any]]:
    import litellm
    from langchain_litellm import ChatLiteLLMRouter

    names = server.deployments
    entries = [
        {
            "model_name": name,
            "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": server.base(name) + "/v1", "api_key": "x"},
        }
        for name in names
    ]
    routed = litellm.Router(model_list=entries, fallbacks=[{"one": ["two", "good"]}], timeout=ATTEMPT_S)
    return ChatLiteLLMRouter(router=routed), lambda: asyncio.sleep(0)


async def with_fallbacks(server: FakeServer) -> tuple[Any, Callable[[], Any]]:
    from langchain_openai import ChatOpenAI

    def one(name: str) -> ChatOpenAI:
        return ChatOpenAI(model=name, base_url=server.base(name) + "/v1", api_key="x", timeout=ATTEMPT_S)  # type: ignore[arg-type]

    return one("one").with_fallbacks([one("two"), one("good")]), lambda: asyncio.sleep(0)


async def read(chunks: AsyncIterator[Any]) -> str:
    return "".join([chunk.text async for chunk in chunks])


async def one_call(model: Any, gate: asyncio.Semaphore, seen: Counter[str], times: list[float]) -> None:
    async with gate:
        began = time.perf_counter()
        try:
            text = await read(model.astream("go"))
            seen["right" if text == RIGHT else "wrong"] += 1
        except Exception as error:
            seen[type(error).__name__] += 1
        times.append(time.perf_counter() - began)


async def contest(name: str, make: Callable[[FakeServer], Any], calls: int) -> str:
    with served(calls) as server:
        model, close = await make(server)
        await read(model.astream("warm"))
        before = (len(asyncio.all_tasks()), threading.active_count(), sockets())
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seen: Counter[str] = Counter()
        times: list[float] = []
        gate = asyncio.Semaphore(50)
        await asyncio.gather(*(one_call(model, gate, seen, times) for _ in range(calls)))
        await close()
        del model
        gc.collect()
        await asyncio.sleep(0.3)
        after = (len(asyncio.all_tasks()), threading.active_count(), sockets())
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss
        requests = len(server.received())
    ranked = sorted(times)
    left = " ".join(
        f"{what} {new - old:+d}" for what, old, new in zip(("tasks", "threads", "sockets"), before, after, strict=True)
    )
    wrong = ", ".join(f"{count} {kind}" for kind, count in seen.items() if kind != "right") or "-"
    p99 = ranked[int(0.99 * len(ranked)) - 1]
    return (
        f"| {name} | {100 * seen['right'] / calls:.1f} % | {statistics.median(ranked):.2f} | "
        f"{p99:.2f} | {requests / calls:.2f} | {left} | {grown // 1024:+d} MB | {wrong} |"
    )


def sockets() -> int:
    """Open sockets of this process, the server's side included."""
    links = (
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    )
    return sum(link.startswith("socket:") for link in links)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--only", choices=["ours"], default=None)
    asked = parser.parse_args()
    contestants: dict[str, Callable[[FakeServer], Any]] = {
        "ours, hold": lambda server: ours(server, "hold"),
        "ours, continue": lambda server: ours(server, "continue"),
    }
    if asked.only is None:
        contestants |= {"ChatOpenAI.with_fallbacks": with_fallbacks, "ChatLiteLLMRouter": router}
    print("| | right answers | median s | p99 s | requests per call | left behind | memory | not right |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in contestants.items():
        print(asyncio.run(contest(name, make, asked.calls)), flush=True)


if __name__ == "__main__":
    main()
