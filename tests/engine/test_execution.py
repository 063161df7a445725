"""The engine over a transport in memory and a clock that jumps: who is asked, when, and what is delivered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback.chat_model.caller import CallContext
from llm_fallback.chat_model.driver import adrive, answer_question
from llm_fallback.engine.attempt import CLOSE_TIMEOUT_S, AttemptExecution
from llm_fallback.engine.budget import ChainBudgets
from llm_fallback.engine.engine import Answered, Call, CallerQuestion, Engine, Failed, StreamBrokeOff
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.health import Health
from llm_fallback.engine.transport import (
    NO_PROVENANCE,
    Chunk,
    Fault,
    PartialReply,
    Reply,
    StreamEnd,
    Unsupported,
    UpstreamError,
)
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.events import AttemptFailed, BreakerOpened, CallEnded, FellBack, Usage
from llm_fallback.plan.explain import explain
from llm_fallback.plan.plan import ChainPlan, Target
from llm_fallback.plan.pricing import Prices
from llm_fallback.spec import Breaker, Hedge, Limits, Timeouts
from tests.plans import DeclaredCatalogue, chain, health_of, member
from tests.thinning import examples

HANG = "hang"
RAW: Mapping[str, Any] = {"choices": [{"delta": {}}]}
"""What a caller would get; the engine only puts texts in."""
BOTH = pytest.mark.parametrize("streamed", [False, True])

Step = float | str | Chunk | StreamEnd | Fault | Unsupported | asyncio.Event
"""A pause in seconds, HANG, an event to wait for, or what comes next over the wire."""
Act = Sequence[Step]


def say(*texts: str, every: float = 0.0, finish: str | None = "stop", usage: Usage | None = None) -> Act:
    """A reply in pieces, each after a pause; the last word is the server's finish."""
    steps: list[Step] = []
    for text in texts:
        steps += [every, Chunk(dict(RAW), text=text)]
    return [*steps, Chunk(dict(RAW), finish=finish, usage=usage), StreamEnd(finish)]


def fail(failure: str, after: float = 0.0, **facts: Any) -> Act:
    return [after, Fault(failure, "no", **facts)]


def role() -> Chunk:
    return Chunk(dict(RAW))


class LongestBackoff(Random):
    """Draws members at random, and waits before a repeat as long as the jitter allows: 1 s, 2 s, 4 s, ..."""

    def uniform(self, a: float, b: float) -> float:
        return b


class MemoryExchange:
    """Plays an act."""

    dropped_params: tuple[str, ...] = ()
    provenance = NO_PROVENANCE

    def __init__(self, clock: JumpingClock, act: Act) -> None:
        self._clock = clock
        self._steps = iter(act)
        self.is_over = self.is_closed = self.is_read = False

    async def next(self) -> Any:
        """Takes a turn of the loop more to stop, as a library that tidies up does."""
        self.is_read = True
        try:
            return await self._play()
        except asyncio.CancelledError:
            await self.stop()
            raise
        finally:
            self.is_read = False

    async def stop(self) -> None:
        """What it takes to leave off reading."""
        await asyncio.sleep(0)

    async def _play(self) -> Any:
        for step in self._steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif step == HANG:
                await asyncio.get_running_loop().create_future()
            elif isinstance(step, int | float):
                await self._clock.sleep(step)
            else:
                self.is_over = not isinstance(step, Chunk)
                return step
        raise AssertionError("read beyond its end")

    async def reply(self) -> Any:
        whole = PartialReply()
        while isinstance(item := await self.next(), Chunk):
            whole.add(item)
        if not isinstance(item, StreamEnd):
            return item
        return Reply(object(), whole.text, whole.reasoning, tuple(whole.tool_calls.values()), item.finish, whole.usage)

    async def close(self) -> None:
        """Takes turns of the loop, as shutting a connection does. What is being read nobody can close."""
        assert not self.is_read
        for _ in range(3):
            await asyncio.sleep(0)
        self.is_closed = True


@dataclass
class MemoryTransport:
    """Deployments that play act after act, the last one for ever, and remember who was asked when."""

    clock: JumpingClock
    acts: Mapping[str, Sequence[Act]]
    asked: list[tuple[str, float]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    played: list[Act] = field(default_factory=list)
    exchanges: list[MemoryExchange] = field(default_factory=list)
    make_exchange: Callable[[JumpingClock, Act], MemoryExchange] = MemoryExchange

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> MemoryExchange:
        before = [name for name, _ in self.asked].count(target.name)
        acts = self.acts[target.name]
        act = acts[min(before, len(acts) - 1)]
        self.asked.append((target.name, self.clock.now()))
        self.keys.append(api_key.get_secret_value() if api_key else None)
        self.played.append(act)
        self.exchanges.append(self.make_exchange(self.clock, act))
        return self.exchanges[-1]


@dataclass
class Stage:
    """An engine over memory, and what calls of it brought."""

    plan: ChainPlan
    clock: JumpingClock
    transport: MemoryTransport
    health: Health
    engine: Engine

    @property
    def asked(self) -> list[str]:
        return [name for name, _ in self.transport.asked]

    def start(self, **call: Any) -> CallExecution:
        return CallExecution(self.engine, Call(self.plan, **{"request": {"messages": []}, "streamed": True} | call))

    async def call(self, *, reading_takes: float = 0.0, **call: Any) -> Outcome:
        """One call to its end; the reader pauses after every piece."""
        run = self.start(**call)
        began, outcome = self.clock.now(), Outcome(run)
        async for item in played(run.steps(), reading_takes):
            outcome.items.append(item)
            if isinstance(item, Chunk):
                self.clock.advance(reading_takes)
        outcome.took = self.clock.now() - began
        return outcome

    def check_nothing_is_left(self) -> None:
        """Every place is free again, and every exchange is over or closed."""
        assert [self.health[name].in_flight for name in self.health] == [0] * len(list(self.health))
        assert all(exchange.is_over or exchange.is_closed for exchange in self.transport.exchanges)


@dataclass
class Outcome:
    """What came of a call."""

    run: CallExecution
    items: list[Any] = field(default_factory=list)
    took: float = 0.0

    @property
    def pieces(self) -> list[Chunk]:
        return [item for item in self.items if isinstance(item, Chunk)]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def end(self) -> Any:
        return self.run.end

    @property
    def attempts(self) -> list[tuple[str, str]]:
        """Deployment and failure, or outcome where there is none."""
        return [(one.deployment, one.failure or one.outcome) for one in self.end.record.attempts]

    def of(self, kind: type) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]


async def played(items: AsyncGenerator[Any, Any], reading_takes: float = 0.0) -> AsyncGenerator[Any, None]:
    """The engine's items, with its questions answered as a driver does, by a reader who takes so long for a chunk."""
    answer = None
    while True:
        try:
            item = await items.asend(answer)
        except StopAsyncIteration:
            return
        answer = answer_question(item) if isinstance(item, CallerQuestion) else reading_takes
        yield item


async def until(is_so: Callable[[], bool]) -> None:
    """Let the loop turn until others have come so far."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0)


def stage(plan: ChainPlan, *, start: float = 0.0, **acts: Any) -> Stage:
    """A stage for a chain. Each deployment's acts: one act, or a list of acts."""
    scripts = {name: own if isinstance(own, list) and _is_list_of_acts(own) else [own] for name, own in acts.items()}
    clock = JumpingClock(start)
    transport, health = MemoryTransport(clock, scripts), health_of(plan)
    engine = Engine(transport, DeclaredCatalogue(), health, clock, ChainBudgets(clock.wall), LongestBackoff(3))
    return Stage(plan, clock, transport, health, engine)


REFUSED_HERE = [Fault("bad_request", "not as JSON")]
UNENCODABLE = {"messages": [{"role": "user", "content": "half an emoji: \ud83d"}]}


def _is_list_of_acts(own: list[Any]) -> bool:
    return isinstance(own[0], list)


def timed(name: str, **timeouts: float) -> Any:
    return member(name, Timeouts(**timeouts))


# Answers and failures.


@BOTH
async def test_a_healthy_deployment_answers_and_is_the_only_one_asked(streamed):
    """Its pieces come as they are, its attempt is recorded, and nothing else happens."""
    act = say("Hel", "lo", every=0.25)
    on = stage(chain(member("a"), member("b")), start=100.0, a=act)
    out = await on.call(streamed=streamed)
    record = out.end.record
    assert isinstance(out.end, Answered)
    assert out.attempts == [("a", "succeeded")]
    assert (record.deployment, record.model, record.fell_back, record.skipped) == ("a", "openai/a", False, ())
    assert (record.latency_s, record.attempts[0].latency_s, record.attempts[0].status) == (0.5, 0.5, 200)
    if streamed:
        assert out.pieces == out.items == [step for step in act if isinstance(step, Chunk)]
        assert record.time_to_first_token_s == record.attempts[0].time_to_first_token_s == 0.25
        assert out.end.reply is None
    else:
        assert (out.items, out.end.reply.text) == ([], "Hello")
        assert record.time_to_first_token_s is record.attempts[0].time_to_first_token_s is None
    on.check_nothing_is_left()


