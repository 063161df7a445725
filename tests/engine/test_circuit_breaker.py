"""May this deployment be asked now? Sentences first, then a machine that tries every history."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from llm_fallback.engine.circuit_breaker import CircuitBreaker, Permit
from llm_fallback.plan.cold_start import WarmUp
from llm_fallback.spec import Breaker
from tests.plans import COUNTED, OPENING, WARMING_UP
from tests.thinning import examples

POLICY = Breaker(failures=3, failure_ratio=0.5, window_s=60, cooldown_s=30)


def failed(breaker: CircuitBreaker, now: float, failure="server_error", retry_after_s=None) -> bool:
    return breaker.failed(breaker.acquire(now), now, failure, retry_after_s)


def opened(at: float = 0.0, policy: Breaker = POLICY) -> CircuitBreaker:
    breaker = CircuitBreaker(policy)
    for _ in range(policy.failures):
        failed(breaker, at)
    assert breaker.state(at) == "open"
    return breaker


def probe(breaker: CircuitBreaker, now: float) -> Permit:
    permit = breaker.acquire(now)
    assert permit.kind == "probe"
    return permit


def doubled() -> tuple[CircuitBreaker, float]:
    """One whose probe failed three times, and when it last did: its cooldown is 240 s by now."""
    breaker, now = opened(), 0.0
    for _ in range(3):
        now = breaker.blocked_until(now)
        breaker.failed(probe(breaker, now), now, "connection")
    return breaker, now


def test_a_new_breaker_lets_everything_pass():
    """Closed until something speaks against it."""
    breaker = CircuitBreaker(POLICY)
    assert (breaker.state(0), breaker.blocked_until(0), breaker.acquire(0).kind) == ("closed", None, "closed")


@pytest.mark.parametrize("failure", sorted(COUNTED))
def test_as_many_failures_as_the_policy_says_open_it(failure):
    """The third of three opens, says so, and is named as the reason."""
    breaker = CircuitBreaker(POLICY)
    assert [failed(breaker, now, failure) for now in (0, 1, 2)] == [False, False, True]
    assert (breaker.state(2), breaker.blocked_until(2), breaker.failure) == ("open", 32, failure)


def test_failures_do_not_open_it_while_most_calls_succeed():
    """`failure_ratio` is of the window's calls: three of seven are not half."""
    breaker = CircuitBreaker(POLICY)
    for now in range(4):
        breaker.succeeded(breaker.acquire(now), now)
    assert [failed(breaker, 4) for _ in range(3)] == [False] * 3
    assert failed(breaker, 4)


def test_failures_older_than_the_window_are_forgotten():
    """Three failures in two minutes are not three in one."""
    breaker = CircuitBreaker(POLICY)
    assert [failed(breaker, now) for now in (0, 30, 61, 95, 130)] == [False] * 5
    assert breaker.failures(130) == 2
    assert breaker.failures(1000) == 0


@pytest.mark.parametrize("failure", sorted(OPENING))
def test_a_failure_no_repeat_mends_opens_it_at_once_for_300_seconds(failure):
    """A wrong key is wrong for the next call too."""
    breaker = CircuitBreaker(POLICY)
    assert failed(breaker, 10, failure)
    assert (breaker.blocked_until(10), breaker.retry_after_given) == (310, False)


def test_an_account_that_says_when_it_is_refilled_is_left_alone_until_then():
    """Its time is better than ours."""
    breaker = CircuitBreaker(POLICY)
    assert failed(breaker, 10, "quota_exhausted", 60)
    assert (breaker.blocked_until(10), breaker.retry_after_given) == (70, True)


@pytest.mark.parametrize(("retry_after_s", "until"), [(None, 30), (2, 2), (599, 599), (601, 600), (86400, 600)])
def test_a_rate_limit_opens_it_for_the_time_the_server_named(retry_after_s, until):
    """Retry-After is honoured up to 600 s; without it the cooldown holds."""
    breaker = CircuitBreaker(POLICY)
    assert failed(breaker, 0, "rate_limited", retry_after_s)
    assert (breaker.blocked_until(0), breaker.retry_after_given) == (until, retry_after_s is not None)


