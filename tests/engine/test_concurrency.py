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
            if is_answer:
                self.limit.answered(self.now, sent_at, self.in_flight, work=1)
            else:
                self.limit.refused(self.now, sent_at, self.in_flight)
        self.in_flight -= 1


PHASES = (64, 8, 32)


def through_phases(limit: ConcurrencyLimit | int, *, queues: bool = False, seconds: float = 60.0) -> list[Phase]:
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


@pytest.mark.parametrize("seed", range(10))
def test_a_server_that_takes_one_more_again_is_soon_asked_for_all_that_it_takes(seed):
    """A refusal will say how many are too many: no time is spent on whether each step on the way is worth having."""
    limit = ConcurrencyLimit()
    traffic = Traffic(limit, 8, rng=Random(seed))
    traffic.go_on(60.0)
    traffic.capacity = 32
    while limit.limit <= 9:
        traffic.go_on(0.1)
    traffic.go_on(1.5)
    assert limit.limit >= 31


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
        limit.answered(now + 0.5, now, in_flight=1, work=1)
    assert limit.limit == START


@pytest.mark.parametrize(("in_flight", "grows"), [(START // 2, False), (START // 2 + 1, True)])
def test_more_than_half_of_the_limit_has_to_be_under_way(in_flight, grows):
    """What fewer bring says nothing of more."""
    limit = ConcurrencyLimit()
    for now in range(100):
        limit.answered(now + 1, now, in_flight, work=1)
    assert (limit.limit > START) is grows


def test_refusals_of_requests_sent_before_it_shrank_shrink_it_no_further():
    """All of them say the same: that there were too many then."""
    limit = ConcurrencyLimit()
    for in_flight in range(8, 0, -1):
        limit.refused(1.0, 0.5, in_flight)
    assert limit.limit == 4


@dataclass
class Steady:
    """One answer after the other, each in the same time, of as many requests as the limit allows."""

    limit: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)
    now: float = 0.0

    def answers(self, count: int, seconds: float = 1.0) -> list[int]:
        """The limit after each."""
        return [self._answer(seconds) for _ in range(count)]

    def answers_until_it_moves(self, seconds: float = 1.0) -> tuple[int, int]:
        """How many it takes, and to where."""
        before = self.limit.limit
        return next((count, limit) for count in itertools.count(1) if (limit := self._answer(seconds)) != before)

    def _answer(self, seconds: float) -> int:
        sent_at, self.now = self.now, self.now + seconds
        self.limit.answered(self.now, sent_at, self.limit.limit, work=1)
        return self.limit.limit

    def refuse(self, in_flight: int) -> int:
        self.limit.refused(self.now, self.now, in_flight)
        return self.limit.limit


def up_to(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


def found(size: int, seconds: float = 1.0) -> Steady:
    """One that has just found that so many are not refused and one more is."""
    steady = Steady()
    steady.refuse(size + 1)
    steady.answers(size - steady.limit.limit)
    steady.answers(max(32, size), seconds)
    assert steady.limit.limit == size
    return steady


def test_a_level_is_judged_by_as_many_answers_as_it_has_requests():
    """By no fewer than 32; then twice as many are tried, one more with each answer."""
    steady = Steady()
    assert steady.answers(32 + 16) == [16] * 32 + up_to(17, 32)
    assert steady.answers(32 + 32) == [32] * 32 + up_to(33, 64)
    assert steady.answers(64 + 64) == [64] * 64 + up_to(65, 128)


@pytest.mark.parametrize(("seconds", "is_worth"), [(1.0, True), (1.015625, False)])
def test_twice_as_many_are_worth_having_if_they_bring_a_quarter_more(seconds, is_worth):
    """To the answer: sixteen at 0.625 s are 25.6 a second, thirty-two have to be 32."""
    steady = Steady()
    steady.answers(32 + 16, 0.625)
    assert steady.answers(32, seconds)[-1] == (32 if is_worth else 16)
    assert steady.answers_until_it_moves(0.625) == ((1, 33) if is_worth else (65, 17))


@pytest.mark.parametrize(("seconds", "is_worth"), [(1.625, True), (1.75, False), (1.6875, False)])
def test_half_as_many_more_are_worth_having_if_they_bring_an_eighth_more(seconds, is_worth):
    """Which 32 answers tell: two at 1.25 s are 1.6 a second, three have to be 1.8."""
    steady = found(2, 1.25)
    assert steady.answers_until_it_moves(1.25) == (111, 3)
    assert steady.answers(31, seconds) == [3] * 31
    assert steady.answers(1, seconds) == [3 if is_worth else 2]


def test_a_small_step_is_judged_by_its_requests_alone():
    """Only a refusal tells anything of it, and that comes at once; then four times as many are tried."""
    steady = found(15)
    assert steady.answers(110) == [15] * 110
    assert steady.answers(1 + 16) == [16] * 17
    assert steady.answers(48) == up_to(17, 64)
    assert steady.answers(64) == [64] * 64


def test_what_was_known_to_be_too_many_stays_so_until_it_was_tried_again():
    """Also where the limit goes up to it by larger steps."""
    steady = found(2)
    assert steady.answers_until_it_moves() == (111, 3)
    assert steady.answers(32) == [3] * 32
    assert steady.answers(9 + 32, 8.0) == [*up_to(4, 12), *[12] * 31, 3]
    assert steady.answers(64 + 3 + 32) == [3] * 64 + up_to(4, 6) + [6] * 32
    assert steady.answers(5) == up_to(7, 11)
    assert steady.answers(32) == [11] * 32
    assert steady.answers(64) == [11] * 64
    assert steady.answers(1) == [12]


def test_a_refusal_of_what_it_took_before_halves_it():
    """It has shrunk, and by how much is not known; of more than it took, only the last one is taken back."""
    steady = found(15)
    assert steady.refuse(15) == 7
    assert steady.answers(7) == [*up_to(8, 14)[:7]]
    assert steady.answers(33) == [14] * 33
    steady = Steady()
    steady.answers(32 + 8)
    assert steady.refuse(20) == 19
    assert steady.answers(19 + 110) == [19] * 129


def test_a_refusal_of_what_was_sent_when_it_shrank_counts():
    """It was sent knowing of the last one."""
    steady = Steady()
    assert steady.refuse(16) == 8
    steady.limit.refused(steady.now + 1, steady.now, 8)
    assert steady.limit.limit == 4
    steady.limit.refused(steady.now + 2, steady.now + 0.5, 4)
    assert steady.limit.limit == 4


def test_who_refuses_a_single_request_is_left_alone_for_a_while():
    """Twice as long each time, up to four seconds, until an answer comes."""
    steady = Steady()
    assert steady.refuse(2) == 1
    assert steady.limit.paused_until == -math.inf
    for pause_s in (0.5, 1.0, 2.0, 4.0, 4.0):
        assert steady.refuse(1) == 1
        assert steady.limit.paused_until == steady.now + pause_s
        steady.now += 10
    steady.answers(1)
    steady.refuse(1)
    assert steady.limit.paused_until == steady.now + 0.5


def test_one_that_takes_a_single_request_is_tried_with_two():
    """After the usual time, however slow it has grown meanwhile: there is no half of one."""
    steady = Steady()
    steady.refuse(1)
    assert steady.answers(32) == [1] * 32
    assert steady.answers(110, 8.0) == [1] * 110
    assert steady.answers(1) == [2]


def test_a_level_that_has_grown_slow_twice_is_compared_with_its_half():
    """Slower than half as long again, by 32 answers after the first time: those were a mixture of before and after."""
    steady = found(15, 2.0)
    assert steady.answers(110 + 1, 3.0) == [15] * 110 + [16]
    steady = found(15, 2.0)
    assert steady.answers(110 + 31, 3.125) == [15] * 141
    assert steady.answers(1, 3.125) == [7]
    assert grown_slow(2).limit.limit == 1


def grown_slow(size: int) -> Steady:
    """One that has just been halved, because it had grown slow twice."""
    steady = found(size)
    steady.answers(110 + 31, 4.0)
    assert steady.limit.limit == size
    assert steady.answers(1, 4.0) == [size // 2]
    return steady


def test_it_goes_back_to_what_half_as_many_do_not_bring():
    """And looks again after the usual time, for what it was refused before."""
    steady = grown_slow(15)
    assert steady.answers(32 + 8, 4.0) == [7] * 32 + up_to(8, 15)
    assert steady.answers(110 + 1, 4.0) == [15] * 110 + [16]
    steady = grown_slow(15)
    steady.answers(32 + 8, 4.0)
    assert steady.answers(110 + 31, 8.0) == [15] * 141
    assert steady.answers(1, 8.0) == [7]


def test_it_goes_on_to_fewer_while_they_bring_as_much():
    """Down to one; from there it looks for more."""
    steady = grown_slow(15)
    assert steady.answers(32, 2.0) == [7] * 31 + [3]
    assert steady.answers(32, 1.0) == [3] * 31 + [1]
    assert steady.answers(32 + 64 + 1, 0.25) == [1] * 96 + [2]
    steady = grown_slow(4)
    assert steady.answers(32, 1.0) == [2] * 31 + [1]
    assert steady.answers(32 + 64 + 1, 0.5) == [1] * 96 + [2]


def test_of_fewer_the_last_that_did_not_bring_less_is_kept():
    """Then it looks for more by doubling, as nobody refused any."""
    steady = grown_slow(15)
    assert steady.answers(32, 2.0)[-1] == 3
    assert steady.answers(32 + 4, 2.0) == [3] * 32 + up_to(4, 7)
    assert steady.answers(64 + 7, 2.0) == [7] * 64 + up_to(8, 14)


def test_a_refusal_while_it_is_compared_with_its_half_ends_that():
    """Half of it is too many, too."""
    steady = grown_slow(15)
    steady.limit.refused(steady.now, steady.now - 1, 7)
    assert steady.limit.limit == 7
    assert steady.refuse(7) == 3
    assert steady.answers(3 + 32 + 110) == [*up_to(4, 6), *[6] * 142]
    assert steady.answers(1) == [7]


def test_at_the_most_it_stays():
    """However long."""
    steady = Steady()
    assert steady.answers(5 * MOST)[-1] == MOST
    assert steady.answers(5 * MOST) == [MOST] * 5 * MOST


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
