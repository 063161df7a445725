"""One process of a fleet: what its deployments and budgets may do, by what it was told."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from decimal import Decimal
from functools import partial
from random import Random

import pytest

from llm_fallback.engine.budget import Account, BudgetLimit, BudgetShortfall, Reservation, Spender, reserve
from llm_fallback.engine.circuit_breaker import LONGEST_COOLDOWN_S
from llm_fallback.engine.health import Health
from llm_fallback.fleet.deployment import DeploymentNames
from llm_fallback.fleet.evidence import Evidence, decode_evidence, encode_evidence
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import News, in_ms
from llm_fallback.fleet.names import Names
from llm_fallback.fleet.state import FleetState
from llm_fallback.spec import Breaker, Limits
from tests.forks import in_child
from tests.plans import target

NAMES = Names("secret")
BREAKER = Breaker(failures=2, cooldown_s=30)


class Clock:
    now = 100.0


class Process:
    """A member with one deployment, and its exchanges with a state."""

    def __init__(
        self, state: FleetState, clock: Clock, name: str, limits: Limits | None = None, key: str = "k"
    ) -> None:
        self.state, self.clock = state, clock
        self.health = Health.of_targets([target("primary", policy=BREAKER, limits=limits)])
        self.member = Member(NAMES, lambda: clock.now, Random(name), processes=4)
        self.member.called_at = clock.now
        names = DeploymentNames(NAMES.of("primary"), NAMES.of("primary", key), partial(NAMES.of, "primary"))
        self.member.share(self.health, {"primary": names})

    def exchange(self) -> None:
        request, sent_at = self.member.request(), self.clock.now
        self.member.called_at = self.clock.now
        self.member.receive(request, sent_at, self.state.exchange(request, in_ms(self.clock.now)))

    def lose(self, times: int = 1) -> None:
        for _ in range(times):
            self.member.request()
            self.member.lost()

    @property
    def deployment(self):
        return self.health["primary"]

    @property
    def breaker(self) -> str:
        return self.deployment.breaker.state(self.clock.now)

    def is_free(self) -> bool:
        return self.deployment.unavailable(self.clock.now) is None

    def fail(self, failure="connection", retry_after_s=None, times: int = 2) -> None:
        for _ in range(times):
            self.deployment.failed(self.deployment.begin(self.clock.now), self.clock.now, failure, retry_after_s)

    def succeed(self) -> None:
        self.deployment.succeeded(self.deployment.begin(self.clock.now), self.clock.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def processes(clock: Clock) -> list[Process]:
    state = FleetState()
    made = [Process(state, clock, name) for name in "abc"]
    settle(clock, *made)
    return made


def settle(clock: Clock, *processes: Process, seconds: float = 2.0) -> None:
    for _ in range(round(seconds / 0.25)):
        for process in processes:
            process.exchange()
        clock.now += 0.25


# Breakers.


def test_what_two_report_is_open_everywhere_after_one_exchange(processes):
    """The third has not sent a request, and reports nothing itself."""
    one, two, third = processes
    one.fail()
    two.fail()
    for process in processes:
        process.exchange()
    assert third.breaker == "open"
    assert third.member.request().evidence == ""


def news_of(process: Process) -> News:
    """What the store sends on of its next exchange."""
    request = process.member.request()
    assert request.is_news
    process.member.receive(request, process.clock.now, process.state.exchange(request, in_ms(process.clock.now)))
    return News(request.member, request.evidence)


def test_what_is_sent_on_holds_at_once_without_an_exchange(processes):
    """One report makes careful, the second opens; one's own tells nothing."""
    one, two, third = processes
    one.fail()
    third.member.hear(news_of(one))
    third.deployment.begin(third.clock.now)
    assert (third.breaker, third.is_free()) == ("closed", False)
    two.fail()
    second = news_of(two)
    two.member.hear(second)
    third.member.hear(second)
    assert third.breaker == "open"
    assert third.member.request().evidence == ""


