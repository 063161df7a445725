"""One call, as an async generator: it yields facts, questions and pieces of the answer.

The engine does what the course says, one attempt at a time, keeps every deadline, and states what happened. It runs
nothing of the user's: questions (`accept`, a key that is a function) and facts (listeners, callbacks) go out to a
driver in the caller's own thread or task, whose answers come back by `asend`. When the generator is through,
`Run.end` says how the call ended: `Answered`, `Broke` or `Failed`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from types import TracebackType
from typing import Any, Literal

from pydantic import SecretStr

from llm_fallback.breaker import Ticket
from llm_fallback.course import Course, Stop, Try, Wait
from llm_fallback.events import (
    Attempt,
    AttemptFailed,
    BreakerOpened,
    Event,
    Failure,
    FellBack,
    Outcome,
    Record,
)
from llm_fallback.exchange import End, Exchange, Piece, Reply, Transcript, Transport, Unsupported
from llm_fallback.faults import Fault
from llm_fallback.health import Health
from llm_fallback.plan import Catalogue, ChainPlan, Feature, Member, Target
from llm_fallback.timing import Clock

REFUSED_FINISH = "content_filter"
UNFINISHED = frozenset({None, "abort", "error"})
"""Finish reasons that are none: the server stopped in the middle."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one call asks for."""

    chain: ChainPlan
    request: Mapping[str, Any]
    """messages, tools and parameters, as litellm takes them."""
    streamed: bool
    judge: Callable[[Transcript], Any] | None = None
    """Says whether a whole reply will do; asked in the caller's own thread or task."""
    features: frozenset[Feature] = frozenset()
    tokens: int = 0
    """About how many tokens the request will use, for `limits.tpm`."""

    @property
    def is_held(self) -> bool:
        """Whether nothing is delivered before the reply is whole."""
        return self.judge is not None or self.chain.on_stream_break == "hold"


@dataclass(frozen=True, slots=True)
class Question:
    """Something only the caller's side can answer: send the result of `ask()` back into the generator."""

    ask: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """The reply is whole. `reply` is None when it was streamed."""

    record: Record
    reply: Reply | None


@dataclass(frozen=True, slots=True)
class Broke:
    """The stream broke after a part of it was delivered."""

    record: Record
    fault: Fault
    delivered: Transcript


@dataclass(frozen=True, slots=True)
class Failed:
    """No deployment answered."""

    record: Record
    failure: Failure
    reason: str
    out_of_time: bool
    cause: BaseException | None


Item = Event | Question | Piece
Ending = Answered | Broke | Failed


class Engine:
    """Runs calls over a transport."""

    def __init__(
        self,
        transport: Transport,
        catalogue: Catalogue,
        health: Health,
        clock: Clock,
        *,
        rng: Random,
        backoff: Callable[[ChainPlan], Callable[[int], float]],
    ) -> None:
        self.transport = transport
        self.catalogue = catalogue
        self.health = health
        self.clock = clock
        self._rng = rng
        self._backoff = backoff

    def course(self, call: Call) -> Course:
        """The course of one call, with this engine's knowledge of its deployments."""
        return Course(
            call.chain,
            lambda name, now: self.health[name].block(now, call.tokens),
            rng=self._rng,
            backoff=self._backoff(call.chain),
            deadline=self.clock.now() + call.chain.total_s,
            window=lambda member: self.catalogue.context_window(member.target),
            lacks=lambda member: self._missing(member.target, call.features),
        )

    def _missing(self, target: Target, features: frozenset[Feature]) -> Feature | None:
        return next((feature for feature in sorted(features) if self.catalogue.lacks(target, feature)), None)

    def start(self, call: Call) -> Run:
        """Begin a call; nothing is sent before the first step of `Run.items()`."""
        return Run(self, call)


