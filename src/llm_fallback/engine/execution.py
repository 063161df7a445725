"""One call under way, as an async generator: it yields facts, questions and chunks of the answer.

It does what the policy says, one attempt at a time (two while it hedges), keeps every deadline, and states what
happened. It runs nothing of the user's: questions (`accept`, a key that is a function) and facts (listeners,
callbacks) go out to a driver in the caller's own thread or task, whose answers come back by `asend`; the answer to a
chunk is for how many seconds the reader held it. When the
generator is through, `CallExecution.end` says how the call ended: `Answered`, `StreamBrokeOff`, `Failed` or
`OverBudget`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from llm_fallback.engine.affinity import Rendezvous, most_in_flight
from llm_fallback.engine.attempt import AttemptExecution, AttemptRequest, OpenedAttempt
from llm_fallback.engine.balancing import LeastLoaded, Pick, by_weight
from llm_fallback.engine.budget import BudgetShortfall, Reservation, estimate_cost, reserve
from llm_fallback.engine.continuation import OverlapTrimmer, can_continue, continuation_request
from llm_fallback.engine.encoding import why_not_json
from llm_fallback.engine.engine import (
    Answered,
    Call,
    CallerQuestion,
    Ending,
    Engine,
    Failed,
    MismatchedReply,
    OverBudget,
    Step,
    StreamBrokeOff,
)
from llm_fallback.engine.hedging import HedgedAttempt, hedge_after
from llm_fallback.engine.policy import FallbackPolicy, Stop, Try, Wait
from llm_fallback.engine.retry import backoff_s
from llm_fallback.engine.settlement import Settlement
from llm_fallback.engine.tokens import estimate_prompt_tokens
from llm_fallback.engine.transport import Fault, PartialReply
from llm_fallback.events import Attempt, AttemptFailed, BreakerOpened, Event, Failure, FellBack, Record, Stitch
from llm_fallback.plan.plan import Member, Target

_MONEY_WAIT_S = 0.25
"""How long a call waits at most, before it asks again, for money that other processes have in hand."""


class CallExecution:
    """One call, from its first step to its end."""

    def __init__(self, engine: Engine, call: Call) -> None:
        self.engine, self.call = engine, call
        self.began = engine.clock.now()
        self.delivered = delivered = PartialReply()
        """What the caller got of a stream."""
        self.policy = FallbackPolicy(
            call.chain,
            lambda name, now: engine.health[name].unavailable(now, _prompt_tokens(call, delivered)),
            pick=self._picking(),
            backoff=partial(backoff_s, call.chain.retries, engine.rng),
            deadline=self.began + call.chain.total_s,
            window=lambda member: engine.catalogue.context_window(member.target),
            lacks=lambda member: engine.missing_feature(member.target, call.features) if call.features else None,
            may_repeat=engine.health.retry_budget.allows,
            stays_with=None if call.conversation is None else self._went_to(call.conversation),
        )
        self.attempts: list[Attempt] = []
        self.end: Ending | None = None
        """How the call ended; None while it is under way, and for ever if its caller left."""
        # Those of handlers first: they end a call that the chain's own would let go on.
        self._limits = (*call.spender.limits, *engine.budgets.limits(call.chain))
        self._stitches: list[Stitch] = []
        self._answered_by: Target | None = None
        self._first_token_s: float | None = None
        self._last_failure: tuple[Member, Fault] | None = None
        self._mismatched: MismatchedReply | None = None
        self._out_of_time = False
        self._shortfall: BudgetShortfall | None = None
        """Why a deployment was left out that is too expensive for what is left; None while it suffices for others."""
        self._opened: OpenedAttempt | None = None
        engine.health.count_call(self.began)

    def record(self) -> Record:
        """What happened so far."""
        target, first = self._answered_by, self.policy.first
        return Record(
            chain=self.call.chain.name,
            deployment=target.name if target else None,
            model=target.model if target else None,
            fell_back=target is not None and first is not None and target.name != first.name,
            attempts=tuple(self.attempts),
            skipped=self.policy.skipped,
            latency_s=self.engine.clock.now() - self.began,
            time_to_first_token_s=self._first_token_s,
            stitches=tuple(self._stitches),
        )

    async def steps(self) -> AsyncGenerator[Step, Any]:
        """The call, step by step. Close the generator to stop it; requests under way are then dropped.

        All attempts run in this one generator: one more inside it would add its cost to every chunk.
        """
        call, now = self.call, self.engine.clock.now
        while (opened := await self._next_attempt()) is not None:
            try:
                for fact in self._before(opened.winner.member):
                    yield fact
                while (question := await opened.until_content()) is not None:
                    opened.answer((yield question))
                attempt = opened.winner
                for fact in self._conclude_loser(opened.loser):
                    yield fact
                await self._hold(attempt)
                if call.validate is not None and attempt.is_ok:
                    attempt.apply_verdict((yield CallerQuestion(partial(call.validate, attempt.partial))))
                pauses, target = attempt.pauses, attempt.member.target
                while call.streamed and (chunk := await attempt.next_chunk()) is not None:
                    if attempt.delivered and self._answered_by is not target:
                        self._note_answerer(attempt)
                    if not attempt.delivers_all:
                        self.delivered.add(chunk)
                    pauses.away_since = now()
                    held_s = yield chunk
                    # A slow reader's own pauses are not the call's.
                    self.policy.deadline += held_s
                    pauses.unjudged_s, pauses.away_since = pauses.unjudged_s + held_s, None
                for fact in self._conclude(attempt):
                    yield fact
            finally:
                await self._leave(opened)
        for fact in self._adopted():
            yield fact

    async def _hold(self, attempt: AttemptExecution) -> None:
        """Wait for the whole of a stream before any of it is delivered, if the call wants that."""
        if self.call.streamed and self.call.is_buffered and attempt.is_ok:
            await attempt.complete()

    def release(self) -> None:
        """Give back what the call holds; it waits for nothing. Requests under way are dropped with `steps()`."""
        if self._opened is not None:
            try:
                self._opened.release()
            finally:
                self._report_cancelled(self._opened)

    async def _leave(self, opened: OpenedAttempt) -> None:
        """Give back what an attempt still holds, and drop its request, however it was left."""
        try:  # Before anything is waited for, as a caller may be cancelled again while it leaves.
            self.release()
        finally:
            self._opened = None  # It knows this call, and a circle is left to the garbage collector.
            await opened.close()

    async def _next_attempt(self) -> OpenedAttempt | None:
        """The next attempt, when its time has come; None when the call has ended, and what it cost is booked."""
        while True:
            if self._limits:
                await self._keep_up()
            if self.end is not None:
                return None
            match self._decide():
                case AttemptExecution() as attempt:
                    self._opened = attempt  # Held from here on, whatever keeps it from being hedged.
                    self._opened = self._hedged(attempt)
                    return self._opened
                case Wait(until):
                    await self._wait(until)
                case Stop(failure, reason):
                    self._end_failed(failure, reason)
                case BudgetShortfall() as shortfall:
                    self._end_over_budget(shortfall)

    # Whom to ask.

    def _picking(self) -> Pick:
        """How this call picks among the members of a tier."""
        engine, call = self.engine, self.call
        if call.conversation is not None:
            return Rendezvous(call.conversation, engine.health.tier_load)
        if call.chain.balance == "weighted":
            return by_weight(engine.rng)
        return LeastLoaded(engine.rng, engine.health.tier_load, streamed=call.streamed)

    def _went_to(self, conversation: bytes) -> Member | None:
        """Where the conversation went a while ago, unless it has become too much there."""
        chain, health = self.call.chain, self.engine.health
        with health.lock:
            name = health.conversations.find(chain.name, conversation, self.began)
            tier = None if name is None else chain.tier_of.get(name)
            if tier is None or tier not in chain.tiers:
                return None
            member, load = next(member for member in tier.members if member.name == name), health.tier_load(tier)
            is_free = load.in_flight(member.name) <= most_in_flight(tier, member, load.all_in_flight)
        return member if is_free else None

    def _remember(self, conversation: bytes, target: Target) -> None:
        """Let the conversation stay where something kept it from its first choice."""
        first = self.policy.first
        if first is not None and first.name != target.name:
            with self.engine.health.lock:
                now, chain = self.engine.clock.now(), self.call.chain
                self.engine.health.conversations.remember(chain.name, conversation, target.name, now)

    # Deciding.

    def _decide(self) -> AttemptExecution | Wait | Stop | BudgetShortfall:
        """The next attempt, with permission and money for it, or why there is none now; under one lock, so that of
        many calls only one gets the probe."""
        now = self.engine.clock.now()
        if now >= self.policy.deadline:
            self._out_of_time = True
            return Stop(self._last_failure[1].failure if self._last_failure else "timeout", self._time_is_up())
        health = self.engine.health
        with health.lock:
            while isinstance(step := self.policy.next_step(now), Try):
                attempt = self._open(step.member, now)
                if isinstance(attempt, BudgetShortfall) and attempt.is_momentary:
                    self.policy.repeats -= step.repeat
                    self._await_notification()
                    return Wait(now + _MONEY_WAIT_S)
                if isinstance(attempt, BudgetShortfall) and attempt.goes_cheaper:
                    self._shortfall = self._shortfall or attempt
                    self.policy.too_expensive(step)
                    continue
                if step.repeat and isinstance(attempt, AttemptExecution):
                    health.retry_budget.spend(now)
                self._shortfall = None
                return attempt
            if isinstance(step, Wait):
                self._await_notification()
                return step
            return self._shortfall or step

    def _open(self, member: Member, now: float, *, is_hedge: bool = False) -> AttemptExecution | BudgetShortfall:
        """An attempt with a permit and money for it, or what is lacking. Called with the lock of health held."""
        request = self._request(member, is_hedge=is_hedge)
        reservation = self._reserve(member, request)
        if isinstance(reservation, BudgetShortfall):
            return reservation
        deployment = self.engine.health[member.name]
        permit = deployment.begin(now, request.tokens)
        tier = None if deployment.breaker.slow_times is None else self.call.chain.tier_of[member.name]
        hedged_at = now if is_hedge else None
        settlement = Settlement(self.engine, deployment, permit, reservation, request.tokens, tier, hedged_at)
        return AttemptExecution(self.engine, member, request, settlement)

    async def _keep_up(self) -> None:
        """Learn what other processes have spent, and have them learn what this call has."""
        for limit in self._limits:
            await limit.account.keep_up(self.engine.clock, self.policy.deadline)

    def _reserve(self, member: Member, request: AttemptRequest) -> Reservation | BudgetShortfall:
        """The money an attempt may cost, or what is lacking."""
        if not self._limits:
            return Reservation()
        target, health = member.target, self.engine.health[member.name]
        prices = self.engine.prices(target, request.body)
        usd = None if prices is None else estimate_cost(prices, target, request.body, request.tokens, health)
        reservation = reserve(self._limits, self.call.spender, usd)
        if isinstance(reservation, BudgetShortfall) and not reservation.goes_cheaper:
            self.policy.over_budget(member)
        return reservation

    def _await_notification(self) -> None:
        loop = asyncio.get_running_loop()
        self._notified = loop.create_future()
        self._notify = partial(_notify, loop, self._notified)
        self.engine.health.add_waiter(self._notify)

    async def _wait(self, until: float) -> None:
        """Wait until that time, or until some request ends and may have left a free place."""
        clock, health = self.engine.clock, self.engine.health
        # Where nobody is under way there is nobody to wait for, but only time to pass.
        with health.lock:
            others = any(health[member.name].in_flight for member in self.call.chain.members)
        try:
            with suppress(TimeoutError):
                async with clock.deadline(min(until, self.policy.deadline), for_others=others):
                    await self._notified
        finally:
            health.remove_waiter(self._notify)

    def _request(self, member: Member, *, is_hedge: bool = False) -> AttemptRequest:
        call, body, trimmer = self.call, self.call.request, None
        if self._delivered_anything:
            delivered, prefill = self.delivered.text, self.engine.catalogue.prefill(member.target)
            body = continuation_request(body, delivered, prefill)
            trimmer = OverlapTrimmer(delivered, exact=prefill is not None)
        return AttemptRequest(
            body=body,
            streamed=call.streamed,
            tokens=_prompt_tokens(call, self.delivered),
            call=self.policy,
            total_s=call.chain.total_s,
            call_began=self.began,
            trimmer=trimmer,
            holds_tool_calls=call.streamed and call.continues,
            is_hedge=is_hedge,
            dropped_content=self._dropped_content(member.target),
        )

    def _dropped_content(self, target: Target) -> tuple[str, ...]:
        call = self.call
        dropped = call.left_out
        if not call.signers <= {target.signer}:
            dropped = (*dropped, "thinking")
        if call.has_signed_calls and not target.is_gemini and "signature" not in dropped:
            dropped = (*dropped, "signature")
        return dropped

    @property
    def _delivered_anything(self) -> bool:
        return not self.delivered.is_empty

    # Hedging.

    def _hedged(self, attempt: AttemptExecution) -> OpenedAttempt:
        """The attempt, with a second one after a while where the chain hedges."""
        hedge, engine = self.call.chain.hedge, self.engine
        if hedge is None or self._delivered_anything:
            return attempt
        with engine.health.lock:
            after_s = hedge_after(hedge, engine.health[attempt.member.name], streamed=self.call.streamed)
        if after_s is None or engine.clock.now() + after_s >= self.policy.deadline:
            return attempt
        return HedgedAttempt(attempt, engine.clock, after_s, self._keep_up, self._start_hedge, self.policy)

    def _start_hedge(self) -> AttemptExecution | None:
        """Another deployment's attempt, if one is healthy and the budget for hedges allows it."""
        now, health = self.engine.clock.now(), self.engine.health
        with health.lock:
            if not (health.hedge_budget.allows(now) and health.retry_budget.allows(now)):
                return None
            step = self.policy.next_untried(now)
            if step is None:
                return None
            hedge = self._open(step.member, now, is_hedge=True)
            if isinstance(hedge, BudgetShortfall):
                self.policy.over_budget(step.member)
                return None
            health.count_hedge(health[step.member.name], now)
        return hedge

    # Concluding.

    def _note_answerer(self, attempt: AttemptExecution) -> None:
        """Take note of whose content the caller gets from here on."""
        if attempt.delivers_all:
            # Nobody goes on with such a reply if it breaks, so the policy, which counts what was delivered for the next
            # prompt, need not see it.
            self.delivered = attempt.partial
        if attempt.request.trimmer is not None:
            self._stitches.append(Stitch(attempt.member.name, len(self.delivered.text)))
            with self.engine.health.lock:
                self.engine.health[attempt.member.name].stitched += 1
        self._answered_by = attempt.member.target
        self._note_first_token(attempt)

    def _note_first_token(self, attempt: AttemptExecution) -> None:
        if self._first_token_s is None and attempt.first_token_at is not None:
            self._first_token_s = attempt.first_token_at - self.began

    def _conclude_loser(self, loser: AttemptExecution | None) -> list[Event]:
        """Say what came of the attempt that lost to a hedge, or of a hedge that lost, if it failed of itself."""
        if loser is None:
            return []
        self._report_cancelled(loser)
        if loser.unsupported:
            self.policy.unsupported(loser.member)
        return [] if loser.fault is None else self._fail(loser, loser.fault, ends=False)

    def _conclude(self, attempt: AttemptExecution) -> list[Event]:
        """Settle the attempt and say what came of it."""
        if attempt.unsupported:
            self.policy.unsupported(attempt.member)
            return []
        if attempt.fault is not None:
            return self._fail(attempt, attempt.fault)
        target = self._answered_by = attempt.member.target
        self._note_first_token(attempt)
        opened_for_s = attempt.succeed()
        self._report(attempt)
        if self.call.conversation is not None:
            self._remember(self.call.conversation, target)
        if attempt.request.is_hedge:
            with self.engine.health.lock:
                self.engine.health[target.name].hedges_won += 1
        self.end = Answered(self.record(), attempt.reply, target.model_name, attempt.partial.finish, attempt.provenance)
        if opened_for_s is None:
            return []
        return [BreakerOpened(self.call.chain.name, target.name, "timeout", opened_for_s)]

    def _fail(self, attempt: AttemptExecution, fault: Fault, *, ends: bool = True) -> list[Event]:
        """Tell policy and health of a failed attempt, and end the call if nothing can follow from it."""
        opened_for_s = attempt.fail(fault)
        fact = self._report(attempt)
        self._last_failure = (attempt.member, fault)
        if attempt.is_mismatched:
            self._mismatched = MismatchedReply(attempt.partial, attempt.member.target, attempt.provenance)
        self._answered_by = None
        self.policy.failed(attempt.member, fault, self.engine.clock.now())
        if ends and attempt.out_of_time:
            self._out_of_time = True
            self._end_failed(fault.failure, self._time_is_up())
        elif ends and fault.was_refused_here and (why := why_not_json(self.call.request)) is not None:
            self._end_failed(fault.failure, f"no deployment could get this request: {why}")
        elif ends and self._delivered_anything and not (self.call.continues and can_continue(self.delivered)):
            self._end_failed(fault.failure, "")
        chain, deployment = self.call.chain.name, attempt.member.name
        facts: list[Event] = [AttemptFailed(chain, fact)]
        if opened_for_s is not None:
            facts.append(BreakerOpened(chain, deployment, fault.failure, opened_for_s))
        return facts

    def _before(self, member: Member) -> list[Event]:
        """What there is to say before a deployment is asked."""
        facts = self._adopted()
        if self._last_failure is not None and self._last_failure[0].name != member.name:
            source, fault = self._last_failure
            facts.append(FellBack(self.call.chain.name, source.name, member.name, fault.failure))
        return facts

    def _adopted(self) -> list[Event]:
        """Say which deployments of the chain are left alone because of what other processes have met."""
        if not self.engine.health.adopted:
            return []
        chain, now = self.call.chain, self.engine.clock.now()
        taken = self.engine.health.take_adopted(chain.tier_of, now)
        return [BreakerOpened(chain.name, name, failure, for_s, "fleet") for name, failure, for_s in taken]

    def _report(self, attempt: AttemptExecution) -> Attempt:
        fact = attempt.settlement.attempt
        assert fact is not None
        self.attempts.append(fact)
        return fact

    def _report_cancelled(self, opened: OpenedAttempt) -> None:
        for attempt in opened.attempts:
            fact = attempt.settlement.attempt
            if fact is not None and fact.outcome == "cancelled" and not any(fact is known for known in self.attempts):
                self.attempts.append(fact)

    def _end_failed(self, failure: Failure, reason: str) -> None:
        """End the call without a whole answer."""
        fault = self._last_failure[1] if self._last_failure else None
        if self._delivered_anything:
            broken = fault or Fault("stream_broken", reason)
            if self._out_of_time:
                broken = Fault("timeout", self._time_is_up(), cause=broken.cause)
            self.end = StreamBrokeOff(self.record(), broken, self.delivered)
            return
        cause = fault.cause if fault else None
        self.end = Failed(self.record(), failure, reason, self._out_of_time, cause, self._mismatched)

    def _end_over_budget(self, shortfall: BudgetShortfall) -> None:
        """End the call for want of money."""
        fault = self._last_failure[1] if self._last_failure else None
        if fault is not None and self._delivered_anything:
            why = f"{fault.message}; nobody goes on with it: {shortfall}"
            self.end = StreamBrokeOff(self.record(), replace(fault, message=why), self.delivered)
        else:
            self.end = OverBudget(self.record(), shortfall, fault.cause if fault else None)

    def _time_is_up(self) -> str:
        return f"total_s ({self.call.chain.total_s:g} s) is over"


def _prompt_tokens(call: Call, delivered: PartialReply) -> int:
    """About how many tokens the next prompt has: one that goes on with a reply hands over what was delivered of it."""
    return call.tokens if delivered.is_empty else call.tokens + estimate_prompt_tokens(len(delivered.text))


def _notify(loop: asyncio.AbstractEventLoop, notified: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not notified.done():
            notified.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)
