"""What a model remembers of its deployments: limits, places, speeds, and who waits for them."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.engine.circuit_breaker import CircuitBreaker
from llm_fallback.engine.concurrency import ConcurrencyLimit
from llm_fallback.engine.health import DeploymentHealth, Health, Unavailable
from llm_fallback.spec import Breaker, ColdStart, Limits
from tests.engine.test_load import health_of_tier, tier_of
from tests.forks import in_child
from tests.plans import target
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
    own.begin(0.0, 400), own.begin(10.0, 400), own.begin(10.0)
    assert own.unavailable(20.0, 200) is None
    assert own.unavailable(20.0, 600).until == 60.0
    assert own.unavailable(20.0, 601).until == 70.0
    own.begin(20.0, 200)
    assert own.unavailable(20.0) is None, "what needs none goes all the same"


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


class Listening(ConcurrencyLimit):
    """Keeps what it is told of answers: when, since when, among how many, and how much work."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[float, ...]] = []

    def answered(self, now, sent_at, in_flight, work=None):
        self.heard.append((now, sent_at, in_flight, work))


def test_a_limit_is_found_by_what_each_answer_was_and_among_how_many():
    """The answer that came is one of those under way; one without a word is some work too."""
    own = health(max_parallel="auto")
    own.concurrency = Listening()
    first, second = own.begin(1.0), own.begin(2.0)
    assert own.succeeded(first, 5.0, reply_s=4.0, output_tokens=0) is False
    own.succeeded(second, 6.0, 0.5, output_tokens=7)
    assert own.concurrency.heard == [(5.0, 1.0, 2, 1), (6.0, 2.0, 1, 7)]


def test_a_plain_reply_of_which_nobody_knows_the_length_is_one_token():
    """Until there have been others."""
    own = health()
    own.succeeded(own.begin(0.0), 4.0, reply_s=4.0)
    assert own.snapshot(4.0)["output_token_s"] == 4.0


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
    assert own.unavailable(1.0) == Unavailable(
        "breaker_open", 300.0, failure="auth", is_limited=True, last_request=(0.0, 1)
    )
    assert own.unavailable(61.0) == Unavailable("breaker_open", 300.0, failure="auth", last_request=(0.0, 1))


class Leases:
    """What other processes leave of one deployment, and what they are told of it."""

    def __init__(self) -> None:
        self.probes_at: float | None = None
        self.free_from: float | None = None
        self.told: list[Any] = []

    def probe_blocked_until(self, now):
        return None if self.probes_at is None or self.probes_at <= now else self.probes_at

    def free_at(self, now, tokens):
        return None if self.free_from is None else self.free_from + now + tokens

    def began(self, permit, tokens):
        self.told.append(("began", permit.kind, tokens))

    def withdrawn(self, tokens):
        self.told.append(("withdrawn", tokens))

    def succeeded(self, permit):
        self.told.append(("succeeded", permit.kind))

    def failed(self, permit):
        self.told.append(("failed", permit.kind))


def test_what_other_processes_leave_of_a_limit_takes_the_place_of_what_went_from_here():
    """A time is theirs to say, and one that is free may be asked whatever went from here."""
    own = health(rpm=1)
    own.shared = Leases()
    own.begin(0.0, 5)
    assert own.unavailable(1.0, 10) is None
    own.shared.free_from = 100.0
    assert own.unavailable(1.0, 10) == Unavailable("limit", 111.0)


def test_the_probe_of_an_open_deployment_is_one_of_all_processes():
    """Whoever has no leave for it waits; of a closed one nobody asks for a leave."""
    own = health(policy=Breaker(), rpm=1)
    own.shared = Leases()
    own.shared.probes_at = 301.5
    assert own.unavailable(0.0) is None
    own.failed(own.begin(0.0), 0.0, "auth", None)
    blocked = Unavailable("breaker_open", 301.5, failure="auth", last_request=(0.0, 1))
    assert own.unavailable(300.0) == blocked
    own.shared.free_from = 9.0
    assert own.unavailable(300.0) == replace(blocked, is_limited=True)
    own.shared.probes_at = own.shared.free_from = None
    assert own.unavailable(300.0) is None


