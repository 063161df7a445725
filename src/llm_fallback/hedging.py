"""Asking a second deployment when the first is slow: the first content wins, the other is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from llm_fallback.events import Attempt
from llm_fallback.health import DeploymentHealth
from llm_fallback.spec import Hedge
from llm_fallback.timing import Clock
from llm_fallback.trial import LONGEST_FAREWELL_S, Trial

_FEWEST_SAMPLES = 50
"""Times a percentile needs before it says anything."""


def hedge_after(hedge: Hedge, health: DeploymentHealth, *, streamed: bool) -> float | None:
    """Seconds without content after which another deployment is asked too; None while that is not known."""
    if hedge.after_s == "p95":
        times = health.first_token_s if streamed else health.reply_s
        return times(0.95, at_least=_FEWEST_SAMPLES)
    return float(hedge.after_s)


class Race:
    """One attempt, or two of which the first to bring content goes on."""

    def __init__(self, trial: Trial, clock: Clock) -> None:
        self.trial = trial
        """The attempt that goes on; with two under way the earlier one, until one of them has content."""
        self._clock = clock
        self._trials = [trial]
        self._tasks: dict[Trial, asyncio.Task[None]] = {}

    async def begin(self, hedge_at: float | None, rival: Callable[[], Trial | None]) -> Trial | None:
        """Start the attempt and wait for its content. When that has not come by `hedge_at`, the attempt of a rival,
        not started yet, if there is one; without one the wait goes on."""
        if hedge_at is None:
            await self.trial.begin()
            return None
        task = self._start(self.trial)
        with suppress(TimeoutError):
            async with self._clock.deadline(hedge_at):
                await asyncio.shield(task)
        other = None if task.done() else rival()
        if other is None:
            await task
        else:
            self._trials.append(other)
        return other

    async def join(self, rival: Trial) -> Trial:
        """Start the rival too, and wait until one of the two has content or both have failed; drop the other. The
        attempt that goes on."""
        pending = {self._tasks[self.trial], self._start(rival)}
        while pending and not self._winners():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        self.trial = next(iter(self._winners()), rival)
        await self._drop(self.loser)
        return self.trial

    async def go_on_without(self, rival: Trial) -> None:
        """Wait for the first alone, as the rival cannot be asked."""
        self._trials.remove(rival)
        rival.leave()
        await self._tasks[self.trial]

    async def _drop(self, loser: Trial) -> None:
        await self._put_away([loser])
        if loser.is_sound:
            loser.leave("another deployment was quicker")

    def _winners(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.has_content and trial.is_sound]

    @property
    def loser(self) -> Trial:
        """The other of two."""
        first, second = self._trials
        return second if self.trial is first else first

    @property
    def dropped(self) -> list[Attempt]:
        """Facts of the attempts that were dropped."""
        return [trial.attempt for trial in self._trials if trial.attempt and trial.attempt.outcome == "cancelled"]

    def leave(self) -> None:
        """Give back what every attempt still under way holds. It waits for nothing, so no cancellation comes between
        two of them; what one fails with keeps no other from it."""
        first, *second = self._trials
        try:
            first.leave()
        finally:
            for trial in second:
                trial.leave()

    async def close(self) -> None:
        """Drop every request still under way."""
        if self._tasks or self.trial.is_open:
            await self._put_away(self._trials)

    async def _put_away(self, trials: Sequence[Trial]) -> None:
        tasks = [task for trial in trials if (task := self._tasks.get(trial)) is not None and not task.done()]
        if tasks or any(trial.is_open for trial in trials):
            await _undisturbed(self._end(tasks, trials))

    async def _end(self, tasks: Sequence[asyncio.Task[None]], trials: Sequence[Trial]) -> None:
        """Stop reading first: nobody can close what is being read."""
        for task in tasks:
            task.cancel()
        if tasks:
            with suppress(TimeoutError):
                async with self._clock.patience(self._clock.now() + LONGEST_FAREWELL_S):
                    await asyncio.wait(tasks)
        for trial in trials:
            await trial.close()

    def _start(self, trial: Trial) -> asyncio.Task[None]:
        task = self._tasks[trial] = asyncio.ensure_future(trial.begin())
        return task


async def _undisturbed(work: Coroutine[Any, Any, None]) -> None:
    """Wait until the work is done, however often that is cancelled: anyio's scopes cancel again and again, and a
    connection dropped in the middle of its closing stays open. Then the cancellation goes on."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
