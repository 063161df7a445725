"""A chain under trouble, in simulated time: the course is the engine's own, and the same seed gives the same result."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback.engine.retry import backoff_s
from llm_fallback.errors import SpecError
from llm_fallback.events import Failure
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.simulate import Outcome, Trouble, simulate
from llm_fallback.simulate.troubles import FAILURES
from llm_fallback.spec import load_spec
from tests.thinning import examples

NAMES = ("a", "b", "c")
ROUTE_CHOOSING = ("context_window", "content_policy")


def spec_of(*, tiers: Any = NAMES, deployments: dict[str, Any] | None = None, **chain: Any) -> dict[str, Any]:
    """A chain over three deployments that serve different models."""
    further = deployments or {}
    return {
        "deployments": {name: {"model": f"openai/{name}", **further.get(name, {})} for name in NAMES},
        "chains": {"main": {"tiers": list(tiers), **chain}},
    }


def outcome_of(*troubles: Trouble, spec: Any = None, **settings: Any) -> Outcome:
    return asyncio.run(simulate(spec or spec_of(), troubles=troubles, **settings))


class TestPromises:
    TROUBLES = st.lists(
        st.builds(
            Trouble,
            st.sampled_from(NAMES),
            st.none() | st.sampled_from(FAILURES),
            st.sampled_from([0.1, 0.5, 1.0]),
            st.none() | st.sampled_from([0.0, 2.0, 30.0]),
            st.sampled_from([0.0, 1.0]),
            st.sampled_from([3.0, math.inf]),
        ),
        max_size=5,
    )
    CHAINS = st.fixed_dictionaries(
        {
            "tiers": st.sampled_from([["a", "b", "c"], [["a", "b"], "c"], [["a", "b", "c"]]]),
            "timeouts": st.fixed_dictionaries(
                {"total_s": st.sampled_from([0.5, 5.0, 60.0]), "attempt_s": st.sampled_from([1.0, 10.0])},
                optional={"first_token_s": st.sampled_from([0.4, 3.0]), "idle_s": st.just(2.0)},
            ),
            "retries": st.fixed_dictionaries({"max": st.integers(0, 3)}),
        },
        optional={
            "hedge": st.just({"after_s": 0.6}),
            "on_stream_break": st.sampled_from(["raise", "continue", "hold"]),
            "on_context_window": st.just(["c"]),
        },
    )

    @settings(max_examples=examples(60), deadline=None)
    @given(TROUBLES, CHAINS, st.booleans(), st.integers(0, 9))
    def test_whatever_goes_wrong_no_call_takes_more_than_explain_says(self, troubles, chain, streamed, seed):
        """Neither requests nor seconds; and every call, request and failure is counted once."""
        out = outcome_of(*troubles, spec=spec_of(**chain), calls=30, per_second=5, streamed=streamed, seed=seed)
        assert out.most_requests <= out.max_requests
        assert out.longest_s <= out.max_seconds + 1e-6
        parts = out.deployments.values()
        assert sum(part.asked for part in parts) == out.total.attempts
        assert sum(part.answered for part in parts) == out.total.answered
        assert out.total.answered + sum(out.total.unanswered.values()) == out.total.calls == 30
        assert sum(sum(part.failures.values()) for part in parts) == sum(out.total.failures.values())

    @settings(max_examples=examples(40), deadline=None)
    @given(
        st.lists(
            st.builds(
                Trouble,
                st.sampled_from(NAMES[:2]),
                st.sampled_from(
                    [word for word in FAILURES if word not in (*ROUTE_CHOOSING, "stream_broken", "idle_timeout")]
                ),
                st.sampled_from([0.3, 1.0]),
            ),
            max_size=4,
        ),
        st.integers(0, 9),
    )
    def test_while_one_deployment_is_well_every_call_is_answered(self, troubles, seed):
        """In whatever way the others fail before their first content."""
        spec = spec_of(timeouts={"total_s": 60, "attempt_s": 9, "first_token_s": 9})
        out = outcome_of(*troubles, spec=spec, calls=40, seed=seed)
        assert (out.unanswered, out.deployments["c"].failures) == (0, {})

    def test_without_trouble_the_first_answers_all(self):
        """Nobody falls back, nothing fails, and every call is one request."""
        out = outcome_of(calls=200)
        assert (out.total.answered, out.total.fallbacks, out.total.attempts) == (200, 0, 200)
        assert out.deployments["a"].answered == 200
        assert 0.4 < out.total.time_to_first_token_s.p50 < 0.6
        assert 1.8 < out.total.latency_s.p50 < 2.3


class TestChance:
    STORM = (
        Trouble("a", "overloaded", 0.4),
        Trouble("b", first_token_s=3.0),
        Trouble("c", "stream_broken", 0.1, begins_s=4.0, ends_s=20.0),
    )

    @pytest.mark.parametrize("streamed", [True, False])
    def test_the_same_seed_gives_the_same_result(self, streamed):
        """To the last digit; another gives another."""
        one, two, other = (
            outcome_of(*self.STORM, calls=150, seed=seed, streamed=streamed).as_dict() for seed in (7, 7, 8)
        )
        assert one == two
        assert one | {"seed": 8} != other

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_result_in_every_process(self):
        """Nothing hangs on the order of a set or on the process's own luck: repeats wait at random, too."""
        program = (
            "import asyncio, json; from llm_fallback.simulate import Trouble, simulate\n"
            f"spec = {spec_of(retries={'max': 3})!r}\n"
            "down = [Trouble(name, 'server_error', 0.7) for name in 'abc']\n"
            "print(json.dumps(asyncio.run(simulate(spec, troubles=down, calls=60)).as_dict()))"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
            for hash_seed in ("1", "2")
        }
        assert len(outputs) == 1
        assert json.loads(outputs.pop())["requests"] > 60

    def test_ones_trouble_is_not_anothers(self):
        """Each deployment has a run of luck of its own."""
        steady = {"deployments": {name: {"breaker": "off"} for name in NAMES}, "retries": {"max": 0}}
        flaky = Trouble("b", "server_error", 0.2)
        alone = outcome_of(flaky, spec=spec_of(tiers=["b"], **steady), calls=100)
        behind = outcome_of(flaky, Trouble("a", "connection"), spec=spec_of(tiers=["a", "b"], **steady), calls=100)
        assert alone.deployments["b"] == behind.deployments["b"]
        assert 5 < alone.deployments["b"].failures["server_error"] < 40

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_a_share_is_met_by_that_share_of_requests(self, share):
        """Within what chance allows of a thousand."""
        spec = spec_of(deployments={"a": {"breaker": "off"}})
        out = outcome_of(Trouble("a", "server_error", share), spec=spec)
        assert out.deployments["a"].asked == 1000
        assert abs(out.deployments["a"].failures["server_error"] / 1000 - share) < 0.05

    def test_repeats_wait_as_long_as_in_production(self):
        """Exponential with full jitter, from randomness that a seed repeats."""
        plan = resolve_spec(load_spec(spec_of(retries={"wait_initial_s": 0.5, "wait_max_s": 3})), {}).chains["main"]
        for repeat in range(1, 6):
            rng = Random(1)
            waits = [backoff_s(plan.retries, rng, repeat) for _ in range(400)]
            end = min(3.0, 0.5 * 2 ** (repeat - 1))
            assert all(0 <= seconds <= end for seconds in waits)
            assert max(waits) > 0.9 * end
            assert waits[0] == backoff_s(plan.retries, Random(1), repeat)