@BOTH
@pytest.mark.parametrize("failure", ["connection", "server_error", "rate_limited", "auth", "invalid_response"])
async def test_a_failing_deployment_is_left_at_the_moment_it_fails(streamed, failure):
    """The facts come in order: the failure, the fall, then the answer."""
    on = stage(chain(member("a"), member("b")), a=fail(failure, after=0.5, status=418), b=say("fine"))
    out = await on.call(streamed=streamed)
    assert on.transport.asked == [("a", 0.0), ("b", 0.5)]
    assert out.attempts == [("a", failure), ("b", "succeeded")]
    failed = out.end.record.attempts[0]
    assert (failed.status, failed.message, failed.latency_s, failed.cost_usd) == (418, "no", 0.5, Decimal(0))
    assert out.end.record.fell_back
    facts = [type(item) for item in out.items if not isinstance(item, Chunk | BreakerOpened)]
    assert facts == [AttemptFailed, FellBack]
    fell = out.of(FellBack)[0]
    assert (fell.source, fell.target, fell.failure) == ("a", "b", failure)
    on.check_nothing_is_left()


@BOTH
async def test_an_opening_breaker_is_a_fact(streamed):
    """With the time until it reopens; the next call does not ask that deployment."""
    plan = chain(member("a"), member("b"))
    on = stage(plan, start=100.0, a=fail("rate_limited", retry_after_s=12.0), b=say("fine"))
    out = await on.call(streamed=streamed)
    opened = out.of(BreakerOpened)[0]
    assert (opened.deployment, opened.failure, opened.retry_in_s) == ("a", "rate_limited", 12.0)
    again = await on.call(streamed=streamed)
    skip = again.end.record.skipped[0]
    assert (on.asked, skip.deployment, skip.reason, skip.retry_in_s) == (["a", "b", "b"], "a", "breaker_open", 12.0)


async def test_a_breaker_that_was_open_before_is_not_told_as_opened():
    """In an outage the deployment is asked all the same, and the request cannot even be written."""
    on = stage(chain(member("a", policy=Breaker(failures=1)), retries=0), a=[fail("timeout"), REFUSED_HERE])
    assert [len((await on.call()).of(BreakerOpened)) for _ in range(2)] == [1, 0]
    on.check_nothing_is_left()


async def test_an_answer_that_comes_after_others_have_opened_the_breaker_opens_nothing():
    """Nor does it close it: it is of before."""
    acts = [fail("timeout", after=1.0), say("late", every=2.0)]
    on = stage(chain(member("a", policy=Breaker(failures=1)), retries=0), a=acts)
    outs = await asyncio.gather(on.call(), on.call())
    assert [(out.attempts[0][1], len(out.of(BreakerOpened))) for out in outs] == [("timeout", 1), ("succeeded", 0)]
    assert on.health["a"].breaker.state(2.0) == "open"


@BOTH
async def test_when_nobody_answers_the_call_has_failed_by_its_last_attempt(streamed):
    """And carries the upstream's exception, and every attempt."""
    cause = ValueError("upstream's own")
    on = stage(
        chain(member("a"), member("b"), retries=0), a=fail("timeout"), b=fail("server_error", status=500, cause=cause)
    )
    out = await on.call(streamed=streamed)
    assert isinstance(out.end, Failed)
    assert (out.end.failure, out.end.cause, out.end.out_of_time) == ("server_error", cause, False)
    assert out.attempts == [("a", "timeout"), ("b", "server_error")]
    assert (out.end.record.deployment, out.end.record.fell_back) == (None, False)


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        ([StreamEnd(None)], "empty_response"),
        ([role(), StreamEnd(None)], "empty_response"),
        ([role(), StreamEnd("stop")], "empty_response"),
        (say("  \n"), "empty_response"),
        (say("half", finish="content_filter"), "content_policy"),
        (say("", finish="content_filter"), "content_policy"),
    ],
)
async def test_what_ends_without_being_a_reply_is_a_failure(act, failure):
    """Held back, so that nothing of it has been delivered."""
    on = stage(chain(member("a"), member("b"), on_stream_break="hold"), a=act, b=say("fine"))
    out = await on.call()
    assert (out.attempts[0], out.text) == (("a", failure), "fine")


@BOTH
@pytest.mark.parametrize("finish", ["abort", "error", "network_error", "insufficient_system_resource", "odd", None])
async def test_a_finish_that_is_none_does_not_make_a_reply_whole(streamed, finish):
    """vLLM's own words for a server that stopped in the middle, and no word at all."""
    on = stage(
        chain(member("a"), member("b"), on_stream_break="hold"), a=say("half", "way", finish=finish), b=say("fine")
    )
    out = await on.call(streamed=streamed)
    assert out.attempts == [("a", "stream_broken" if streamed else "invalid_response"), ("b", "succeeded")]


@BOTH
async def test_a_window_that_is_full_before_a_word_was_said_is_a_prompt_too_long(streamed):
    """With a part of the reply there, it is one that was cut by its length."""
    full = "model_context_window_exceeded"
    on = stage(chain(member("a"), member("b", context_window=None)), a=say(" ", finish=full), b=say("fine"))
    assert (await on.call(streamed=streamed)).attempts == [("a", "context_window"), ("b", "succeeded")]
    on = stage(chain(member("a")), a=say("half", finish=full))
    assert (await on.call(streamed=streamed)).attempts == [("a", "succeeded")]


@BOTH
async def test_a_reply_cut_by_its_length_is_a_reply(streamed):
    """Even an empty one: the caller asked for no more."""
    on = stage(chain(member("a")), a=say("", finish="length"))
    assert isinstance((await on.call(streamed=streamed)).end, Answered)


@BOTH
async def test_a_deployment_that_cannot_take_the_request_is_skipped_without_an_attempt(streamed):
    """Its place is given back, and its breaker knows nothing of it."""
    on = stage(chain(member("a"), member("b")), a=[Unsupported(("tools",))], b=say("fine"))
    out = await on.call(streamed=streamed)
    assert out.attempts == [("b", "succeeded")]
    assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("a", "unsupported")]
    assert out.of(AttemptFailed) == []
    on.check_nothing_is_left()


async def test_features_a_deployment_is_known_to_lack_are_not_even_tried():
    """The catalogue says so beforehand."""
    on = stage(chain(member("a", profile={"tools": False}), member("b")), b=say("fine"))
    out = await on.call(features=frozenset({"tools"}))
    assert on.asked == ["b"]
    assert not out.end.record.fell_back


# Deadlines, to the exact moment.


@BOTH
async def test_attempt_s_ends_an_attempt_that_brings_nothing(streamed):
    """At 20 s, not sooner and not later; the next deployment is asked then."""
    on = stage(chain(timed("a", attempt_s=20), member("b")), a=[HANG], b=say("fine"))
    out = await on.call(streamed=streamed)
    assert on.transport.asked == [("a", 0.0), ("b", 20.0)]
    failed = out.end.record.attempts[0]
    assert (failed.failure, failed.latency_s, failed.status) == ("timeout", 20.0, None)
    assert "attempt_s (20 s)" in failed.message


async def test_first_token_s_ends_an_attempt_whatever_it_sends_that_is_no_content():
    """Roles and keep-alives do not count as an answer."""
    chatter = [step for _ in range(100) for step in (0.25, role())]
    on = stage(chain(timed("a", first_token_s=3), member("b")), a=chatter, b=say("fine"))
    out = await on.call()
    assert on.transport.asked == [("a", 0.0), ("b", 3.0)]
    assert (out.attempts[0], out.text) == (("a", "first_token_timeout"), "fine")
    assert len(out.pieces) == 2


async def test_idle_s_ends_a_stream_that_stalls_after_it_began():
    """Counted from the last piece."""
    on = stage(chain(timed("a", idle_s=5), member("b")), a=[1.0, *say("one", "two", every=4.0)[:4], HANG], b=say("no"))
    out = await on.call()
    assert isinstance(out.end, StreamBrokeOff)
    assert (out.end.fault.failure, out.took, out.text, out.end.delivered.text) == (
        *("idle_timeout", 14.0),
        *("onetwo", "onetwo"),
    )
    assert on.asked == ["a"]


async def test_after_the_first_content_only_idle_s_and_total_s_run():
    """A long reply is no slow one: attempt_s and first_token_s are over with the first delta."""
    on = stage(chain(timed("a", attempt_s=6, first_token_s=5, idle_s=5)), a=say(*"abcdefgh", every=4.0))
    out = await on.call()
    assert (type(out.end), out.text, out.took) == (Answered, "abcdefgh", 32.0)


async def test_a_plain_call_knows_neither_first_token_s_nor_idle_s():
    """There is no first token; attempt_s bounds the whole reply."""
    on = stage(chain(timed("a", attempt_s=40, first_token_s=1, idle_s=1)), a=say(*"abc", every=10.0))
    assert isinstance((await on.call(streamed=False)).end, Answered)
    late = stage(chain(timed("a", attempt_s=25), retries=0), a=say(*"abc", every=10.0))
    out = await late.call(streamed=False)
    assert (out.attempts, out.took) == ([("a", "timeout")], 25.0)


@BOTH
async def test_total_s_ends_a_call_in_the_middle_of_an_attempt(streamed):
    """At its moment; the call says that its time is up, and nobody else is asked."""
    plan = chain(timed("a", attempt_s=20), timed("b", attempt_s=20), member("c"), total_s=30)
    on = stage(plan, a=[HANG], b=[HANG], c=say("late"))
    out = await on.call(streamed=streamed)
    assert (out.took, on.asked, type(out.end)) == (30.0, ["a", "b"], Failed)
    assert (out.end.out_of_time, out.end.failure) == (True, "timeout")
    assert "total_s (30 s)" in out.end.reason
    on.check_nothing_is_left()


