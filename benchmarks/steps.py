"""What a call and a chunk cost, counted in function calls of Python: the same on every machine, unlike seconds.

    python -m benchmarks.steps [--only "ours, vllm" --only ChatLiteLLMRouter] [--json]

Every contestant has a process of its own. Counted are the calls of all its threads, litellm's work after a reply
included, once what is made on first use is made. tests/end_to_end/test_call_overhead.py holds us to the shares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.contestants import BARE, BUILDERS, Contestant
from benchmarks.protocols import CHUNKS
from benchmarks.serving import served
from benchmarks.tables import table, times

CALLS = 10
AFTERWARDS_S = 0.3
"""For what litellm does when a reply is out."""


class Counter:
    """Counts function calls in every thread that starts after it."""

    def __init__(self) -> None:
        self._steps = 0
        self._counting = False
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: Any, event: str, argument: Any) -> None:
        if self._counting and event == "call":
            self._steps += 1

    async def in_each(self, work: Callable[[], Awaitable[Any]]) -> float:
        for _ in range(CALLS):
            await work()
        await asyncio.sleep(AFTERWARDS_S)
        self._steps, self._counting = 0, True
        for _ in range(CALLS):
            await work()
        await asyncio.sleep(AFTERWARDS_S)
        self._counting = False
        return self._steps / CALLS


async def counted(name: str, url: str) -> dict[str, float]:
    """Function calls per call and per chunk."""
    counter = Counter()
    async with AsyncExitStack() as stack:
        contestant: Contestant = await BUILDERS[name](url, stack)

        async def read() -> None:
            async for _ in contestant.stream():
                pass

        return {"call": await counter.in_each(contestant.ask), "chunk": await counter.in_each(read) / CHUNKS}


Count = Callable[[str, str], Awaitable[dict[str, float]]]
"""What counts a contestant, by its name, at the server with this address."""


def _send_counts(pipe: Connection, count: Count, name: str, url: str) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    pipe.send(asyncio.run(count(name, url)))


def in_processes(count: Count, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """What is counted of each contestant, in a process of its own."""
    spawning = multiprocessing.get_context("spawn")
    found = {}
    with served() as url:
        for name in names:
            ours, theirs = spawning.Pipe()
            process = spawning.Process(target=_send_counts, args=(theirs, count, name, url))
            process.start()
            found[name] = ours.recv()
            process.join()
    return found


def report(found: dict[str, dict[str, float]]) -> str:
    bare = found.get(BARE)
    rows = [
        (name, f"{own[kind]:.0f}", times(None if bare is None else own[kind] / bare[kind]))
        for kind in ("call", "chunk")
        for name, own in ((f"{name}, per {kind}", own) for name, own in found.items())
    ]
    return table(("function calls", "count", f"× {BARE}"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(BUILDERS), help="a contestant; repeatable")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = in_processes(counted, given.only or BUILDERS)
    print(json.dumps(result) if given.json else report(result))