def test_what_is_told_is_read_once_and_holds_up_no_call(processes, monkeypatch):
    """However many have told, and however often one does; calls wait for nobody's reading."""
    third, read = processes[2], []

    def reading(text, *about, **words):
        read.append((text, third.health.lock.locked()))
        return decode_evidence(text, *about, **words)

    monkeypatch.setattr("llm_fallback.fleet.member.decode_evidence", reading)
    told = encode_evidence(Evidence(healed={"d": 1}))
    for number in range(20):
        third.member.hear(News(f"m{number}", told))
    assert read == [(told, False)] * 20
    third.exchange()
    assert len(read) == 20
    processes[0].fail()
    processes[0].exchange()
    third.exchange()
    assert [is_held for _, is_held in read[20:]] == [False]


def test_an_answer_that_was_under_way_before_does_not_take_it_back(processes):
    """The store had not heard of it then; the next answer is the later word."""
    one, two, third = processes
    request, sent_at = third.member.request(), third.clock.now
    response = third.state.exchange(request, in_ms(sent_at))
    third.clock.now += 0.01
    for process in (one, two):
        process.fail()
        third.member.hear(news_of(process))
    third.member.receive(request, sent_at, response)
    assert third.breaker == "open"
    third.clock.now += 0.25
    third.state.members.clear()
    third.exchange()
    assert third.breaker == "closed"


def test_news_are_news_until_the_store_has_answered(processes):
    """A request that is lost is sent on by nobody."""
    one, *_ = processes
    one.fail()
    lost = one.member.request()
    one.member.lost()
    assert lost.is_news
    news_of(one)
    assert not one.member.request().is_news


def test_what_one_reports_lets_one_request_at_a_time_pass_and_opens_nothing(processes):
    """Until one has succeeded."""
    sick, healthy, _ = processes
    sick.fail()
    sick.exchange()
    healthy.exchange()
    assert (healthy.breaker, healthy.is_free()) == ("closed", True)
    trial = healthy.deployment.begin(healthy.clock.now)
    assert not healthy.is_free()
    healthy.deployment.succeeded(trial, healthy.clock.now)
    assert healthy.is_free()
    healthy.exchange()
    healthy.deployment.begin(healthy.clock.now)
    assert healthy.is_free(), "the same report is no new suspicion"


def test_failures_of_what_was_under_way_when_it_opened_are_no_further_news(processes):
    """The others have heard of it."""
    one, *_ = processes
    now = one.clock.now
    for permit in [one.deployment.begin(now) for _ in range(4)]:
        one.deployment.failed(permit, now, "connection", None)
        if one.breaker == "open" and one.member.request().is_news:
            news_of(one)
    assert one.breaker == "open"
    assert not one.member.request().is_news


def test_an_answer_that_a_later_one_has_overtaken_changes_nothing(processes):
    """However it was held up."""
    one, two, third = processes
    request, sent_at = third.member.request(), third.clock.now
    late = third.state.exchange(request, in_ms(sent_at))
    third.clock.now += 0.01
    for process in (one, two):
        process.fail()
        process.exchange()
    third.exchange()
    third.member.receive(request, sent_at, late)
    assert third.breaker == "open"


def outlast_a_cooldown(processes, clock):
    """Two of three find the deployment failing, and wait until it may be probed."""
    for process in processes[:2]:
        process.fail()
    settle(clock, *processes, seconds=31)


def holder_of_a_probe(processes, clock):
    """The one that may probe: all ask for the lease, after a cooldown."""
    outlast_a_cooldown(processes, clock)
    for process in processes:
        process.is_free()
    settle(clock, *processes, seconds=0.25)
    [holder] = [process for process in processes if process.is_free()]
    return holder


def test_what_was_met_after_a_probe_was_sent_is_not_healed_by_it(processes, clock):
    """Whoever met it sent later."""
    holder = holder_of_a_probe(processes, clock)
    probe = holder.deployment.begin(clock.now)
    settle(clock, *processes, seconds=0.5)
    other = next(process for process in processes if process is not holder)
    other.fail()
    holder.deployment.succeeded(probe, clock.now)
    settle(clock, *processes, seconds=0.5)
    assert (holder.breaker, other.breaker) == ("closed", "open")


