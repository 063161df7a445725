"""One attempt under way: its exchange, its limits, and what came of it so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import SecretStr

from llm_fallback.breaker import Ticket
from llm_fallback.budget import Hold
from llm_fallback.continuation import Joint
from llm_fallback.events import Attempt, Failure, Outcome, Usage
from llm_fallback.exchange import (
    REFUSED_FINISH,
    UNFINISHED,
    End,
    Exchange,
    Piece,
    Reply,
    Transcript,
    Transport,
    Unsupported,
)
from llm_fallback.faults import Fault
from llm_fallback.health import DeploymentHealth, Health
from llm_fallback.plan import Catalogue, Member
from llm_fallback.timing import Clock

_NO_USAGE = Usage()
LONGEST_FAREWELL_S = 0.5
"""Closing takes a moment; a library that hangs in it must not keep the caller beyond `total_s`."""

_AT_ONCE = 0.1
"""A piece that comes within this share of the pause before it was there already: the reader was behind. For any other
the deployment worked through the pause, and its GPU cost money."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What an attempt works with."""

    transport: Transport
    catalogue: Catalogue
    health: Health
    clock: Clock


class Order(NamedTuple):
    """What an attempt is to do."""

    request: Mapping[str, Any]
    streamed: bool
    tokens: int
    """About how many tokens the request will use."""
    deadline: Callable[[], float]
    """When the call has to end; a slow reader moves it."""
    total_s: float
    call_began: float
    joint: Joint | None = None
    """Where it goes on with a reply that broke off: the joint to what was delivered."""
    holds_tool_calls: bool = False
    """Whether tool calls wait until the reply is whole."""


