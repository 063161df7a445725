"""What follows from a failure, how long a repeat waits, and how many there may be."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.retry import FAILURES, RetryBudget, backoff_s, recent_count
from llm_fallback.events import Failure
from llm_fallback.spec import Retries

PAGE = Path(__file__).parents[2] / "docs/failures.md"
SAID = {
    "counts": "counts",
    "opens until Retry-After, else for `cooldown_s`": "cools_down",
    "opens for 300 s": "opens",
    "-": "ignores",
}


def test_the_table_has_every_failure_and_says_of_breakers_what_the_page_says():
    """Users read docs/failures.md; the engine reads the table."""
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(failure for failure, _ in rows) == sorted(get_args(Failure))
    assert {failure: SAID[breaker] for failure, breaker in rows} == {
        failure: consequences.breaker for failure, consequences in FAILURES.items()
    }


def test_what_fails_again_for_the_same_request_is_not_repeated():
    """Nor what only a person mends."""
    assert {failure for failure, consequences in FAILURES.items() if not consequences.is_repeatable} == {
        *("auth", "quota_exhausted", "not_found"),
        *("context_window", "content_policy", "bad_request"),
    }


@given(st.integers(1, 60), st.floats(0.01, 10), st.floats(0.01, 600), st.integers())
def test_a_repeat_waits_no_longer_than_the_doubling_and_the_most_allow(repeat, initial_s, max_s, seed):
    """Exponential with full jitter, the same for the same seed."""
    retries = Retries(wait_initial_s=initial_s, wait_max_s=max_s)
    seconds = backoff_s(retries, Random(seed), repeat)
    assert 0 <= seconds <= min(max_s, initial_s * 2 ** (repeat - 1))
    assert seconds == backoff_s(retries, Random(seed), repeat)


class Longest(Random):
    """Chance that always brings the most."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


def test_the_most_that_repeats_wait_doubles_up_to_the_most_there_is():
    """Half a second before the first, eight at most, unless the spec says otherwise."""
    assert [backoff_s(Retries(), Longest(), repeat) for repeat in range(1, 7)] == [0.5, 1, 2, 4, 8, 8]


def test_an_extra_request_that_was_not_sent_is_taken_back():
    """From the time it was counted at: then another may be sent, and later no more than were taken back."""
    budget = RetryBudget(recent_count(), share=0.2, floor=2)
    for now in (0.0, 30.0):
        budget.spend(now)
    assert not budget.allows(30.0)
    budget.take_back(30.0)
    assert budget.allows(31.0)
    budget.spend(31.0)
    assert not budget.allows(50.0)
    assert budget.allows(62.0)
    budget.take_back(0.0)
    budget.spend(62.0)
    assert not budget.allows(62.0)


@pytest.mark.parametrize(("calls", "allowed"), [(0, 10), (50, 10), (51, 10), (55, 11), (1000, 200)])
def test_extra_requests_are_a_share_of_the_calls_of_a_minute(calls, allowed):
    """With a floor, so that small traffic is repeated at all; a minute later all are allowed again."""
    counter = recent_count()
    budget = RetryBudget(counter, share=0.2, floor=10)
    for _ in range(calls):
        counter.add(0.0, 1)
    spent = 0
    while budget.allows(1.0):
        budget.spend(1.0)
        spent += 1
    assert spent == allowed
    assert budget.allows(70.0)