def test_what_others_met_after_a_probe_was_sent_is_not_healed_by_it_whatever_else_fails_meanwhile(processes, clock):
    """As a request in spite of the open breaker, in a total outage: it is not the probe."""
    holder = holder_of_a_probe(processes, clock)
    probe, forced = holder.deployment.begin(clock.now), holder.deployment.begin(clock.now)
    settle(clock, *processes, seconds=0.5)
    holder.deployment.failed(forced, clock.now, "connection", None)
    other = next(process for process in processes if process is not holder)
    other.fail()
    settle(clock, *processes, seconds=0.5)
    holder.deployment.succeeded(probe, clock.now)
    settle(clock, *processes, seconds=0.5)
    assert (holder.breaker, other.breaker) == ("closed", "open")


def test_what_is_met_after_a_request_in_spite_of_the_open_breaker_has_healed_it_is_heard(processes, clock):
    """At once, before the others have heard of the healing."""
    one, two, third = processes
    for process in (one, two):
        process.fail()
    settle(clock, *processes, seconds=0.5)
    one.succeed()
    assert one.breaker == "closed"
    one.fail()
    settle(clock, *processes, seconds=0.5)
    third.deployment.begin(clock.now)
    assert (one.breaker, third.breaker, third.is_free()) == ("open", "closed", False)


def test_an_answer_that_is_too_old_for_its_own_breaker_heals_nobody(processes, clock):
    """As the end of a long stream: the deployment has said since what is wrong."""
    one, two, _ = processes
    for process in (one, two):
        process.fail()
    settle(clock, *processes, seconds=0.5)
    stream = one.deployment.begin(clock.now)
    one.fail("auth", times=1)
    settle(clock, *processes, seconds=0.5)
    one.deployment.succeeded(stream, clock.now)
    settle(clock, *processes, seconds=0.5)
    assert [process.breaker for process in processes] == ["open"] * 3


def test_a_trial_that_fails_waits_for_the_next_word_of_the_others(processes):
    """They may have met the same meanwhile."""
    sick, healthy, _ = processes
    sick.fail()
    sick.exchange()
    healthy.exchange()
    healthy.fail(times=1)
    assert (healthy.breaker, healthy.is_free()) == ("closed", False)
    healthy.exchange()
    assert healthy.is_free()


def test_it_closes_when_the_reporters_have_healed(processes, clock):
    """And a reporter that leaves the fleet reports no more."""
    one, two, third = processes
    one.fail()
    two.fail()
    settle(clock, *processes, seconds=0.5)
    assert third.breaker == "open"
    one.deployment.breaker.heal()
    two.deployment.breaker.heal()
    settle(clock, *processes, seconds=0.5)
    assert third.breaker == "closed"


@pytest.mark.parametrize("failure", ["auth", "quota_exhausted", "not_found"])
def test_what_is_wrong_with_the_account_holds_for_all_at_once(processes, failure):
    """One reporter is enough: the provider has said it."""
    processes[0].fail(failure, times=1)
    for process in processes:
        process.exchange()
    assert [process.breaker for process in processes] == ["open"] * 3


def test_a_limit_with_a_time_holds_for_all_until_then(processes, clock):
    """Without a time it is one process's word."""
    processes[0].fail("rate_limited", 12.0, times=1)
    for process in processes:
        process.exchange()
    assert processes[2].deployment.breaker.blocked_until(clock.now) == pytest.approx(clock.now + 12, abs=0.01)


@pytest.mark.parametrize(
    ("first", "last", "breaker"),
    [
        pytest.param(("rate_limited", None), ("rate_limited", 12.0), "open", id="a time is named only later"),
        pytest.param(("connection", None), ("auth", None), "open", id="the account is in trouble, too"),
        pytest.param(("rate_limited", 12.0), ("rate_limited", None), "closed", id="no time is named any more"),
    ],
)
def test_what_a_deployment_says_last_counts_also_where_it_was_asked_in_spite_of_its_breaker(
    processes, first, last, breaker
):
    """As in a total outage, when there is nobody else to ask."""
    for failure, retry_after_s in (first, last):
        processes[0].fail(failure, retry_after_s, times=2)
    for process in processes:
        process.exchange()
    assert [process.breaker for process in processes[1:]] == [breaker] * 2


