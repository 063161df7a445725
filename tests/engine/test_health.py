"""What a model remembers of its deployments: limits, places, speeds, and who waits for them."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.engine.circuit_breaker import CircuitBreaker
from llm_fallback.engine.health import DeploymentHealth, Health
from llm_fallback.spec import Breaker, Limits
from tests.thinning import examples


def health(*, policy: Breaker | None = None, **limits: Any) -> DeploymentHealth:
    return DeploymentHealth(CircuitBreaker(policy), Limits(**limits) if limits else None)


def test_without_limits_nothing_is_counted_against_anybody():
    """A thousand requests at once are nobody's business then."""
    own = health()
    for _ in range(1000):
        own.begin(0.0, 10**6)
    assert own.unavailable(0.0, 10**9) is None


def test_requests_a_minute_are_passed_over_until_the_oldest_is_a_minute_old():
    """The third of `rpm: 2` may go when the first leaves the minute, not earlier."""
    own = health(rpm=2)
    own.begin(0.0), own.begin(10.0)
    assert (own.unavailable(20.0).reason, own.unavailable(20.0).until) == ("limit", 60.0)
    assert own.unavailable(59.9) is not None
    assert own.unavailable(60.0) is None
    own.begin(60.0)
    assert own.unavailable(61.0).until == 70.0


def test_tokens_a_minute_are_passed_over_until_enough_of_them_are_forgotten():
    """Whoever needs more waits longer."""
    own = health(tpm=1000)
    own.begin(0.0, 400), own.begin(10.0, 400)
    assert own.unavailable(20.0, 200) is None
    assert own.unavailable(20.0, 600).until == 60.0
    assert own.unavailable(20.0, 601).until == 70.0


def test_both_limits_hold_together():
    """The later of the two decides."""
    own = health(rpm=1, tpm=1000)
    own.begin(0.0, 10)
    assert own.unavailable(1.0, 10).until == 60.0
    both = health(rpm=2, tpm=100)
    both.begin(0.0, 10), both.begin(5.0, 90)
    assert both.unavailable(6.0, 100).until == 65.0


def test_a_request_larger_than_the_whole_limit_goes_when_nothing_else_counts():
    """Else it could never be sent; the provider has the last word."""
    own = health(tpm=100)
    assert own.unavailable(0.0, 5000) is None
    own.begin(0.0, 5000)
    assert own.unavailable(1.0, 1).until == 60.0
    assert own.unavailable(60.0, 5000) is None


def test_tokens_are_settled_to_what_was_really_used():
    """Beyond the estimate or below it."""
    own = health(tpm=1000)
    first = own.begin(0.0, 100)
    own.correct_tokens(first, 800, 0.5)
    assert own.unavailable(1.0, 200) is not None
    second = own.begin(60.4, 100)
    own.correct_tokens(second, -60, 60.4)
    assert own.unavailable(60.4, 160) is None
    assert own.unavailable(60.4, 161) is not None


def test_what_a_long_request_used_counts_when_it_is_known():
    """A stream of 70 seconds uses its tokens in a minute of which its beginning is no part."""
    own = health(tpm=1000)
    own.correct_tokens(own.begin(0.0, 10), 990, 70.0)
    assert own.unavailable(70.0, 11) is not None
    assert own.unavailable(130.1, 1000) is None


def test_tokens_given_back_late_make_no_room_beyond_the_limit():
    """What is given back is the request's own; once that is forgotten there is nothing to give back."""
    own = health(tpm=1000)
    early = own.begin(0.0, 400)
    own.begin(61.0, 900)
    own.correct_tokens(early, -300, 62.0)
    assert own.unavailable(62.0, 100) is None
    assert own.unavailable(62.0, 101) is not None


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 400), st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=30
    )
)
@settings(deadline=None, max_examples=examples(100))
def test_no_more_tokens_a_minute_are_let_through_than_the_limit(requests):
    """Whichever of the requests of this minute turns out smaller than estimated, and in whichever order."""
    own, now, passed = health(tpm=500), 0, []
    for pause, tokens, ending, share in requests:
        now += pause
        if own.unavailable(now, tokens) is None:
            passed.append([now, tokens, own.begin(now, tokens)])
        own.unavailable(now)
        recent = [entry for entry in passed if entry[0] > now - 60]
        assert sum(spent for _, spent, _ in recent) <= 500
        if ending < len(recent):
            unused = int(recent[ending][1] * share)
            recent[ending][1] -= unused
            own.correct_tokens(recent[ending][2], -unused, now)