def test_other_processes_are_told_of_every_request():
    """Its tokens as it begins, and what came of it; one that was not sent is taken back where there is a limit."""
    own = health(policy=Breaker(), rpm=9)
    own.shared = Leases()
    own.failed(own.begin(0.0, 1), 0.0, "auth", None)
    own.succeeded(own.begin(300.0, 2), 300.0)
    own.failed(own.begin(301.0, 3), 301.0, "rejected", None)
    own.failed(own.begin(301.0, 4), 301.0, "rate_limited", 0.0)
    own.withdraw(own.begin(301.0, 5), 5)
    assert own.shared.told == [
        *(("began", "closed", 1), ("failed", "closed"), ("began", "probe", 2), ("succeeded", "probe")),
        *(("began", "closed", 3), ("succeeded", "closed"), ("began", "closed", 4), ("failed", "closed")),
        *(("began", "probe", 5), ("withdrawn", 5)),
    ]
    free = health()
    free.shared = Leases()
    free.withdraw(free.begin(0.0, 5), 5)
    assert free.shared.told == [("began", "closed", 5)]


def test_a_request_that_was_not_sent_counts_against_no_limit():
    """Neither against requests nor against tokens, nor as one under way."""
    own = health(rpm=1, tpm=10, max_parallel=1)
    own.withdraw(own.begin(0.0, 10), 10)
    assert own.unavailable(1.0, 10) is None


def test_a_request_that_waited_for_its_key_counts_from_when_it_is_sent():
    """Also where its tokens are settled, and where it is not sent after all."""
    own = health(rpm=1, tpm=100)
    permit = own.restart(own.begin(0.0, 40), 40, 5.0)
    assert permit.at == 5.0
    own.correct_tokens(permit, -30, 6.0)
    assert [use for use in own.rate.token_uses(6.0) if use[0]] == [(10, 1.0)]
    assert (own.unavailable(64.0, 1).until, own.unavailable(65.0, 1)) == (65.0, None)
    own.withdraw(own.restart(own.begin(70.0, 40), 40, 71.0), 40)
    assert own.unavailable(71.0, 100) is None
    free = health()
    assert free.restart(free.begin(0.0), 0, 5.0).at == 5.0
    assert free.rate.uses(5.0) == []


def test_one_that_is_only_suspected_says_nothing_of_why():
    """While its trial is out, it is as one whose server failed."""
    own = health(policy=Breaker())
    own.breaker.suspect()
    own.begin(1.0)
    assert own.unavailable(2.0) == Unavailable("breaker_open", 32.0, failure="server_error", last_request=(1.0, 1))


def test_one_that_may_be_asleep_warms_up_where_another_has_failed():
    """It is left for a moment and known to come back; the other has failed once, which opens nothing."""
    known = Health.of_targets([target("sleepy", cold_start=ColdStart(max_wait_s=60)), target("other")])
    for name in known:
        known[name].failed(known[name].begin(0.0), 0.0, "connection", None)
    assert known["sleepy"].unavailable(0.0) == Unavailable(
        "breaker_open", 0.5, return_known=True, failure="connection", warming_up=True, last_request=(0.0, 1)
    )
    assert known["other"].unavailable(0.0) is None


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