def test_what_was_said_of_the_account_before_is_not_said_of_another_opening(processes, clock):
    """As of one by hand, which is no word of the deployment's."""
    one, two, _ = processes
    one.fail("auth", times=1)
    settle(clock, *processes, seconds=1)
    assert two.breaker == "open"
    one.health.reset_breaker("primary")
    one.health.open_breaker("primary", clock.now, 60.0)
    settle(clock, *processes, seconds=1)
    assert (one.breaker, two.breaker) == ("open", "closed")


def test_a_deployment_that_says_now_this_now_that_is_not_news_each_time(processes):
    """In a total outage each call asks it, and the store would be asked with each."""
    one, *_ = processes
    one.fail("quota_exhausted", times=1)
    news_of(one)
    for failure in ("rate_limited", "quota_exhausted") * 3:
        one.fail(failure, times=1)
        assert not one.member.request().is_news


def test_another_key_is_another_account(clock):
    """The deployment is the same."""
    state = FleetState()
    one, other = Process(state, clock, "a"), Process(state, clock, "b", key="another")
    one.fail("auth", times=1)
    one.exchange()
    other.exchange()
    assert other.breaker == "closed"


def test_only_who_has_the_lease_probes_and_what_it_finds_holds_for_all(processes, clock):
    """The others pass the deployment over meanwhile."""
    outlast_a_cooldown(processes, clock)
    assert [process.breaker for process in processes] == ["half_open"] * 3
    assert not any(process.is_free() for process in processes)
    settle(clock, *processes, seconds=0.25)
    free = [process for process in processes if process.is_free()]
    assert len(free) == 1
    free[0].succeed()
    settle(clock, *processes, seconds=0.5)
    assert [process.breaker for process in processes] == ["closed"] * 3


def test_a_probe_that_fails_keeps_it_closed_to_all_for_another_cooldown(processes, clock):
    """Nobody else finds out for himself."""
    holder = holder_of_a_probe(processes, clock)
    holder.fail(times=1)
    for _ in range(100):
        settle(clock, *processes, seconds=0.25)
        assert not any(process.is_free() for process in processes)


def test_a_probe_that_was_sent_without_a_lease_is_healed_by_the_next_that_has_one(processes, clock):
    """As in a total outage, where calls do not wait for a lease. It takes a number, too."""
    outlast_a_cooldown(processes, clock)
    one, two, _ = processes
    assert not one.is_free()
    one.fail(times=1)
    settle(clock, *processes, seconds=2 * BREAKER.cooldown_s + 1)
    two.is_free()
    settle(clock, *processes, seconds=0.5)
    two.succeed()
    settle(clock, *processes, seconds=0.5)
    assert [process.breaker for process in processes] == ["closed"] * 3


@pytest.mark.parametrize("between_s", [1, 20, 70])
def test_it_is_found_to_be_well_again_however_seldom_calls_come(processes, clock, between_s):
    """They come to one process after another: whoever asked for the probe's lease has it when its turn comes again."""
    outlast_a_cooldown(processes, clock)
    for turn in range(30):
        called = processes[turn % 3]
        if called.is_free():
            called.succeed()
            break
        settle(clock, *processes, seconds=between_s)
    settle(clock, *processes, seconds=0.5)
    assert [process.breaker for process in processes] == ["closed"] * 3


def test_who_is_called_no_more_keeps_the_probe_from_others_for_a_cooldown(processes, clock):
    """And from then on, who is called has it at the next call."""
    one, two, _ = processes
    outlast_a_cooldown(processes, clock)
    assert not one.is_free()
    settle(clock, *processes, seconds=BREAKER.cooldown_s - 1)
    assert not two.is_free()
    settle(clock, *processes, seconds=2)
    assert two.is_free()


def test_however_long_ago_the_last_outage_was_the_probe_is_kept_from_others_for_a_cooldown(processes, clock):
    """How seldom calls come is measured within one outage."""
    one, two, _ = processes
    for last in (False, True):
        one.fail("rate_limited", 12.0, times=1)
        settle(clock, *processes, seconds=13)
        assert not one.is_free()
        settle(clock, *processes, seconds=1)
        if not last:
            one.succeed()
            settle(clock, *processes, seconds=1)
            clock.now += 3600
            settle(clock, *processes)
    assert not two.is_free()
    settle(clock, *processes, seconds=BREAKER.cooldown_s)
    assert two.is_free()