def test_a_server_that_names_no_wait_at_all_is_probed_at_once():
    """Retry-After: 0 is a time too."""
    breaker = CircuitBreaker(POLICY)
    failed(breaker, 5, "rate_limited", 0.0)
    assert (breaker.state(5), breaker.blocked_until(5), breaker.acquire(5).kind) == ("half_open", None, "probe")


def test_a_failure_that_opens_it_may_name_its_time_too():
    """A 503 with Retry-After, once there were enough of them."""
    breaker = CircuitBreaker(POLICY)
    failed(breaker, 0), failed(breaker, 0)
    assert failed(breaker, 0, "overloaded", 120)
    assert breaker.blocked_until(0) == 120


def test_one_probe_goes_through_after_the_cooldown_and_only_one():
    """Until its answer comes the others are kept away."""
    breaker = opened()
    assert (breaker.state(29.9), breaker.blocked_until(29.9)) == ("open", 30)
    assert (breaker.state(30), breaker.blocked_until(30)) == ("half_open", None)
    assert probe(breaker, 30).at == 30
    assert breaker.state(30) == "half_open"
    assert breaker.blocked_until(30.5) == pytest.approx(60.5)
    assert (breaker.acquire(31).kind, breaker.acquire(31).at) == ("forced", 31)


def test_a_probe_that_succeeds_closes_it_and_forgets_the_failures():
    """Two new failures do not make three with the old ones."""
    breaker = opened()
    breaker.succeeded(probe(breaker, 30), 31)
    assert (breaker.state(31), breaker.failure, breaker.failures(31)) == ("closed", None, 0)
    assert [failed(breaker, 32), failed(breaker, 32)] == [False, False]


def test_each_failed_probe_doubles_the_cooldown_up_to_300_seconds():
    """30, 60, 120, 240, 300, 300, and 30 again after a success."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        again = breaker.blocked_until(now)
        pauses.append(again - now)
        now = again
        assert breaker.failed(probe(breaker, now), now, "connection")
    assert pauses == [30, 60, 120, 240, 300, 300]
    now = breaker.blocked_until(now)
    breaker.succeeded(probe(breaker, now), now)
    for _ in range(3):
        failed(breaker, now)
    assert breaker.blocked_until(now) == now + 30


def test_a_probe_that_is_rate_limited_is_a_failed_probe():
    """It doubles the cooldown like any other, instead of starting over."""
    breaker = opened()
    breaker.failed(probe(breaker, 30), 30, "server_error")
    breaker.failed(probe(breaker, 90), 90, "rate_limited")
    assert breaker.blocked_until(90) == 90 + 120


def test_a_cooldown_longer_than_300_seconds_is_kept_and_not_doubled():
    """Who asks for ten minutes gets ten minutes."""
    breaker = opened(policy=Breaker(failures=1, cooldown_s=600))
    breaker.failed(probe(breaker, 600), 600, "timeout")
    assert breaker.blocked_until(600) == 1200


def test_a_cancelled_probe_gives_its_place_back():
    """The caller left; the next request is the probe, and nothing was doubled."""
    breaker = opened()
    breaker.cancelled(probe(breaker, 30))
    assert breaker.blocked_until(31) is None
    breaker.failed(probe(breaker, 31), 31, "timeout")
    assert breaker.blocked_until(31) == 31 + 60


def test_a_forced_request_given_up_leaves_the_probe_its_place():
    """Only the probe itself gives the place back."""
    breaker = opened()
    forced = breaker.acquire(10)
    probe(breaker, 30)
    breaker.cancelled(forced)
    assert breaker.acquire(31).kind == "forced"


def test_the_success_of_a_request_forced_through_closes_it():
    """Whoever got an answer from an open deployment has shown that it is back."""
    breaker = opened()
    permit = breaker.acquire(5)
    assert permit.kind == "forced"
    breaker.succeeded(permit, 6)
    assert breaker.state(6) == "closed"


def test_the_failure_of_a_request_forced_through_changes_nothing():
    """It told what was known; the cooldown neither starts anew nor doubles."""
    breaker = opened()
    assert not breaker.failed(breaker.acquire(5), 6, "server_error")
    assert breaker.blocked_until(6) == 30


def test_a_rate_limit_never_shortens_a_doubled_cooldown():
    """A request forced through at a time when 240 s of cooldown hold does not bring back 30 s."""
    breaker, now = doubled()
    assert breaker.blocked_until(now) == now + 240
    assert breaker.failed(breaker.acquire(now + 1), now + 1, "rate_limited")
    assert breaker.blocked_until(now + 1) == now + 241


def test_results_that_come_after_the_breaker_moved_on_do_not_count():
    """Ten calls under way at once: the third failure opens, the other seven neither prolong nor close."""
    breaker = CircuitBreaker(POLICY)
    under_way = [breaker.acquire(0) for _ in range(10)]
    assert [breaker.failed(permit, 1, "timeout") for permit in under_way[:3]] == [False, False, True]
    assert not any(breaker.failed(permit, 20, "auth") for permit in under_way[3:6])
    for permit in under_way[6:]:
        breaker.succeeded(permit, 20)
        breaker.cancelled(permit)
    assert (breaker.state(20), breaker.blocked_until(20)) == ("open", 31)


def test_the_late_answer_of_an_earlier_probe_does_not_disturb_the_next():
    """A probe that was overtaken by a forced request's rate limit is history."""
    breaker = opened()
    late = probe(breaker, 30)
    breaker.failed(breaker.acquire(31), 31, "rate_limited")
    assert not breaker.succeeded(late, 32)
    breaker.cancelled(late)
    assert not breaker.failed(late, 32, "auth")
    assert (breaker.state(32), breaker.blocked_until(32)) == ("open", 61)
    probe(breaker, 61)
    breaker.cancelled(late)
    assert breaker.acquire(61).kind == "forced"