@pytest.mark.parametrize("kind", ["first_token_s", "reply_s"])
def test_quantiles_are_of_the_last_times_of_their_kind(kind):
    """None before there are any, or as many as are asked for; with one, it is that one; old ones make room."""
    own = health()
    quantile = getattr(own, kind)
    assert quantile(0.95) is None
    own.succeeded(own.begin(0.0), 0.0, **{kind: 0.5})
    assert [quantile(q) for q in (0.0, 0.5, 0.95, 1.0)] == [0.5] * 4
    assert (quantile(0.5, at_least=2), quantile(0.5, at_least=1)) == (None, 0.5)
    for number in range(1, 1001):
        own.succeeded(own.begin(0.0), 0.0, **{kind: float(number)})
    assert [quantile(q) for q in (0.0, 0.5, 0.95, 1.0)] == [745.0, 872.0, 988.0, 1000.0]


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
    assert state("a", 1.23456) == plain | {"breaker": "open", "retry_in_s": 299.765, "failures": 1}
    assert state("a", 301.0) == plain | {"breaker": "half_open", "failures": 0}
    assert list(both.snapshot(1.0)) == list(both) == ["a", "b"]


def test_a_snapshot_has_everything_that_is_known_of_a_deployment():
    """Of streams, of plain replies, of slow ones, and of hedges."""
    tier = tier_of(1, 1, policy=Breaker(slow_times=4))
    both, _ = health_of_tier(tier)
    own, load = both["m0"], both.tier_load(tier)
    for seconds in (0.5, 0.5, 0.5, 5.0):
        for name in ("m0", "m1"):
            took = seconds if name == "m0" else 0.1
            both[name].succeeded(both[name].begin(0.0), 0.0, took, tier=load)
    own.succeeded(own.begin(0.0), 0.0, reply_s=4.0, output_tokens=8)
    own.hedges_sent, own.hedges_won, own.stitched = 3, 2, 1
    assert own.snapshot(1.0) == {
        "breaker": "closed",
        "retry_in_s": None,
        "failures": 1,
        "in_flight": 0,
        "max_parallel": None,
        "first_token_p50_s": 0.5,
        "first_token_p95_s": 5.0,
        "first_token_s": pytest.approx(1.85),
        "output_token_s": 0.5,
        "slow_share": 0.25,
        "hedges_sent": 3,
        "hedges_won": 2,
        "stitched": 1,
    }


def test_the_length_and_the_time_of_replies_are_remembered_as_means():
    """None before the first."""
    own = health()
    assert (own.mean_output_tokens, own.mean_seconds) == (None, None)
    own.record_usage(10, 2.0), own.record_usage(30, 5.0)
    assert (own.mean_output_tokens, own.mean_seconds) == (20.0, 3.5)
    for _ in range(256):
        own.record_usage(5, 1.0)
    assert (own.mean_output_tokens, own.mean_seconds) == (5.0, 1.0)


@pytest.mark.parametrize(("calls", "hedges", "repeats"), [(0, 3, 10), (1000, 100, 200)])
def test_hedges_are_a_tenth_of_the_calls_and_count_as_repeats_too(calls, hedges, repeats):
    """Repeats and hedges together are a fifth. One that was not sent after all is taken back."""
    known = of_names("a")
    for _ in range(calls):
        known.count_call(0.0)
    for _ in range(hedges):
        assert known.hedge_budget.allows(1.0)
        known.count_hedge(known["a"], 1.0)
    assert not known.hedge_budget.allows(1.0)
    known.take_back_hedge(known["a"], 1.0)
    assert known.hedge_budget.allows(1.0)
    assert known["a"].hedges_sent == hedges - 1
    left = 0
    while known.retry_budget.allows(1.0):
        known.retry_budget.spend(1.0)
        left += 1
    assert left == repeats - (hedges - 1)


def of_names(*names: str) -> Health:
    return Health({name: DeploymentHealth(CircuitBreaker(Breaker()), None) for name in names})


def test_an_operator_opens_and_closes_a_deployment_and_who_waits_looks_again():
    """It comes back at the time that was said; nobody has asked it yet."""
    known, woken = of_names("a", "b"), []
    known.open_breaker("a", 10.0, 50.0)
    assert known["a"].unavailable(11.0) == Unavailable(
        "breaker_open", 60.0, return_known=True, failure="overloaded", last_request=(-math.inf, 0)
    )
    known.add_waiter(lambda: woken.append(1))
    known.reset_breaker("a")
    assert (woken, known["a"].unavailable(11.0), known["b"].unavailable(11.0)) == ([1], None, None)