class TestTroubles:
    @pytest.mark.parametrize("streamed", [True, False])
    @pytest.mark.parametrize("failure", FAILURES)
    def test_each_failure_happens_as_it_is_called(self, failure, streamed):
        """Of those of a stream, a plain call meets what they come to without one."""
        plain = {"stream_broken": "connection", "idle_timeout": "timeout", "first_token_timeout": "timeout"}
        expected = failure if streamed else plain.get(failure, failure)
        if streamed and failure == "timeout":
            expected = "first_token_timeout"
        spec = spec_of(timeouts={"total_s": 60, "attempt_s": 9, "first_token_s": 5, "idle_s": 5})
        out = outcome_of(Trouble("a", failure), spec=spec, calls=1, streamed=streamed)
        assert dict(out.deployments["a"].failures) == {expected: 1}

    def test_all_failures_but_the_callers_own_can_be_had(self):
        """A word that the engine learns is one to simulate."""
        assert {*FAILURES, "cancelled"} == set(get_args(Failure))

    def test_a_breaker_keeps_most_calls_from_a_dead_deployment(self):
        """Some failures open it, then there is a probe now and then."""
        out = outcome_of(Trouble("a", "connection"))
        share = out.deployments["a"]
        assert (share.answered, out.unanswered) == (0, 0)
        assert share.asked < 10
        assert share.breaker_openings >= 2
        assert share.passed_over == 1000 - share.asked

    def test_a_deployment_that_comes_back_answers_again(self):
        """After the cooldown that was running, and no sooner than it is back."""
        passing = outcome_of(Trouble("a", "connection", ends_s=20.0))
        staying = outcome_of(Trouble("a", "connection"))
        assert passing.deployments["a"].answered > 500
        assert staying.deployments["a"].answered == 0

    def test_a_slow_deployment_answers_late_and_a_hedge_helps(self):
        """The slow tail is what hedging is for."""
        slow = Trouble("a", first_token_s=6.0, share=0.05)
        plain, hedged = (outcome_of(slow, spec=spec_of(**settings)) for settings in ({}, {"hedge": {"after_s": 1.5}}))
        assert plain.total.time_to_first_token_s.p99 > 4
        assert hedged.total.time_to_first_token_s.p99 < 3
        assert plain.unanswered == hedged.unanswered == 0

    def test_a_limit_sends_calls_to_the_next(self):
        """What is over 60 requests a minute is passed on."""
        out = outcome_of(spec=spec_of(deployments={"a": {"limits": {"rpm": 60}}}), calls=600, per_second=10)
        assert out.deployments["a"].asked == out.deployments["a"].answered <= 120
        assert out.deployments["a"].passed_over == 600 - out.deployments["a"].asked
        assert out.unanswered == 0

    def test_conversations_that_stay_with_one_deployment_are_shared_out_among_all(self):
        """As of many users."""
        out = outcome_of(spec=spec_of(tiers=[list(NAMES)], affinity="thread"), calls=600)
        assert out.unanswered == 0
        assert all(out.deployments[name].answered > 60 for name in NAMES)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"troubles": [Trouble("aa")]}, "no deployment called 'aa'; did you mean 'a'"),
            ({"troubles": [Trouble("zebra")]}, "no deployment called 'zebra'; known are 'a', 'b', 'c'"),
            ({"troubles": [Trouble("a", "conection")]}, "cannot fail by 'conection'; did you mean 'connection'"),
            ({"troubles": [Trouble("a", "cancelled")]}, "cannot fail by 'cancelled'"),
            ({"troubles": [Trouble("a", "auth", 1.5)]}, "a share is from 0 to 1, got 1.5"),
            ({"troubles": [Trouble("a", first_token_s=math.inf)]}, "a number from 0 on, got inf"),
            ({"troubles": [Trouble("a", times=0)]}, "more than 0 times as long as usual, got 0"),
            ({"troubles": [Trouble("a", begins_s=5, ends_s=5)]}, "ends after it begins, got 5 to 5 s"),
            ({"calls": 0}, "there is at least one call, got 0"),
            ({"per_second": 0}, "a rate above 0, got 0"),
            ({"chain": "mian"}, "no chain is called 'mian'; did you mean 'main'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, wrong, message):
        """With the value, and the nearest word there is."""
        with pytest.raises(ValueError, match=message):
            asyncio.run(simulate(spec_of(), **wrong))

    def test_all_that_is_wrong_is_told_at_once(self):
        """As for a spec."""
        with pytest.raises(ValueError, match=r"'x'.*'y'.*at least one call"):
            asyncio.run(simulate(spec_of(), troubles=[Trouble("x"), Trouble("y")], calls=0))


class TestNothingHappens:
    def test_no_code_of_the_users_is_run_and_no_variable_is_read(self):
        """Keys that are functions, predicates to import: whoever simulates need have neither."""

        def key():
            raise AssertionError("asked for a key")

        spec = spec_of(
            deployments={
                "a": {"api_key": key},
                "b": {"api_key": "${SURELY_NOT_SET}"},
                "c": {"api_key": SecretStr("k")},
            },
            accept="nowhere.at_all:good",
        )
        assert outcome_of(Trouble("a", "rejected"), Trouble("b", "auth"), spec=spec, calls=20).total.answered == 20

    def test_nothing_is_logged(self, caplog):
        """A breaker that opened in a simulation is nobody's alarm."""
        caplog.set_level("DEBUG", "llm_fallback")
        outcome_of(Trouble("a", "auth"), calls=20)
        assert caplog.records == []

    async def test_it_runs_inside_a_loop_and_leaves_no_task(self):
        """In notebooks and async tests; several side by side do not share a clock."""
        before = asyncio.all_tasks()
        outs = await asyncio.gather(*(simulate(spec_of(), calls=20, seed=3) for _ in range(3)))
        assert asyncio.all_tasks() == before
        assert len({out.seconds for out in outs}) == 1

    def test_budgets_play_no_part(self):
        """Nobody knows how long replies will be."""
        free = {name: {"price": {"input_per_million": 5, "output_per_million": 5}} for name in NAMES}
        assert outcome_of(spec=spec_of(deployments=free, budget={"usd_per_call": 0}), calls=5).unanswered == 0

    def test_a_wrong_spec_is_a_spec_error(self):
        """Like everywhere."""
        with pytest.raises(SpecError, match="tiers"):
            outcome_of(spec=spec_of(tiers=["d"]))

    def test_the_outcome_is_plain_data(self):
        """JSON takes it; what nobody measured is null."""
        out = outcome_of(*(Trouble(name, "connection") for name in NAMES), calls=5)
        plain = json.loads(json.dumps(out.as_dict()))
        assert (plain["answered"], plain["unanswered_share"], plain["latency_s"]["p50"]) == (0, 1.0, None)
