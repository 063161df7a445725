"""A member's part of a limit: what it tells, what it wants, what it may use."""

from __future__ import annotations

import pytest

from llm_fallback.fleet.leases import PlaceLease, ProbeLease, RateLease, in_slices
from llm_fallback.fleet.messages import Claim, Grant


def granted(units: float, charged: float = 0.0, fence: int = 1) -> Grant:
    return Grant(units, charged, fence)


def rate(capacity: float = 100.0) -> RateLease:
    return RateLease("rpm", capacity, 60.0, lambda now: ())


def test_nothing_may_be_used_before_something_is_granted():
    """A process that has just begun has no lease in hand."""
    lease = rate()
    assert lease.available(0) == 0
    lease.use(2)
    assert lease.available(0) == 0


def test_what_is_granted_may_be_used_until_the_lease_ends():
    """And what is used is there no more."""
    lease = rate()
    lease.receive(granted(5), expires_at=10)
    lease.use(2)
    assert (lease.available(9.9), lease.available(10)) == (3, 0)


def test_a_lease_that_has_ended_is_gone():
    """The next claim holds nothing of it."""
    lease = rate()
    lease.receive(granted(5), expires_at=10)
    assert lease.claim(11, 1).held == 0
    lease.receive(granted(1), expires_at=20)
    assert lease.available(12) == 1


def test_it_holds_some_for_calls_to_come():
    """A tenth of the limit for all together, while nobody calls."""
    assert [rate().claim(0, members).wanted for members in (1, 4, 20)] == [10, 2, 0]


def test_it_wants_what_was_used_lately_and_what_was_missed():
    """Twice as much as from the last claim to this one, then less and less."""
    lease = rate()
    lease.receive(granted(30), expires_at=100)
    lease.use(20)
    lease.refuse(4)
    assert [lease.claim(now, 1).wanted for now in range(3)] == [48, 24, 12]


def test_every_use_and_every_refusal_counts_as_demand():
    """By whomever; what one of them needs at least is told as well."""
    lease = rate()
    lease.use(2)
    lease.use(3)
    lease.demand(4)
    lease.demand(5)
    lease.refuse(7)
    lease.refuse(6)
    lease.refuse(8)
    claim = lease.claim(0, 100)
    assert (claim.wanted, claim.need) == (70, 6)


def test_demand_of_one_is_forgotten():
    """Halves of it would be asked for for ever."""
    lease = rate()
    lease.use(4)
    assert [lease.claim(now, 100).wanted for now in range(4)] == [8, 4, 2, 0]


def test_what_is_not_used_after_all_is_there_again():
    """A request may cost less than it might have."""
    lease = rate()
    lease.receive(granted(5), expires_at=10)
    lease.use(3)
    lease.give_back(2)
    lease.give_back(1)
    assert lease.available(1) == 5


def test_a_claim_says_what_it_is_about():
    """With what was used, and nothing of others while the store has lost nothing."""
    lease = RateLease("rpm", 100.0, 60.0, lambda now: [(2, now)])
    lease.receive(Grant(0, 9, 3, {"other": 7}), expires_at=10)
    assert lease.claim(0, 1) == Claim("rpm", 100.0, 60.0, ((2, 60.0),), held=0, wanted=10, need=0, fence=3)
    assert PlaceLease("max_parallel", 40, 10.0, lambda: 0).claim(1, 1) == Claim(
        "max_parallel", 40, 10.0, (), held=0, wanted=4, need=0, fence=0
    )
    assert ProbeLease("probe").claim(0, 8) == Claim("probe", 1.0, 0.0, (), held=0, wanted=0, need=0, fence=0)


def test_it_gives_back_what_is_not_needed():
    """With the claim: from then on it may not be used here."""
    lease = rate()
    lease.receive(granted(50), expires_at=100)
    assert (lease.claim(1, 1).held, lease.available(1)) == (10, 10)


def test_it_gives_back_what_is_too_little_to_be_of_use():
    """Two members that hold half of what each needs would wait for each other for ever."""
    lease = rate()
    lease.receive(granted(9), expires_at=100)
    lease.refuse(12)
    claim = lease.claim(1, 1)
    assert (claim.held, claim.need, claim.wanted) == (0, 12, 24)
    lease.receive(granted(12), expires_at=100)
    lease.refuse(12)
    assert lease.claim(2, 1).held == 12


def test_it_helps_to_hurry_only_while_the_store_has_something_to_give():
    """At a limit, a process would else ask as fast as it can."""
    lease = rate()
    assert lease.refuse(0)
    lease.claim(0, 100)
    lease.receive(granted(0, charged=100), expires_at=10)
    assert lease.refuse(1)
    lease.claim(0, 100)
    lease.receive(granted(0, charged=100), expires_at=10)
    assert not lease.refuse(1)
    lease.claim(1, 100)
    lease.receive(granted(1, charged=100), expires_at=10)
    assert lease.refuse(1)


def test_uses_are_told_by_slices_and_never_count_for_less_than_their_time():
    """A slice counts to its end."""
    told = in_slices([(1, 0.0), (1, 0.1), (3, 12.0), (1, 59.9), (1, 61.0)], 60.0)
    assert told == [(2, 60.0), (3, 50.0), (1, 5.0)]


def test_places_count_while_requests_are_under_way():
    """Who ends a request has its place for the next one."""
    in_flight = 2
    lease = PlaceLease("max_parallel", 40, 10.0, lambda: in_flight)
    lease.receive(granted(4), expires_at=10)
    assert [lease.available(now) for now in (1, 9.9, 10, 11)] == [2, 2, 0, 0]
    assert lease.claim(1, 1).charges == ((2, 10.0),)
    in_flight = 0
    assert lease.available(2) == 4


