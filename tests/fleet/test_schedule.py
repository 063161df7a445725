"""How often a member exchanges."""

from __future__ import annotations

from random import Random

import pytest

from llm_fallback.fleet.schedule import Schedule


def schedule(members: int = 1, failures: int = 0) -> Schedule:
    made = Schedule(Random(1))
    made.answered(members)
    for _ in range(failures):
        made.failed()
    return made


def pauses(made: Schedule, **how: bool) -> list[float]:
    return [made.pause_s(**how) for _ in range(500)]


def test_a_member_exchanges_four_times_a_second_and_not_in_step_with_others():
    """A quarter of a pause is chance."""
    found = pauses(schedule())
    assert 0.1875 <= min(found) < 0.2
    assert 0.3 < max(found) <= 0.3125


def test_an_idle_one_half_as_often():
    """It has nothing to tell, and news come by themselves."""
    assert min(pauses(schedule(), is_idle=True)) >= 0.375


@pytest.mark.parametrize(("members", "interval_s"), [(1, 0.25), (16, 0.25), (64, 1.0), (256, 4.0)])
def test_a_large_fleet_exchanges_less_often_and_leases_for_longer(members, interval_s):
    """The store has 64 exchanges a second from a fleet of any size."""
    made = schedule(members)
    assert (made.interval_s, made.lease_s) == (interval_s, 6 * interval_s)


def test_a_lease_outlasts_two_answers_that_are_lost():
    """Each is waited for in vain, and each time the next comes after a longest pause."""
    made = schedule()
    assert 2 * made.patience_s + max(pauses(made)) < made.lease_s


@pytest.mark.parametrize("failures", [1, 2, 3, 20])
def test_all_come_back_to_a_store_within_a_lease(failures):
    """So long it grants nothing to anybody; and no two come at the same time."""
    found = pauses(schedule(failures=failures))
    assert max(found) + schedule().patience_s <= schedule().lease_s
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("failures", "longest_s"), [(1, 0.5), (2, 1.0), (3, 1.125), (5000, 1.125)])
def test_it_waits_longer_with_every_answer_that_is_missed(failures, longest_s):
    """Between half of the pause and all of it."""
    found = pauses(schedule(failures=failures))
    assert longest_s / 2 <= min(found) < 0.52 * longest_s
    assert 0.98 * longest_s < max(found) <= longest_s


def test_it_is_one_member_until_it_hears_of_others():
    """Itself counts, though it may not be counted by the store."""
    made = Schedule(Random(1))
    assert (made.failures, made.members) == (0, 1)
    made.answered(0)
    assert made.members == 1


def test_an_answer_ends_the_failures():
    """A member counts those that come one after another."""
    made = schedule(failures=2)
    assert made.failures == 2
    made.answered(1)
    assert made.failures == 0