def test_what_opened_by_the_word_of_others_is_told_once():
    """With its reason and the seconds that are left; not what closed, was opened from here, or is gone since."""
    known = of_names(*"abcd")
    for name in "abc":
        known[name].breaker.adopt("timeout", 40.0, 20.0)
    known["b"].breaker.disown()
    known["c"].failed(known["c"].begin(40.0), 40.0, "auth", None)
    known.adopted |= {*"abcd", "gone"}
    assert known.take_adopted([*"abc", "gone"], 10.0) == [("a", "timeout", 30.0)]
    assert known.take_adopted([*"abc", "gone"], 10.0) == []
    known["d"].breaker.adopt("overloaded", 40.0, 20.0)
    assert known.take_adopted("abcd", 50.0) == [("d", "overloaded", 0.0)]


def test_whoever_waits_is_woken_when_limits_are_looked_for_no_longer():
    """There is room again; one that is gone since takes no part."""
    known, woken = of_names("a"), []
    with known.finding_limits(["a", "gone"]):
        known.add_waiter(lambda: woken.append(1))
        assert known["a"].max_parallel < math.inf
    assert (woken, known["a"].max_parallel) == ([1], math.inf)


def test_a_waiter_that_is_forgotten_is_not_woken():
    """However often it is forgotten, and whether it was woken or not."""
    known, woken = of_names(), []

    def wake():
        woken.append(1)

    known.add_waiter(wake)
    for _ in range(2):
        known.remove_waiter(wake)
    known.notify_waiters()
    assert woken == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_knows_what_its_parent_knew_and_has_nothing_under_way():
    """No place is taken, nobody waits, and there is nothing of others to tell."""
    tier, woken = tier_of(1, 1, policy=Breaker()), []
    known, load = health_of_tier(tier)
    answered = known["m0"].begin(0.0)
    known["m0"].succeeded(answered, 0.0, 0.5)
    known["m1"].failed(known["m1"].begin(0.0), 0.0, "auth", None)
    known["m0"].begin(0.0), known["m1"].begin(300.0)
    known.adopted.add("m1")
    known.add_waiter(lambda: woken.append(1))

    def begins_anew():
        known.notify_waiters()
        known.add_waiter(lambda: woken.append(2))
        known.notify_waiters()
        own = known.tier_load(tier)
        known["m0"].begin(0.0)
        return (
            (woken, known.adopted, own.in_flight("m0"), own.in_flight("m1")) == ([2], set(), 1, 0)
            and known["m0"].first_token_s(0.5) == 0.5
            and known["m1"].unavailable(299.0).failure == "auth"
            and known["m1"].unavailable(300.0) is None
        )

    assert in_child(begins_anew)
    assert (load.in_flight("m0"), load.in_flight("m1"), known.adopted) == (1, 1, {"m1"})


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


def test_what_calls_may_repeat_and_where_conversations_went_outlives_a_reload():
    """Calls of the old engine and of the new count together."""
    old, new = of_names("a"), of_names("a")
    new.inherit(old, ["a"])
    for _ in range(3):
        old.count_hedge(old["a"], 0.0)
    assert not new.hedge_budget.allows(0.0)
    for _ in range(7):
        new.retry_budget.spend(0.0)
    assert not old.retry_budget.allows(0.0)
    for _ in range(100):
        new.count_call(0.0)
    assert old.hedge_budget.allows(0.0)
    assert new.retry_budget.allows(0.0)
    old.conversations.remember("assistant", b"key", "a", 0.0)
    assert new.conversations.find("assistant", b"key", 1.0) == "a"
    old["a"].breaker.adopt("timeout", 40.0, 20.0)
    old.adopted.add("a")
    assert new.take_adopted(["a"], 10.0) == [("a", "timeout", 30.0)]
