"""Windows that move with the time they are told."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_fallback.engine.sliding_window import RateWindow, RunningMean, SlidingCounter

TIMES = st.lists(st.floats(0, 200).map(lambda seconds: round(seconds, 3)), max_size=60).map(sorted)


@given(TIMES, st.integers(1, 20))
@example([0.0, 60.0], 12)
def test_a_counter_counts_what_is_younger_than_the_window_within_one_slice(times, slices):
    """All of the last minute less a slice, and nothing of what is a minute old."""
    counter, now = SlidingCounter(60.0, slices), times[-1] if times else 0.0
    for at in times:
        counter.add(at, 1)
    (counted,) = counter.totals(now)
    slice_s = 60.0 / slices
    assert sum(at > now - 60 + slice_s for at in times) <= counted <= sum(at > now - 60 for at in times)
    assert counter.totals(now + 121) == [0]


def test_a_counter_keeps_no_more_for_more_that_happens():
    """As many numbers as there are slices, however many requests a minute there are."""
    quiet, busy = SlidingCounter(60.0, 12), SlidingCounter(60.0, 12)
    for second in range(60):
        quiet.add(float(second), 1)
    for number in range(6000):
        busy.add(number / 100, 1)
    assert len(pickle.dumps(busy)) < 1.2 * len(pickle.dumps(quiet))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_kinds_are_counted_apart(counts):
    """Requests and failures, say."""
    counter = SlidingCounter(10.0, 5, kinds=2)
    for requests, failures in counts:
        counter.add(1.0, requests, failures)
    assert counter.totals(2.0) == [sum(kind) for kind in ([one for one, _ in counts], [other for _, other in counts])]
    counter.clear()
    assert counter.totals(2.0) == [0, 0]


@given(TIMES, st.data())
def test_a_counter_is_as_if_what_was_taken_back_had_never_been_counted(times, data):
    """Whether it still is in the window or not."""
    counter, other = SlidingCounter(60.0, 12, kinds=2), SlidingCounter(60.0, 12, kinds=2)
    taken = data.draw(st.sets(st.sampled_from(times))) if times else set()
    for at in times:
        counter.add(at, 1, 2)
        other.add(at, *((0, 0) if at in taken else (1, 2)))
    for at in times:
        if at in taken:
            counter.take_back(at, 1, 2)
    now = data.draw(st.floats(times[-1], 300)) if times else 0.0
    assert counter.totals(now) == other.totals(now)


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


def test_a_request_that_was_not_sent_leaves_no_trace_in_the_window():
    """Its place and its tokens are another's; what came before and after stays, and one that is forgotten is gone."""
    rate = RateWindow()
    rate.add(0.0, 10), rate.add(1.0, 20), rate.add(2.0, 30)
    assert rate.free_at(3.0, 3, 100, 40) == 60.0
    rate.remove(1.0, 20)
    assert rate.free_at(3.0, 3, 60, 20) is None
    assert rate.uses(3.0) == [(1, 3.0), (1, 1.0)]
    assert [use for use in rate.token_uses(3.0) if use[0]] == [(10, 3.0), (30, 1.0)]
    assert (rate.uses(61.0), [use for use in rate.token_uses(61.0) if use[0]]) == ([(1, 59.0)], [(30, 59.0)])
    rate.remove(0.0, 10)
    assert rate.free_at(61.0, None, 30, 1) == 62.0


def test_of_two_requests_at_one_time_the_tokens_of_either_are_taken_back_whole():
    """Some clocks tick every fifteen milliseconds."""
    rate = RateWindow()
    rate.add(1.0, 10)
    rate.add(1.0, 40)
    rate.remove(1.0, 40)
    assert rate.free_at(2.0, None, 100, 90) is None
    assert rate.free_at(2.0, None, 100, 91) == 61.0
    rate.correct(-10, 1.0, 2.0)
    assert rate.free_at(2.0, None, 100, 100) is None


def test_a_single_token_beyond_what_was_expected_counts_from_when_it_is_known():
    """Not from when its request began."""
    rate = RateWindow()
    rate.add(0.0, 10)
    rate.correct(1, 0.0, 50.0)
    assert rate.free_at(50.0, None, 11, 1) == 60.0
    assert rate.free_at(60.0, None, 11, 11) == 110.0


def test_a_request_larger_than_the_whole_limit_waits_for_all_the_others():
    """Until the last of them is forgotten."""
    rate = RateWindow()
    rate.add(0.0, 10), rate.add(5.0, 20), rate.add(7.0, 30)
    assert rate.free_at(8.0, None, 100, 5000) == 67.0