def longest_without_a_probe(processes, clock, every_s):
    """Seconds, where each process is called so often for an hour, and the deployment stays as it is."""
    outlast_a_cooldown(processes, clock)
    began = probed_at = clock.now
    due, longest_s = [began + every for every in every_s], 0.0
    while clock.now < began + 3600:
        for at, process in enumerate(processes):
            process.exchange()
            if clock.now >= due[at]:
                due[at] += every_s[at]
                if process.is_free():
                    process.fail(times=1)
                    longest_s, probed_at = max(longest_s, clock.now - probed_at), clock.now
        clock.now += 1.0
    return max(longest_s, clock.now - probed_at)


@pytest.mark.parametrize(
    ("every_s", "most_s"),
    [
        pytest.param((600, 1, 1), LONGEST_COOLDOWN_S + 60, id="one seldom, which keeps it from nobody"),
        pytest.param((1200, 1200, 60), LONGEST_COOLDOWN_S + 2 * 60, id="two seldom"),
        pytest.param((400, 500, 700), 3 * 400 + 5, id="all seldom: by the third call of one"),
    ],
)
def test_in_a_long_outage_probes_go_on_by_whoever_is_called_most(processes, clock, every_s, most_s):
    """As soon as cooldowns allow: what is well again would be left alone for as long as none is sent."""
    assert longest_without_a_probe(processes, clock, every_s) <= most_s


def test_without_the_store_each_probes_for_itself(processes, clock):
    """One each, as a process on its own does."""
    outlast_a_cooldown(processes, clock)
    for process in processes:
        process.lose(3)
    clock.now += 2
    assert [process.is_free() for process in processes] == [True] * 3


# Limits.


def limited(clock: Clock, **limits: int) -> list[Process]:
    state = FleetState()
    return [Process(state, clock, name, Limits(**limits)) for name in "ab"]


def sent(process: Process) -> int:
    """Requests that may go now, and go."""
    count = 0
    while process.is_free() and count < 1000:
        process.deployment.begin(process.clock.now)
        count += 1
    return count


def test_the_limit_is_shared_by_leases(clock):
    """What one does not want is there for the other."""
    one, two = limited(clock, rpm=40)
    settle(clock, one, two)
    total = 0
    for _ in range(30):
        total += sent(one)
        settle(clock, one, two, seconds=0.25)
    assert 36 <= total + sent(two) <= 40


def test_before_the_first_lease_it_is_at_its_limit(clock):
    """Then a call goes to the next deployment, or waits."""
    one, _ = limited(clock, rpm=40)
    blocked = one.deployment.unavailable(clock.now)
    assert blocked is not None
    assert blocked.reason == "limit"


def test_without_the_store_each_keeps_to_its_part(clock):
    """By the members last seen; and by `processes` where none ever was."""
    one, two = limited(clock, rpm=40)
    for process in (one, two):
        process.lose(2)
    clock.now += 2
    assert [sent(process) for process in (one, two)] == [10, 10]


def test_without_the_store_each_keeps_to_its_part_of_the_places(clock):
    """As of requests in a minute."""
    one, _ = limited(clock, max_parallel=8)
    one.lose(2)
    clock.now += 2
    assert sent(one) == 2


@pytest.mark.parametrize("limits", [{"rpm": 40}, {"tpm": 10_000}, {"rpm": 40, "tpm": 10_000}], ids=str)
def test_a_request_that_is_not_sent_after_all_is_back_in_hand(clock, limits):
    """With its tokens, for whoever is next."""
    one, _ = limited(clock, **limits)
    settle(clock, one)
    before = one.member.snapshot()["deployments"]["primary"]["limits"]
    permit = one.deployment.begin(clock.now, 30)
    assert one.member.snapshot()["deployments"]["primary"]["limits"] != before
    one.deployment.withdraw(permit, 30)
    assert one.member.snapshot()["deployments"]["primary"]["limits"] == before