async def test_total_s_ends_a_stream_under_way():
    """What was delivered is not taken back."""
    on = stage(chain(timed("a", idle_s=60), total_s=30), a=say(*"abcdefgh", every=7.0))
    out = await on.call()
    assert (out.took, out.text, type(out.end), out.end.fault.failure) == (30.0, "abcd", StreamBrokeOff, "timeout")


async def test_a_slow_reader_s_pauses_are_not_the_deployment_s():
    """Neither idle_s nor total_s runs while the caller holds a piece."""
    on = stage(chain(timed("a", idle_s=5), total_s=30), a=say(*"abcdef", every=4.0))
    out = await on.call(reading_takes=100.0)
    assert (type(out.end), out.text) == (Answered, "abcdef")


async def test_a_slow_reader_has_no_more_of_the_deployment_s_time_than_others():
    """The pauses are given back and nothing else: of 30 s upstream still has 30."""
    on = stage(chain(timed("a", idle_s=60), total_s=30), a=say(*"abcdefgh", every=7.0))
    out = await on.call(reading_takes=100.0)
    assert (out.text, type(out.end), out.took) == ("abcd", StreamBrokeOff, 430.0)


async def test_first_token_s_holds_for_a_held_stream_and_idle_s_after_it():
    """Holding back is the caller's affair, not the server's excuse."""
    plan = chain(timed("a", first_token_s=3, idle_s=5), timed("b", first_token_s=3, idle_s=5), on_stream_break="hold")
    on = stage(plan, a=[2.0, *say("half")[:2], HANG], b=say(*"whole", every=2.5))
    out = await on.call()
    assert on.transport.asked == [("a", 0.0), ("b", 7.0)]
    assert (out.text, out.took) == ("whole", 7.0 + 12.5)


async def test_time_to_first_token_is_that_of_the_attempt_and_of_the_call():
    """The call's includes what failed before."""
    on = stage(chain(member("a"), member("b")), a=fail("server_error", after=2.0), b=[0.5, *say("fine", every=0.25)])
    record = (await on.call()).end.record
    assert record.time_to_first_token_s == 2.75
    assert [attempt.time_to_first_token_s for attempt in record.attempts] == [None, 0.75]
    assert [attempt.started_at for attempt in record.attempts] == [0.0, 2.0]


# Streams that break.


@pytest.mark.parametrize(
    "ending",
    [[Fault("stream_broken", "cut")], [StreamEnd(None)], [StreamEnd("abort")], [Fault("server_error", "frame")]],
)
async def test_a_stream_that_breaks_after_its_first_content_ends_the_call(ending):
    """`raise`: what was delivered stays, nobody goes on, and it is never passed off as whole."""
    on = stage(chain(member("a"), member("b")), a=[*say("one", "two")[:4], *ending], b=say("no"))
    out = await on.call()
    assert (type(out.end), out.text, out.end.delivered.text, on.asked) == (StreamBrokeOff, "onetwo", "onetwo", ["a"])
    assert [type(item) for item in out.items[2:]] == [AttemptFailed]
    assert on.health["a"].breaker.failures(0.0) == 1
    on.check_nothing_is_left()


async def test_a_stream_that_breaks_before_its_first_content_falls_back():
    """Nothing of it was delivered, not even its role."""
    on = stage(chain(member("a"), member("b")), a=[role(), 0.1, Fault("stream_broken", "cut")], b=say("fine"))
    out = await on.call()
    assert (type(out.end), out.text) == (Answered, "fine")
    assert out.pieces == [step for step in on.transport.played[1] if isinstance(step, Chunk)]


async def test_white_space_alone_is_not_delivered_before_content_follows():
    """Behind it a second deployment's reply would be a stitched one that does not say so."""
    on = stage(chain(member("a"), member("b")), a=[*say("\n\n")[:2], Fault("stream_broken", "cut")], b=say("fine"))
    out = await on.call()
    assert (type(out.end), out.text) == (Answered, "fine")


async def test_a_server_that_goes_on_behind_its_finish_and_a_silence_is_heard_to_its_end():
    """Whatever it says; where it goes on for ever, until `total_s` is over, and then that is what the error says."""
    behind = [Chunk(dict(RAW), text="one"), Chunk(dict(RAW), finish="stop"), 2.01, Chunk(dict(RAW), text=" two")]
    on = stage(chain(member("a")), a=[*behind, StreamEnd("stop")])
    out = await on.call()
    assert (type(out.end), out.text) == (Answered, "one two")
    on = stage(chain(member("a"), total_s=60), a=[*behind, *[1.9, Chunk(dict(RAW), text="!")] * 40])
    out = await on.call()
    assert out.end.fault.message == "total_s (60 s) is over"
    assert (out.took, out.text[:11]) == (pytest.approx(60, abs=0.1), "one two!!!!")
    on.check_nothing_is_left()


@pytest.mark.parametrize("text", ["", "Let me see. "], ids=["before the first content", "with every chunk"])
async def test_a_server_that_says_stop_before_its_end_is_waited_for_as_if_it_had_not(text):
    """Some gateways say it with every chunk, or with empty ones while the model still thinks: no pause ends it then."""
    stop = [Chunk(dict(RAW), text=text, finish="stop"), Chunk(dict(RAW), text=text, finish="stop")]
    on = stage(chain(timed("a", idle_s=10, first_token_s=10)), a=[*stop, 5.0, *say("It is one.", "!", every=4.0)])
    out = await on.call()
    assert (type(out.end), out.text) == (Answered, 2 * text + "It is one.!")
    assert out.end.finish == "stop"
    on = stage(chain(timed("a", idle_s=10, first_token_s=10), retries=0), a=[*stop, HANG])
    out = await on.call()
    assert out.attempts == [("a", "idle_timeout" if text else "first_token_timeout")]
    assert out.took == pytest.approx(10, abs=0.1)


async def test_another_word_behind_many_stops_is_believed_though_the_connection_stays_open():
    """No gateway says it with every chunk."""
    cut = [Chunk(dict(RAW), text="one ", finish="stop"), Chunk(dict(RAW), text="two", finish="length")]
    on = stage(chain(timed("a", idle_s=10)), a=[*cut, 60.0, HANG])
    out = await on.call()
    assert (type(out.end), out.text, out.end.finish) == (Answered, "one two", "length")
    assert out.took == pytest.approx(2, abs=0.1)


async def test_a_refusal_without_content_is_believed_though_the_connection_stays_open():
    """Nobody says it before the end."""
    on = stage(
        chain(member("a"), member("b")), a=[Chunk(dict(RAW), finish="content_filter"), 60.0, HANG], b=say("fine")
    )
    out = await on.call()
    assert out.attempts[0] == ("a", "content_policy")
    assert out.took == pytest.approx(2, abs=0.1)


async def test_a_held_stream_is_delivered_once_it_is_whole():
    """Cut, stalled and refused ones leave no trace but their attempts."""
    plan = chain(timed("a", idle_s=1), timed("b", idle_s=1), member("c"), on_stream_break="hold")
    on = stage(plan, a=[*say("x", "y")[:4], Fault("stream_broken", "cut")], b=[*say("z")[:2], HANG], c=say(*"whole"))
    out = await on.call()
    assert (out.text, out.attempts) == (
        "whole",
        [("a", "stream_broken"), ("b", "idle_timeout"), ("c", "succeeded")],
    )
    assert out.pieces == [step for step in on.transport.played[2] if isinstance(step, Chunk)]
    on.check_nothing_is_left()


@BOTH
async def test_a_reply_the_judge_rejects_is_a_failure_and_nothing_of_it_is_delivered(streamed):
    """The judge sees the whole reply; its reason is the attempt's message, and the breaker does not count it."""
    seen = []

    def validate(reply):
        seen.append((reply.text, reply.finish))
        return True if reply.text == "good one" else "not good"

    on = stage(chain(member("a"), member("b")), a=say("bad ", "one"), b=say("good ", "one"))
    out = await on.call(streamed=streamed, validate=validate)
    assert seen == [("bad one", "stop"), ("good one", "stop")]
    assert out.attempts == [("a", "rejected"), ("b", "succeeded")]
    assert out.end.record.attempts[0].message == "not good"
    assert out.text == ("good one" if streamed else "")
    assert on.health["a"].breaker.failures(0.0) == 0


@BOTH
async def test_a_judge_is_not_asked_about_what_has_failed_anyway(streamed):
    """Only whole replies are worth its time."""
    on = stage(chain(member("a"), member("b")), a=fail("timeout"), b=say("fine"))
    out = await on.call(streamed=streamed, validate=lambda reply: True)
    assert len(out.of(CallerQuestion)) == 1


# Keys that are functions.


@BOTH
async def test_a_key_that_is_a_function_is_asked_for_on_the_caller_s_side_for_each_attempt(streamed):
    """It may have been renewed in between."""
    keys = iter(["first", "second"])
    on = stage(chain(member("a", api_key=lambda: next(keys))), a=[fail("timeout"), say("fine")])
    out = await on.call(streamed=streamed)
    assert (on.transport.keys, len(out.of(CallerQuestion))) == (["first", "second"], 2)


def slow_key(on: list[Stage], seconds: float) -> Callable[[], str]:
    """A function that takes its time for a key, as a vault does."""

    def key() -> str:
        on[0].clock.advance(seconds)
        return "key"

    return key


