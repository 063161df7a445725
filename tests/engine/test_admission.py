"""When the next of many calls starts: the tier that works decides, and nothing spills over to the next one."""

from __future__ import annotations

import math

from llm_fallback.engine.admission import Start, next_start
from llm_fallback.engine.concurrency import START
from llm_fallback.spec import Limits
from tests.plans import chain, health_of, member

NEVER = math.inf


def test_calls_start_as_long_as_the_first_tier_has_room():
    """Its members' places together; the second tier's do not count."""
    plan = chain(
        [member("a", limits=Limits(max_parallel=2)), member("b", limits=Limits(max_parallel=1))],
        member("dear", limits=Limits(max_parallel=100)),
    )
    health = health_of(plan)
    assert [next_start(plan, health, 0.0, under_way).at for under_way in range(5)] == [0, 0, 0, NEVER, NEVER]


def test_requests_of_others_take_places_too():
    """A model is shared: where others have taken all of them, the next call starts when one of theirs has ended."""
    plan = chain(member("a", limits=Limits(max_parallel=1)))
    health = health_of(plan)
    health["a"].begin(0.0)
    assert next_start(plan, health, 0.0, 0) == Start(NEVER)


def test_a_limit_by_the_minute_is_waited_for():
    """Until it allows a request again."""
    plan = chain(member("a", limits=Limits(rpm=1)), member("b"))
    health = health_of(plan)
    health["a"].cancelled(health["a"].begin(10.0))
    assert next_start(plan, health, 20.0, 0) == Start(70.0)


def test_the_next_tier_counts_once_every_breaker_of_the_first_is_open():
    """Then it is who is asked."""
    plan = chain(member("a", limits=Limits(max_parallel=8)), member("b", limits=Limits(max_parallel=1)))
    health = health_of(plan)
    health["a"].failed(health["a"].begin(0.0), 0.0, "auth", None)
    assert next_start(plan, health, 1.0, 0) == Start(1.0)
    assert next_start(plan, health, 1.0, 1) == Start(NEVER)


def test_in_an_outage_calls_go_one_at_a_time():
    """Each finds out whether it is over; a crowd would find out nothing more."""
    plan = chain(member("a"), member("b"))
    health = health_of(plan)
    for name in "ab":
        health[name].failed(health[name].begin(0.0), 0.0, "auth", None)
    assert next_start(plan, health, 1.0, 0) == Start(1.0, is_outage=True)
    assert next_start(plan, health, 1.0, 1) == Start(NEVER, is_outage=True)


def test_without_any_limit_nothing_waits():
    """Nobody has said how many are too many."""
    plan = chain(member("a"))
    assert next_start(plan, health_of(plan), 0.0, 10**6) == Start(0.0)


def test_limits_are_found_for_who_declares_none_while_a_batch_runs():
    """For all callers of the deployment, and until the last batch has ended."""
    plan = chain(
        member("a"), member("b", limits=Limits(max_parallel=3)), member("c", limits=Limits(max_parallel="auto"))
    )
    health = health_of(plan)

    def limits():
        return [health[name].max_parallel for name in "abc"]

    assert limits() == [NEVER, 3, START]
    with health.finding_limits(["a", "b", "c"]):
        with health.finding_limits(["a"]):
            assert limits() == [START, 3, START]
        assert limits() == [START, 3, START]
    assert limits() == [NEVER, 3, START]