def test_tokens_and_places_are_shared_too(clock):
    """A request needs a lease on each of its limits."""
    one, two = limited(clock, tpm=10_000, max_parallel=4)
    settle(clock, one, two)
    one.deployment.unavailable(clock.now, 8000)
    settle(clock, one, two, seconds=0.25)
    assert one.deployment.unavailable(clock.now, 8000) is None
    one.deployment.begin(clock.now, 8000)
    two.deployment.unavailable(clock.now, 4000)
    settle(clock, one, two, seconds=0.25)
    assert two.deployment.unavailable(clock.now, 4000) is not None
    for _ in range(8):  # What the first wants for more of its kind fades.
        two.deployment.unavailable(clock.now, 1000)
        settle(clock, one, two, seconds=0.25)
    assert two.deployment.unavailable(clock.now, 1000) is None


# Money.


def budget(process: Process, usd: str = "1") -> BudgetLimit:
    account = Account("day", wall=lambda: process.clock.now)
    limit = BudgetLimit(Decimal(usd), account, "chain assistant, per day")
    process.member.share_account(account, "assistant")
    with account.lock:
        account.shared(limit, account.of(Spender()))
    return limit


def spend(limit: BudgetLimit, usd: str) -> bool:
    reservation = reserve([limit], Spender(), Decimal(usd))
    if isinstance(reservation, Reservation):
        reservation.settle(Decimal(usd))
    return isinstance(reservation, Reservation)


def test_a_day_s_money_is_one_budget_for_all(processes, clock):
    """Each slice is small; to the last of it there is a next one."""
    limits = [budget(process) for process in processes]
    settle(clock, *processes)
    total = Decimal(0)
    for _ in range(400):
        for limit in limits:
            total += Decimal("0.01") * spend(limit, "0.01")
        settle(clock, *processes, seconds=0.25)
    assert Decimal("0.97") <= total <= 1
    shortfall = reserve(limits[:1], Spender(), Decimal("0.5"))
    assert isinstance(shortfall, BudgetShortfall)
    assert not shortfall.is_momentary
    assert shortfall.spent >= Decimal("0.97")


def test_money_that_others_have_in_hand_is_waited_for(processes, clock):
    """A call that finds too little here may find more in a moment."""
    limit = budget(processes[0])
    settle(clock, processes[0])
    shortfall = reserve([limit], Spender(), Decimal("0.5"))
    assert isinstance(shortfall, BudgetShortfall)
    assert shortfall.is_momentary
    settle(clock, processes[0], seconds=0.25)
    assert spend(limit, "0.5")


def test_what_a_dead_process_held_counts_as_spent(processes, clock):
    """A slice, not more."""
    limits = [budget(process) for process in processes]
    settle(clock, *processes)
    spend(limits[0], "0.001")
    clock.now += 0.1
    for process in processes[:2]:
        process.exchange()
    for _ in range(120):
        settle(clock, processes[1], seconds=0.25)
        spend(limits[1], "0.05")
    left = reserve(limits[1:2], Spender(), Decimal("0.05"))
    assert isinstance(left, BudgetShortfall)
    assert left.spent > Decimal("0.95")


def test_without_the_store_each_spends_its_part_of_the_money(processes, clock):
    """Of what was left when it answered last; what is beyond it is not there in a moment, either."""
    limits = [budget(process) for process in processes]
    settle(clock, *processes)
    for process in processes:
        process.lose(3)
    clock.now += 2
    for limit in limits:
        assert 30 <= sum(spend(limit, "0.01") for _ in range(100)) <= 33
        shortfall = reserve([limit], Spender(), Decimal("0.01"))
        assert isinstance(shortfall, BudgetShortfall)
        assert not shortfall.is_momentary


def test_a_day_that_is_past_is_told_once_more(processes, clock):
    """Then nothing is to be told of it."""
    one, *_ = processes
    limit = budget(one)
    settle(clock, one)
    spend(limit, "0.001")
    clock.now += 86_400
    limit.account.of(Spender())
    assert [len(one.member.request().claims) for _ in range(2)] == [1, 0]


# Requests, and answers.