def test_parallel_requests_are_passed_over_until_one_ends():
    """Nobody knows when that is: the time is infinite, a release wakes whoever waits."""
    own = health(max_parallel=2)
    first, second, third = (own.begin(0.0) for _ in range(3))
    assert (own.unavailable(0.0).reason, own.unavailable(0.0).until) == ("limit", math.inf)
    own.succeeded(first, 1.0)
    assert own.unavailable(1.0) is not None
    own.failed(second, 1.0, "server_error", None)
    assert own.unavailable(1.0) is None
    own.begin(1.0)
    own.cancelled(third)
    assert own.unavailable(1.0) is None


def test_a_limit_that_is_found_shrinks_at_a_429_and_opens_no_breaker():
    """Fewer at once is all that a 429 asks for which names no time; one that names a time is heeded like any other."""
    own = health(policy=Breaker(), max_parallel="auto")
    permits = [own.begin(0.0) for _ in range(16)]
    assert own.unavailable(0.0).reason == "limit"
    assert not own.failed(permits.pop(), 0.1, "rate_limited", None)
    assert own.breaker.state(0.1) == "closed"
    assert (own.in_flight, own.max_parallel, own.snapshot(0.1)["max_parallel"]) == (15, 8, 8)
    for permit in permits[:8]:
        own.cancelled(permit)
    assert own.unavailable(0.1) is None
    assert own.failed(own.begin(0.2), 0.3, "rate_limited", 5.0)
    assert (own.breaker.state(0.3), own.max_parallel) == ("open", 4)


def test_a_probe_that_is_throttled_leaves_the_next_one_free():
    """Else the deployment would stay half open for ever."""
    own = health(policy=Breaker(), max_parallel="auto")
    own.failed(own.begin(0.0), 0.0, "auth", None)
    own.failed(own.begin(300.0), 300.1, "rate_limited", None)
    assert (own.unavailable(300.2).reason, own.unavailable(300.2).until) == ("limit", 300.6)
    assert own.unavailable(300.6) is None


def test_a_single_request_that_is_throttled_is_repeated_after_pauses_that_double():
    """One at a time is as few as there are; then it is less often."""
    own, now, pauses = health(max_parallel="auto"), 0.0, []
    for _ in range(12):
        own.failed(own.begin(now), now, "rate_limited", None)
        blocked = own.unavailable(now)
        if blocked is not None:
            pauses.append(blocked.until - now)
            now = blocked.until
    assert pauses == [0.5, 1.0, 2.0, *[4.0] * 9]


def test_an_open_breaker_is_the_block_whatever_the_limits_say():
    """Its reason, its time, and the failure the call would end by."""
    own = health(policy=Breaker(), rpm=1)
    own.failed(own.begin(0.0), 0.0, "auth", None)
    unavailable = own.unavailable(1.0)
    assert (unavailable.reason, unavailable.until, unavailable.return_known, unavailable.failure) == (
        "breaker_open",
        300.0,
        False,
        "auth",
    )


def test_a_time_the_server_named_is_named_until_it_has_come():
    """While the probe after it is out, nobody has named a time: else those who waited for it would give up."""
    own = health(policy=Breaker())
    own.failed(own.begin(0.0), 0.0, "rate_limited", 5.0)
    assert own.unavailable(4.0).return_known
    own.begin(5.0)
    assert own.unavailable(5.1).reason == "breaker_open"
    assert not own.unavailable(5.1).return_known


@pytest.mark.parametrize("failure", ["rejected", "context_window", "content_policy", "bad_request"])
def test_a_failure_of_the_request_counts_as_an_answer_of_the_deployment(failure):
    """It neither opens a breaker nor leaves one open."""
    own = health(policy=Breaker(failures=1, failure_ratio=0.1))
    for _ in range(10):
        assert not own.failed(own.begin(0.0), 0.0, failure, None)
    own.failed(own.begin(0.0), 0.0, "timeout", None)
    assert not own.failed(own.begin(30.0), 31.0, failure, None)
    assert own.breaker.state(31.0) == "closed"


