"""How far a batch is, as it goes: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn

from llm_fallback.chat_model.batch.survey import Tally
from llm_fallback.cli.shared import console
from llm_fallback.engine.sliding_window import MINUTE_S, SlidingCounter

LINE_EVERY_S = 10.0


class Pace:
    """How many rows a second there were in the last minute. The caller passes the time, in seconds."""

    def __init__(self, began: float) -> None:
        self._began, self._rows = began, SlidingCounter(MINUTE_S, 12)

    def count_row(self, now: float) -> None:
        self._rows.add(now, 1)

    def rate(self, now: float) -> float:
        (rows,) = self._rows.totals(now)
        return rows / min(max(now - self._began, 0.001), MINUTE_S)


def figures(tally: Tally, rate: float) -> str:
    """`1,200 of 5,000 rows, 3 failed, 64 in flight, 80.1/s, $0.1234, 0:00:47 left`."""
    done = tally.answered + tally.failed
    parts = [f"{done:,} of {tally.rows:,} rows"]
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    parts += [f"{tally.in_flight} in flight", f"{rate:.1f}/s"]
    if tally.cost_usd is not None:
        parts.append(f"${tally.cost_usd:.4f}")
    if rate and tally.left:
        parts.append(f"{timedelta(seconds=round(tally.left / rate))} left")
    return ", ".join(parts)


@contextmanager
def showing_progress(now: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Tally], None]]:
    """Shows on stderr what it is told after each row."""
    out = console(stderr=True)
    pace, last_line = Pace(now()), now()
    if not out.is_terminal:

        def print_line(tally: Tally) -> None:
            nonlocal last_line
            pace.count_row(now())
            if now() - last_line >= LINE_EVERY_S:
                last_line = now()
                out.print(figures(tally, pace.rate(now())), markup=False, soft_wrap=True)

        yield print_line
        return

    columns = (BarColumn(bar_width=20), TextColumn("{task.fields[figures]}", markup=False))
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("", total=None, figures="checking source and target")

        def update(tally: Tally) -> None:
            pace.count_row(now())
            text = figures(tally, pace.rate(now()))
            progress.update(task, total=tally.rows, completed=tally.answered + tally.failed, figures=text)

        yield update
