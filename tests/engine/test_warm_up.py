"""Deployments that are asleep, loading or rolled out: waited for, never for too long, and never in others' way."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, replace
from random import Random

import pytest

from llm_fallback import build_chat_model
from llm_fallback.engine.balancing import by_weight
from llm_fallback.engine.circuit_breaker import CircuitBreaker
from llm_fallback.engine.engine import Answered, Failed
from llm_fallback.engine.policy import FallbackPolicy
from llm_fallback.engine.transport import Fault
from llm_fallback.events import BreakerOpened
from llm_fallback.plan.cold_start import LONGEST_PAUSE_S, WarmUp, warmup_retries_within
from llm_fallback.plan.explain import explain
from llm_fallback.simulate import Trouble, simulate
from llm_fallback.spec import Breaker, ColdStart
from llm_fallback.testing import Fail, FakeServer
from tests.asking import MODES, ask
from tests.engine.test_execution import BOTH, MemoryExchange, MemoryTransport, Stage, fail, say, stage
from tests.plans import chain, health_of, member

POLICY = Breaker(failures=3, failure_ratio=0.5, window_s=60, cooldown_s=30)


def cold(name: str = "cold", max_wait_s: float = 120, **settings):
    return member(name, cold_start=ColdStart(max_wait_s=max_wait_s), **settings)


# The start and the breaker.


def attempted(breaker: CircuitBreaker, until: float, failure="overloaded") -> list[float]:
    """When a deployment that never comes up is asked until that time, whenever it may be."""
    now, asked = 0.0, []
    while now < until:
        asked.append(now)
        breaker.failed(breaker.acquire(now), now, failure)
        again = breaker.blocked_until(now)
        now = now if again is None else again
    return asked


def test_a_start_is_looked_at_after_moments_that_grow_to_five_seconds():
    """Instead of 30, 60, 120 ... 300 s."""
    asked = attempted(CircuitBreaker(POLICY, WarmUp(30)), 30)
    assert asked == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 22.5, 27.5]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.6, 4, 30, 300, 1234])
def test_it_is_probed_as_often_as_it_can_be(seconds):
    """`explain` counts with this number."""
    assert len(attempted(CircuitBreaker(POLICY, WarmUp(10_000)), seconds)) == 1 + warmup_retries_within(seconds)


def test_a_start_that_takes_too_long_is_an_outage():
    """After max_wait_s the cooldown is the policy's, and doubles."""
    breaker = CircuitBreaker(POLICY, WarmUp(10))
    asked = attempted(breaker, 250)
    assert asked[:5] == [0, 0.5, 1.5, 3.5, 7.5]
    assert asked[5:] == [12.5, 42.5, 102.5, 222.5]
    assert not breaker.is_warming_up(12.5)


def test_the_next_start_begins_after_an_answer():
    """Once it has been up, it may fall asleep again."""
    breaker = CircuitBreaker(POLICY, WarmUp(10))
    breaker.failed(breaker.acquire(0), 0, "connection")
    breaker.succeeded(breaker.acquire(0.5), 0.5)
    assert not breaker.is_warming_up(0.5)
    assert breaker.failed(breaker.acquire(100), 100, "connection")
    assert (breaker.is_warming_up(100), breaker.blocked_until(100)) == (True, 100.5)


def test_the_next_start_begins_after_a_long_silence_too():
    """Nobody asked for ten minutes, so nobody knows: it may have been up meanwhile."""
    breaker = CircuitBreaker(POLICY, WarmUp(10))
    attempted(breaker, 20)
    breaker.failed(breaker.acquire(700), 700, "connection")
    assert (breaker.is_warming_up(700), breaker.blocked_until(700)) == (True, 700.5)


@pytest.mark.parametrize("failure", ["server_error", "timeout", "invalid_response"])
def test_other_failures_are_no_start(failure):
    """They count as ever."""
    breaker = CircuitBreaker(POLICY, WarmUp(60))
    assert [breaker.failed(breaker.acquire(0), 0, failure) for _ in range(3)] == [False, False, True]
    assert (breaker.blocked_until(0), breaker.is_warming_up(0)) == (30, False)


def test_a_wrong_key_ends_the_waiting_for_a_start():
    """It is up, and will not have us."""
    breaker = CircuitBreaker(POLICY, WarmUp(60))
    breaker.failed(breaker.acquire(0), 0, "overloaded")
    breaker.failed(breaker.acquire(0.5), 0.5, "auth")
    assert (breaker.is_warming_up(0.5), breaker.blocked_until(0.5)) == (False, 300.5)


@pytest.mark.parametrize(("named", "until"), [(20, 20), (0, 0.5), (9e9, 600)])
def test_a_server_that_names_its_time_while_it_loads_knows_better(named, until):
    """Retry-After on the 503; never at once, or it would be asked without a pause."""
    breaker = CircuitBreaker(POLICY, WarmUp(60))
    breaker.failed(breaker.acquire(0), 0, "overloaded", named)
    assert breaker.blocked_until(0) == until