def test_quantiles_are_of_the_last_first_token_times():
    """None before there are any; with one, it is that one; old ones make room."""
    own = health()
    assert own.first_token_s(0.95) is None
    own.succeeded(own.begin(0.0), 0.0, 0.5)
    assert [own.first_token_s(q) for q in (0.0, 0.5, 0.95, 1.0)] == [0.5] * 4
    for number in range(1, 1001):
        own.succeeded(own.begin(0.0), 0.0, float(number))
    assert [own.first_token_s(q) for q in (0.0, 0.5, 0.95, 1.0)] == [745.0, 872.0, 988.0, 1000.0]


def test_a_plain_reply_has_no_first_token_and_leaves_the_quantiles_alone():
    """None is not a time."""
    own = health()
    own.succeeded(own.begin(0.0), 3.0, None)
    assert own.first_token_s(0.95) is None


def test_a_snapshot_is_the_plain_data_of_the_contract():
    """Per deployment: breaker, retry_in_s, failures, in_flight, first_token_p95_s."""
    both = Health(
        {
            "a": DeploymentHealth(CircuitBreaker(Breaker()), None),
            "b": DeploymentHealth(CircuitBreaker(None), Limits(max_parallel=1)),
        }
    )
    permit = both["a"].begin(0.0)
    both["a"].failed(both["a"].begin(0.0), 0.0, "timeout", None)
    both["b"].succeeded(both["b"].begin(0.0), 0.4, 0.25)
    plain = {"breaker": "closed", "retry_in_s": None, "failures": 0, "in_flight": 0, "first_token_p95_s": None}

    def state(name, now):
        return {key: both.snapshot(now)[name][key] for key in plain}

    assert state("a", 1.0) == plain | {"failures": 1, "in_flight": 1}
    assert state("b", 1.0) == plain | {"first_token_p95_s": 0.25}
    both["a"].failed(permit, 1.0, "not_found", None)
    assert state("a", 1.5) == plain | {"breaker": "open", "retry_in_s": 299.5, "failures": 1}
    assert state("a", 301.0) == plain | {"breaker": "half_open", "failures": 0}
    assert list(both.snapshot(1.0)) == list(both) == ["a", "b"]


def test_a_release_wakes_each_waiter_once():
    """Who has been woken asks again, and waits again if need be."""
    own, woken = Health({}), []
    own.add_waiter(lambda: woken.append("first"))
    own.add_waiter(lambda: woken.append("second"))
    own.notify_waiters()
    own.notify_waiters()
    assert woken == ["first", "second"]


def test_a_waiter_may_wait_again_from_within_its_waking():
    """Nothing is called under the lock."""
    own, woken = Health({}), []

    def wake():
        woken.append(len(woken))
        if len(woken) < 3:
            own.add_waiter(wake)

    own.add_waiter(wake)
    for _ in range(5):
        own.notify_waiters()
    assert woken == [0, 1, 2]


def test_waiters_of_many_threads_are_all_woken():
    """None is lost between two threads that add and a third that releases."""
    own, woken, waiters = Health({}), [], 16

    def wait():
        for _ in range(50):
            own.add_waiter(lambda: woken.append(1))
            own.notify_waiters()

    threads = [threading.Thread(target=wait) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own.notify_waiters()
    assert len(woken) == waiters * 50


def test_health_that_is_inherited_is_one_with_the_old():
    """After a reload a call of the old engine that ends frees a place, and wakes whoever waits for it in the new."""
    old = Health(
        {
            "a": DeploymentHealth(CircuitBreaker(None), Limits(max_parallel=1)),
            "gone": DeploymentHealth(CircuitBreaker(None), None),
        }
    )
    permit = old["a"].begin(0.0)
    new = Health(
        {
            "a": DeploymentHealth(CircuitBreaker(None), Limits(max_parallel=1)),
            "b": DeploymentHealth(CircuitBreaker(None), None),
        }
    )
    new.inherit(old, ["a"])
    assert new["a"].unavailable(0.0) is not None
    woken = []
    new.add_waiter(lambda: woken.append("new"))
    old.add_waiter(lambda: woken.append("old"))
    with old.lock:
        old["a"].succeeded(permit, 1.0)
        assert not new.lock.acquire(blocking=False)
    old.notify_waiters()
    assert woken == ["new", "old"]
    assert new["a"].unavailable(1.0) is None
    assert list(new) == ["a", "b"]