@pytest.mark.parametrize("failure", sorted(COUNTED | OPENING | {"rate_limited"}))
def test_a_breaker_that_is_off_never_opens(failure):
    """`breaker: off` means it."""
    breaker = CircuitBreaker(None)
    assert not any(failed(breaker, now, failure, 60) for now in range(50))
    assert (breaker.state(50), breaker.blocked_until(50), breaker.acquire(50).kind) == ("closed", None, "closed")


# What operators and other processes say.


def test_an_operator_opens_it_for_a_time_and_a_probe_follows():
    """Nobody asks before; a probe that fails doubles the spec's cooldown, not the operator's time."""
    breaker = CircuitBreaker(POLICY)
    breaker.open_for(10, 500)
    assert (breaker.state(509), breaker.blocked_until(10), breaker.failure) == ("open", 510, "overloaded")
    assert breaker.retry_after_given is True
    permit = probe(breaker, 510)
    assert breaker.failed(permit, 510, "timeout")
    assert (breaker.blocked_until(510), breaker.retry_after_given) == (570, False)


def test_an_operator_may_open_one_that_is_off():
    """Its probe closes it, whatever comes of that."""
    breaker = CircuitBreaker(None)
    breaker.open_for(0, 50)
    assert (breaker.blocked_until(0), breaker.cooldown_s) == (50, 50)
    assert not breaker.failed(probe(breaker, 50), 50, "timeout")
    assert breaker.state(50) == "closed"


def test_a_reset_forgets_everything():
    """As if it were new."""
    breaker = CircuitBreaker(POLICY)
    failed(breaker, 0)
    failed(breaker, 0, "rate_limited", 7.0)
    assert (breaker.retry_after_given, breaker.failures(0), breaker.openings) == (True, 1, 1)
    probe(breaker, 8)
    breaker.reset()
    assert (breaker.state(8), breaker.failures(8), breaker.failure) == ("closed", 0, None)
    assert breaker.retry_after_given is breaker.is_adopted is breaker.is_suspected is breaker.needs_lease is False
    assert breaker.acquire(8).kind == "closed"
    failed(breaker, 8, "rate_limited")
    assert breaker.openings == 2


