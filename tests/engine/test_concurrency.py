"""The number of parallel requests that is found, against servers of several kinds, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.engine.concurrency import MOST, START, ConcurrencyLimit
from tests.thinning import examples

REFUSAL_S = 0.02


@dataclass
class Phase:
    """What came of a while of traffic."""

    answered: int = 0
    refused: int = 0
    late_answered: int = 0
    """In the second half, when it has settled."""
    late_refused: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    @property
    def late_share_refused(self) -> float:
        return self.late_refused / max(self.late_answered + self.late_refused, 1)


@dataclass
class Traffic:
    """As many requests as the limit allows, always, to a server with room for `capacity` of them."""

    limit: ConcurrencyLimit | int
    capacity: int
    queues: bool = False
    """Whether it lets the others wait in line; else it refuses them."""
    mean_s: float = 0.5
    spread: float = 0.3
    rng: Random = field(default_factory=lambda: Random(1))
    now: float = 0.0
    in_flight: int = 0
    _served: int = 0
    _line: list[tuple[float, float]] = field(default_factory=list)
    _events: list[tuple[float, int, float, bool]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def go_on(self, seconds: float) -> Phase:
        phase, begin = Phase(seconds=seconds), self.now
        while self.now < begin + seconds:
            self._send()
            if not self._events:
                self.now = self._paused_until
                continue
            at, _, sent_at, is_answer = heapq.heappop(self._events)
            self.now, is_late = at, at > begin + seconds / 2
            phase.answered, phase.refused = phase.answered + is_answer, phase.refused + (not is_answer)
            phase.late_answered += is_answer and is_late
            phase.late_refused += not is_answer and is_late
            self._end(sent_at, is_answer)
        return phase

    @property
    def _paused_until(self) -> float:
        return self.limit.paused_until if isinstance(self.limit, ConcurrencyLimit) else -math.inf

    @property
    def _most(self) -> int:
        return self.limit.limit if isinstance(self.limit, ConcurrencyLimit) else self.limit

    def _send(self) -> None:
        while self.in_flight < self._most and self.now >= self._paused_until:
            self.in_flight += 1
            takes_s = self.mean_s * math.exp(self.rng.gauss(0, self.spread) - self.spread**2 / 2)
            if self._served < self.capacity:
                self._serve(self.now, takes_s)
            elif self.queues:
                self._line.append((self.now, takes_s))
            else:
                self._push(self.now + REFUSAL_S, self.now, is_answer=False)

    def _serve(self, sent_at: float, takes_s: float) -> None:
        self._served += 1
        self._push(self.now + takes_s, sent_at, is_answer=True)

    def _push(self, at: float, sent_at: float, *, is_answer: bool) -> None:
        heapq.heappush(self._events, (at, next(self._order), sent_at, is_answer))

    def _end(self, sent_at: float, is_answer: bool) -> None:
        self._served -= is_answer
        while self._line and self._served < self.capacity:
            self._serve(*self._line.pop(0))
        if isinstance(self.limit, ConcurrencyLimit):
            learn = self.limit.answered if is_answer else self.limit.refused
            learn(self.now, sent_at, self.in_flight)
        self.in_flight -= 1


PHASES = (64, 8, 32)


def through_phases(limit: ConcurrencyLimit | int, *, queues: bool = False, seconds: float = 90.0) -> list[Phase]:
    """Traffic while the capacity goes 64, 8, 32."""
    traffic, phases = Traffic(limit, PHASES[0], queues), []
    for capacity in PHASES:
        traffic.capacity = capacity
        phases.append(traffic.go_on(seconds))
    return phases


@pytest.mark.parametrize("queues", [False, True], ids=["refuses", "queues"])
def test_whatever_the_capacity_becomes_the_limit_does_as_well_as_the_best_fixed_one(queues):
    """Within 10 % of the throughput, with what it takes to settle; and of a hundred requests at most one is refused
    once it has."""
    found = through_phases(ConcurrencyLimit(), queues=queues)
    fixed = [through_phases(size, queues=queues) for size in (8, 16, 32, 64)]
    for number, phase in enumerate(found):
        best = max(phases[number].rate for phases in fixed)
        assert phase.rate >= 0.9 * best, f"capacity {PHASES[number]}: {phase.rate:.1f}/s of {best:.1f}/s"
        assert phase.late_share_refused <= 0.01


def test_a_fixed_limit_that_is_too_high_is_mostly_refused():
    """What the limit that is found spares a server: nearly all requests of a fixed one are refused in the same time."""
    _, small, _ = through_phases(64, seconds=5.0)
    assert small.refused > 50 * small.answered


def test_a_server_that_refuses_is_asked_for_exactly_as_much_as_it_takes():
    """A refusal says how many are one too many."""
    limit = ConcurrencyLimit()
    Traffic(limit, 41).go_on(60.0)
    assert limit.limit in (41, 42)


def test_a_line_in_front_of_a_server_does_not_grow():
    """Further requests that bring no further answers are taken back."""
    limit = ConcurrencyLimit()
    traffic = Traffic(limit, 20, queues=True)
    for _ in range(20):
        traffic.go_on(30.0)
        assert limit.limit <= 4 * 20


def test_answers_that_take_longer_because_they_are_longer_shrink_nothing():
    """Latencies are compared for the work done: a second for a hundred tokens is as good as ten for a thousand."""
    limit, now = ConcurrencyLimit(), 0.0
    for tokens in (100, 1000):
        for _ in range(2000):
            limit.answered(now + tokens / 100, now, limit.limit, work=tokens)
            now += 0.01
        grown = limit.limit
    assert grown == MOST


def test_answers_that_grow_slower_with_as_many_requests_make_them_fewer():
    """Its capacity has become an eighth; nobody was refused. Now and then more are tried."""
    limit = ConcurrencyLimit()
    traffic = Traffic(limit, 64, queues=True)
    traffic.go_on(60.0)
    assert limit.limit >= 64
    traffic.capacity, seen = 8, []
    traffic.go_on(60.0)
    for _ in range(60):
        traffic.go_on(1.0)
        seen.append(limit.limit)
    assert median(seen) <= 24


def test_nobody_who_asks_for_little_raises_the_limit():
    """One request after another says nothing of what a hundred at once would bring."""
    limit = ConcurrencyLimit()
    for now in range(1000):
        limit.answered(now + 0.5, now, in_flight=1)
    assert limit.limit == START


def test_refusals_of_requests_sent_before_it_shrank_shrink_it_no_further():
    """All of them say the same: that there were too many then."""
    limit = ConcurrencyLimit()
    for in_flight in range(8, 0, -1):
        limit.refused(1.0, 0.5, in_flight)
    assert limit.limit == 4


outcomes = st.lists(
    st.tuples(st.booleans(), st.floats(0, 10), st.floats(0, 100), st.integers(1, 2 * MOST), st.integers(1, 5000)),
    max_size=400,
)


@given(outcomes)
@settings(deadline=None, max_examples=examples(200))
def test_the_limit_stays_in_its_bounds_whatever_happens(outcomes):
    """From one to `MOST`, and a pause ends within seconds; an answer raises it by one at most."""
    limit, now = ConcurrencyLimit(), 0.0
    for is_answer, pause, took, in_flight, work in outcomes:
        now += pause
        before = limit.limit
        if is_answer:
            limit.answered(now, now - took, in_flight, work)
            assert limit.limit <= before + 1
        else:
            limit.refused(now, now - took, in_flight)
            assert limit.limit <= before
        assert 1 <= limit.limit <= MOST
        assert limit.paused_until <= now + 4.0


@given(st.integers(1, 100), st.booleans(), st.integers(0, 10))
@settings(deadline=None, max_examples=examples(40))
def test_any_capacity_is_found(capacity, queues, seed):
    """In a hundred answers' time; from then on it serves at 85 % of its capacity or better."""
    traffic = Traffic(ConcurrencyLimit(), capacity, queues, rng=Random(seed))
    traffic.go_on(60.0)
    assert traffic.go_on(30.0).rate >= 0.85 * capacity / traffic.mean_s