class Trial:
    """One request to one deployment. Left early, it gives back its ticket; closed, it drops its request."""

    def __init__(self, tools: Tools, member: Member, ticket: Ticket, hold: Hold, order: Order) -> None:
        self._tools, self._order, self._ticket, self._hold = tools, order, ticket, hold
        self.member = member
        key = member.target.api_key
        self.api_key: SecretStr | None = key if isinstance(key, SecretStr) else None
        self.transcript = Transcript()
        self.reply: Reply | None = None
        self.fault: Fault | None = None
        self.attempt: Attempt | None = None
        """The fact, once it is settled; None for an attempt that was never sent."""
        self.unsupported = self.delivered = self.out_of_time = self.is_hedge = False
        self.first_token_at: float | None = None
        self.held_since: float | None = None
        """Since when the reader has had a piece and not come back."""
        self.pause_s = 0.0
        """How long the reader was away; whose time that was shows when the next piece comes."""
        self._began = math.nan
        """When it began to send; what came before, as asking for a key, is not the deployment's time."""
        self._over_at: float | None = None
        """When its last byte was there; what the caller does with a reply is not the deployment's time."""
        self._paused_s = 0.0
        self._exchange: Exchange | None = None
        self._ready: deque[Piece] = deque()
        self._held_back: list[Piece] = []
        self._last_text: Piece | None = None
        self._ended = self._settled = False
        self._alarm = tools.clock.alarm()

    def leave(self, why: str = "the caller left") -> None:
        """Give back the place and the money if it is still under way; the deployment is none the worse for it."""
        self._alarm.off()
        if self._settled:
            return
        try:
            if self._exchange is not None and not self.unsupported:
                now = self._tools.clock.now()
                if self.held_since is not None:
                    self._paused_s += self.pause_s + now - self.held_since
                self.attempt = self._fact("cancelled", Fault("cancelled", why), now)
            self._hold.settle(self.attempt.cost_usd if self.attempt else Decimal(0))
        finally:
            self._give_back()

    @property
    def is_open(self) -> bool:
        """Whether its request is still under way."""
        return self._exchange is not None and not self._ended

    async def close(self) -> None:
        """Drop the request if it is still under way."""
        if self._exchange is not None and not self._ended:
            self._ended = True
            with suppress(TimeoutError):
                async with self._tools.clock.patience(self._tools.clock.now() + LONGEST_FAREWELL_S):
                    await self._exchange.close()

    @property
    def needs_asking_for_key(self) -> bool:
        return self.api_key is None and self.member.target.api_key is not None

    def ask_for_key(self) -> Any:
        key = self.member.target.api_key
        return key() if callable(key) else key

    def take_key(self, key: Any) -> None:
        self.api_key = key if isinstance(key, SecretStr) else SecretStr(str(key))

    @property
    def has_content(self) -> bool:
        return self.first_token_at is not None or self.reply is not None

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks against this attempt so far."""
        return self.fault is None and not self.unsupported

    # Reading.

    async def begin(self) -> None:
        """Send the request and read up to the first content; a plain reply as a whole."""
        self._began = self._tools.clock.now()
        timeouts = self.member.timeouts
        failure: Failure = "timeout"
        at = self._within(timeouts.attempt_s)
        first_token_at = self._within(timeouts.first_token_s)
        if self._order.streamed and first_token_at < at:
            at, failure = first_token_at, "first_token_timeout"
        exchange = self._exchange = self._tools.transport.exchange(
            self.member.target, self._order.request, self.api_key
        )
        if not self._order.streamed:
            self._heed_reply(await self._timed(exchange.reply, at, failure))
            return
        while self.first_token_at is None and not self._is_done:
            self._heed_item(exchange, await self._timed(exchange.next, at, failure))

    async def complete(self) -> None:
        """Read what is left of a streamed reply, before anything of it is delivered."""
        assert self._exchange is not None
        while not self._is_done:
            await self._read_on(self._exchange)

    async def next_piece(self) -> Piece | None:
        """What came so far, then what comes; None when there is no more, and `fault` says whether it is whole."""
        assert self._exchange is not None
        while not self._ready and not self._is_done:
            await self._read_on(self._exchange)
        if not self._ready or (not self.is_sound and not self.delivered):
            return None
        piece = self._ready.popleft()
        self.delivered = self.delivered or piece.has_content
        return piece

    @property
    def _is_done(self) -> bool:
        return self._ended or not self.is_sound

    async def _read_on(self, exchange: Exchange) -> None:
        began, idle_s = self._tools.clock.now(), self.member.timeouts.idle_s
        at = math.inf if idle_s is None else began + idle_s
        self._heed_item(exchange, await self._timed(exchange.next, at, "idle_timeout"))
        if self._tools.clock.now() - began < _AT_ONCE * self.pause_s:
            self._paused_s += self.pause_s
        self.pause_s = 0.0

    def _heed_reply(self, reply: Reply | Fault | Unsupported) -> None:
        if isinstance(reply, Reply):
            self._over_at = self._tools.clock.now()
            self.reply = reply
            self.transcript.add(reply)
            self._ended = True
            self.fault = _flaw(self.transcript, self._order)
        else:
            self._heed_refusal(reply)

    def _heed_item(self, exchange: Exchange, item: Piece | End | Fault | Unsupported) -> None:
        if isinstance(item, Piece):
            self.transcript.add(item)
            if self.first_token_at is None and item.has_content:
                self.first_token_at = self._tools.clock.now()
            self._take(exchange, item)
        elif isinstance(item, End):
            self._ended, self._over_at = True, self._tools.clock.now()
            self.transcript.finish = item.finish
            self.fault = _flaw(self.transcript, self._order)
            if self.fault is None:
                self._release_all(exchange)
        else:
            self._heed_refusal(item)

    def _take(self, exchange: Exchange, piece: Piece) -> None:
        """Make a piece ready for delivery, or hold it back: what follows a tool call until the reply is whole."""
        if self._order.holds_tool_calls and (self._held_back or piece.tool_calls):
            self._held_back.append(piece)
            return
        if self._order.joint is not None and (piece.text or piece.reasoning):
            self._last_text = piece
            # A reply's reasoning is that of the deployment that began it; another's would not follow from it.
            piece = exchange.rewritten(piece, self._order.joint.feed(piece.text))
            if not (piece.text or piece.tool_calls or piece.finish or piece.usage):
                return
        self._ready.append(piece)

    def _release_all(self, exchange: Exchange) -> None:
        joint = self._order.joint
        rest = joint.flush() if joint else ""
        if rest and self._last_text is not None:
            # What the joint held to the very end belongs before the finish.
            self._ready.appendleft(exchange.rewritten(self._last_text, rest))
        self._ready.extend(self._held_back)
        self._held_back.clear()

    def _heed_refusal(self, refusal: Fault | Unsupported) -> None:
        self._over_at = self._tools.clock.now()
        if isinstance(refusal, Unsupported):
            self.unsupported = True
        else:
            self.fault = refusal

    # Limits.

    async def _timed(self, read: Callable[[], Awaitable[Any]], at: float, failure: Failure) -> Any:
        """What `read` brings, or the fault of the limit that ended it: this one, or the end of the call."""
        total = self._order.deadline()
        if total < at:
            at, failure = total, "timeout"
        try:
            return await self._alarm.limit(read, at)
        except TimeoutError:
            self.out_of_time = at >= total
            return Fault(failure, self._limit_text(failure))

    def _limit_text(self, failure: Failure) -> str:
        if self.out_of_time:
            return f"total_s ({self._order.total_s:g} s) is over"
        timeouts = self.member.timeouts
        match failure:
            case "first_token_timeout":
                return f"no content within first_token_s ({timeouts.first_token_s:g} s)"
            case "idle_timeout":
                return f"nothing more within idle_s ({timeouts.idle_s:g} s)"
        return f"no answer within attempt_s ({timeouts.attempt_s:g} s)"

    def _within(self, seconds: float | None) -> float:
        return math.inf if seconds is None else self._began + seconds

    # Settling.

    def heed(self, verdict: Any) -> None:
        """Take the judge's verdict: true, false, or the reason for a no."""
        if isinstance(verdict, str) or not verdict:
            self.fault = Fault("rejected", verdict if isinstance(verdict, str) else "accept said no", 200)

    def succeed(self) -> None:
        """Tell health that the deployment answered."""
        now, health, usage = self._tools.clock.now(), self._tools.health, self.transcript.usage
        self.attempt = fact = self._fact("succeeded", None, now)
        self._hold.settle(fact.cost_usd)
        try:
            with health.lock:
                self._settled, own = True, health[fact.deployment]
                own.answered(self._ticket, now, fact.time_to_first_token_s, fact.busy_s)
                if usage is not None:
                    self._settle_tokens(own, usage, now)
                    own.replied(usage.output_tokens, fact.busy_s)
        finally:
            health.released()

    def fail(self, fault: Fault) -> float | None:
        """Tell health how the deployment failed; seconds until it reopens if that opened its breaker."""
        now, health, usage = self._tools.clock.now(), self._tools.health, self.transcript.usage
        self.attempt = self._fact("failed", fault, now)
        self._hold.settle(self.attempt.cost_usd)
        try:
            with health.lock:
                self._settled, own = True, health[self.member.name]
                if self._had_no_chance:
                    own.dropped(self._ticket)
                    opened = False
                else:
                    opened = own.failed(self._ticket, now, fault.failure, fault.retry_after_s)
                if usage is not None:
                    self._settle_tokens(own, usage, now)
                reopens = own.breaker.closed_to(now) if opened else None
        finally:
            health.released()
        return None if reopens is None else reopens - now

    @property
    def _had_no_chance(self) -> bool:
        """Whether `total_s` ended an attempt that began late in the call: that is not the deployment's doing. One that
        had half of the call and more is, or a chain without attempt_s would never leave a hung primary."""
        return self.out_of_time and self._began - self._order.call_began > self._order.total_s / 2

    def _settle_tokens(self, own: DeploymentHealth, usage: Usage, now: float) -> None:
        own.settle(self._ticket, usage.input_tokens + usage.output_tokens - self._order.tokens, now)

    def _give_back(self) -> None:
        """Whatever went wrong before: a ticket that is kept is a place nobody ever gets again."""
        self._settled = True
        self._hold.settle(None)  # Only what is not settled yet.
        with self._tools.health.lock:
            self._tools.health[self.member.name].dropped(self._ticket)
        self._tools.health.released()

    def _fact(self, outcome: Outcome, fault: Fault | None, now: float) -> Attempt:
        target = self.member.target
        usage, estimated = self._usage(outcome)
        latency_s = (now if self._over_at is None else self._over_at) - self._began
        cost = self._cost(usage, latency_s - self._paused_s)
        return Attempt(
            deployment=target.name,
            model=target.model,
            outcome=outcome,
            failure=fault.failure if fault else None,
            status=fault.status if fault else 200,
            message=fault.message if fault else None,
            latency_s=latency_s,
            time_to_first_token_s=self._time_to_first_token(),
            cost_usd=cost,
            cost_estimated=estimated and cost is not None,
            dropped_params=self._exchange.dropped_params if self._exchange else (),
            usage=self.transcript.usage,
            provider=target.provider,
            started_at=self._began - self._order.call_began,
            paused_s=self._paused_s,
        )

    def _time_to_first_token(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self._began

    def _cost(self, usage: Usage, seconds: float) -> Decimal | None:
        if usage == _NO_USAGE:
            return Decimal(0)
        prices = self.member.target.prices or self._tools.catalogue.prices(self.member.target)
        return None if prices is None else prices.cost(usage, seconds)

    def _usage(self, outcome: Outcome) -> tuple[Usage, bool]:
        """What the attempt used, and whether that is an estimate: a reply broken off never reports it."""
        usage = self.transcript.usage
        if usage is not None:
            return usage, False
        if self.transcript.is_empty and outcome == "failed":
            return _NO_USAGE, False
        said = len(self.transcript.text) + len(self.transcript.reasoning) + self.transcript.tool_characters
        return Usage(input_tokens=self._order.tokens, output_tokens=math.ceil(said / 4)), True


def _flaw(reply: Transcript, order: Order) -> Fault | None:
    """What keeps a reply that has ended from being one."""
    if reply.finish == REFUSED_FINISH:
        return Fault("content_policy", "finish reason content_filter", 200)
    if reply.finish in UNFINISHED:
        return _unfinished(reply, order.streamed)
    goes_on = order.joint is not None  # To a reply that was whole but for its end, nothing need be added.
    if reply.is_empty and reply.finish != "length" and not goes_on:
        return Fault("empty_response", "no text, reasoning or tool call", 200)
    return None


def _unfinished(reply: Transcript, streamed: bool) -> Fault:
    if streamed and reply.is_empty and reply.finish is None:
        return Fault("empty_response", "the stream ended without content and without a finish", 200)
    word = f"finish reason {reply.finish!r}" if reply.finish else "no finish reason"
    failure: Failure = "stream_broken" if streamed else "server_error"
    return Fault(failure, f"the reply is not whole: {word}", 200)