def test_opening_is_told_once_for_a_start():
    """Not at each retry: the log would have a warning every five seconds."""
    breaker = CircuitBreaker(POLICY, WarmUp(10))
    told = [breaker.failed(breaker.acquire(now), now, "overloaded") for now in (0, 0.5, 1.5, 3.5, 7.5, 12.5)]
    assert told == [True, False, False, False, False, True]


def test_a_deployment_whose_breaker_is_off_is_waited_for_as_well():
    """And after max_wait_s it is as if nothing counted."""
    breaker = CircuitBreaker(None, WarmUp(10))
    attempted(breaker, 12)
    assert breaker.is_warming_up(9)
    breaker.failed(breaker.acquire(12.5), 12.5, "overloaded")
    assert (breaker.state(12.5), breaker.blocked_until(12.5)) == ("closed", None)


# Calls, in time that jumps.


@dataclass
class Waking(MemoryTransport):
    """A transport whose `cold` deployment refuses until a time."""

    up_at: float = 0.0

    def exchange(self, target, request, api_key):
        if target.name != "cold" or self.clock.now() >= self.up_at:
            return super().exchange(target, request, api_key)
        self.asked.append((target.name, self.clock.now()))
        self.exchanges.append(MemoryExchange(self.clock, fail("connection")))
        return self.exchanges[-1]


def waking(plan, up_at: float, **acts) -> Stage:
    """A stage on which `cold` comes up at that time."""
    on = stage(plan, **{"cold": say("awake"), **acts})
    on.transport = Waking(on.clock, on.transport.acts, up_at=up_at)
    on.engine = replace(on.engine, transport=on.transport)
    return on


@BOTH
async def test_a_call_with_nobody_else_to_ask_waits_for_the_start(streamed):
    """Inside total_s, and notices within moments; no repeats are spent on it."""
    on = waking(chain(cold(), retries=0, total_s=100), up_at=40)
    out = await on.call(streamed=streamed)
    assert isinstance(out.end, Answered)
    assert 40 <= out.took <= 40 + LONGEST_PAUSE_S
    assert {failure for _, failure in out.attempts[:-1]} == {"connection"}
    assert len(on.asked) <= explain(on.plan)["max_requests"]
    assert len(out.of(BreakerOpened)) == 1
    on.check_nothing_is_left()


@BOTH
async def test_others_answer_meanwhile_without_a_pause(streamed):
    """The first call learns that it sleeps; later ones ask it once in a while, and none waits."""
    on = waking(chain(cold(), member("warm")), up_at=40, warm=say("warm"))
    for second in range(60):
        on.clock.advance(second - on.clock.now())
        out = await on.call(streamed=streamed)
        assert (type(out.end), out.took) == (Answered, 0)
    attempts = [0, 1, 2, 4, 8, 13, 18, 23, 28, 33, 38, 43]
    assert [at for name, at in on.transport.asked if name == "cold"] == [*attempts, *range(44, 60)]
    assert out.end.record.deployment == "cold"


async def test_of_many_that_wait_one_at_a_time_probes():
    """A hundred callers do not become a hundred requests every five seconds."""
    on = waking(chain(cold(), retries=0), up_at=40)
    outs = await asyncio.gather(*(on.call() for _ in range(100)))
    assert all(isinstance(out.end, Answered) for out in outs)
    assert max(out.took for out in outs) <= 40 + LONGEST_PAUSE_S
    refused = [at for _, at in on.transport.asked if at < 40]
    assert len(refused) <= 100 + warmup_retries_within(40)
    assert len(set(refused)) == 1 + warmup_retries_within(40)
    on.check_nothing_is_left()


async def test_a_call_waits_no_longer_than_total_s():
    """It fails by what the server said, with time to spare or not."""
    on = waking(chain(cold(), retries=0, total_s=20), up_at=40)
    out = await on.call()
    assert (type(out.end), out.end.failure) == (Failed, "connection")
    assert 20 - LONGEST_PAUSE_S <= out.took <= 20


async def test_a_call_waits_no_longer_than_max_wait_s():
    """Then it is an outage like any other: repeats, and the end."""
    on = waking(chain(cold(max_wait_s=20), retries=1, total_s=300), up_at=400)
    out = await on.call()
    assert isinstance(out.end, Failed)
    assert 20 <= out.took <= 20 + LONGEST_PAUSE_S + 1
    assert len(on.asked) <= explain(on.plan)["max_requests"]


async def test_without_cold_start_nobody_waits():
    """The repeats, and that is all."""
    on = waking(chain(member("cold"), retries=2, total_s=300), up_at=40)
    assert (await on.call()).took <= 3


async def test_when_the_others_have_failed_too_the_start_is_waited_for():
    """And the others are repeated meanwhile, as often as the chain allows."""
    on = waking(chain(cold(), member("down"), retries=2, total_s=100), up_at=30, down=fail("server_error"))
    out = await on.call()
    assert (out.text, out.end.record.deployment) == ("awake", "cold")
    assert on.asked.count("down") == 3
    assert on.asked[:2] == ["cold", "down"]