@BOTH
async def test_the_time_a_key_takes_is_not_the_deployment_s(streamed):
    """Its limits and its latency begin with the request; total_s has begun with the call."""
    on = []
    slow = member("a", Timeouts(attempt_s=1.0, first_token_s=0.5), api_key=slow_key(on, 3.0))
    on.append(stage(chain(slow, member("b")), a=say("fine", every=0.25), b=say("no")))
    out = await on[0].call(streamed=streamed)
    attempt = out.end.record.attempts[0]
    assert (out.attempts, out.took) == ([("a", "succeeded")], 3.25)
    assert (attempt.started_at, attempt.latency_s) == (3.0, 0.25)
    assert attempt.time_to_first_token_s == (0.25 if streamed else None)


@BOTH
@pytest.mark.parametrize("limits", [Limits(rpm=1), Limits(tpm=10)], ids=["requests", "tokens"])
async def test_a_minute_of_a_limit_begins_with_the_request_and_not_with_the_question_for_its_key(limits, streamed):
    """Whoever counts at the other end knows nothing of the key."""
    on = []
    slow = member("a", limits=limits, api_key=slow_key(on, 3.0))
    on.append(stage(chain(slow, member("b"), total_s=500), a=say("fine"), b=say("full")))
    asked_at = []
    for wait_s in (0.0, 58.0, 4.0):
        on[0].clock.advance(wait_s)
        asked_at.append((on[0].clock.now(), (await on[0].call(streamed=streamed, tokens=10)).attempts[0][0]))
    assert asked_at == [(0.0, "a"), (61.0, "b"), (65.0, "a")]


@BOTH
async def test_a_percentile_hedges_as_soon_as_it_is_known(streamed):
    """After fifty answers: then whoever takes longer than nearly all of them did."""
    late, usual = [9.0, *say("late")], say("fine", every=0.25)
    plan = chain(member("a"), member("b"), hedge=Hedge(after_s="p95"))
    on = stage(plan, a=[late, *[usual] * 50, late], b=say("quick", every=0.5))
    first = await on.call(streamed=streamed)
    for _ in range(50):
        await on.call(streamed=streamed)
    last = await on.call(streamed=streamed)
    assert (first.attempts, first.took) == ([("a", "succeeded")], 9.0)
    assert (sorted(last.attempts), last.took) == ([("a", "cancelled"), ("b", "succeeded")], 0.75)


@BOTH
async def test_nor_is_the_time_a_hedge_s_key_takes(streamed):
    """The hedge has all of its own limits, and the first goes on meanwhile."""
    on = []
    slow = member("b", Timeouts(attempt_s=1.0, first_token_s=0.5), api_key=slow_key(on, 3.0))
    plan = chain(member("a"), slow, hedge=Hedge(after_s=1.0))
    on.append(stage(plan, a=[9.0, *say("late")], b=say("quick", every=0.25)))
    out = await on[0].call(streamed=streamed)
    assert (sorted(out.attempts), out.took) == ([("a", "cancelled"), ("b", "succeeded")], 4.25)
    assert on[0].transport.keys == [None, "key"]


def no_key() -> str:
    """A vault that is sealed."""
    raise OSError("vault is down")


async def no_key_after_a_while() -> str:
    """One that says so later."""
    await asyncio.sleep(0)
    raise OSError("vault is down")


@BOTH
async def test_a_hedge_without_a_key_is_none_and_the_first_goes_on(streamed, caplog):
    """Nothing was wrong with the call. The error is in the log, and of the hedge nothing is left."""
    plan = chain(member("a"), member("b", api_key=no_key), hedge=Hedge(after_s=1.0))
    on = stage(plan, a=[5.0, *say("fine")])
    out = await on.call(streamed=streamed)
    assert (out.attempts, out.took, on.asked) == ([("a", "succeeded")], 5.0, ["a"])
    assert [(log.levelname, log.getMessage()) for log in caplog.records if log.levelname == "WARNING"] == [
        ("WARNING", "going on without a hedge by b, whose key function failed: OSError('vault is down')")
    ]
    on.check_nothing_is_left()


async def test_a_hedge_that_was_never_sent_is_not_counted():
    """Not against a limit, not against what hedges may be, not in what is shown of the deployment."""
    sealed = member("b", api_key=no_key, limits=Limits(rpm=1, tpm=10))
    on = stage(chain(member("a"), sealed, hedge=Hedge(after_s=1.0)), a=[5.0, *say("fine")])
    for _ in range(5):
        assert (await on.call(tokens=5)).attempts == [("a", "succeeded")]
    now = on.clock.now()
    assert on.health["b"].hedges_sent == 0
    assert on.health["b"].unavailable(now, 10) is None
    assert on.health.hedge_budget.allows(now)


@pytest.mark.parametrize("key", [no_key, no_key_after_a_while])
async def test_a_hedge_s_key_may_fail_late_and_a_task_s_call_goes_on_too(key):
    """Async key functions are the task's own to wait for."""
    plan = chain(member("a"), member("b", api_key=key), hedge=Hedge(after_s=1.0))
    on = stage(plan, a=[5.0, *say("fine")])
    assert "".join([piece.text async for piece in adrive(on.start(), CallContext())]) == "fine"
    on.check_nothing_is_left()


def slow_async_key(on: list[Stage], seconds: float) -> Callable[[], Awaitable[str]]:
    """A function that takes its time for a key, while others go on."""

    async def key() -> str:
        await on[0].clock.sleep(seconds)
        return "key"

    return key


async def test_a_hedge_whose_key_came_after_the_first_content_is_never_sent():
    """Nor is it counted; it is asked in its turn, before those behind it and before the first is once more."""
    on = []
    late = member("b", api_key=slow_async_key(on, 3.0))
    plan = chain(member("a"), late, member("c"), hedge=Hedge(after_s=1.0), on_stream_break="hold")
    on.append(stage(plan, a=say("half", "way", every=2.0, finish=None), b=say("fine"), c=say("last")))
    run = on[0].start()
    assert "".join([piece.text async for piece in adrive(run, CallContext())]) == "fine"
    assert on[0].asked == ["a", "b"]
    assert hedges_left(on[0]) == 3
    on[0].check_nothing_is_left()


@pytest.mark.parametrize("takes_s", [9.0, 100.0])
async def test_a_hedge_whose_key_came_after_total_s_is_never_sent(takes_s):
    """The call has ended by then, with what became of the first."""
    on = []
    late = member("b", api_key=slow_async_key(on, takes_s))
    plan = chain(member("a"), late, hedge=Hedge(after_s=1.0), total_s=10)
    on.append(stage(plan, a=[HANG], b=say("fine")))
    run = on[0].start()
    async for _ in adrive(run, CallContext()):
        raise AssertionError("nobody has answered")
    assert (run.end.failure, on[0].asked, hedges_left(on[0])) == ("timeout", ["a"], 3)
    on[0].check_nothing_is_left()


def hedges_left(on: Stage) -> int:
    """How many more hedges may be sent in this minute, of three while there are few calls."""
    now, left = on.clock.now(), 0
    assert on.health["b"].hedges_sent == 0
    with on.health.lock:
        while on.health.hedge_budget.allows(now):
            on.health.count_hedge(on.health["b"], now)
            left += 1
    return left


@pytest.mark.parametrize("leaves_at", ["key", "unsupported"])
async def test_a_caller_who_leaves_takes_back_a_hedge_that_was_not_sent(leaves_at):
    """While its key is asked for, or when its deployment has said that it cannot take the request."""
    key = asyncio.Event() if leaves_at == "key" else None
    hedge = member("b", api_key=key.wait if key else None)
    on = stage(chain(member("a"), hedge, hedge=Hedge(after_s=1.0)), a=[HANG], b=[Unsupported(("tools",))])
    task = asyncio.ensure_future(anext(adrive(on.start(), CallContext())))
    await until(lambda: on.health["b"].hedges_sent == 1 or len(on.asked) == 2)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hedges_left(on) == 3
    on.check_nothing_is_left()


async def test_hedges_of_long_calls_that_were_not_sent_allow_no_more_later():
    """They are taken back from the minute in which they were counted."""
    on = stage(
        chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[90.0, *say("fine")], b=[Unsupported(("tools",))]
    )
    for _ in range(3):
        await on.call()
    assert hedges_left(on) == 3


@BOTH
async def test_a_hedge_that_cannot_take_the_request_is_none_and_the_record_says_why(streamed):
    """Nothing was sent to it, and the first goes on."""
    on = stage(
        chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[5.0, *say("fine")], b=[Unsupported(("tools",))]
    )
    out = await on.call(streamed=streamed)
    assert (out.attempts, out.took) == ([("a", "succeeded")], 5.0)
    assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("b", "unsupported")]
    assert hedges_left(on) == 3
    on.check_nothing_is_left()


@pytest.mark.parametrize("unsupported", ["a", "b"])
async def test_who_cannot_take_a_request_has_its_place_free_while_the_other_goes_on(unsupported):
    """As soon as it has said so: others may be waiting for it."""
    taken = []
    acts = {name: say("fine", "enough", every=3.0) for name in "ab"} | {unsupported: [2.0, Unsupported(("tools",))]}
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), **acts)
    async for item in played(on.start().steps()):
        taken += [on.health[unsupported].in_flight] if isinstance(item, Chunk) else []
    assert set(taken) == {0}
    assert on.health["a"].hedges_sent == 0, "it was none"


