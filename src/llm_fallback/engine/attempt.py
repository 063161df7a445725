"""One request to one deployment: read as it comes, within its limits, judged, and what it cost.

`AttemptExecution` reads and keeps time, `ReaderPauses` knows how long the caller was away meanwhile, `Settlement` gives
back what the attempt holds.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from llm_fallback.engine.continuation import OverlapTrimmer
from llm_fallback.engine.engine import CallerQuestion, Engine, Mismatch, service_tier
from llm_fallback.engine.protocol.faults import shortened
from llm_fallback.engine.reader_pauses import ReaderPauses
from llm_fallback.engine.settlement import Settlement
from llm_fallback.engine.tokens import estimate_reply_tokens
from llm_fallback.engine.transport import (
    CUT_FINISHES,
    FINISHES,
    FULL_WINDOW,
    NO_PROVENANCE,
    REFUSED_FINISH,
    Chunk,
    Exchange,
    Fault,
    PartialReply,
    Provenance,
    Reply,
    StreamEnd,
    Unsupported,
    UpstreamError,
    is_told_whole,
)
from llm_fallback.events import Attempt, Failure, Outcome, Usage
from llm_fallback.plan.credential import as_secret
from llm_fallback.plan.plan import Member

_NO_USAGE = Usage()
CLOSE_TIMEOUT_S = 0.5
"""Closing takes a moment; a library that hangs in it must not keep the caller beyond `total_s`."""
_AFTER_FINISH_S = 2.0
"""What follows a finish comes with it; a server that keeps its connection open then says nothing more."""
_LAST_WORD_S = 0.02
"""How long an exchange has then to say what came: it is there, and the caller may have waited for `total_s`."""


class HasDeadline(Protocol):
    """Something that has to end in time."""

    deadline: float
    """When; a slow reader moves it."""


class AttemptRequest(NamedTuple):
    """What an attempt is to do."""

    body: Mapping[str, Any]
    """Messages, tools and parameters."""
    streamed: bool
    tokens: int
    """About how many tokens its prompt has."""
    call: HasDeadline
    """What the attempt belongs to, and must not outlast."""
    total_s: float
    call_began: float
    trimmer: OverlapTrimmer | None = None
    """Where the attempt goes on with a reply that broke off: it trims what was delivered already."""
    holds_tool_calls: bool = False
    """Whether tool calls wait until the reply is whole."""
    is_hedge: bool = False
    dropped_content: tuple[str, ...] = ()
    """What of the messages the deployment does not get, as they came from elsewhere."""


class OpenedAttempt(Protocol):
    """What a call knows of the attempt it has opened: a single one, or a hedged pair."""

    @property
    def winner(self) -> AttemptExecution:
        """The attempt that goes on once there is content."""
        ...

    @property
    def loser(self) -> AttemptExecution | None:
        """Of a hedged pair the one that lost."""
        ...

    @property
    def attempts(self) -> tuple[AttemptExecution, ...]:
        """All there are."""
        ...

    async def until_content(self) -> CallerQuestion | None:
        """Send the request and read up to the first content, a plain reply as a whole. If the caller has to be asked
        first, that question, unsent: `answer` it and come again."""
        ...

    def answer(self, key: Any) -> None:
        """Take the key that was asked for, or the exception in its place. None: the deployment needs none this time."""
        ...

    def release(self) -> None:
        """Give back what is still held. It waits for nothing."""
        ...

    async def close(self) -> None:
        """Drop every request still under way."""
        ...


class AttemptExecution:
    """One request to one deployment, under way: the `OpenedAttempt` of a chain that does not hedge."""

    loser = None

    def __init__(self, engine: Engine, member: Member, request: AttemptRequest, settlement: Settlement) -> None:
        self._engine, self.member, self.request, self.settlement = engine, member, request, settlement
        self._api_key = member.target.credential.value
        self._asks_for_key = member.target.credential.is_callable
        self.pauses = ReaderPauses()
        self.partial = PartialReply()
        self.reply: Reply | None = None
        self.fault: Fault | None = None
        self.provenance = NO_PROVENANCE
        """By which names its provider knows it; told when it is settled."""
        self.unsupported = False
        """Whether the deployment cannot take the request; then nothing was sent."""
        self.is_mismatched = False
        """Whether its reply is not of the form that the call asked for."""
        self.delivered = False
        """Whether the caller has had content of it."""
        self.out_of_time = False
        """Whether `total_s` ended it."""
        self.first_token_at: float | None = None
        self._began = math.nan
        """When it began to send; what came before, as asking for a key, is not the deployment's time."""
        self._last_byte_at: float | None = None
        """What the caller does with a reply that is there is not the deployment's time."""
        self._exchange: Exchange | None = None
        self._ready: deque[Chunk] = deque()
        self._held_back: list[Chunk] = []
        self._ended = False
        self._silent_until: float | None = None
        """Until when the rest is taken of a reply whose server said how it ended, and then nothing in time."""
        self._goes_on = False
        """Whether content came behind a word of how the reply ended."""
        self._may_hold_back = request.holds_tool_calls or request.trimmer is not None
        self.delivers_all = request.streamed and not self._may_hold_back
        """Whether all that comes of it is delivered as it came, unless nothing is."""
        self._timer = engine.clock.idle_timer()
        idle_s = member.timeouts.idle_s
        self._idle_s = math.inf if idle_s is None else idle_s

    @property
    def winner(self) -> AttemptExecution:
        return self

    async def until_content(self) -> CallerQuestion | None:
        question = self.credential_question()
        if question is None and self.is_ok:
            await self._send()
        return question

    def credential_question(self, on_failure_skip: str = "") -> CallerQuestion | None:
        """The question for a key that is a function and was not asked yet."""
        if not self._asks_for_key:
            return None
        return CallerQuestion(self.member.target.credential.ask, is_fallible=True, on_failure_skip=on_failure_skip)

    def answer(self, key: Any) -> None:
        self._asks_for_key = False
        if isinstance(key, Exception):
            self._began, self.fault = self._engine.clock.now(), fault_of_key_function(key, self._engine.redact)
        else:
            self._api_key = as_secret(key)
            self.settlement.restart(self._engine.clock.now())

    @property
    def attempts(self) -> tuple[AttemptExecution, ...]:
        return (self,)

    def release(self, why: str = "the caller left") -> None:
        """Give back the place and the money if it is still under way; the deployment is none the worse for it."""
        self._timer.stop()
        if self.settlement.is_settled:
            return
        try:
            self.settlement.cancel(self._cancelled(why))
        finally:
            self.settlement.release()

    @property
    def has_begun(self) -> bool:
        """Whether its request was given to the transport."""
        return self._exchange is not None

    @property
    def is_open(self) -> bool:
        """Whether its request is still under way."""
        return self._exchange is not None and not self._ended

    async def close(self) -> None:
        """Drop the request if it is still under way."""
        if self.is_open:
            await shielded(self.close_unshielded())

    async def close_unshielded(self) -> None:
        """Like close, for who shields it already: each shield takes turns of the event loop."""
        if self._exchange is None or self._ended:
            return
        self._ended = True
        clock = self._engine.clock
        with suppress(TimeoutError):
            async with clock.deadline(clock.now() + CLOSE_TIMEOUT_S, for_others=True):
                await self._exchange.close()

    # Reading.

    @property
    def has_content(self) -> bool:
        return self.first_token_at is not None or self.reply is not None

    @property
    def is_ok(self) -> bool:
        """Whether nothing speaks against this attempt so far."""
        return self.fault is None and not self.unsupported

    async def _send(self) -> None:
        self._began = self._engine.clock.now()
        timeouts = self.member.timeouts
        failure: Failure = "timeout"
        at = self._within(timeouts.attempt_s)
        if self.request.streamed and (first_token_at := self._within(timeouts.first_token_s)) < at:
            at, failure = first_token_at, "first_token_timeout"
        exchange = self._exchange = self._engine.transport.exchange(
            self.member.target, self.request.body, self._api_key
        )
        if not self.request.streamed:
            await self._read(exchange.reply, at, failure)
            return
        while self.first_token_at is None and not self._is_done:
            await self._read(exchange.next, at, failure)

    async def complete(self) -> None:
        """Read what is left of a streamed reply, before anything of it is delivered."""
        assert self._exchange is not None
        while not self._is_done:
            await self._read(self._exchange.next, self._engine.clock.now() + self._idle_s, "idle_timeout")

    async def next_chunk(self) -> Chunk | None:
        """What came so far, then what comes; None when there is no more, and `fault` says whether it is whole."""
        now = self._engine.clock.now
        # As in `_is_done`: this is run for every chunk.
        while not (self._ready or self._exchange is None or self._ended or self.fault is not None or self.unsupported):
            began = now()
            await self._read(self._exchange.next, began + self._idle_s, "idle_timeout")
            self.pauses.chunk_arrived(now() - began)
        if not self._ready or not (self.delivered or self.is_ok):
            return None
        chunk = self._ready.popleft()
        self.delivered = self.delivered or chunk.has_content
        return chunk

    @property
    def _is_done(self) -> bool:
        return self._ended or not self.is_ok

    def _on_end(self, item: Reply | StreamEnd | Fault | Unsupported) -> None:
        """Take what ends the attempt, or what keeps it from beginning."""
        self._last_byte_at = self._engine.clock.now()
        if isinstance(item, Reply):
            self.reply, self._ended = item, True
            self.partial.add(item)
            self.fault = _flaw(self.partial, item.finish, self.request, self._engine.redact)
        elif isinstance(item, StreamEnd):
            self._ended = True
            self.fault = _flaw(self.partial, item.finish, self.request, self._engine.redact)
            if self.fault is None:
                self.partial.finish = item.finish
                self._release_held_back()
        elif isinstance(item, Unsupported):
            self.unsupported = True
        elif item.failure == "rate_limited" and service_tier(self.member.target, self.request.body) == "flex":
            # What was left over is used up; the account may ask for more at its usual price.
            self.fault = replace(item, failure="overloaded")
        else:
            self.fault = item

    def _take(self, chunk: Chunk) -> None:
        """Make a chunk ready for delivery, or hold it back until the reply is whole: what follows a tool call, and the
        finish where the trimmer may have text left that belongs before it."""
        trimmer = self.request.trimmer
        if trimmer is not None and (chunk.text or chunk.reasoning):
            # A reply's reasoning is that of the deployment that began it; another's would not follow from it.
            chunk = chunk.with_text(trimmer.feed(chunk.text))
            if chunk.is_bare:
                return
        waits = chunk.tool_calls or (trimmer is not None and chunk.finish)
        if self.request.holds_tool_calls and (self._held_back or waits):
            self._held_back.append(chunk)
        else:
            self._ready.append(chunk)

    def _release_held_back(self) -> None:
        trimmer = self.request.trimmer
        rest = trimmer.flush() if trimmer else ""
        if rest:
            self._ready.append(Chunk.of_text(rest))
        self._ready.extend(self._held_back)
        self._held_back.clear()

    # Limits.

    async def _read(self, read: Callable[[], Awaitable[Any]], at: float, failure: Failure) -> None:
        """Take what `read` brings, or the fault of the limit that ended it: this one, or the end of the call."""
        total = self.request.call.deadline
        if total < at:
            at, failure = total, "timeout"
        finish = self.partial.finish
        if finish is not None and is_told_whole(finish, is_empty=self.partial.is_empty, goes_on=self._goes_on):
            item = await self._rest(read, at, finish)
            if item is None:
                return
        else:
            try:
                item = await self._timer.limit(read, at)
            except TimeoutError:
                self.out_of_time = at >= total
                item = Fault(failure, self._limit_text(failure))
        if not isinstance(item, Chunk):
            self._on_end(item)
            return
        if finish is not None and item.has_content:
            self._goes_on = True
        self.partial.add(item)
        if self.first_token_at is None and item.has_content:
            self.first_token_at = self._engine.clock.now()
        if self._may_hold_back:
            self._take(item)
        else:
            self._ready.append(item)

    async def _rest(self, read: Callable[[], Awaitable[Any]], at: float, finish: str) -> Any:
        """What comes after the server said how its reply ended: usage, mostly, and that nothing follows. Where it says
        no such thing the reply is whole all the same: None, and the exchange is to be asked once more for what came."""
        now, silent_until = self._engine.clock.now(), self._silent_until
        try:
            item = await self._timer.limit(
                read, min(at, now + _AFTER_FINISH_S) if silent_until is None else silent_until
            )
        except TimeoutError:
            if silent_until is None:
                self._silent_until = self._engine.clock.now() + _LAST_WORD_S
                return None
            item = None
        if silent_until is None or isinstance(item, StreamEnd):
            return item
        if not isinstance(item, Chunk):
            await self.close_unshielded()
            return StreamEnd(finish)
        if item.has_content:
            if self._engine.clock.now() >= self.request.call.deadline:
                self.out_of_time = True
                return Fault("timeout", self._limit_text("timeout"))
            self._silent_until = None  # It goes on, and so does the wait for its end.
        return item

    def _limit_text(self, failure: Failure) -> str:
        if self.out_of_time:
            return f"total_s ({self.request.total_s:g} s) is over"
        timeouts = self.member.timeouts
        match failure:
            case "first_token_timeout":
                return f"no content within first_token_s ({timeouts.first_token_s:g} s)"
            case "idle_timeout":
                return f"nothing more within idle_s ({timeouts.idle_s:g} s)"
        return f"no answer within attempt_s ({timeouts.attempt_s:g} s)"

    def _within(self, seconds: float | None) -> float:
        return math.inf if seconds is None else self._began + seconds

    # What came of it.

    def apply_verdict(self, verdict: Any) -> None:
        """Take the validator's verdict: true, false, the reason for a no, or a mismatch."""
        if isinstance(verdict, Mismatch):
            self.is_mismatched, verdict = True, verdict.reason
        if isinstance(verdict, str) or not verdict:
            why = self._engine.redact(verdict) if isinstance(verdict, str) else "accept said no"
            self.fault = Fault("rejected", why, 200)

    def succeed(self) -> float | None:
        """Settle an attempt that brought a whole reply; seconds until its deployment reopens if it was so slow that its
        breaker opened."""
        now, usage = self._engine.clock.now(), self.partial.usage
        output_tokens = usage.output_tokens if usage else estimate_reply_tokens(self.partial.output_characters)
        return self.settlement.succeed(self._fact("succeeded", None, now), now, output_tokens)

    def fail(self, fault: Fault) -> float | None:
        """Settle an attempt that failed; seconds until its deployment reopens if that opened its breaker."""
        now = self._engine.clock.now()
        fact = self._fact("failed", fault, now)
        return self.settlement.fail(fact, fault, now, is_to_blame=not self._started_too_late)

    def _cancelled(self, why: str) -> Attempt | None:
        """The fact of an attempt that was dropped; None if nothing was sent."""
        if self._exchange is None or self.unsupported:
            return None
        now = self._engine.clock.now()
        if self._last_byte_at is None:
            self.pauses.reader_gone(now)
        return self._fact("cancelled", Fault("cancelled", why), now)

    @property
    def _started_too_late(self) -> bool:
        """Whether `total_s` ended an attempt that began late in the call: that is not the deployment's doing. One that
        had half of the call and more is, or a chain without attempt_s would never leave a hung primary."""
        request = self.request
        return self.out_of_time and self._began - request.call_began > request.total_s / 2

    def _cleaned(self, told: Provenance) -> Provenance:
        """The server's names, struck out where a key is among them; looked for once, as there hardly ever is."""
        # By a character that is seen: with others it would be looked for parts of a key on both sides of it.
        redact, names = self._engine.redact, "|".join([name or "" for name in told])
        return told if redact(names) == names else Provenance(*[name and redact(name) for name in told])

    def _fact(self, outcome: Outcome, fault: Fault | None, now: float) -> Attempt:
        target = self.member.target
        usage, estimated = self._usage(outcome)
        latency_s = (now if self._last_byte_at is None else self._last_byte_at) - self._began
        first_token_at, unbilled_s = self.first_token_at, self.pauses.unbilled_s
        cost = self._cost(usage, latency_s - unbilled_s)
        exchange = self._exchange
        if exchange is not None:
            self.provenance = self._cleaned(exchange.provenance)
        return Attempt(
            deployment=target.name,
            model=target.model,
            outcome=outcome,
            failure=fault.failure if fault else None,
            status=fault.status if fault else 200,
            message=fault.message if fault else None,
            latency_s=latency_s,
            time_to_first_token_s=None if first_token_at is None else first_token_at - self._began,
            cost_usd=cost,
            cost_estimated=estimated and cost is not None,
            dropped_params=() if exchange is None else exchange.dropped_params,
            dropped_content=self.request.dropped_content,
            usage=self.partial.usage,
            request_id=self.provenance.request_id,
            provider=target.provider,
            started_at=self._began - self.request.call_began,
            paused_s=unbilled_s,
        )

    def _cost(self, usage: Usage, seconds: float) -> Decimal | None:
        if usage == _NO_USAGE:
            return Decimal(0)
        prices = self._engine.prices(self.member.target, self.request.body)
        return None if prices is None else prices.cost(usage, seconds)

    def _usage(self, outcome: Outcome) -> tuple[Usage, bool]:
        """What the attempt used, and whether that is an estimate, because the reply ended before the server said it."""
        if self.partial.usage is not None:
            return self.partial.usage, False
        if outcome == "failed" and self.partial.is_empty:
            return _NO_USAGE, False
        output = estimate_reply_tokens(self.partial.output_characters)
        return Usage(input_tokens=self.request.tokens, output_tokens=output), True


