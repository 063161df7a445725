"""Windows that move with the time they are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.sliding_window import RateWindow, RunningMean, SlidingCounter

TIMES = st.lists(st.floats(0, 200).map(lambda seconds: round(seconds, 3)), max_size=60).map(sorted)


@given(TIMES, st.integers(1, 20))
def test_a_counter_counts_what_is_younger_than_the_window_within_one_slice(times, slices):
    """All of the last minute less a slice, and nothing of what is older than a minute and a slice."""
    counter, now = SlidingCounter(60.0, slices), times[-1] if times else 0.0
    for at in times:
        counter.add(at, 1)
    (counted,) = counter.totals(now)
    slice_s = 60.0 / slices
    assert sum(at > now - 60 + slice_s for at in times) <= counted <= sum(at > now - 60 - slice_s for at in times)
    assert counter.totals(now + 121) == [0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_kinds_are_counted_apart(counts):
    """Requests and failures, say."""
    counter = SlidingCounter(10.0, 5, kinds=2)
    for requests, failures in counts:
        counter.add(1.0, requests, failures)
    assert counter.totals(2.0) == [sum(kind) for kind in ([one for one, _ in counts], [other for _, other in counts])]
    counter.clear()
    assert counter.totals(2.0) == [0, 0]


@given(st.lists(st.floats(-1e6, 1e6), max_size=50), st.integers(1, 10))
def test_a_running_mean_is_that_of_the_last_values(values, size):
    """None before the first."""
    mean = RunningMean(size)
    for value in values:
        mean.add(value)
    last = values[-size:]
    assert mean.value == (pytest.approx(sum(last) / len(last), abs=1e-6) if last else None)


def test_at_the_time_that_is_named_there_is_room():
    """Also where sums of seconds are rounded: a minute after 1001.35 is before a minute has passed since, by 1e-13."""
    for began in (1001.35, 1001.3499999999999, 0.1, 3.3, 1000.7):
        rate = RateWindow()
        rate.add(began, 10)
        free_at = rate.free_at(began, 1, 10, 10)
        assert free_at is not None
        assert rate.free_at(free_at, 1, 10, 10) is None