async def test_a_place_that_an_unsupported_hedge_held_is_free_before_the_first_has_content():
    """Though that may take long."""
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[HANG], b=[Unsupported(("tools",))])
    task = asyncio.ensure_future(on.call())
    await until(lambda: len(on.asked) == 2)
    await until(lambda: on.health["b"].in_flight == 0)
    assert on.health["a"].in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_where_closing_one_of_two_fails_the_other_is_closed_all_the_same():
    """Then what it failed with is told."""

    class FailsToClose(MemoryExchange):
        async def close(self) -> None:
            if len(on.asked) == 2 and self is on.transport.exchanges[0]:
                raise OSError("no")
            for _ in range(50):
                await asyncio.sleep(0)
            await super().close()

    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[HANG], b=[HANG])
    on.transport.make_exchange = FailsToClose
    task = asyncio.ensure_future(on.call())
    await until(lambda: len(on.asked) == 2)
    task.cancel()
    with pytest.raises(OSError, match="no"):
        await task
    assert on.transport.exchanges[1].is_closed


class BeginsTheHedgeLate:
    """Tasks of a loop that runs others before it begins a hedge: no loop promises an order."""

    def __init__(self) -> None:
        self._turns = iter([0, 40])

    def __call__(self, loop: asyncio.AbstractEventLoop, work: Any, **words: Any) -> asyncio.Task[Any]:
        is_attempt = work.__name__ == AttemptExecution.until_content.__name__
        turns = next(self._turns, 0) if is_attempt else 0
        return asyncio.Task(self._late(work, turns) if turns else work, loop=loop, **words)

    async def _late(self, work: Any, turns: int) -> Any:
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            work.close()
            raise
        return await work


async def test_a_hedge_that_has_not_begun_when_the_first_has_content_was_never_sent():
    """It comes in its turn when the first breaks."""
    plan = chain(member("a"), member("b"), member("c"), hedge=Hedge(after_s=1.0), on_stream_break="hold")
    half = [1.0, Chunk(dict(RAW), text="half"), *[1.0] * 9, StreamEnd(None)]
    on = stage(plan, a=half, b=say("fine"), c=say("last"))
    asyncio.get_running_loop().set_task_factory(BeginsTheHedgeLate())
    out = await on.call()
    assert (out.text, on.transport.asked) == ("fine", [("a", 0.0), ("b", 10.0)])
    assert hedges_left(on) == 3
    on.check_nothing_is_left()


@BOTH
async def test_whoever_was_no_hedge_for_want_of_a_key_is_asked_when_the_first_has_failed(streamed):
    """By then the vault may be open again; nobody has asked that deployment yet."""
    keys = iter([OSError("vault is down"), "key"])

    def key():
        if isinstance(found := next(keys), OSError):
            raise found
        return found

    plan = chain(member("a"), member("b", api_key=key), hedge=Hedge(after_s=1.0))
    on = stage(plan, a=fail("timeout", after=5.0), b=say("fine"))
    out = await on.call(streamed=streamed)
    assert (out.attempts, on.transport.keys) == ([("a", "timeout"), ("b", "succeeded")], [None, "key"])
    on.check_nothing_is_left()


@BOTH
async def test_but_not_before_those_whom_nothing_is_known_against(streamed):
    """A vault that is sealed mostly stays so, and is slow to say it."""
    plan = chain(member("a"), member("b", api_key=no_key), member("c"), hedge=Hedge(after_s=1.0))
    on = stage(plan, a=fail("timeout", after=5.0), c=say("fine"))
    out = await on.call(streamed=streamed)
    assert out.attempts == [("a", "timeout"), ("c", "succeeded")]
    on.check_nothing_is_left()


@BOTH
async def test_a_key_function_that_raises_is_a_deployment_without_a_key(streamed):
    """The next one is asked, and the one without is left alone until somebody has mended the function."""
    on = stage(chain(member("a", api_key=no_key), member("b")), b=say("fine"))
    out = await on.call(streamed=streamed)
    [failed, _] = out.end.record.attempts
    assert (out.attempts, on.asked) == ([("a", "auth"), ("b", "succeeded")], ["b"])
    assert (failed.status, failed.message, failed.latency_s, failed.cost_usd) == (
        *(None, "the key function failed: OSError: vault is down"),
        *(0.0, Decimal(0)),
    )
    assert [(fact.deployment, fact.retry_in_s) for fact in out.of(BreakerOpened)] == [("a", 300.0)]
    on.check_nothing_is_left()


@BOTH
async def test_a_key_function_that_raises_is_no_reason_for_a_hedge(streamed):
    """There is nothing to wait for."""
    plan = chain(member("a", api_key=no_key), member("b"), hedge=Hedge(after_s=1.0))
    on = stage(plan, b=say("fine"))
    out = await on.call(streamed=streamed)
    assert (out.attempts, out.took) == ([("a", "auth"), ("b", "succeeded")], 0.0)
    on.check_nothing_is_left()


@BOTH
async def test_what_a_key_function_says_is_shown_without_the_secrets_that_are_known(streamed):
    """And what it raised goes no further: its frames hold what it knows."""
    secret = "sk-of-the-vault"

    def tell():
        raise ValueError(f"{secret} has expired")

    on = stage(chain(member("a", api_key=tell)))
    on.engine = replace(on.engine, redact=lambda text: text.replace(secret, "***"))
    out = await on.call(streamed=streamed)
    assert out.end.record.attempts[0].message == "the key function failed: ValueError: *** has expired"
    assert isinstance(out.end.cause, UpstreamError)
    assert out.end.cause.__traceback__ is None


@pytest.mark.parametrize("key", [no_key, no_key_after_a_while])
async def test_a_task_s_key_function_may_raise_later(key):
    """It is awaited in the caller's task."""
    on = stage(chain(member("a", api_key=key), member("b")), b=say("fine"))
    assert "".join([piece.text async for piece in adrive(on.start(), CallContext())]) == "fine"
    on.check_nothing_is_left()


async def test_a_thread_s_async_key_function_may_raise_too():
    """It is asked like any other, and the next deployment answers."""
    on = stage(chain(member("a", api_key=no_key_after_a_while), member("b")), b=say("fine"))
    out = await on.call()
    assert out.attempts == [("a", "auth"), ("b", "succeeded")]


# Requests that go to nobody.


@BOTH
async def test_a_request_that_cannot_be_written_as_json_ends_the_call_with_one_attempt(streamed):
    """No other deployment could get it, of whichever provider."""
    plan = chain(member("a"), member("b"), member("c", provider="anthropic"))
    out = await stage(plan, a=REFUSED_HERE).call(streamed=streamed, request=UNENCODABLE)
    assert (out.attempts, out.end.failure, out.end.record.attempts[0].status) == (
        *([("a", "bad_request")], "bad_request"),
        None,
    )
    assert out.end.reason.startswith("no deployment could get this request: the lone surrogate '\\ud83d'")


@BOTH
async def test_what_was_refused_here_is_told_to_no_breaker_and_counts_against_no_limit(streamed):
    """Nobody was asked: an open breaker is not closed by it, and a probe is still to be made."""
    failing = member("a", policy=Breaker(failures=1, cooldown_s=5), limits=Limits(rpm=2))
    on = stage(chain(failing, retries=0), a=[fail("server_error"), REFUSED_HERE])
    await on.call(streamed=streamed)
    on.clock.advance(10.0)
    for _ in range(3):
        out = await on.call(streamed=streamed, request=UNENCODABLE)
        assert (out.attempts, out.of(BreakerOpened)) == ([("a", "bad_request")], [])
    assert on.health["a"].breaker.state(on.clock.now()) == "half_open"
    assert on.health["a"].unavailable(on.clock.now()) is None
    on.check_nothing_is_left()


@BOTH
async def test_a_request_that_only_a_translation_refuses_may_be_answered_elsewhere(streamed):
    """By a deployment of another provider."""
    plan = chain(member("a"), member("b"), member("c", provider="anthropic"))
    out = await stage(plan, a=REFUSED_HERE, c=say("fine")).call(streamed=streamed)
    assert out.attempts == [("a", "bad_request"), ("c", "succeeded")]


async def test_a_key_that_takes_all_of_the_call_s_time_opens_no_breaker():
    """The call is over, by nobody's fault but the key's."""
    on = []
    plan = chain(member("a", policy=Breaker(failures=1), api_key=slow_key(on, 30.0)), total_s=20)
    on.append(stage(plan, a=[1.0, *say("fine")]))
    out = await on[0].call()
    assert (type(out.end), out.end.out_of_time) == (Failed, True)
    assert on[0].health["a"].breaker.state(30.0) == "closed"


@BOTH
async def test_a_key_function_may_say_that_no_key_is_needed(streamed):
    """None is no key, and not the four letters of its name; it is asked again for the next attempt."""
    asked = []
    keyless = member("a", api_key=lambda: asked.append("a"))
    on = stage(chain(keyless, member("b"), retries=0), a=say("fine"))
    await on.call(streamed=streamed)
    await on.call(streamed=streamed)
    assert (on.transport.keys, asked) == ([None, None], ["a", "a"])


async def test_a_key_of_the_spec_is_nobody_s_question():
    """And no key stays none."""
    on = stage(chain(member("a", api_key=SecretStr("sk-spec")), member("b")), a=fail("timeout"), b=say("fine"))
    out = await on.call()
    assert (on.transport.keys, out.of(CallerQuestion)) == (["sk-spec", None], [])