def fault_of_key_function(error: Exception, redact: Callable[[str], str]) -> Fault:
    """What it is to a deployment that its key function raised; nothing is sent."""
    kind, text = type(error).__name__, shortened(redact(str(error)))
    return Fault("auth", f"the key function failed: {kind}: {text}", cause=UpstreamError(kind, text))


async def shielded(work: Coroutine[Any, Any, None]) -> None:
    """Run to completion even if cancelled repeatedly (anyio's scopes cancel again until a task ends, and a connection
    dropped in the middle of its closing stays open), then let the cancellation go on."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _flaw(
    reply: PartialReply, finish: str | None, request: AttemptRequest, redact: Callable[[str], str]
) -> Fault | None:
    """What keeps a reply that has ended, with this word of the server's, from being one."""
    if finish == REFUSED_FINISH:
        return Fault("content_policy", "finish reason content_filter", 200)
    if finish not in FINISHES:
        return _unfinished(reply, finish, request.streamed, redact)
    if finish == FULL_WINDOW and reply.is_empty:
        return Fault("context_window", f"finish reason {FULL_WINDOW}", 200)
    is_rest = request.trimmer is not None  # To a reply that was whole but for its end, nothing need be added.
    if reply.is_empty and finish not in CUT_FINISHES and not is_rest:
        return Fault("empty_response", "no text, reasoning or tool call", 200)
    return None


def _unfinished(reply: PartialReply, finish: str | None, streamed: bool, redact: Callable[[str], str]) -> Fault:
    if streamed and reply.is_empty and finish is None:
        return Fault("empty_response", "the stream ended without content and without a finish", 200)
    # The server's own word, which may be any text.
    word = f"finish reason {shortened(redact(finish))!r}" if finish else "no finish reason"
    failure: Failure = "stream_broken" if streamed else "invalid_response"
    return Fault(failure, f"the reply is not whole: {word}", 200)