def test_a_new_member_asks_as_one_that_knows_nothing(clock):
    """It is idle, it has no news, and its name has sixteen digits."""
    for seed in range(20):
        member = Member(NAMES, lambda: clock.now, Random(seed))
        member.hear(News("other", encode_evidence(Evidence(fences={"d": 1}))))
        assert re.fullmatch("[0-9a-f]{16}", member.id)
    assert member.members == 1
    member.share(Health.of_targets([]), {})
    asked = member.request()
    assert (asked.number, asked.answered, asked.epoch, asked.evidence) == (1, 0, "", "")
    assert (asked.is_active, asked.is_news, asked.leaves) == (False, False, False)
    assert member.request(leaves=True).leaves is True
    assert 0.375 <= member.pause_s() <= 0.625


def test_a_request_names_the_last_answer_and_comes_next_in_number(processes):
    """A store that knows a later one has seen this member before, one that knows a lower one has lost data."""
    first = processes[0].member.request()
    processes[0].exchange()
    second = processes[0].member.request()
    assert (second.number, second.answered) == (first.number + 2, first.number + 1)
    assert second.epoch == processes[0].state.epoch


def test_a_process_is_active_for_a_minute_and_busy_for_five_seconds_after_its_last_call(clock):
    """Then it takes no part, and exchanges half as often."""
    process = Process(FleetState(), clock, "a")
    clock.now += 5
    assert max(process.member.pause_s() for _ in range(200)) < 0.32
    clock.now += 0.1
    assert min(process.member.pause_s() for _ in range(200)) > 0.37
    clock.now = process.member.called_at + 59.9
    assert process.member.request().is_active
    clock.now = process.member.called_at + 60
    assert not process.member.request().is_active


def test_calls_that_wait_know_when_the_next_exchange_is_due(clock):
    """Not at once, at any rate."""
    process = Process(FleetState(), clock, "a")
    assert process.member.next_exchange() == pytest.approx(clock.now + 0.05)
    pause_s = process.member.pause_s()
    assert process.member.next_exchange() == clock.now + pause_s


def test_a_store_is_gone_once_two_answers_are_missed_and_the_lease_has_ended(clock):
    """Not before both; a new member waits a second for its first."""
    process = Process(FleetState(), clock, "a")
    assert [process.member.lost(), process.member.lost()] == [False, False]
    clock.now += 0.9
    assert process.member.is_answered()
    clock.now += 0.1
    assert not process.member.is_answered()
    assert process.member.lost()
    process.exchange()
    clock.now += 9
    assert process.member.is_answered()
    process.exchange()
    process.lose(2)
    clock.now += 1.4
    assert process.member.is_answered()
    clock.now += 0.1
    assert not process.member.is_answered()


def test_an_answer_that_comes_twice_is_taken_once(processes):
    """Whatever the second says."""
    member, state = processes[0].member, processes[0].state
    request = member.request()
    response = state.exchange(request, in_ms(processes[0].clock.now))
    member.receive(request, processes[0].clock.now, response)
    member.receive(request, processes[0].clock.now, replace(response, epoch="another"))
    assert member.request().epoch == state.epoch


def test_a_store_that_has_lost_its_data_is_told_what_others_had_used(clock):
    """Requests and money."""
    one, two = limited(clock, rpm=400)
    limit = budget(one)
    two_limit = budget(two)
    settle(clock, one, two)
    two.succeed()
    assert spend(two_limit, "0.001")
    settle(clock, one, two, seconds=0.5)
    one.state = FleetState()
    one.exchange()
    assert [two.member.id in claim.remembered for claim in one.member.request().claims] == [True, True]
    one.exchange()
    assert [dict(claim.remembered) for claim in one.member.request().claims] == [{}, {}]
    assert limit.account.shared is not None


def test_what_was_told_a_while_ago_holds_for_the_rest_of_its_time(processes, clock):
    """Not from when it is heard."""
    one, two, third = processes
    for process in (one, two):
        process.fail()
        process.exchange()
    clock.now += 10
    third.exchange()
    assert third.breaker == "open"
    assert third.health.adopted == {"primary"}
    clock.now += 20.5
    assert third.breaker != "open"