# Repeats and waits.


@BOTH
async def test_there_is_no_pause_before_everybody_was_asked(streamed):
    """Then the backoff, exactly as long as it says, and at most as often as the chain allows."""
    on = stage(chain(member("a"), member("b"), retries=2), a=fail("timeout", after=1.0), b=fail("timeout", after=1.0))
    out = await on.call(streamed=streamed)
    assert [at for _, at in on.transport.asked] == [0.0, 1.0, 3.0, 6.0]
    assert len(on.asked) == explain(on.plan)["max_requests"]
    assert (type(out.end), out.end.out_of_time) == (Failed, False)


async def test_a_call_waits_for_a_named_time_and_not_longer():
    """Retry-After of 7 s on the only deployment."""
    on = stage(chain(member("a")), a=[fail("rate_limited", retry_after_s=7.0), say("fine")])
    out = await on.call()
    assert (out.took, out.text) == (7.0, "fine")


async def test_whoever_waits_for_a_free_place_is_woken_when_one_is_free():
    """The second call begins at the moment the first one ends, and the third after it."""
    on = stage(chain(member("a", limits=Limits(max_parallel=1))), a=say("x", every=2.0))
    outs = await asyncio.gather(on.call(), on.call(), on.call())
    assert [at for _, at in on.transport.asked] == [0.0, 2.0, 4.0]
    assert [out.took for out in outs] == [2.0, 4.0, 6.0]


async def test_a_place_freed_by_a_caller_who_leaves_is_a_place():
    """Nobody waits for what is no longer under way."""
    on = stage(chain(member("a", limits=Limits(max_parallel=1))), a=[[HANG], say("fine")])
    leaving = on.start()
    items = leaving.steps()
    first = asyncio.ensure_future(anext(items))
    second = asyncio.ensure_future(on.call())
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert (await second).took == 0.0
    on.check_nothing_is_left()


async def test_a_call_that_waits_for_a_place_in_vain_ends_at_total_s():
    """With the failure of its own limit, and no attempt."""
    on = stage(chain(member("a", limits=Limits(max_parallel=1)), total_s=10), a=[HANG])
    on.health["a"].begin(0.0)
    out = await on.call()
    assert (out.took, type(out.end), out.end.out_of_time, out.attempts) == (10.0, Failed, True, [])


async def test_a_deployment_at_its_limit_is_passed_over_and_named():
    """Neither an attempt nor a failure."""
    on = stage(chain(member("a", limits=Limits(max_parallel=1)), member("b")), b=say("fine"))
    on.health["a"].begin(0.0)
    out = await on.call()
    assert [(skip.deployment, skip.reason, skip.retry_in_s) for skip in out.end.record.skipped] == [
        ("a", "limit", None)
    ]
    assert out.attempts == [("b", "succeeded")]


async def test_a_place_that_becomes_free_ends_a_wait_for_something_later():
    """Between a backoff of an hour and a place that is free in 2 s the place is taken."""
    plan = chain(member("a", limits=Limits(max_parallel=1)), member("b", limits=Limits(rpm=1)))
    on = stage(plan, a=say("x", every=2.0))
    on.health["b"].begin(0.0)
    outs = await asyncio.gather(on.call(), on.call())
    assert [out.took for out in outs] == [2.0, 4.0]


async def test_a_place_freed_between_the_decision_to_wait_and_the_waiting_is_not_missed():
    """Another thread's call may end in between; here it does, at exactly that moment."""
    on = stage(chain(member("a", limits=Limits(max_parallel=1))), a=say("fine"))
    permit = on.health["a"].begin(0.0)
    on.health.lock = LockFollowedBy(1, lambda: _release(on, permit))
    out = await on.call()
    assert (type(out.end), out.took) == (Answered, 0.0)


def _release(on, permit):
    with on.health.lock:
        on.health["a"].succeeded(permit, 0.0)
    on.health.notify_waiters()


class LockFollowedBy:
    """A lock; after it was given back the n-th time from now in a decision, something else happens at once."""

    def __init__(self, after: int, then: Callable[[], None]) -> None:
        self._lock, self._left, self._then = threading.Lock(), after + 1, then

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        self._left -= 1
        if self._left == 0:
            self._then()


# Leaving.


@pytest.mark.parametrize("hedged", [False, True])
@pytest.mark.parametrize("after", range(9))
async def test_a_caller_may_leave_after_any_item_and_leaves_nothing_behind(after, hedged):
    """The exchange is dropped, every place is free, nobody is the worse for it; the record says what was cancelled."""
    plan = chain(
        member("a"),
        member("b", api_key=lambda: "key"),
        member("c"),
        hedge=Hedge(after_s=0.5) if hedged else None,
    )
    on = stage(plan, a=fail("timeout"), b=[1.0, *say(*"reply", every=0.5)], c=say(*"other", every=3.0))
    run = on.start()
    items = played(inner := run.steps())
    for _ in range(after):
        await anext(items)
    await items.aclose()
    await inner.aclose()
    on.check_nothing_is_left()
    assert run.end is None
    assert [on.health[name].breaker.failures(on.clock.now()) for name in "bc"] == [0, 0]
    recorded = [(one.deployment, one.outcome) for one in run.record().attempts]
    assert recorded[:1] == [("a", "failed")] * bool(after)
    assert {outcome for _, outcome in recorded[1:]} <= {"cancelled"}
    assert len(recorded) == len(on.asked)


@BOTH
async def test_a_caller_cancelled_while_it_waits_drops_the_request(streamed):
    """CancelledError goes on, the connection does not."""
    on = stage(chain(member("a"), member("b")), a=[HANG], b=say("no"))
    task = asyncio.ensure_future(on.call(streamed=streamed))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert on.asked == ["a"]
    assert on.transport.exchanges[0].is_closed
    on.check_nothing_is_left()


async def cancelled_until_over(task: asyncio.Future[Any]) -> None:
    """As anyio's scopes do: at every turn of the loop."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


class HangsInClosing(MemoryExchange):
    """A connection that notices that it is to be closed, and hangs then."""

    is_closing = False

    async def close(self) -> None:
        self.is_closing = True
        await self._clock.sleep(3600)


async def test_two_connections_are_closed_together_though_one_hangs():
    """The second would stay open, and its place was given back already; and both together would take twice as long."""
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[HANG], b=[HANG])
    on.transport.make_exchange = HangsInClosing
    task = asyncio.ensure_future(on.call())
    await until(lambda: len(on.asked) == 2)
    began = on.clock.now()
    task.cancel()
    await until(lambda: all(exchange.is_closing for exchange in on.transport.exchanges))
    assert on.clock.now() == began
    with pytest.raises(asyncio.CancelledError):
        await task
    assert on.clock.now() - began <= CLOSE_TIMEOUT_S


@BOTH
@pytest.mark.parametrize("asked", [["a"], ["a", "b"]], ids=["alone", "hedged"])
async def test_a_caller_cancelled_again_and_again_leaves_nothing_behind(streamed, asked):
    """As anyio's scopes cancel until the task is out: places are free, requests closed, the record knows them."""
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0) if "b" in asked else None), a=[HANG], b=[HANG])
    run = on.start(streamed=streamed)
    task = asyncio.ensure_future(anext(played(run.steps())))
    await until(lambda: on.asked == asked)
    await cancelled_until_over(task)
    assert task.cancelled()
    on.check_nothing_is_left()
    assert [(one.deployment, one.outcome) for one in run.record().attempts] == [(name, "cancelled") for name in asked]


async def test_a_call_whose_caller_is_cancelled_again_while_it_leaves_is_in_the_books():
    """Here while it waits for a hedge's key, and the first request is under way."""
    key, events = asyncio.Event(), []
    plan = chain(member("a"), member("b", api_key=key.wait), hedge=Hedge(after_s=1.0))
    on = stage(plan, a=[HANG])
    task = asyncio.ensure_future(anext(adrive(on.start(), CallContext([events.append]))))
    await until(lambda: on.health["b"].in_flight > 0)
    await cancelled_until_over(task)
    assert [(type(event), event.failure) for event in events] == [(CallEnded, "cancelled")]
    on.check_nothing_is_left()


async def test_a_caller_cancelled_while_a_race_is_decided_leaves_nothing_behind():
    """The loser is being closed at that moment; its place is free and its request closed all the same."""
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[HANG], b=say("quick", every=1.0))
    run = on.start()
    task = asyncio.ensure_future(anext(played(run.steps())))
    await until(lambda: on.clock.now() >= 2.0)
    await cancelled_until_over(task)
    assert task.cancelled()
    on.check_nothing_is_left()


async def test_a_cancelled_probe_lets_the_next_call_probe():
    """Its place is given back."""
    on = stage(
        chain(member("a", policy=Breaker(failures=1)), member("b")),
        a=[fail("timeout"), [HANG], say("back")],
        b=say("b"),
    )
    await on.call()
    on.clock.advance(30.0)
    task = asyncio.ensure_future(on.call())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (await on.call()).text == "back"
    assert on.health["a"].breaker.state(on.clock.now()) == "closed"