@dataclass(slots=True)
class Run:
    """One call under way."""

    engine: Engine
    call: Call
    course: Course = field(init=False)
    attempts: list[Attempt] = field(default_factory=list)
    began: float = field(init=False)
    answered_by: Target | None = None
    first_token_s: float | None = None
    end: Ending | None = None
    """How the call ended; None while it is under way, and for ever if its caller left."""
    _cause: BaseException | None = None
    _fault: Fault | None = None
    _out_of_time: bool = False

    def __post_init__(self) -> None:
        self.course = self.engine.course(self.call)
        self.began = self.engine.clock.now()

    def record(self) -> Record:
        """What happened so far."""
        target, first = self.answered_by, self.course.first
        return Record(
            chain=self.call.chain.name,
            deployment=target.name if target else None,
            model=target.model if target else None,
            fell_back=target is not None and first is not None and target.name != first.name,
            attempts=tuple(self.attempts),
            skipped=self.course.skipped,
            latency_s=self.engine.clock.now() - self.began,
            time_to_first_token_s=self.first_token_s,
        )

    async def items(self) -> AsyncGenerator[Item, Any]:
        """The call, step by step. Close the generator to stop it; the request under way is then dropped."""
        last: Member | None = None
        while True:
            step, ticket = self._decide()
            if isinstance(step, Stop):
                self.end = self._failed(step.failure, step.reason)
                return
            if isinstance(step, Wait):
                await self._wait(step.until)
                continue
            if last is not None and self._fault is not None and last.name != step.member.name:
                yield FellBack(self.call.chain.name, last.name, step.member.name, self._fault.failure)
            async with _Trial(self, step.member, ticket) as trial:
                if trial.needs_asking_for_key:
                    trial.api_key = SecretStr(str((yield Question(trial.ask_for_key))))
                await trial.begin(hold=self.call.is_held)
                if trial.is_to_be_judged:
                    trial.heed((yield Question(trial.judge)))
                while (piece := await trial.next_piece()) is not None:
                    paused = self.engine.clock.now()
                    yield piece
                    # A slow reader's own pauses are not the deployment's.
                    self.course.deadline += self.engine.clock.now() - paused
                for fact in self._conclude(trial):
                    yield fact
            if self.end is not None:
                return
            last = step.member if trial.fault else last

    def _decide(self) -> tuple[Try | Wait | Stop, Ticket]:
        """The next step, and leave for it; under one lock, so that of many calls only one gets the probe."""
        now = self.engine.clock.now()
        if now >= self.course.deadline:
            self._out_of_time = True
            return Stop(self._fault.failure if self._fault else "timeout", self._time_is_up()), _NO_TICKET
        with self.engine.health.lock:
            step = self.course.step(now)
            if not isinstance(step, Try):
                return step, _NO_TICKET
            return step, self.engine.health[step.member.name].begin(now, self.call.tokens)

    async def _wait(self, until: float) -> None:
        """Wait until that time, or until some request ends and may have left a free place."""
        loop = asyncio.get_running_loop()
        released: asyncio.Future[None] = loop.create_future()
        if math.isinf(until):
            self.engine.health.when_released(lambda: _wake(loop, released))
        try:
            async with self.engine.clock.deadline(min(until, self.course.deadline)):
                await released
        except TimeoutError:
            pass

    def _conclude(self, trial: _Trial) -> list[Event]:
        """Settle the attempt and say what came of it."""
        if trial.unsupported:
            self.course.unsupported(trial.member)
            trial.drop()
            return []
        if trial.fault is not None:
            return self._fail(trial, trial.fault)
        self.answered_by = trial.member.target
        trial.settle("succeeded")
        self.end = Answered(self.record(), trial.reply)
        return []

    def _fail(self, trial: _Trial, fault: Fault) -> list[Event]:
        self._fault, self._cause = fault, fault.cause
        self._out_of_time = trial.out_of_time
        opened = trial.settle("failed", fault)
        self.course.failed(trial.member, fault, self.engine.clock.now())
        facts: list[Event] = [AttemptFailed(self.call.chain.name, self.attempts[-1])]
        if opened is not None:
            facts.append(BreakerOpened(self.call.chain.name, trial.member.name, fault.failure, opened))
        if trial.delivered:
            self.end = Broke(self.record(), fault, trial.transcript)
        elif trial.out_of_time:
            self.end = self._failed(fault.failure, self._time_is_up())
        return facts

    def _failed(self, failure: Failure, reason: str) -> Failed:
        return Failed(self.record(), failure, reason, self._out_of_time, self._cause)

    def _time_is_up(self) -> str:
        return f"total_s ({self.call.chain.total_s:g} s) is over"