def test_a_probe_is_leased_for_a_cooldown():
    """Once it is sent, no other is, and who holds it tells so for as long."""
    lease = ProbeLease("probe")
    assert not lease.is_told(0)
    lease.ask(0.0, 30.0)
    claim = lease.claim(0, 8)
    assert (claim.capacity, claim.need, claim.window_s) == (1, 1, 30)
    lease.receive(granted(1), expires_at=2)
    lease.use(1, 30.0)
    assert lease.available(1) == 0
    assert lease.claim(2, 8).charges == ((1.0, 29.0),)
    assert lease.is_told(30.9)
    assert not lease.is_told(31)
    assert lease.claim(31, 8).charges == ()


def test_each_probe_that_is_granted_is_one():
    """Whatever was granted and sent before it."""
    lease = ProbeLease("probe")
    for now in (0, 40, 80):
        lease.receive(granted(1), expires_at=now + 2)
        assert lease.available(now) == 1
        assert lease.is_told(now)
        lease.use(now, 30.0)
        assert lease.available(now) == 0


def test_a_probe_that_nobody_sends_is_given_back_after_a_cooldown():
    """Until then the next call may send it; then calls may have stopped."""
    lease = ProbeLease("probe")
    lease.ask(0.0, 30.0)
    lease.claim(0, 8)
    lease.receive(granted(1), expires_at=99)
    assert [lease.claim(now, 8).held for now in (1, 29, 31, 32)] == [1, 1, 0, 0]


def test_who_asked_for_the_probe_and_was_not_called_in_time_keeps_it_for_twice_as_long_as_that_took():
    """So that seldom calls find one in hand, too, within two hours; and the next after one that was sent."""
    lease = ProbeLease("probe")
    for asked_at, kept_until in ((0.0, 30.0), (50.0, 150.0), (160.0, 380.0), (9000.0, 16200.0)):
        lease.ask(asked_at, 30.0)
        assert [lease.claim(kept_until + off_s, 8).need for off_s in (-1, 0)] == [1, 0]
    lease.ask(20000.0, 30.0)
    assert lease.claim(20099.0, 8).need == 1
    lease.use(20100.0, 30.0)
    assert lease.claim(20100.0, 8).need == 0
    lease.ask(20200.0, 30.0)
    assert [lease.claim(now, 8).need for now in (20200.0, 20599.0, 20600.0)] == [1, 1, 0]


def test_calls_that_come_in_twos_keep_it_for_as_long_as_the_first_of_them():
    """The second follows at once, and says nothing of when the next will come."""
    lease = ProbeLease("probe")
    for asked_at in (0.0, 600.0, 601.0):
        lease.ask(asked_at, 30.0)
    assert [lease.claim(now, 8).need for now in (602.0, 1799.0, 1800.0)] == [1, 1, 0]


def test_one_that_need_not_be_sent_is_kept_no_longer_and_the_next_for_a_cooldown():
    """However long it was before."""
    lease = ProbeLease("probe")
    lease.ask(0.0, 30.0)
    lease.ask(1000.0, 30.0)
    lease.forgo()
    assert lease.claim(1000.0, 8).need == 1, "the call that asked has not been told"
    assert lease.claim(1001.0, 8).need == 0
    lease.ask(2000.0, 30.0)
    assert [lease.claim(now, 8).need for now in (2000.0, 2029.0, 2030.0)] == [1, 1, 0]


def test_who_asks_in_the_moment_until_which_it_is_kept_keeps_it_anew():
    """However short the cooldown is."""
    lease = ProbeLease("probe")
    lease.ask(0.0, 1.0)
    assert [lease.claim(now, 8).need for now in (0.9, 1.0)] == [1, 0]
    lease.ask(1.0, 1.0)
    assert [lease.claim(now, 8).need for now in (1.0, 2.9, 3.0)] == [1, 1, 0]


def test_who_asked_for_the_probe_long_before_the_next_exchange_still_asks_for_it():
    """A store may have been out of reach in between; one probe is all there is."""
    lease = ProbeLease("probe")
    lease.ask(0.0, 30.0)
    assert lease.is_told(31.0)
    claim = lease.claim(31.0, 8)
    assert (claim.need, claim.wanted) == (1, 2)
    assert not lease.is_told(31.0)


@pytest.mark.parametrize("lease", [rate(), ProbeLease("probe")], ids=["rate", "probe"])
def test_what_others_have_used_is_told_to_a_store_that_has_lost_it(lease):
    """As it was told last; what the emptied store says does not replace it."""
    lease.receive(Grant(0, 9, 1, {"other": 7, "own": 2}), expires_at=10)
    assert lease.claim(0, 2).remembered == {}
    lease.receive(Grant(0, 2, 1, {"own": 2}), expires_at=20, restores=True)
    assert lease.claim(1, 2, restores=True).remembered == {"other": 7, "own": 2}
    lease.receive(Grant(0, 2, 1, {"own": 2}), expires_at=30)
    assert lease.claim(2, 2, restores=True).remembered == {"own": 2}
    lease.receive(Grant(0, 2, 1, {"another": 0.25}), expires_at=40, restores=True)
    assert lease.claim(3, 2, restores=True).remembered == {"own": 2, "another": 0.25}
    lease.receive(Grant(0, 2, 1, {"own": 3}), expires_at=50, restores=True)
    assert lease.claim(4, 2, restores=True).remembered == {"own": 3, "another": 0.25}


@pytest.mark.parametrize("members", [1, 7])
def test_the_fence_never_falls(members):
    """A store that has lost it begins at what its members know."""
    lease = rate()
    lease.receive(granted(1, fence=5), expires_at=10)
    lease.receive(granted(1, fence=2), expires_at=10)
    assert lease.claim(0, members).fence == 5