@BOTH
@pytest.mark.parametrize(
    "act",
    [say("fine", usage=Usage(1, 1)), [*say("half")[:2], Fault("stream_broken", "cut")], [HANG]],
    ids=["answered", "failed", "left"],
)
@pytest.mark.parametrize("hedge", [None, Hedge(after_s=1.0)], ids=["alone", "hedged"])
async def test_what_cannot_be_booked_takes_no_place_with_it(act, hedge, streamed):
    """A mistake in a price list fails the call, and not those after it."""

    def prices(target, service_tier=None):
        raise LookupError("no such page")

    on = stage(chain(member("a"), member("b"), hedge=hedge), a=[2.0, *act], b=[5.0, *say("other")])
    on.engine.catalogue.prices = prices
    task = asyncio.ensure_future(on.call(streamed=streamed, tokens=10))
    await until(lambda: on.clock.now() >= 2.0)
    for _ in range(5 if act == [HANG] else 50):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(LookupError, asyncio.CancelledError):
        await task
    on.check_nothing_is_left()


@BOTH
async def test_a_place_is_given_back_once_though_its_account_fails(streamed):
    """Tokens that are no numbers, of a reply that is whole."""
    on = stage(chain(member("a", limits=Limits(tpm=1000))), a=say("x", usage=Usage(None, 1)))
    with pytest.raises(TypeError):
        await on.call(streamed=streamed)
    on.check_nothing_is_left()


async def test_a_stream_that_timed_out_is_closed_before_the_next_is_asked():
    """Nothing of a deployment that was left goes on costing."""
    on = stage(chain(timed("a", attempt_s=1), member("b")), a=[HANG], b=[0.0, *say("fine")])
    run = on.start()
    async for item in played(run.steps()):
        if isinstance(item, Chunk):
            assert on.transport.exchanges[0].is_closed


async def test_what_was_delivered_counts_against_the_tokens_of_who_goes_on():
    """Its prompt has it, too: within `tpm` for a prompt, beyond it for one that goes on."""
    plan = chain(member("a"), member("b", limits=Limits(tpm=40)), total_s=5, retries=0, on_stream_break="continue")
    on = stage(plan, a=[0.0, *say("x" * 200)[:2], StreamEnd(None)], b=say("fine"))
    on.health["b"].begin(0.0, 10)
    out = await on.call(tokens=10)
    assert (on.asked, type(out.end)) == (["a"], StreamBrokeOff)


# Accounts.


@BOTH
async def test_cost_is_usage_times_price_and_its_sum_is_the_call_s(streamed):
    """Rejected replies were billed; what failed before a first token was not."""
    price = Prices(input=Decimal(1), output=Decimal(2))
    plan = chain(member("a", prices=price), member("b", prices=price), member("c", prices=price))
    used = Usage(input_tokens=1000, output_tokens=500)
    on = stage(plan, a=fail("timeout"), b=say("bad", usage=used), c=say("good", usage=used))
    out = await on.call(streamed=streamed, validate=lambda reply: reply.text == "good")
    assert [one.cost_usd for one in out.end.record.attempts] == [Decimal(0), Decimal("0.002"), Decimal("0.002")]
    assert out.end.record.cost_usd == Decimal("0.004")


async def test_the_cost_of_a_deployment_without_a_price_is_not_known():
    """None, and so is the call's."""
    on = stage(chain(member("a")), a=say("fine", usage=Usage(10, 10)))
    record = (await on.call()).end.record
    assert (record.attempts[0].cost_usd, record.cost_usd) == (None, None)


BY_SECOND = Prices(Decimal(0), Decimal(0), per_gpu_hour=Decimal(3600))
"""A dollar for each second a deployment is busy."""


@BOTH
@pytest.mark.parametrize("verdict", [True, False])
async def test_the_time_a_judge_takes_is_not_the_deployment_s(streamed, verdict):
    """Nor is it paid for, nor learnt from; the call took it all the same."""
    on = stage(chain(member("a", prices=BY_SECOND), retries=0), a=say("fine", every=2.0, usage=Usage(1, 1)))

    def validate(reply):
        on.clock.advance(5.0)
        return verdict

    record = (await on.call(streamed=streamed, validate=validate)).end.record
    assert (record.attempts[0].latency_s, record.cost_usd, record.latency_s) == (2.0, Decimal(2), 7.0)
    if verdict:
        assert on.health["a"].mean_seconds == 2.0
        assert on.health["a"].reply_s(0.95) == (None if streamed else 2.0)


async def test_the_time_a_reader_takes_is_not_the_deployment_s():
    """Where the next piece had come meanwhile. It was the attempt's time, but is not paid for, nor learnt from."""
    on = stage(chain(member("a", prices=BY_SECOND)), a=[2.0, *say("one", "two", "three", usage=Usage(1, 12))])
    record = (await on.call(reading_takes=100.0)).end.record
    attempt = record.attempts[0]
    assert (attempt.latency_s, attempt.paused_s, attempt.busy_s) == (402.0, 400.0, 2.0)
    assert (record.latency_s, record.cost_usd, on.health["a"].mean_seconds) == (402.0, Decimal(2), 2.0)


async def test_a_deployment_that_is_awaited_was_busy_while_its_reader_was():
    """It has not had the next piece when the reader came back: it wrote all the time."""
    on = stage(chain(member("a", prices=BY_SECOND)), a=say("one", "two", every=2.0, usage=Usage(1, 12)))
    record = (await on.call(reading_takes=1.0)).end.record
    # All but the pauses before the last two pieces, which came at once.
    assert (record.attempts[0].latency_s, record.cost_usd) == (7.0, Decimal(7 - 2))


async def test_a_reader_who_leaves_a_reply_that_was_read_before_pays_for_the_reply():
    """What it sat over it began after the last byte, so there is nothing to take off."""
    on = stage(
        chain(member("a", prices=BY_SECOND), on_stream_break="hold"), a=[2.0, *say("one", "two", usage=Usage(1, 12))]
    )
    run = on.start(tokens=5)
    items = run.steps()
    await anext(items)
    on.clock.advance(100.0)
    await items.aclose()
    attempt = run.attempts[0]
    assert (attempt.outcome, attempt.busy_s, attempt.paused_s, attempt.cost_usd) == ("cancelled", 2.0, 0.0, Decimal(2))


@pytest.mark.parametrize(("pause", "cost"), [(1000.0, 2), (0.0, 2)])
async def test_a_reader_who_leaves_is_no_work_for_the_deployment(pause, cost):
    """However long it sat over its last piece."""
    on = stage(chain(member("a", prices=BY_SECOND)), a=[2.0, *say("one", "two")])
    run = on.start(tokens=5)
    items = run.steps()
    await anext(items)
    on.clock.advance(pause)
    await items.aclose()
    assert [(one.outcome, one.cost_usd) for one in run.record().attempts] == [("cancelled", Decimal(cost))]


async def test_a_reader_s_pauses_over_a_held_reply_are_nobody_s_time():
    """The deployment was through before the first piece went out."""
    plan = chain(member("a", prices=BY_SECOND), on_stream_break="hold")
    on = stage(plan, a=say("one", "two", every=2.0, usage=Usage(1, 12)))
    record = (await on.call(reading_takes=100.0)).end.record
    assert (record.attempts[0].latency_s, record.cost_usd) == (4.0, Decimal(4))


@BOTH
async def test_what_an_answer_took_is_known_of_its_deployment_by_its_kind(streamed):
    """Of a stream the time to its first token, of a plain reply the whole and what each token took."""
    on = stage(chain(member("a")), a=say("Hel", "lo", every=0.25, usage=Usage(1, 10)))
    await on.call(streamed=streamed)
    known = on.health["a"].snapshot(1.0)
    assert (known["first_token_s"], known["output_token_s"]) == ((0.25, None) if streamed else (None, 0.05))
    assert on.health["a"].first_token_s(0.5) == (0.25 if streamed else None)
    assert on.health["a"].reply_s(0.5) == (None if streamed else 0.5)


@BOTH
async def test_a_member_that_grew_slow_beside_its_mate_is_left_alone(streamed):
    """That opens its breaker, as a failure does; the call itself is answered."""
    policy = Breaker(slow_times=4, failures=1, failure_ratio=0.01)
    quick, slow = say("x", every=0.25), say("x", every=9.0)
    tier = [member("a", policy=policy), member("b", policy=policy)]
    on = stage(chain(tier), a=[*[quick] * 5, slow], b=[quick])
    opened = []
    for _ in range(60):
        out = await on.call(streamed=streamed)
        opened += [(fact.deployment, fact.failure, fact.retry_in_s) for fact in out.of(BreakerOpened)]
        assert isinstance(out.end, Answered)
        if opened:
            break
    assert opened == [("a", "timeout", 30.0)]


async def test_a_request_that_could_not_be_written_counts_against_no_limit():
    """Neither against requests nor against tokens."""
    on = stage(chain(member("a", limits=Limits(rpm=1, tpm=10))), a=REFUSED_HERE)
    await on.call(tokens=10)
    assert on.health["a"].unavailable(0.0, 10) is None


async def test_tokens_of_a_reply_that_broke_are_counted_against_the_limit():
    """The server has used them all the same."""
    on = stage(
        chain(member("a", limits=Limits(tpm=1000)), member("b"), on_stream_break="hold"),
        a=say("half", every=1.0, finish=None, usage=Usage(400, 500)),
        b=say("y"),
    )
    assert (await on.call(tokens=200)).attempts == [("a", "stream_broken"), ("b", "succeeded")]
    assert on.health["a"].unavailable(1.0, 100) is None
    assert on.health["a"].unavailable(1.0, 400).until == 61.0


