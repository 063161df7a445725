"""One call under way, as an async generator: it yields facts, questions and pieces of the answer.

A run does what the course says, one attempt at a time (two while it hedges), keeps every deadline, and states what
happened. It runs nothing of the user's: questions (`accept`, a key that is a function) and facts (listeners,
callbacks) go out to a driver in the caller's own thread or task, whose answers come back by `asend`. When the
generator is through, `Run.end` says how the call ended: `Answered`, `Broke`, `Failed` or `Unaffordable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from llm_fallback.budget import Hold, Overdraft, reserve
from llm_fallback.continuation import Joint, can_continue, continuing
from llm_fallback.course import Stop, Try, Wait
from llm_fallback.engine import Answered, Broke, Call, Ending, Engine, Failed, Item, Question, Unaffordable
from llm_fallback.events import Attempt, AttemptFailed, BreakerOpened, Event, Failure, FellBack, Record, Stitch
from llm_fallback.exchange import Piece, Transcript
from llm_fallback.faults import Fault
from llm_fallback.hedging import Race, hedge_after
from llm_fallback.plan import Member, Target
from llm_fallback.spending import estimate
from llm_fallback.trial import Order, Trial


class Run:
    """One call."""

    def __init__(self, engine: Engine, call: Call) -> None:
        self.engine, self.call = engine, call
        self.course = engine.course(call)
        self._caps = (*engine.budgets.caps(call.chain), *call.payer.caps)
        self.began = engine.clock.now()
        self.attempts: list[Attempt] = []
        self.end: Ending | None = None
        """How the call ended; None while it is under way, and for ever if its caller left."""
        self._delivered = Transcript()
        self._stitches: list[Stitch] = []
        self._answered_by: Target | None = None
        self._first_token_s: float | None = None
        self._last: tuple[Member, Fault] | None = None
        self._out_of_time = False
        self._race: Race | None = None
        engine.health.count_call(self.began)

    def record(self) -> Record:
        """What happened so far."""
        target, first = self._answered_by, self.course.first
        return Record(
            chain=self.call.chain.name,
            deployment=target.name if target else None,
            model=target.model if target else None,
            fell_back=target is not None and first is not None and target.name != first.name,
            attempts=tuple(self.attempts),
            skipped=self.course.skipped,
            latency_s=self.engine.clock.now() - self.began,
            time_to_first_token_s=self._first_token_s,
            stitches=tuple(self._stitches),
        )

    async def items(self) -> AsyncGenerator[Item, Any]:
        """The call, step by step. Close the generator to stop it; requests under way are then dropped.

        One generator for all attempts: each one more, and each step through it, would cost every chunk.
        """
        while (trial := await self._next_trial()) is not None:
            race = self._race = Race(trial, self.engine.clock)
            try:
                if self._falls_back_to(trial.member):
                    yield self._fell_back(trial.member)
                if trial.needs_asking_for_key:
                    trial.take_key((yield Question(trial.ask_for_key)))
                rival = await race.begin(self._hedge_at(trial), self._rival)
                if rival is not None and rival.needs_asking_for_key:
                    without = f"a hedge by {rival.member.name}, whose key function failed"
                    rival = await self._keyed(race, rival, (yield Question(rival.ask_for_key, without)))
                if rival is not None:
                    trial = await race.join(rival)
                    for fact in self._conclude_loser(race):
                        yield fact
                if self.call.is_held and self.call.streamed and trial.is_sound:
                    await trial.complete()
                if self.call.judge is not None and trial.is_sound:
                    trial.heed((yield Question(partial(self.call.judge, trial.transcript))))
                while self.call.streamed and (piece := await trial.next_piece()) is not None:
                    self._note_delivery(trial, piece)
                    trial.held_since = paused = self.engine.clock.now()
                    yield piece
                    # A slow reader's own pauses are not the deployment's.
                    pause_s = self.engine.clock.now() - paused
                    self.course.deadline += pause_s
                    trial.pause_s, trial.held_since = trial.pause_s + pause_s, None
                for fact in self._conclude(trial):
                    yield fact
            finally:
                try:
                    self.leave()
                finally:
                    self._race = None  # Its orders know this run, and a circle is left to the garbage collector.
                    await race.close()

    def leave(self) -> None:
        """Give back what the call holds; it waits for nothing. Requests under way are dropped with `items()`."""
        if self._race is not None:
            try:
                self._race.leave()
            finally:
                self._report_dropped(self._race)

    async def _next_trial(self) -> Trial | None:
        """The next attempt, when its time has come; None when the call has ended."""
        while self.end is None:
            match self._decide():
                case Trial() as trial:
                    return trial
                case Wait(until):
                    await self._wait(until)
                case Stop(failure, reason):
                    self._give_up(failure, reason)
                case Overdraft() as overdraft:
                    self._run_dry(overdraft)
        return None

    # Deciding.

    def _decide(self) -> Trial | Wait | Stop | Overdraft:
        """The next attempt, with leave and money for it, or why there is none now; under one lock, so that of many
        calls only one gets the probe."""
        now = self.engine.clock.now()
        if now >= self.course.deadline:
            self._out_of_time = True
            return Stop(self._last[1].failure if self._last else "timeout", self._time_is_up())
        self._look_into_purses()
        with self.engine.health.lock:
            step = self.course.step(now)
            if isinstance(step, Wait):
                self._await_release()
            if not isinstance(step, Try):
                return step
            order = self._order(step.member)
            hold = self._set_aside(step.member, order)
            if isinstance(hold, Overdraft):
                return hold
            if step.repeat:
                self.engine.health.extras.spend(now)
            ticket = self.engine.health[step.member.name].begin(now, self.call.tokens)
        return Trial(self.engine.tools, step.member, ticket, hold, order)

    def _look_into_purses(self) -> None:
        """Before any lock is taken, because a purse may have to look into a file."""
        for cap in self._caps:
            cap.purse.catch_up()

    def _set_aside(self, member: Member, order: Order) -> Hold | Overdraft:
        """The money an attempt may cost, or what is lacking."""
        if not self._caps:
            return Hold()
        target, known = member.target, self.engine.health[member.name]
        prices = target.prices or self.engine.tools.catalogue.prices(target)
        tokens = self.call.tokens + len(self._delivered.text) // 4
        usd = None if prices is None else estimate(prices, target, order.request, tokens, known)
        hold = reserve(self._caps, self.call.payer, usd)
        if isinstance(hold, Overdraft):
            self.course.unaffordable(member)
        return hold

    def _await_release(self) -> None:
        loop = asyncio.get_running_loop()
        self._released = loop.create_future()
        self._wake = partial(_wake, loop, self._released)
        self.engine.health.when_released(self._wake)

    async def _wait(self, until: float) -> None:
        """Wait until that time, or until some request ends and may have left a free place."""
        clock, health = self.engine.clock, self.engine.health
        # Where nobody is under way there is nobody to wait for, but only time to pass.
        others = any(health[member.name].in_flight for member in self.call.chain.members)
        limit = clock.patience if others else clock.deadline
        try:
            with suppress(TimeoutError):
                async with limit(min(until, self.course.deadline)):
                    await self._released
        finally:
            health.never_mind(self._wake)

    def _order(self, member: Member) -> Order:
        call, request, joint = self.call, self.call.request, None
        if self._delivered_anything:
            prefill = self.engine.tools.catalogue.prefill(member.target)
            request = continuing(request, self._delivered, prefill)
            joint = Joint(self._delivered.text, exact=prefill is not None)
        return Order(
            request=request,
            streamed=call.streamed,
            tokens=call.tokens,
            deadline=lambda: self.course.deadline,
            total_s=call.chain.total_s,
            call_began=self.began,
            joint=joint,
            holds_tool_calls=call.streamed and call.goes_on,
        )

    @property
    def _delivered_anything(self) -> bool:
        return not self._delivered.is_empty

    def _falls_back_to(self, member: Member) -> bool:
        return self._last is not None and self._last[0].name != member.name

    def _fell_back(self, member: Member) -> FellBack:
        assert self._last is not None
        source, fault = self._last
        return FellBack(self.call.chain.name, source.name, member.name, fault.failure)

    # Hedging.

    def _hedge_at(self, trial: Trial) -> float | None:
        """When to ask another deployment beside this one; None for never."""
        hedge = self.call.chain.hedge
        if hedge is None or self._delivered_anything:
            return None
        after_s = hedge_after(hedge, self.engine.health[trial.member.name], streamed=self.call.streamed)
        at = None if after_s is None else self.engine.clock.now() + after_s
        return None if at is None or at >= self.course.deadline else at

    def _rival(self) -> Trial | None:
        """Another deployment's attempt, if one is healthy and the budget for hedges allows it."""
        now, health = self.engine.clock.now(), self.engine.health
        self._look_into_purses()
        with health.lock:
            if not (health.hedges.allow(now) and health.extras.allow(now)):
                return None
            step = self.course.another(now)
            if step is None:
                return None
            order = self._order(step.member)
            hold = self._set_aside(step.member, order)
            if isinstance(hold, Overdraft):
                return None
            health.hedges.spend(now)
            health.extras.spend(now)
            ticket = health[step.member.name].begin_hedge(now, self.call.tokens)
        rival = Trial(self.engine.tools, step.member, ticket, hold, order)
        rival.is_hedge = True
        return rival

    async def _keyed(self, race: Race, rival: Trial, key: Any) -> Trial | None:
        """The rival with its key; None if asking for that failed, and then the first has brought what it can alone."""
        if not isinstance(key, Exception):
            rival.take_key(key)
            return rival
        self.course.not_asked(rival.member)
        await race.go_on_without(rival)
        return None

    # Concluding.

    def _note_delivery(self, trial: Trial, piece: Piece) -> None:
        if trial.delivered and self._answered_by is not trial.member.target:
            if self._delivered_anything:
                at = len(self._delivered.text)
                self._stitches.append(Stitch(trial.member.name, at))
                with self.engine.health.lock:
                    self.engine.health[trial.member.name].stitched += 1
            self._answered_by = trial.member.target
            self._note_first_token(trial)
        self._delivered.add(piece)

    def _note_first_token(self, trial: Trial) -> None:
        if self._first_token_s is None and trial.first_token_at is not None:
            self._first_token_s = trial.first_token_at - self.began

    def _conclude_loser(self, race: Race) -> list[Event]:
        """Say what came of the attempt that lost a race, if it failed of itself."""
        self._report_dropped(race)
        loser = race.loser
        if loser.unsupported:
            self.course.unsupported(loser.member)
        return [] if loser.fault is None else self._fail(loser, ends=False)

    def _conclude(self, trial: Trial) -> list[Event]:
        """Settle the attempt and say what came of it."""
        if trial.unsupported:
            self.course.unsupported(trial.member)
            return []
        if trial.fault is not None:
            return self._fail(trial)
        self._answered_by = trial.member.target
        self._note_first_token(trial)
        trial.succeed()
        self._report(trial)
        if trial.is_hedge:
            with self.engine.health.lock:
                self.engine.health[trial.member.name].hedges_won += 1
        self.end = Answered(self.record(), trial.reply, trial.member.target.model_name)
        return []

    def _fail(self, trial: Trial, *, ends: bool = True) -> list[Event]:
        """Tell course and health of a failed attempt, and end the call if nothing can follow from it."""
        fault = trial.fault
        assert fault is not None
        opened = trial.fail(fault)
        self._report(trial)
        self._last = (trial.member, fault)
        self._answered_by = None
        self.course.failed(trial.member, fault, self.engine.clock.now())
        if ends and trial.out_of_time:
            self._out_of_time = True
            self._give_up(fault.failure, self._time_is_up())
        elif ends and self._delivered_anything and not (self.call.goes_on and can_continue(self._delivered)):
            self._give_up(fault.failure, "")
        assert trial.attempt is not None
        facts: list[Event] = [AttemptFailed(self.call.chain.name, trial.attempt)]
        if opened is not None:
            facts.append(BreakerOpened(self.call.chain.name, trial.member.name, fault.failure, opened))
        return facts

    def _report(self, trial: Trial) -> None:
        assert trial.attempt is not None
        self.attempts.append(trial.attempt)

    def _report_dropped(self, race: Race) -> None:
        self.attempts += [dropped for dropped in race.dropped if not any(dropped is known for known in self.attempts)]

    def _give_up(self, failure: Failure, reason: str) -> None:
        """End the call without a whole answer."""
        fault = self._last[1] if self._last else None
        if self._delivered_anything:
            broken = fault or Fault("stream_broken", reason)
            if self._out_of_time:
                broken = Fault("timeout", self._time_is_up(), cause=broken.cause)
            self.end = Broke(self.record(), broken, self._delivered)
            return
        self.end = Failed(self.record(), failure, reason, self._out_of_time, fault.cause if fault else None)

    def _run_dry(self, overdraft: Overdraft) -> None:
        """End the call for want of money."""
        fault = self._last[1] if self._last else None
        if fault is not None and self._delivered_anything:
            why = f"{fault.message}; nobody goes on with it: {overdraft}"
            self.end = Broke(self.record(), replace(fault, message=why), self._delivered)
        else:
            self.end = Unaffordable(self.record(), overdraft, fault.cause if fault else None)

    def _time_is_up(self) -> str:
        return f"total_s ({self.call.chain.total_s:g} s) is over"


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)
