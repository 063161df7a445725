"""One process of a fleet: what its deployments and budgets may do, by what it was told."""

from __future__ import annotations

import os
from decimal import Decimal
from functools import partial
from random import Random

import pytest

from llm_fallback.engine.budget import Account, BudgetLimit, BudgetShortfall, Reservation, Spender, reserve
from llm_fallback.engine.health import Health
from llm_fallback.fleet.deployment import DeploymentNames
from llm_fallback.fleet.evidence import Evidence, decode_evidence, encode_evidence
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import News, in_ms
from llm_fallback.fleet.names import Names
from llm_fallback.fleet.state import FleetState
from llm_fallback.spec import Breaker, Limits
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
    healthy.deployment.begin(healthy.clock.now)
    healthy.exchange()
    assert healthy.is_free(), "the same report is no new suspicion"


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
    one, two, _ = processes
    one.fail()
    two.fail()
    settle(clock, *processes, seconds=31)
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
    one, two, _ = processes
    one.fail()
    two.fail()
    settle(clock, *processes, seconds=31)
    for process in processes:
        process.is_free()
    settle(clock, *processes, seconds=0.25)
    [holder] = [process for process in processes if process.is_free()]
    holder.fail(times=1)
    for _ in range(100):
        settle(clock, *processes, seconds=0.25)
        assert not any(process.is_free() for process in processes)


def test_without_the_store_each_probes_for_itself(processes, clock):
    """One each, as a process on its own does."""
    one, two, _ = processes
    one.fail()
    two.fail()
    settle(clock, *processes, seconds=31)
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
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        request = parent.member.request()
        facts = (request.member != parent_id(parent), parent.is_free(), [claim.charges for claim in request.claims])
        os.write(tells, repr(facts).encode())
        os._exit(0)
    os.close(tells)
    assert os.read(told, 1000).decode() == "(True, False, [()])"
    os.waitpid(pid, 0)


def parent_id(parent: Process) -> str:
    """Of before the fork: the claims that the parent made have it."""
    return next(iter(parent.state.members))