async def test_a_refusal_of_the_request_ends_the_waiting():
    """What it cannot take asleep it cannot take awake."""
    on = waking(
        chain(cold(model_identity="m"), member("twin", model_identity="m"), total_s=100),
        up_at=30,
        twin=fail("bad_request"),
    )
    out = await on.call()
    assert (out.end.failure, out.took) == ("bad_request", 0)


async def test_a_tier_for_long_prompts_may_start_too():
    """Once used up such tiers end the call, but one that is on its way is not used up."""
    on = waking(chain(member("small"), long=[cold()], total_s=100), up_at=10, small=fail("context_window"))
    out = await on.call()
    assert out.text == "awake"


def test_a_probe_is_no_repeat():
    """`retries.max` and the allowance of repeats are for failures, not for waiting."""
    plan = chain(cold(), retries=0)
    health = health_of(plan)
    course = FallbackPolicy(
        plan, lambda name, at: health[name].unavailable(at), pick=by_weight(Random(1)), backoff=float, deadline=60
    )
    step = course.next_step(0)
    permit = health["cold"].begin(0)
    health["cold"].failed(permit, 0, "connection", None)
    course.failed(step.member, Fault("connection", ""), 0)
    assert course.next_step(0).until == 0.5
    again = course.next_step(0.5)
    assert (again.warmup_retry, again.repeat, course.repeats) == (True, False, 0)


def test_explain_counts_the_probes_and_says_so():
    """Never more requests than it says."""
    told = explain(chain(cold(max_wait_s=600), member("warm"), retries=2, total_s=30))
    assert told["max_requests"] == 2 + 2 + warmup_retries_within(30)
    assert any("cold is waited for while it starts" in note for note in told["notes"])


def test_a_simulation_shows_what_waiting_is_worth():
    """A deployment alone that is down for its first forty seconds."""
    asleep = Trouble("own", "connection", ends_s=40)
    spec = {
        "deployments": {"own": {"backend": "vllm", "model": "m", "api_base": "http://own"}},
        "chains": {"c": {"tiers": ["own"]}},
    }
    failing = asyncio.run(simulate(spec, troubles=[asleep], calls=100, per_second=1))
    spec["deployments"]["own"]["cold_start"] = {"max_wait_s": 120}
    waiting = asyncio.run(simulate(spec, troubles=[asleep], calls=100, per_second=1))
    assert waiting.total.answered == 100
    assert failing.total.answered < 80
    assert waiting.longest_s <= 40 + LONGEST_PAUSE_S + 5


# Over HTTP.


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_loading_answers_the_call_that_found_it_so(mode):
    """503 while it loads, then the answer, without a repeat of the chain's."""
    with FakeServer({"a": [Fail(503, body="Loading model"), "awake"]}) as server:
        spec = server.spec(deployments={"a": {"cold_start": {"max_wait_s": 60}}}, retries={"max": 0})
        with build_chat_model(spec) as model:
            message = await ask(model, mode)
    facts = message.response_metadata["llm_fallback"]
    assert message.content == "awake"
    assert [attempt["failure"] for attempt in facts["attempts"]] == ["overloaded", None]


def test_ray_serve_before_it_knows_its_routes_is_left_for_moments_only():
    """Its 404 is no wrong model, which would be left alone for five minutes."""
    booting = "Path '/v1/chat/completions' not found. Ping http://127.0.0.1:8000/-/routes for available routes."
    with FakeServer({"ray": Fail(404, body=booting), "backup": "fine"}) as server:
        spec = server.spec(backend="ray-serve", deployments={"ray": {"cold_start": {"max_wait_s": 60}}})
        with build_chat_model(spec) as model:
            assert model.invoke("hi").content == "fine"
            assert 0 < model.state()["ray"]["retry_in_s"] <= 0.5


def test_what_was_learnt_of_a_deployment_does_not_hold_for_another_cold_start():
    """`reload` keeps the state of those that stayed as they were."""
    with FakeServer({"a": Fail(503), "b": "fine"}) as server:
        spec = server.spec(deployments={"a": {"cold_start": {"max_wait_s": 60}}})
        with build_chat_model(spec) as model:
            model.invoke("hi")
            model.reload(copy.deepcopy(spec))
            assert model.state()["a"]["breaker"] != "closed"
            spec["deployments"]["a"]["cold_start"] = {"max_wait_s": 90}
            model.reload(spec)
            assert model.state()["a"]["breaker"] == "closed"


@pytest.mark.parametrize("failing", [Fail("connection"), Fail(500, body="cannot schedule new futures after shutdown")])
def test_a_draining_replica_is_left_at_once_and_counted(failing):
    """One request, no pause, and its breaker opens with the third; it may be one of a rolling update."""
    with FakeServer({"draining": failing, "other": "fine"}) as server:
        with build_chat_model(server.spec(backend="vllm")) as model:
            for _ in range(5):
                assert model.invoke("hi").content == "fine"
            assert model.state()["draining"]["breaker"] == "open"
        assert len(server.received("draining")) == 3