def test_what_others_report_opens_one_that_is_closed_for_the_time_they_say():
    """It counts no opening of its own, reports nothing, follows their later words, and closes when they say so."""
    breaker = CircuitBreaker(POLICY)
    before = breaker.acquire(0)
    assert breaker.adopt("timeout", 40, 20)
    assert breaker.retry_after_given is False
    assert (breaker.state(39), breaker.blocked_until(0), breaker.failure, breaker.cooldown_s) == (
        "open",
        40,
        "timeout",
        20,
    )
    assert (breaker.is_adopted, breaker.is_open_by_requests, breaker.needs_lease, breaker.openings) == (
        True,
        False,
        True,
        0,
    )
    breaker.succeeded(before, 1)
    assert breaker.state(1) == "open", "a request from before says nothing of now"
    assert not breaker.adopt("overloaded", 90, 80, retry_after_given=True)
    assert (breaker.blocked_until(0), breaker.failure, breaker.cooldown_s) == (90, "overloaded", 80)
    assert breaker.retry_after_given is True
    breaker.disown()
    assert (breaker.state(0), breaker.failure, breaker.is_adopted, breaker.needs_lease) == (
        "closed",
        None,
        False,
        False,
    )


def test_what_requests_from_here_have_opened_others_neither_move_nor_take_back():
    """And an opening of its own is reported, counted, and no longer theirs."""
    breaker = opened()
    assert (breaker.is_open_by_requests, breaker.needs_lease, breaker.openings) == (True, True, 1)
    breaker.adopt("timeout", 400, 20)
    breaker.disown()
    assert (breaker.blocked_until(0), breaker.failure, breaker.cooldown_s) == (30, "server_error", 30)
    theirs = CircuitBreaker(POLICY)
    theirs.adopt("timeout", 40, 20)
    assert theirs.failed(probe(theirs, 40), 40, "timeout")
    assert (theirs.is_adopted, theirs.is_open_by_requests, theirs.openings) == (False, True, 1)


def test_a_request_from_before_another_opening_says_nothing_of_one_that_others_report():
    """However often it has opened and closed in between."""
    breaker = opened()
    forced = breaker.acquire(5)
    breaker.succeeded(breaker.acquire(5), 6)
    breaker.adopt("timeout", 40, 20)
    breaker.succeeded(forced, 7)
    assert breaker.state(7) == "open"


def test_one_that_warms_up_heeds_no_report():
    """Requests from here know better when it answers."""
    breaker = CircuitBreaker(POLICY, WarmUp(120))
    assert failed(breaker, 0, "connection")
    assert breaker.adopt("timeout", 40, 20) is False
    assert (breaker.blocked_until(0), breaker.failure, breaker.is_warming_up(0)) == (0.5, "connection", True)


def test_while_a_probe_is_out_others_change_nothing():
    """Its answer is better than their word; and it needs no lease again."""
    for adopted in (True, False):
        breaker = CircuitBreaker(POLICY) if adopted else opened()
        if adopted:
            breaker.adopt("timeout", 30, 20)
        permit = probe(breaker, 30)
        assert not breaker.needs_lease
        breaker.adopt("auth", 400, 20)
        breaker.disown()
        breaker.heal()
        assert (breaker.state(30), breaker.blocked_until(30)) == ("half_open", 30 + breaker.cooldown_s)
        breaker.cancelled(permit)
        assert probe(breaker, 30)


def test_one_that_is_off_heeds_nobody():
    """Neither a report nor a suspicion."""
    breaker = CircuitBreaker(None)
    assert breaker.adopt("timeout", 40, 20) is False
    breaker.suspect()
    assert breaker.state(0) == "closed"
    breaker.heal()
    assert (breaker.state(0), breaker.is_suspected, breaker.acquire(0).kind) == ("closed", False, "closed")


