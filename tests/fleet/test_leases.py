"""A member's part of a limit: what it tells, what it wants, what it may use."""

from __future__ import annotations

import pytest

from llm_fallback.fleet.leases import PlaceLease, ProbeLease, RateLease, in_slices
from llm_fallback.fleet.messages import Grant


def granted(units: float, charged: float = 0.0, fence: int = 1) -> Grant:
    return Grant(units, charged, fence)


def rate(capacity: float = 100.0) -> RateLease:
    return RateLease("rpm", capacity, 60.0, lambda now: ())


def test_nothing_may_be_used_before_something_is_granted():
    """A process that has just begun has no lease in hand."""
    assert rate().available(0) == 0


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


def test_it_helps_to_hurry_only_while_the_store_has_something_to_give():
    """At a limit, a process would else ask as fast as it can."""
    lease = rate()
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
    assert lease.available(1) == 2
    assert lease.claim(1, 1).charges == ((2, 10.0),)
    in_flight = 0
    assert lease.available(2) == 4


def test_a_probe_is_leased_for_a_cooldown():
    """Once it is sent, no other is, and who holds it tells so for as long."""
    lease = ProbeLease("probe")
    assert not lease.is_told(0)
    lease.ask(30.0)
    claim = lease.claim(0, 8)
    assert (claim.capacity, claim.need, claim.window_s) == (1, 1, 30)
    lease.receive(granted(1), expires_at=2)
    lease.use(1, 30.0)
    assert lease.available(1) == 0
    assert lease.claim(2, 8).charges == ((1.0, 29.0),)
    assert not lease.is_told(31.1)


def test_a_probe_that_nobody_sends_is_given_back():
    """Calls may have stopped meanwhile."""
    lease = ProbeLease("probe")
    lease.ask(30.0)
    lease.claim(0, 8)
    lease.receive(granted(1), expires_at=9)
    held = [lease.claim(now, 8).held for now in (1, 2, 3)]
    assert held[-1] == 0


def test_what_others_have_used_is_told_to_a_store_that_has_lost_it():
    """As it was told last; what the emptied store says does not replace it."""
    lease = rate()
    lease.receive(Grant(0, 9, 1, {"other": 7, "own": 2}), expires_at=10)
    lease.receive(Grant(0, 2, 1, {"own": 2}), expires_at=20, restores=True)
    assert lease.claim(1, 2, restores=True).remembered == {"other": 7, "own": 2}
    lease.receive(Grant(0, 2, 1, {"own": 2}), expires_at=30)
    assert lease.claim(2, 2, restores=True).remembered == {"own": 2}


@pytest.mark.parametrize("members", [1, 7])
def test_the_fence_never_falls(members):
    """A store that has lost it begins at what its members know."""
    lease = rate()
    lease.receive(granted(1, fence=5), expires_at=10)
    lease.receive(granted(1, fence=2), expires_at=10)
    assert lease.claim(0, members).fence == 5