def test_a_report_holds_while_its_member_is_heard_of(processes, clock):
    """Three lease times after its last word."""
    one, _, third = processes
    one.fail()
    clock.now += 31
    settle(clock, *processes, seconds=0.25)
    for seconds, reported_by in ((4.25, [one.member.id]), (0.001, [])):
        clock.now += seconds
        third.exchange()
        assert third.member.snapshot()["deployments"]["primary"]["reported_by"] == reported_by


def test_a_suspicion_ends_once_the_store_is_gone(processes, clock):
    """A process goes on by what it has met itself."""
    one, _, third = processes
    one.fail()
    one.exchange()
    third.exchange()
    third.deployment.begin(clock.now)
    assert not third.is_free()
    clock.now += 2
    third.lose(2)
    assert third.is_free()


def test_a_reload_keeps_what_is_known_of_a_deployment_that_stayed(processes):
    """And what is leased of it."""
    process = processes[0]
    known = process.deployment.shared
    process.member.share(process.health, {"primary": known.names})
    assert process.deployment.shared is known


def test_a_new_member_hears_news_before_its_first_answer(clock):
    """They come by themselves."""
    process = Process(FleetState(), clock, "a")
    process.member.hear(News("other", encode_evidence(Evidence(fences={NAMES.of("primary"): 7}))))
    assert process.deployment.shared.fence == 7


def test_news_that_come_as_a_request_is_sent_outlast_its_answer(processes, clock):
    """The store may have had them after it answered."""
    one, _, third = processes
    request = third.member.request()
    response = third.state.exchange(request, in_ms(clock.now))
    one.fail()
    third.member.hear(news_of(one))
    third.member.receive(request, clock.now, response)
    assert third.member.snapshot()["deployments"]["primary"]["reported_by"] == [one.member.id]


def test_who_only_looks_on_wants_nothing(clock):
    """Of requests, places or money."""
    [process, _] = limited(clock, rpm=400)
    limit = budget(process)
    assert process.member.snapshot()["deployments"]["primary"]["limits"]["rpm"]
    assert not spend(limit, "0.5")
    process.member.takes_part = False
    assert [(claim.wanted, claim.need) for claim in process.member.request().claims] == [(0, 0), (0, 0)]


# What is shown, and forks.


def test_it_shows_how_it_stands(processes, clock):
    """Who is there, how old the news are, and who reports what."""
    one, _, third = processes
    one.fail()
    settle(clock, *processes, seconds=0.25)
    shown = third.member.snapshot()
    assert shown["store"] == "answers"
    assert shown["members"] == 3
    assert shown["age_s"] == 0.25
    assert shown["deployments"]["primary"]["reported_by"] == [one.member.id]
    assert shown["deployments"]["primary"]["breaker"] == "closed"
    assert one.member.snapshot()["deployments"]["primary"]["breaker"] == "open"
    assert shown["member"] == third.member.id
    assert shown["budgets"] == []
    budget(third)
    clock.now += 0.12345
    shown = third.member.snapshot()
    assert shown["age_s"] == 0.373
    assert [it["scope"] for it in shown["budgets"]] == ["assistant"]


def test_a_new_member_joins_and_says_so(clock):
    """Before the first answer it knows nothing of the others."""
    process = Process(FleetState(), clock, "a")
    assert process.member.snapshot()["store"] == "joining"
    process.lose(2)
    clock.now += 2
    assert process.member.snapshot()["store"] == "gone"
    process.exchange()
    assert process.member.snapshot()["store"] == "answers"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_is_a_member_of_its_own_and_holds_nothing(clock):
    """What its parent holds, uses and has spent its parent tells."""
    [parent, _] = limited(clock, rpm=400)
    limit = budget(parent)
    settle(clock, parent)
    spend(limit, "0.001")
    settle(clock, parent, seconds=0.25)

    def child() -> bool:
        request, member = parent.member.request(), parent.member
        is_another = request.member != parent_id(parent)
        is_idle = not request.is_active and 0.375 <= member.pause_s() <= 0.625
        return is_another and is_idle and not parent.is_free() and [it.charges for it in request.claims] == [()]

    assert in_child(child)


def parent_id(parent: Process) -> str:
    """Of before the fork: the claims that the parent made have it."""
    return next(iter(parent.state.members))