def test_a_suspected_one_lets_one_request_at_a_time_pass_until_one_succeeds():
    """A request that is given up gives its place back; one that went in spite of it has none to give."""
    breaker = CircuitBreaker(POLICY)
    breaker.suspect()
    assert breaker.blocked_until(0) is None
    trial = breaker.acquire(0)
    assert (trial.kind, breaker.blocked_until(1)) == ("trial", 31)
    beside = breaker.acquire(0)
    assert beside.kind == "closed"
    breaker.cancelled(beside)
    assert breaker.blocked_until(1) == 31
    breaker.cancelled(trial)
    assert breaker.blocked_until(1) is None
    breaker.succeeded(breaker.acquire(2), 2)
    assert (breaker.is_suspected, breaker.blocked_until(2), breaker.acquire(2).kind) == (False, None, "closed")


def test_a_trial_that_fails_counts_and_the_next_waits_for_their_next_word():
    """Another process has to have found the way mended first."""
    breaker = CircuitBreaker(POLICY)
    breaker.suspect()
    assert not failed(breaker, 0)
    assert (breaker.failures(0), breaker.blocked_until(5)) == (1, 35)
    breaker.suspect()
    assert (breaker.blocked_until(5), breaker.acquire(5)) == (None, Permit("trial", 0, 5))
    breaker.trust()
    assert (breaker.blocked_until(5), breaker.acquire(5).kind) == (None, "closed")


def test_a_trial_that_succeeds_forgets_no_failure():
    """It was closed all the while, and what was under way counts on."""
    breaker = CircuitBreaker(POLICY)
    failed(breaker, 0)
    before = breaker.acquire(0)
    breaker.suspect()
    breaker.succeeded(breaker.acquire(1), 1)
    breaker.failed(before, 1, "timeout")
    assert breaker.failures(1) == 2


def test_a_trial_that_is_rate_limited_leaves_it_alone_for_the_plain_cooldown():
    """However long the last one was: what closed it has ended that."""
    breaker, now = doubled()
    breaker.heal()
    assert failed(breaker, now, "rate_limited")
    assert breaker.blocked_until(now) == now + 30


def test_the_trials_that_fail_open_it_in_the_end():
    """As failures do."""
    breaker = CircuitBreaker(POLICY)
    for last in (False, False, True):
        breaker.suspect()
        assert failed(breaker, 0) is last
    assert (breaker.state(0), breaker.is_suspected, breaker.is_open_by_requests) == ("open", False, True)


def test_another_s_probe_that_succeeds_closes_it_and_what_failed_from_here_is_tried_first():
    """One that was open only by their word is as ever."""
    for adopted, kind in [(True, "closed"), (False, "trial")]:
        breaker = CircuitBreaker(POLICY) if adopted else opened()
        if adopted:
            breaker.adopt("timeout", 30, 20)
        breaker.heal()
        assert (breaker.state(0), breaker.is_suspected, breaker.acquire(0).kind) == ("closed", not adopted, kind)
    closed = CircuitBreaker(POLICY)
    failed(closed, 0)
    closed.heal()
    closed.disown()
    assert (closed.is_suspected, closed.failures(0)) == (False, 1)


def test_a_copy_has_no_request_under_way():
    """A child process did not send them; what is known of the deployment stays."""
    breaker = opened()
    probe(breaker, 30)
    own = breaker.without_probe()
    assert (own.state(30), own.blocked_until(30), breaker.blocked_until(30)) == ("half_open", None, 60)
    suspected = CircuitBreaker(POLICY)
    suspected.suspect()
    suspected.acquire(0)
    assert (suspected.without_probe().blocked_until(0), suspected.blocked_until(0)) == (None, 30)


