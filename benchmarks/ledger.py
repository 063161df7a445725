"""What a ledger and a budget cost, and whether the ledger's numbers hold: a million calls.

    python -m benchmarks.ledger [--quick]

Told are the CPU of a recorded call by its number of attempts, the memory the ledger holds as calls come in, its
percentiles beside the exact ones of the same calls, and the CPU of setting money aside for an attempt and settling it.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from math import ceil
from pathlib import Path
from types import FunctionType, ModuleType

from benchmarks.tables import table
from llm_fallback.engine.budget import Account, BudgetLimit, Reservation, Spender, reserve
from llm_fallback.engine.budget_file import DailySpendFile
from llm_fallback.events import Attempt, CallEnded, Record, Usage
from llm_fallback.ledger.ledger import Ledger

MILLION = 1_000_000
GOAL_US = 20.0
"""For a recorded call."""
GOAL_ERROR = 0.01
"""For a percentile."""


def call(number: int, latency_s: float, failures: int = 0) -> CallEnded:
    """A streamed call of one of 41 tenants that was answered after some deployments had failed."""
    failed = [
        Attempt(f"d{place}", f"m/d{place}", "failed", "rate_limited", 429, "no", 0.1, None, Decimal(0))
        for place in range(failures)
    ]
    usage = Usage(1000 + number % 500, 100 + number % 300, 200)
    cost = Decimal(number % 1000) / 100_000
    answer = Attempt("last", "m/last", "succeeded", None, 200, None, latency_s, latency_s / 4, cost, usage=usage)
    fell_back = failures > 0
    record = Record("assistant", "last", "m/last", fell_back, (*failed, answer), (), latency_s, latency_s / 4)
    tenant = {"tenant": number % 41}
    return CallEnded("assistant", record, None, True, 0.0, str(number), ("web",), tenant)


def latencies(count: int) -> Iterator[float]:
    """Seconds, as of a service with a long tail."""
    rng = random.Random(7)
    return (rng.lognormvariate(0.0, 1.0) for _ in range(count))


def us_per(work: Callable[[], object], count: int) -> float:
    """CPU microseconds of one of `count` steps of the work: the least of many short rounds, which is what
    is left of it when nobody else wants the machine."""
    rounds = []
    for _ in range(300):
        began = time.process_time()
        work()
        rounds.append((time.process_time() - began) / count * 1e6)
    return min(rounds)


def recording(failures: int) -> float:
    ledger, events = Ledger(by=("tenant",)), [call(n, 1.0 + n % 97 / 10, failures) for n in range(300)]

    def record() -> None:
        for event in events:
            ledger(event)

    return us_per(record, len(events))


def paying(file: DailySpendFile | None) -> float:
    limits = [BudgetLimit(Decimal(10**9), Account("day", file=file), "a day")]

    def pay() -> None:
        for _ in range(100):
            hold = reserve(limits, Spender(), Decimal("0.0012"))
            assert isinstance(hold, Reservation)
            hold.settle(Decimal("0.0011"))

    return us_per(pay, 100)


def held(root: object) -> int:
    """Bytes of everything that can be reached from it, but for what is the interpreter's."""
    seen: set[int] = set()
    waiting, total = [root], 0
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, type | ModuleType | FunctionType):
            seen.add(id(found))
            total += sys.getsizeof(found)
            waiting += gc.get_referents(found)
    return total


def fill(count: int) -> tuple[Ledger, list[float], list[tuple[int, int]]]:
    """A ledger of so many calls, the latencies they had, and the bytes it held at each tenth."""
    ledger, known, sizes = Ledger(by=("tenant",)), list(latencies(count)), []
    for number, latency_s in enumerate(known, 1):
        ledger(call(number, latency_s, failures=int(number % 10 == 0)))
        if number % (count // 10) == 0:
            sizes.append((number, held(ledger)))
    return ledger, sorted(known), sizes


def exact(ranked: Sequence[float], part: float) -> float:
    return ranked[ceil(part * len(ranked)) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    count = MILLION // 10 if parser.parse_args().quick else MILLION
    rows = [(f"of {failures + 1}", f"{recording(failures):.1f} µs") for failures in range(3)]
    print(table(("a recorded call, by attempts", f"CPU (goal: {GOAL_US:g} µs)"), rows), "\n")
    with tempfile.TemporaryDirectory() as place:
        kept = paying(DailySpendFile(Path(place, "budget"), "benchmark"))
    print(
        table(
            ("an attempt paid for", "CPU"), [("in memory", f"{paying(None):.0f} µs"), ("in a file", f"{kept:.0f} µs")]
        )
    )
    ledger, ranked, sizes = fill(count)
    print()
    print(table(("calls recorded", "kB held"), [(f"{number:,}", f"{size / 1000:.0f}") for number, size in sizes]), "\n")
    latency = ledger.snapshot().total.latency_s
    off = []
    for part in (0.5, 0.95, 0.99, 0.999):
        told, true = latency.quantile(part), exact(ranked, part)
        assert told is not None
        assert abs(told / true - 1) <= GOAL_ERROR, f"p{part:%} is {told}, not {true}"
        off.append((f"p{part * 100:g}", f"{told:.4f} s", f"{true:.4f} s", f"{told / true - 1:+.2%}"))
    assert latency.count == count
    print(table((f"latency of {count:,} calls", "ledger", "exact", "off"), off))


if __name__ == "__main__":
    main()