async def test_tokens_of_a_reply_are_counted_against_the_limit():
    """What was estimated is settled to what the server reported."""
    on = stage(chain(member("a", limits=Limits(tpm=1000)), member("b")), a=say("x", usage=Usage(400, 500)), b=say("y"))
    assert [(await on.call(tokens=200)).text for _ in range(2)] == ["x", "y"]
    assert on.health["a"].unavailable(0.0, 400).until == 60.0


# Hedges.


async def test_the_loser_of_a_race_is_in_the_record_as_cancelled():
    """The metadata of the call say who else was asked and what that may have cost."""
    on = stage(
        chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=say("slow", every=9.0), b=say("quick", every=1.0)
    )
    out = await on.call()
    assert sorted(out.attempts) == [("a", "cancelled"), ("b", "succeeded")]
    assert (out.text, out.took) == ("quick", 2.0)
    assert [one.message for one in out.end.record.attempts if one.deployment == "a"] == [
        "another deployment was quicker"
    ]
    on.check_nothing_is_left()


@BOTH
async def test_the_loser_of_a_race_is_closed_before_anything_of_the_winner_is_delivered(streamed):
    """And not while it is still being read, where closing fails and the connection stays."""
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)), a=[HANG], b=say("quick", "er", every=1.0))
    closed = []
    await on.call(streamed=streamed, validate=lambda reply: closed.append(on.transport.exchanges[0].is_closed) or True)
    assert closed == [True]
    on.check_nothing_is_left()


@BOTH
async def test_the_loser_of_a_dead_heat_is_dropped_and_recorded_too(streamed):
    """Both bring content at the same moment: one stream goes on, the other must not stay open beside it."""
    gate, pieces = asyncio.Event(), [step for step in say("one", "two") if step != 0.0]
    on = stage(
        chain(member("a"), member("b"), hedge=Hedge(after_s=1.0)),
        a=[gate, *pieces],
        b=[gate, *pieces],
    )
    task = asyncio.ensure_future(on.call(streamed=streamed))
    await until(lambda: on.asked == ["a", "b"])
    await asyncio.sleep(0)
    gate.set()
    out = await task
    assert len(out.end.record.attempts) == 2


class SlowToStop(MemoryExchange):
    """Its library tidies up for a moment before it leaves off reading."""

    async def stop(self) -> None:
        await asyncio.sleep(0.01)


class DeafToStop(MemoryExchange):
    """Its library reads on until the connection is gone."""

    async def stop(self) -> None:
        while not self.is_closed:
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("exchange", "took"), [(SlowToStop, 2.0), (DeafToStop, 2.5)])
async def test_the_loser_of_a_race_is_given_half_a_second_to_leave_off_reading(exchange, took):
    """Whoever needs a moment has it, and keeps nobody; whoever does not hear is closed all the same."""
    plan = chain(member("a"), member("b"), hedge=Hedge(after_s=1.0))
    on = stage(plan, a=[HANG], b=say("quick", every=1.0))
    on.transport.make_exchange = exchange
    out = await on.call()
    assert (out.text, out.took) == ("quick", took)
    on.check_nothing_is_left()


@BOTH
async def test_a_hedge_at_a_percentile_follows_once_fifty_answers_of_its_kind_are_known(streamed):
    """The 95th of the times to the first token, or of the times of whole replies; of fewer nobody can tell."""
    on = stage(chain(member("a"), member("b"), hedge=Hedge(after_s="p95")), a=[5.0, *say("late")], b=say("quick"))
    own = on.health["a"]
    for number in range(1, 50):
        for kind, seconds in (("first_token_s", number / 100), ("reply_s", 1 + number / 100)):
            own.succeeded(own.begin(0.0), 0.0, **{kind: seconds})
    assert [(await on.call(streamed=streamed)).attempts[-1] for _ in range(2)] == [
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]
    assert on.transport.asked == [("a", 0.0), ("a", 5.0), ("b", 5.48 if streamed else 6.48)]


# Every script.

NAMES = "abcd"
PAUSES = st.sampled_from([0.0, 0.0, 0.25, 2.0, 30.0])
TIMEOUTS = st.builds(
    Timeouts,
    attempt_s=st.sampled_from([None, 1.0, 20.0]),
    first_token_s=st.sampled_from([None, 0.5, 3.0]),
    idle_s=st.sampled_from([None, 1.0, 5.0]),
)


@st.composite
def acts(draw) -> Act:
    steps: list[Step] = [draw(PAUSES), *([role()] if draw(st.booleans()) else [])]
    for number in range(draw(st.integers(0, 3))):
        steps += [draw(PAUSES), Chunk(dict(RAW), text=f"{number};")]
    ending = draw(
        st.sampled_from(["whole", "whole", "cut", HANG, "no finish", "abort", "refused", "timeout", "rate_limited"])
    )
    match ending:
        case "whole":
            return [*steps, Chunk(dict(RAW), finish="stop"), StreamEnd("stop")]
        case "cut":
            return [*steps, Fault("stream_broken", "cut")]
        case "hang":
            return [*steps, HANG]
        case "no finish" | "abort":
            return [*steps, StreamEnd(None if ending == "no finish" else "abort")]
        case "refused":
            return [Fault(draw(st.sampled_from(["bad_request", "content_policy", "context_window", "auth"])), "")]
        case _:
            return [draw(PAUSES), Fault(ending, "", retry_after_s=draw(st.sampled_from([None, 4.0])))]


@st.composite
def scenes(draw) -> tuple[ChainPlan, dict[str, list[Act]]]:
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    members = [
        member(
            name,
            draw(TIMEOUTS),
            limits=draw(st.sampled_from([None, None, Limits(max_parallel=1), Limits(rpm=2)])),
            policy=draw(st.sampled_from([Breaker(), Breaker(failures=1), None])),
            model_identity=draw(st.sampled_from([None, "same"])),
        )
        for name in names
    ]
    plan = chain(
        *members[:2],
        members[2:] or members[1:] or members,
        refused=draw(st.sampled_from([None, [], members[-1:]])),
        retries=draw(st.integers(0, 2)),
        total_s=draw(st.sampled_from([0.5, 10.0, 60.0])),
        on_stream_break=draw(st.sampled_from(["raise", "hold"])),
        hedge=draw(st.sampled_from([None, None, Hedge(after_s=0.5)])),
    )
    deployments = st.one_of(*[st.lists(acts(), min_size=1, max_size=3)] * 4, st.just([[Unsupported(("tools",))]]))
    scripts = draw(st.fixed_dictionaries(dict.fromkeys(names, deployments)))
    return plan, scripts


def contents(pieces: Sequence[Any]) -> list[Chunk]:
    return [piece for piece in pieces if isinstance(piece, Chunk)]


def _check(on: Stage, out: Outcome, streamed: bool) -> None:
    assert out.took <= on.plan.total_s
    assert len(on.asked) <= explain(on.plan)["max_requests"] + _unsupported(on)
    on.check_nothing_is_left()
    delivered = out.pieces
    assert len({id(piece.raw) for piece in delivered}) == len(delivered), "a piece was delivered twice"
    if not streamed:
        assert delivered == []
    elif isinstance(out.end, Answered):
        assert any(delivered == contents(act) and act[-1] == StreamEnd("stop") for act in on.transport.played)
    elif isinstance(out.end, StreamBrokeOff):
        assert on.plan.on_stream_break == "raise"
        assert any(delivered == contents(act)[: len(delivered)] for act in on.transport.played)
        assert out.end.delivered.text == out.text != ""
    else:
        assert delivered == []
    _check_record(on, out)


def _unsupported(on: Stage) -> int:
    return sum(isinstance(act[0], Unsupported) for act in on.transport.played)


def _check_record(on: Stage, out: Outcome) -> None:
    record = out.end.record
    skipped = {skip.deployment for skip in record.skipped}
    sent = [one for one in record.attempts if one.deployment not in skipped]
    assert len(sent) == len(on.asked) - _unsupported(on)
    assert (record.deployment is not None) == (out.run.end.__class__ is Answered)
    answered = [one.deployment for one in record.attempts if one.outcome == "succeeded"]
    assert answered == ([record.deployment] if isinstance(out.end, Answered) else [])
    assert all(one.outcome != "cancelled" for one in sent) or on.plan.hedge is not None


@given(scenes(), st.booleans())
@settings(deadline=None, max_examples=examples(150))
def test_whatever_the_deployments_do_a_call_keeps_its_promises(scene, streamed):
    """Time, requests, nothing twice, nothing incomplete passed off as whole, nothing left behind."""
    plan, scripts = scene

    async def calls() -> tuple[Stage, Outcome]:
        on = stage(plan, **scripts)
        return on, await on.call(streamed=streamed)

    on, out = asyncio.run(calls())
    _check(on, out, streamed)


@given(scenes(), st.integers(2, 5))
@settings(deadline=None, max_examples=examples(40))
def test_calls_at_the_same_time_keep_their_promises_too(scene, callers):
    """They share breakers, limits and places; every one ends in its own time, and nothing is left behind."""
    plan, scripts = scene

    async def calls():
        on = stage(plan, **scripts)
        return on, await asyncio.gather(*(on.call() for _ in range(callers)))

    on, outs = asyncio.run(calls())
    on.check_nothing_is_left()
    for out in outs:
        assert out.took <= plan.total_s
        assert len(out.end.record.attempts) <= explain(plan)["max_requests"]
        assert not isinstance(out.end, Failed) or out.pieces == []
        assert isinstance(out.end, Failed) or out.pieces
