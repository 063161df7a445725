"""What a call costs: CPU per call and per stream, the wait for a first chunk, calls a second at 50 in flight and from
32 threads; beside every other client in the same protocol.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.overhead [--quick] [--group openai --group anthropic] [--only ainvoke,astream]

Every contestant has a process of its own, because what one leaves behind in litellm's globals slows down another, and
the server has one too. They take turns in every round, and the tables show medians of the ratios within a round: a
machine that slows down slows down all of them. CPU is that of the contestant's process, all its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.contestants import BASES, BUILDERS, GROUPS, Contestant
from benchmarks.serving import served
from benchmarks.tables import table, times


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    calls: int
    streams: int
    in_flight: int
    threaded: int


FULL = Size(rounds=11, calls=50, streams=5, in_flight=250, threaded=160)
QUICK = Size(rounds=5, calls=20, streams=3, in_flight=100, threaded=64)


# Measuring. Each measure gives milliseconds, or calls a second, of one turn of one contestant.


async def cpu_per_call(contestant: Contestant, size: Size) -> float:
    return await cpu_ms(contestant.ask, size.calls)


async def cpu_per_stream(contestant: Contestant, size: Size) -> float:
    async def read() -> None:
        async for _ in contestant.stream():
            pass

    return await cpu_ms(read, size.streams)


async def first_chunk(contestant: Contestant, size: Size) -> float:
    """Milliseconds from the question to the first chunk: the median of some streams."""
    waits = []
    for _ in range(size.streams):
        began, waited = time.perf_counter(), None
        async for _ in contestant.stream():
            waited = waited or (time.perf_counter() - began) * 1000
        assert waited is not None
        waits.append(waited)
    return statistics.median(waits)


async def cpu_ms(ask: Callable[[], Awaitable[Any]], times_: int) -> float:
    gc.collect()
    began = time.process_time()
    for _ in range(times_):
        await ask()
    # litellm goes on logging in tasks of its own; that belongs to the call.
    await asyncio.sleep(0.05)
    return (time.process_time() - began) * 1000 / times_


async def in_flight(contestant: Contestant, size: Size) -> float:
    """Calls a second of 50 tasks on one loop."""
    left = iter(range(size.in_flight))

    async def work() -> None:
        for _ in left:
            await contestant.ask()

    gc.collect()
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(50)))
    return size.in_flight / (time.perf_counter() - began)


async def threaded(contestant: Contestant, size: Size) -> float | None:
    """Calls a second of 32 threads."""
    if contestant.ask_sync is None:
        return None
    ask = contestant.ask_sync
    gc.collect()

    def work() -> float:
        with ThreadPoolExecutor(32) as pool:
            began = time.perf_counter()
            for future in [pool.submit(ask) for _ in range(size.threaded)]:
                future.result()
            return size.threaded / (time.perf_counter() - began)

    return await asyncio.to_thread(work)


@dataclass(frozen=True)
class Measure:
    """One column of results."""

    take: Callable[[Contestant, Size], Awaitable[float | None]]
    unit: str
    share_of_rounds: float = 1.0


MEASURES = {
    "ainvoke": Measure(cpu_per_call, "CPU ms per call"),
    "astream": Measure(cpu_per_stream, "CPU ms per stream of 100 chunks"),
    "first-chunk": Measure(first_chunk, "ms to the first chunk"),
    "in-flight": Measure(in_flight, "calls/s, 50 in flight"),
    "threads": Measure(threaded, "calls/s, 32 threads", 0.35),
}

Series = Mapping[str, Sequence[float]]


# A contestant's process.


class Worker:
    """A contestant in a process of its own, which measures itself when told to."""

    def __init__(self, name: str, url: str, size: Size) -> None:
        self.name = name
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(theirs, name, url, size))
        self._process.start()
        self._pipe.recv()

    def take(self, measure: str) -> float | None:
        self._pipe.send(measure)
        value: float | None = self._pipe.recv()
        return value

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Connection, name: str, url: str, size: Size) -> None:
    # What litellm leaves behind is told there, at length.
    logging.getLogger("asyncio").disabled = True
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    asyncio.run(_measure(pipe, name, url, size))


async def _measure(pipe: Connection, name: str, url: str, size: Size) -> None:
    async with AsyncExitStack() as stack:
        contestant = await BUILDERS[name](url, stack)
        pipe.send("ready")
        while (measure := pipe.recv()) is not None:
            pipe.send(await MEASURES[measure].take(contestant, size))


# Taking turns.


def measured(workers: Sequence[Worker], measure: str, size: Size) -> Series:
    """Every contestant's values, one a round; the first round only warms up."""
    values: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in range(1 + max(2, round(size.rounds * MEASURES[measure].share_of_rounds))):
        first = number % len(workers)
        for worker in [*workers[first:], *workers[:first]]:
            value = worker.take(measure)
            if number and value is not None:
                values[worker.name].append(value)
    return {name: found for name, found in values.items() if found}


def ratios(series: Series, name: str, base: str) -> Sequence[float]:
    """A contestant's ratios to another's, round by round."""
    if base not in series or name not in series:
        return ()
    return [own / other for own, other in zip(series[name], series[base], strict=True)]


def report(group: str, measure: str, series: Series) -> str:
    """The medians, and the medians of the ratios to the group's bases with the middle half of the rounds."""
    rows = [
        (name, times(statistics.median(values)), *(_spread(ratios(series, name, base)) for base in BASES[group]))
        for name, values in series.items()
    ]
    return table((f"{group}: {MEASURES[measure].unit}", "median", *(f"× {base}" for base in BASES[group])), rows)


def _spread(found: Sequence[float]) -> str:
    if len(found) < 2:
        return "–"
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{times(middle)} ({times(low)}–{times(high)})"


def main(size: Size, groups: Sequence[str], only: Sequence[str]) -> None:
    for group in groups:
        with ExitStack() as stack:
            url = stack.enter_context(served())
            workers = [Worker(name, url, size) for name in GROUPS[group]]
            for worker in workers:
                stack.callback(worker.close)
            for measure in only:
                print(f"\n{report(group, measure, measured(workers, measure, size))}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a rough answer in a quarter of the time")
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="a protocol; repeatable")
    parser.add_argument("--only", default=",".join(MEASURES), help="some of %(default)s")
    given = parser.parse_args()
    main(QUICK if given.quick else FULL, given.group or list(GROUPS), given.only.split(","))
