"""Hedging: asking a second deployment when the first is slow. The first content wins, the other request is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from llm_fallback.engine.attempt import CLOSE_TIMEOUT_S, AttemptExecution, shielded
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.engine import CallerQuestion
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.engine.policy import FallbackPolicy
from llm_fallback.spec import Hedge

_FEWEST_SAMPLES = 50
"""Times a percentile needs before it says anything."""


def hedge_after(hedge: Hedge, health: DeploymentHealth, *, streamed: bool) -> float | None:
    """Seconds without content after which another deployment is asked too; None while that is not known."""
    if hedge.after_s == "p95":
        times = health.first_token_s if streamed else health.reply_s
        return times(0.95, at_least=_FEWEST_SAMPLES)
    return float(hedge.after_s)


class HedgedAttempt:
    """An attempt that may become two, of which the first to bring content goes on. Used like a single one."""

    def __init__(
        self,
        attempt: AttemptExecution,
        clock: Clock,
        after_s: float,
        prepare_hedge: Callable[[], Awaitable[object]],
        start_hedge: Callable[[], AttemptExecution | None],
        policy: FallbackPolicy,
    ) -> None:
        """`prepare_hedge` may wait a moment; `start_hedge` returns the second attempt, or None if there may be none.
        `policy` learns of a hedge that is never sent."""
        self.winner = attempt
        """The attempt that goes on; with two in flight the first, until one of them has content."""
        self._first = attempt
        self._hedge: AttemptExecution | None = None
        self._clock, self._after_s = clock, after_s
        self._prepare_hedge, self._start_hedge, self._policy = prepare_hedge, start_hedge, policy
        self._tasks: dict[AttemptExecution, asyncio.Task[Any]] = {}

    @property
    def attempts(self) -> tuple[AttemptExecution, ...]:
        """The first, and the hedge if there is one."""
        return (self._first,) if self._hedge is None else (self._first, self._hedge)

    @property
    def loser(self) -> AttemptExecution | None:
        """The other of two."""
        return next((attempt for attempt in self.attempts if attempt is not self.winner), None)

    async def until_content(self) -> CallerQuestion | None:
        """Wait until one attempt has content or all have failed. A question, if the caller has to be asked for a key
        first: `answer` it and come again."""
        if not self._tasks:
            question = self._first.credential_question()
            if question is not None:
                return question
            self._hedge = await self._content_or_hedge()
            if self._hedge is None:
                return None
            question = self._hedge.credential_question(_without(self._hedge))
            if question is not None:
                return question
        if self._hedge is not None and (self._with_content() or self._clock.now() >= self._policy.deadline):
            self._withdraw(self._hedge)  # Its key took too long.
        if self._hedge is None:
            await self._tasks[self._first]
        else:
            await self._first_with_content(self._hedge)
        return None

    def answer(self, key: Any) -> None:
        """Take a key that was asked for, of the first or of its hedge; for the latter also the exception in its place,
        and then the first goes on alone."""
        if self._hedge is None:
            self._first.answer(key)
        elif isinstance(key, Exception):
            self._policy.put_off(self._hedge.member)
            self._continue_alone(self._hedge)
        else:
            self._hedge.answer(key)

    def _withdraw(self, hedge: AttemptExecution) -> None:
        """Go on without a hedge that came too late, and was never sent."""
        self._policy.withdraw(hedge.member)
        self._continue_alone(hedge)

    def _continue_alone(self, hedge: AttemptExecution) -> None:
        self._hedge = None
        hedge.release()

    async def _content_or_hedge(self) -> AttemptExecution | None:
        """Start the first and wait for its content. When that does not come in time, the hedge, not started yet, if
        there may be one; without one the wait goes on."""
        task = self._start(self._first)
        with suppress(TimeoutError):
            async with self._clock.deadline(self._clock.now() + self._after_s):
                await asyncio.shield(task)
        if not task.done():
            await self._prepare_hedge()
        hedge = None if task.done() else self._start_hedge()
        if hedge is None:
            await task
        return hedge

    async def _first_with_content(self, hedge: AttemptExecution) -> None:
        """Start the hedge too, and wait until one of the two has content or both have failed; drop the other."""
        pending = {self._tasks[self._first], self._start(hedge)}
        while pending and not self._with_content():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            for attempt in self.attempts:
                if attempt.unsupported:  # Nothing was sent, and others may have its place.
                    attempt.release()
        self.winner = next(iter(self._with_content()), hedge)
        loser = self._first if self.winner is hedge else hedge
        await self._cancel_and_close([loser])
        if loser is hedge and not hedge.has_begun:
            self._withdraw(hedge)
        elif loser.is_ok:
            loser.release("another deployment was quicker")

    def _with_content(self) -> list[AttemptExecution]:
        return [attempt for attempt in self.attempts if attempt.has_content and attempt.is_ok]

    def release(self) -> None:
        """Give back what every attempt still under way holds. It waits for nothing, so no cancellation comes between
        two of them; what one fails with keeps no other from it."""
        for task in self._tasks.values():
            task.cancel()  # One that has not begun yet would still send its request, of which nobody would be told.
        try:
            self._first.release()
        finally:
            if self._hedge is not None:
                self._hedge.release()

    async def close(self) -> None:
        """Drop every request still under way."""
        await self._cancel_and_close(self.attempts)

    async def _cancel_and_close(self, attempts: Sequence[AttemptExecution]) -> None:
        if any(attempt.is_open or self._is_reading(attempt) for attempt in attempts):
            await shielded(self._end(attempts))

    def _is_reading(self, attempt: AttemptExecution) -> bool:
        return attempt in self._tasks and not self._tasks[attempt].done()

    async def _end(self, attempts: Sequence[AttemptExecution]) -> None:
        """All at the same time: what takes long to close leaves no other open that has given back its place."""
        ends = await asyncio.gather(*(self._end_one(attempt) for attempt in attempts), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _end_one(self, attempt: AttemptExecution) -> None:
        """Stop reading first: nobody can close what is being read."""
        if self._is_reading(attempt):
            task = self._tasks[attempt]
            if not task.cancelling():
                task.cancel()
            with suppress(TimeoutError):
                async with self._clock.deadline(self._clock.now() + CLOSE_TIMEOUT_S, for_others=True):
                    await asyncio.wait([task])
        await attempt.close_unshielded()

    def _start(self, attempt: AttemptExecution) -> asyncio.Task[Any]:
        task = self._tasks[attempt] = asyncio.ensure_future(attempt.until_content())
        return task


def _without(hedge: AttemptExecution) -> str:
    return f"a hedge by {hedge.member.name}, whose key function failed"