def test_memory_does_not_grow_with_the_number_of_calls():
    """A minute of two thousand calls takes no more of it than one of twenty."""

    def held(calls: int) -> int:
        breaker = CircuitBreaker(Breaker(failures=5000))
        for number in range(calls):
            now = 60.0 * number / calls
            breaker.succeeded(breaker.acquire(now), now)
            failed(breaker, now)
        return len(pickle.dumps(breaker))

    assert held(2000) < 1.2 * held(20)


def test_the_window_counts_what_is_in_it_to_a_tenth_of_its_length():
    """Nothing younger than nine tenths of the window is forgotten, nothing older than it is kept."""
    breaker = CircuitBreaker(Breaker(failures=1000, window_s=60))
    for now in range(200):
        failed(breaker, now)
        assert min(now + 1, 54) <= breaker.failures(now) <= min(now + 1, 61)


@dataclass
class IssuedPermit:
    """A permit, and what the model knows of it."""

    permit: Permit
    generation: int


class Histories(RuleBasedStateMachine):
    """Any interleaving of calls, answers and time, against a model that keeps every single result."""

    permits = Bundle("permits")
    WINDOW, COOLDOWN = 60.0, 30.0

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(POLICY)
        self.now = 0.0
        self.generation = 0
        self.until: float | None = None
        self.cooldown = 0.0
        self.probe: IssuedPermit | None = None
        self.seen: list[tuple[float, bool]] = []

    @rule(seconds=st.sampled_from([0.25, 1, 5.75, 6, 29, 30, 31, 54, 60, 61, 120, 299, 300, 599, 600]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(target=permits)
    def begin(self):
        expected = self._kind()
        permit = self.breaker.acquire(self.now)
        assert permit.kind == expected
        issued = IssuedPermit(permit, self.generation)
        if expected == "probe":
            self.probe = issued
        return issued

    def _kind(self):
        if self.until is None:
            return "closed"
        return "probe" if self.now >= self.until and self.probe is None else "forced"

    @rule(issued=consumes(permits))
    def succeeds(self, issued):
        self.breaker.succeeded(issued.permit, self.now)
        if issued.generation != self.generation:
            return
        if issued.permit.kind == "closed":
            self.seen.append((self.now, False))
        else:
            self._moved(None)

    @rule(
        issued=consumes(permits),
        failure=st.sampled_from(sorted(COUNTED)),
        retry=st.sampled_from([None, None, 0, 7, 9e9]),
    )
    def fails(self, issued, failure, retry):
        did_open = self.breaker.failed(issued.permit, self.now, failure, retry)
        if issued.generation != self.generation or issued.permit.kind == "forced":
            assert not did_open
        elif issued.permit.kind == "probe":
            assert did_open
            self._opened(self._doubled(), retry)
        else:
            self.seen.append((self.now, True))
            assert did_open in self._verdicts()
            if did_open:
                self._opened(self.COOLDOWN, retry)

    def _verdicts(self):
        """Whether the window is too much, by every reading of its slices from the shortest to the longest."""
        shortest, longest = self.now - 0.9 * self.WINDOW, self.now - self.WINDOW
        for start in {shortest, longest, *(at for at, _ in self.seen if longest < at < shortest)}:
            results = [bad for at, bad in self.seen if at > start]
            yield sum(results) >= 3 and sum(results) >= 0.5 * len(results)

    @rule(issued=consumes(permits), failure=st.sampled_from(sorted(OPENING)))
    def fails_for_long(self, issued, failure):
        assert self.breaker.failed(issued.permit, self.now, failure) == (issued.generation == self.generation)
        if issued.generation == self.generation:
            self._opened(300, None)

    @rule(issued=consumes(permits), retry=st.sampled_from([None, 0.5, 45, 1e6]))
    def is_rate_limited(self, issued, retry):
        assert self.breaker.failed(issued.permit, self.now, "rate_limited", retry) == (
            issued.generation == self.generation
        )
        if issued.generation == self.generation:
            kinds = {"closed": self.COOLDOWN, "forced": max(self.cooldown, self.COOLDOWN), "probe": self._doubled()}
            self._opened(kinds[issued.permit.kind], retry)

    @rule(issued=consumes(permits))
    def caller_leaves(self, issued):
        self.breaker.cancelled(issued.permit)
        if issued is self.probe:
            self.probe = None

    @precondition(lambda self: self.until is not None)
    @rule(target=permits)
    def the_cooldown_ends_and_calls_race(self):
        """Of many calls that come at once only one is the probe."""
        self.now = max(self.now, self.until)
        return multiple(*(self.begin() for _ in range(3)))

    def _doubled(self):
        return max(min(2 * self.cooldown, 300), self.COOLDOWN)

    def _opened(self, cooldown, retry):
        self._moved(self.now + (cooldown if retry is None else min(retry, 600)))
        self.cooldown = cooldown

    def _moved(self, until):
        self.until, self.generation, self.probe, self.seen = until, self.generation + 1, None, []

    @invariant()
    def says_what_the_model_says(self):
        state = "closed" if self.until is None else "open" if self.now < self.until else "half_open"
        assert self.breaker.state(self.now) == state
        asked = self.breaker.blocked_until(self.now)
        assert (asked is None) == (state == "closed" or (state == "half_open" and self.probe is None))
        if state == "open":
            assert asked == self.until
            assert asked - self.now <= 600

    @invariant()
    def waits_at_most_one_cooldown_for_a_probe(self):
        if self.probe is not None:
            assert self.now < self.breaker.blocked_until(self.now) <= self.now + 300

    @invariant()
    def is_open_for_a_reason(self):
        assert (self.breaker.failure is None) == (self.until is None)
        assert self.until is not None or not self.breaker.retry_after_given


class TestHistories(Histories.TestCase):
    settings = settings(max_examples=examples(120), stateful_step_count=40, deadline=None)


class ColdStarts(Histories):
    """The same histories of a deployment that may be asleep: a start opens for moments, and ends."""

    MAX_WAIT = 120.0

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(POLICY, WarmUp(self.MAX_WAIT))
        self.began: float | None = None
        self.refused_at = 0.0
        self.pause = 0.0
        self.probing = False

    @rule(
        issued=consumes(Histories.permits),
        failure=st.sampled_from(sorted(WARMING_UP)),
        retry=st.sampled_from([None, None, 0, 7, 9e9]),
    )
    def is_refused(self, issued, failure, retry):
        if issued.generation == self.generation and issued.permit.kind != "forced" and self._refused():
            assert self.breaker.failed(issued.permit, self.now, failure, retry) == (issued.permit.kind == "closed")
            self._opened(self.pause, None if retry is None else max(retry, 0.5))
            self.probing = True
        else:
            self._fails_otherwise(issued, failure, retry)

    @rule(
        issued=consumes(Histories.permits),
        failure=st.sampled_from(sorted(COUNTED - WARMING_UP)),
        retry=st.sampled_from([None, 7]),
    )
    def fails(self, issued, failure, retry):
        self._fails_otherwise(issued, failure, retry)

    def _fails_otherwise(self, issued, failure, retry):
        super().fails(issued, failure, retry)

    @rule(issued=consumes(Histories.permits))
    def succeeds(self, issued):
        if issued.generation == self.generation:
            self.began = None
        super().succeeds(issued)

    def _refused(self) -> bool:
        if self.began is None or self.now - self.refused_at > 600:
            self.began, self.pause = self.now, 0.5
        else:
            self.pause = min(2 * self.pause, 5)
        self.refused_at = self.now
        return self.now < self.began + self.MAX_WAIT

    def _moved(self, until):
        super()._moved(until)
        self.probing = False

    @invariant()
    def says_whether_it_is_starting(self):
        under_way = self.began is not None and self.now < self.began + self.MAX_WAIT
        assert self.breaker.is_warming_up(self.now) == (self.probing and under_way)


class TestColdStarts(ColdStarts.TestCase):
    settings = settings(max_examples=examples(120), stateful_step_count=40, deadline=None)