class _Trial:
    """One attempt under way: its exchange, its limits, and what came of it so far."""

    def __init__(self, run: Run, member: Member, ticket: Ticket) -> None:
        self._run, self._engine = run, run.engine
        self.member, self._ticket = member, ticket
        key = member.target.api_key
        self.api_key: SecretStr | None = key if isinstance(key, SecretStr) else None
        self._exchange: Exchange | None = None
        self.transcript = Transcript()
        self.reply: Reply | None = None
        self.fault: Fault | None = None
        self.unsupported = self.delivered = self.out_of_time = False
        self._began = self._engine.clock.now()
        self._first_token_at: float | None = None
        self._held: deque[Piece] = deque()
        self._ended = self._settled = False

    async def __aenter__(self) -> _Trial:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
            self._record("cancelled", Fault("cancelled", "the caller left"))
            self.drop()
        if self._exchange is not None and not self._ended:
            await self._exchange.close()

    @property
    def exchange(self) -> Exchange:
        assert self._exchange is not None, "begin() opens it"
        return self._exchange

    # What only the caller's side can answer.

    @property
    def needs_asking_for_key(self) -> bool:
        return self.api_key is None and self.member.target.api_key is not None

    def ask_for_key(self) -> Any:
        key = self.member.target.api_key
        return key() if callable(key) else key

    @property
    def is_to_be_judged(self) -> bool:
        return self.fault is None and not self.unsupported and self._run.call.judge is not None

    def judge(self) -> Any:
        return self._run.call.judge(self.transcript) if self._run.call.judge else True

    def heed(self, verdict: Any) -> None:
        """Take the judge's verdict: true, false, or the reason for a no."""
        if isinstance(verdict, str) or not verdict:
            self.fault = Fault("rejected", verdict if isinstance(verdict, str) else "accept said no", 200)

    # Reading.

    async def begin(self, *, hold: bool) -> None:
        """Send the request and read up to the first content; the whole reply if it is plain or held back."""
        timeouts = self.member.timeouts
        limits: list[tuple[float, Failure]] = [(self._within(timeouts.attempt_s), "timeout")]
        if self._run.call.streamed:
            limits.append((self._within(timeouts.first_token_s), "first_token_timeout"))
        self._exchange = self._engine.transport.exchange(
            self.member.target, self._run.call.request, self.api_key, self._longest_wait(timeouts.attempt_s)
        )
        if not self._run.call.streamed:
            await self._read_reply(limits)
            return
        while self._first_token_at is None and not self._is_done:
            await self._read(limits)
        while hold and not self._is_done:
            await self._read([(self._within_idle(), "idle_timeout")])

    async def next_piece(self) -> Piece | None:
        """What came so far, then what comes; None when there is no more, and then `fault` says whether it is whole."""
        if not self._held and not self._is_done:
            await self._read([(self._within_idle(), "idle_timeout")])
        if not self._held or (self.fault is not None and not self.delivered):
            return None
        piece = self._held.popleft()
        self.delivered = self.delivered or piece.has_content
        return piece

    @property
    def _is_done(self) -> bool:
        return self._ended or self.unsupported or self.fault is not None

    async def _read_reply(self, limits: list[tuple[float, Failure]]) -> None:
        reply = await self._timed(self.exchange.reply, limits)
        if isinstance(reply, Reply):
            self.reply = reply
            self.transcript.add(reply)
            self._ended = True
            self.fault = _flaw(self.transcript, streamed=False)
        else:
            self._heed_refusal(reply)

    async def _read(self, limits: list[tuple[float, Failure]]) -> None:
        item = await self._timed(self.exchange.next, limits)
        if isinstance(item, Piece):
            self._held.append(item)
            self.transcript.add(item)
            if item.has_content and self._first_token_at is None:
                self._first_token_at = self._engine.clock.now()
        elif isinstance(item, End):
            self._ended = True
            self.transcript.finish = item.finish
            self.fault = _flaw(self.transcript, streamed=True)
        else:
            self._heed_refusal(item)

    def _heed_refusal(self, refusal: Fault | Unsupported) -> None:
        if isinstance(refusal, Unsupported):
            self.unsupported = True
        else:
            self.fault = refusal

    async def _timed(self, read: Callable[[], Any], limits: list[tuple[float, Failure]]) -> Any:
        """What `read` brings, or the fault of the limit that ended it."""
        total = self._run.course.deadline
        at, failure = min([*limits, (total, "timeout")], key=lambda limit: limit[0])
        try:
            async with self._engine.clock.deadline(at):
                return await read()
        except TimeoutError:
            self.out_of_time = at >= total
            return Fault(failure, self._limit_text(failure, at))

    def _limit_text(self, failure: Failure, at: float) -> str:
        if self.out_of_time:
            return f"total_s ({self._run.call.chain.total_s:g} s) is over"
        timeouts = self.member.timeouts
        names = {"timeout": "attempt_s", "first_token_timeout": "first_token_s", "idle_timeout": "idle_s"}
        name = names[failure]
        seen = "no answer" if failure == "timeout" else "no content" if name == "first_token_s" else "nothing more"
        return f"{seen} within {name} ({getattr(timeouts, name):g} s)"

    def _within(self, seconds: float | None) -> float:
        return math.inf if seconds is None else self._began + seconds

    def _within_idle(self) -> float:
        idle_s = self.member.timeouts.idle_s
        return math.inf if idle_s is None else self._engine.clock.now() + idle_s

    def _longest_wait(self, attempt_s: float | None) -> float:
        left = self._run.course.deadline - self._engine.clock.now()
        return max(left if attempt_s is None else max(left, attempt_s), 0.001)

    # Settling.

    def settle(self, outcome: Outcome, fault: Fault | None = None) -> float | None:
        """Tell health and history what came of the attempt; seconds until it reopens if its breaker opened."""
        now = self._engine.clock.now()
        health = self._engine.health
        self._settled = True
        self._record(outcome, fault)
        with health.lock:
            own = health[self.member.name]
            if fault is None:
                own.answered(self._ticket, now, self._time_to_first_token())
                opened = False
            else:
                opened = own.failed(self._ticket, now, fault.failure, fault.retry_after_s)
            if self.transcript.usage is not None:
                used = self.transcript.usage.input_tokens + self.transcript.usage.output_tokens
                own.settle(used - self._run.call.tokens)
            reopens = own.breaker.closed_to(now) if opened else None
        health.released()
        return None if reopens is None else reopens - now

    def drop(self) -> None:
        """Give back the leave: the request told nothing about the deployment."""
        self._settled = True
        with self._engine.health.lock:
            self._engine.health[self.member.name].dropped(self._ticket)
        self._engine.health.released()

    def _record(self, outcome: Outcome, fault: Fault | None) -> None:
        now = self._engine.clock.now()
        first = self._time_to_first_token()
        if first is not None and self._run.first_token_s is None and outcome == "succeeded":
            self._run.first_token_s = self._first_token_at - self._run.began if self._first_token_at else None
        self._run.attempts.append(
            Attempt(
                deployment=self.member.name,
                model=self.member.target.model,
                outcome=outcome,
                failure=fault.failure if fault else None,
                status=fault.status if fault else 200,
                message=fault.message if fault else None,
                latency_s=now - self._began,
                time_to_first_token_s=first,
                cost_usd=self._cost(now - self._began),
                dropped_params=self._exchange.dropped_params if self._exchange else (),
                usage=self.transcript.usage,
                started_at=self._began - self._run.began,
            )
        )

    def _time_to_first_token(self) -> float | None:
        return None if self._first_token_at is None else self._first_token_at - self._began

    def _cost(self, seconds: float) -> Decimal | None:
        target, usage = self.member.target, self.transcript.usage
        if usage is None and self.transcript.is_empty:
            return Decimal(0)
        prices = target.prices or self._engine.catalogue.prices(target)
        return None if prices is None or usage is None else prices.cost(usage, seconds)


_NO_TICKET = Ticket("closed", -1)


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)


def _flaw(reply: Transcript, *, streamed: bool) -> Fault | None:
    """What keeps a reply that has ended from being one."""
    if reply.finish == REFUSED_FINISH:
        return Fault("content_policy", "finish reason content_filter", 200)
    if reply.finish in UNFINISHED:
        if streamed and reply.is_empty and reply.finish is None:
            return Fault("empty_response", "the stream ended without content and without a finish", 200)
        word = f"finish reason {reply.finish!r}" if reply.finish else "no finish reason"
        kind: Literal["stream_broken", "server_error"] = "stream_broken" if streamed else "server_error"
        return Fault(kind, f"the reply is not whole: {word}", 200)
    if reply.is_empty and reply.finish != "length":
        return Fault("empty_response", "no text, reasoning or tool call", 200)
    return None
