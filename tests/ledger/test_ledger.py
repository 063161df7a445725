"""The ledger: what it counts, what its percentiles are worth, and that counts of several processes are one."""

from __future__ import annotations

import gc
import json
import pickle
import sys
import threading
import time
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal
from math import ceil
from random import Random
from types import FunctionType, ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.callbacks.handlers import CostCallbackHandler, LatencyCallbackHandler
from llm_fallback.events import Attempt, CallEnded, FellBack, Record, Usage
from llm_fallback.ledger.ledger import OTHER, Ledger, Snapshot, merge
from llm_fallback.ledger.quantiles import MOST_BUCKETS, Distribution, sample
from llm_fallback.ledger.tally import Tokens
from llm_fallback.testing import fake_chat_model
from tests.thinning import examples

USAGE = Usage(input_tokens=100, output_tokens=40, cached_tokens=30, reasoning_tokens=10)


def answer(deployment="claude", latency_s=2.0, first_s=None, cost="0.01", usage=USAGE):
    """An attempt that succeeded; `cost=None` is not known."""
    known = None if cost is None else Decimal(cost)
    return Attempt(
        deployment, f"m/{deployment}", "succeeded", None, 200, None, latency_s, first_s, cost_usd=known, usage=usage
    )


def failure(deployment="claude", kind="rate_limited", cost="0", usage=None):
    """An attempt that failed."""
    known = None if cost is None else Decimal(cost)
    return Attempt(deployment, f"m/{deployment}", "failed", kind, 429, "no", 0.1, None, cost_usd=known, usage=usage)


def ended(*attempts, chain="assistant", failed=None, latency_s=2.5, fell_back=False, first_s=None, **where):
    """A call of these attempts."""
    last = attempts[-1].deployment if attempts and failed is None else None
    record = Record(chain, last, last and f"m/{last}", fell_back, attempts, (), latency_s, first_s)
    return CallEnded(chain, record, failed, **where)


def snapshot_of(*events, **settings):
    """The snapshot of a ledger that was told these events."""
    ledger = Ledger(**settings)
    for event in events:
        ledger(event)
    return ledger.snapshot()


class Unspeakable:
    """A value of somebody's metadata that has no text."""

    def __str__(self) -> str:
        raise ValueError("no words for it")


class TestCounting:
    def test_a_call_that_cannot_be_booked_spoils_no_other(self, caplog):
        """Calls are counted some at a time: each of them once, whatever is among them."""
        ledger = Ledger(by=("tenant",))
        odd = ended(answer(), metadata={"tenant": Unspeakable()})
        for place in range(41):
            ledger(odd if place == 3 else ended(answer(), metadata={"tenant": "acme"}))
        assert ledger.snapshot().by["tenant"]["acme"].calls == ledger.snapshot().by["tenant"]["acme"].answered == 40
        assert caplog.text.count("could not be counted") == 1

    def test_a_fallback_is_booked_to_all_it_concerns(self):
        """The call as a whole to its chain, tag, run and tenant; each deployment its own attempts."""
        event = ended(
            *(failure("a"), answer("b", latency_s=2.0, first_s=0.5)),
            fell_back=True,
            latency_s=2.2,
            first_s=0.7,
            run_id="r1",
            tags=("web",),
            metadata={"tenant": "acme"},
        )
        snapshot = snapshot_of(event, by=("tenant",))
        whole = snapshot.total
        for dimension, name in (("chain", "assistant"), ("tag", "web"), ("run", "r1"), ("tenant", "acme")):
            assert snapshot.by[dimension] == {name: whole}
        assert (whole.calls, whole.answered, whole.fallbacks, whole.attempts) == (1, 1, 1, 2)
        assert whole.failures == {"rate_limited": 1}
        assert whole.latency_s.mean == pytest.approx(2.2)
        assert whole.time_to_first_token_s.mean == pytest.approx(0.7)
        assert whole.tokens_per_s.mean == pytest.approx(40 / 1.5)
        a, b = snapshot.by["deployment"]["a"], snapshot.by["deployment"]["b"]
        assert snapshot.by["model"] == {"m/a": a, "m/b": b}
        assert (a.calls, a.answered, a.attempts, a.latency_s.count) == (1, 0, 1, 0)
        assert (b.calls, b.answered, b.fallbacks, b.latency_s.mean) == (1, 1, 1, pytest.approx(2.0))

    def test_tokens_a_second_are_of_the_time_the_deployment_was_busy(self):
        """Its reader's pauses make it no slower."""
        attempt = replace(answer(latency_s=12.0, first_s=1.0), paused_s=10.0)
        assert snapshot_of(ended(attempt)).total.tokens_per_s.mean == pytest.approx(40 / 1.0)

    def test_attempts_that_broke_or_lost_a_race_cost_too(self):
        """Money spent is spent, whoever answered."""
        loser = Attempt("a", "m/a", "cancelled", "cancelled", cost_usd=Decimal("0.003"), usage=Usage(7, 2))
        broken = failure("b", "stream_broken", cost="0.002", usage=Usage(5, 1))
        total = snapshot_of(ended(loser, broken, answer("c"))).total
        assert total.cost_usd == Decimal("0.015")
        assert total.tokens == Tokens(input=112, output=43, cached=30, reasoning=10)
        assert total.failures == {"stream_broken": 1}

    def test_what_is_not_known_is_counted_and_not_taken_for_nothing(self):
        """The sum is of what is known; calls that lack a part are told; wholly unknown is None."""
        snapshot = snapshot_of(ended(answer("a", cost=None)), ended(answer("b")), ended(answer("c", cost="0")))
        assert (snapshot.total.cost_usd, snapshot.total.unpriced) == (Decimal("0.01"), 1)
        costs = {name: summary.known_cost_usd for name, summary in snapshot.by["deployment"].items()}
        assert costs == {"a": None, "b": 0.01, "c": 0.0}

    def test_calls_without_an_answer_are_counted_by_kind_and_not_timed(self):
        """Also those whose caller left."""
        total = snapshot_of(ended(failure(), failed="rate_limited"), ended(failed="cancelled")).total
        assert (total.calls, total.answered, total.latency_s.count) == (2, 0, 0)
        assert total.unanswered == {"rate_limited": 1, "cancelled": 1}

    def test_a_deployment_asked_twice_in_a_call_has_one_call_and_two_attempts(self):
        """A repeat is no second call."""
        summary = snapshot_of(ended(failure("a"), answer("a"))).by["deployment"]["a"]
        assert (summary.calls, summary.attempts, summary.answered, summary.failures) == (1, 2, 1, {"rate_limited": 1})

    def test_other_events_are_no_news(self):
        """Only ended calls are counted."""
        assert snapshot_of(FellBack("c", "a", "b", "timeout")) == snapshot_of()

    def test_langchains_own_tags_are_left_out(self):
        """`seq:step:2` is where in a chain, not whose."""
        assert set(snapshot_of(ended(answer(), tags=("seq:step:2", "graph:step:9", "web", "web"))).by["tag"]) == {"web"}
        assert snapshot_of(ended(answer(), tags=("web", "web"))).by["tag"]["web"].calls == 1

    def test_a_dimension_that_is_full_counts_the_rest_together(self):
        """Names in order of appearance, then one for all others; nothing is lost."""
        snapshot = snapshot_of(
            *(ended(answer(), metadata={"tenant": n}) for n in (1, 2, 3, 4, 1)), by=("tenant",), names=2
        )
        assert {name: summary.calls for name, summary in snapshot.by["tenant"].items()} == {"1": 2, "2": 1, OTHER: 2}

    def test_a_call_counts_once_among_the_others(self):
        """However many of its tags, deployments and models are beyond the names that are held."""
        calls = [ended(failure(f"a{n}"), answer(f"b{n}"), tags=(f"u{n}", f"v{n}", f"w{n}")) for n in range(4)]
        by = snapshot_of(*calls, names=1).by
        assert {name: summary.calls for name, summary in by["tag"].items()} == {"u0": 1, OTHER: 4}
        for dimension in ("deployment", "model"):
            others = by[dimension][OTHER]
            assert (others.calls, others.answered, others.attempts) == (4, 4, 7)

    def test_the_last_runs_are_kept(self):
        """A run that makes another call is young again."""
        snapshot = snapshot_of(*(ended(answer(), run_id=run) for run in "abacd"), runs=3)
        assert {name: summary.calls for name, summary in snapshot.by["run"].items()} == {"a": 2, "c": 1, "d": 1}

    def test_threads_may_share_it(self):
        """No call is lost or counted twice."""
        ledger = Ledger()
        workers = [threading.Thread(target=lambda: [ledger(ended(answer())) for _ in range(500)]) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert (ledger.snapshot().total.calls, ledger.snapshot().total.cost_usd) == (4000, Decimal(40))

    def test_it_may_be_told_of_a_call_by_the_thread_that_is_booking_another(self):
        """Whoever holds its lock is not waited for; what was told meanwhile is counted with the next."""
        ledger = Ledger(by=("tenant",))

        class Telling:
            def __str__(self):
                for _ in range(20):
                    ledger(ended(answer()))
                return "acme"

        within(5, lambda: _tell(ledger, [ended(answer(), metadata={"tenant": Telling()})] * 16))
        assert ledger.snapshot().total.calls == 16 + 16 * 20

    def test_what_ends_with_a_booked_call_may_ask_the_ledger(self):
        """Metadata may hold the last reference to something that tells or asks when it goes."""
        ledger, counts = Ledger(), []

        class Session:
            def __del__(self):
                counts.append(ledger.snapshot().total.calls)

        ledger(ended(answer(), metadata={"session": Session()}))
        within(5, ledger.snapshot)
        assert counts == [1]


def within(seconds, work):
    """Do the work in a thread that is given up when it takes longer."""
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(timeout=seconds)
    assert not worker.is_alive()


costs = st.none() | st.decimals(min_value=0, max_value=10, places=9)
deployments = st.sampled_from("abc")
attempts = st.builds(answer, deployments, st.floats(0.001, 100), st.none(), costs) | st.builds(
    failure, deployments, st.sampled_from(("timeout", "auth")), costs
)
calls = st.builds(
    ended,
    *(attempts, attempts),
    chain=st.sampled_from(("x", "y")),
    failed=st.sampled_from((None, "timeout", "cancelled")),
    latency_s=st.floats(0.001, 100),
    tags=st.sets(st.sampled_from(("t", "u"))).map(tuple),
    run_id=st.uuids().map(str),
)
logs = st.lists(calls, max_size=6)


class TestRuns:
    def test_a_run_is_the_outermost_one(self):
        """The calls of an agent or a graph are one run; where nothing is known of it, a call is one by itself."""
        snapshot = snapshot_of(
            *(ended(answer(), run_id=run, root_run_id="graph") for run in "abc"),
            ended(answer(), run_id="alone"),
            ended(answer()),
        )
        assert {name: summary.calls for name, summary in snapshot.by["run"].items()} == {"graph": 3, "alone": 1}


class TestMerging:
    @given(logs, logs, logs)
    @settings(max_examples=examples(60), deadline=None)
    def test_books_of_several_ledgers_are_the_books_of_one(self, first, second, third):
        """In any order and grouping: sums are whole numbers and exact decimals."""
        one, two, three = snapshot_of(*first), snapshot_of(*second), snapshot_of(*third)
        whole = snapshot_of(*first, *second, *third)
        assert merge(one, two, three) == whole
        assert merge(three, one, two) == whole
        assert merge(merge(one, two), three) == merge(one, merge(two, three)) == whole
        assert merge(whole) == merge(whole, Snapshot(), snapshot_of()) == whole

    @given(logs)
    @settings(max_examples=examples(30), deadline=None)
    def test_a_snapshot_comes_back_from_json_and_from_pickle(self, log):
        """As it was, to the last decimal."""
        snapshot = snapshot_of(*log)
        assert Snapshot.from_dict(json.loads(json.dumps(snapshot.as_dict()))) == snapshot
        assert pickle.loads(pickle.dumps(snapshot)) == snapshot

    def test_a_snapshot_does_not_change(self):
        """Neither by later calls nor by hand."""
        ledger = Ledger()
        ledger(ended(answer()))
        before = ledger.snapshot()
        ledger(ended(failure(), failed="timeout"))
        assert before.total.calls == 1
        assert before.total.unanswered == {}
        with pytest.raises(FrozenInstanceError):
            before.total.calls = 5
        with pytest.raises(TypeError):
            before.by["chain"]["x"] = before.total


def distribution(values):
    """The distribution of these values."""
    samples = [sample(value) for value in values]
    return Distribution(Counter(bucket for bucket, _ in samples), sum(billionths for _, billionths in samples))


class TestPercentiles:
    @given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200))
    @settings(max_examples=examples(200), deadline=None)
    def test_a_percentile_is_within_one_percent_of_the_true_one(self, values):
        """The value of that rank, whatever the values are."""
        ranked, counted = sorted(values), distribution(values)
        for part in (0.0, 0.5, 0.95, 0.99, 1.0):
            true = ranked[max(ceil(part * len(ranked)) - 1, 0)]
            assert counted.quantile(part) == pytest.approx(true, rel=0.01)
        assert counted.mean == pytest.approx(sum(values) / len(values), rel=1e-3)

    def test_without_values_there_are_none(self):
        """None, not zero."""
        empty = Distribution()
        assert (empty.count, empty.mean, empty.p50, empty.p95, empty.p99) == (0, None, None, None, None)

    def test_the_number_of_buckets_is_bounded(self):
        """Whatever is measured: values beyond the scale count at its ends."""
        exponents = range(-300, 300)
        counted = distribution([0.0, *(10.0**exponent * step for exponent in exponents for step in (1, 2, 5))])
        assert len(counted.buckets) <= MOST_BUCKETS < 1600


class TestCost:
    def test_memory_does_not_grow_with_calls(self):
        """After 100,000 calls it holds what it held after 10,000, but for larger numbers."""
        ledger, events = Ledger(by=("tenant",), names=20, runs=100), [_event(number) for number in range(5_000)]
        _tell(ledger, events * 2)
        early = _held(ledger)
        _tell(ledger, events * 18)
        assert ledger.snapshot().total.calls == 100_000
        assert early < 1_000_000
        assert _held(ledger) < early * 1.2

    def test_the_percentiles_of_many_calls_are_those_of_their_times(self):
        """To 1 %, with a tail as long as real ones; benchmarks/ledger.py shows it for a million calls."""
        rng, ledger, known = Random(7), Ledger(), {"a": [], "b": []}
        for number in range(30_000):
            latency_s, name = rng.lognormvariate(0.0, 1.0), "ab"[number % 3 == 0]
            known[name].append(latency_s)
            ledger(ended(answer(name, latency_s=latency_s), latency_s=latency_s))
        snapshot = ledger.snapshot()
        every = [*known["a"], *known["b"]]
        by_deployment = snapshot.by["deployment"]
        for summary, times in (
            (snapshot.total, every),
            (by_deployment["a"], known["a"]),
            (by_deployment["b"], known["b"]),
        ):
            ranked = sorted(times)
            for part in (0.5, 0.95, 0.99, 0.999):
                true = ranked[int(part * (len(ranked) - 1))]
                assert summary.latency_s.quantile(part) == pytest.approx(true, rel=0.01)

    def test_what_a_call_costs_is_told(self, record_testsuite_property):
        """Measured and reported; machines differ, so no number is asserted."""
        ledger = Ledger(by=("tenant",))
        events = [_event(n) for n in range(2_000)]
        times = []
        for _ in range(5):
            began = time.perf_counter()
            _tell(ledger, events)
            times.append((time.perf_counter() - began) / len(events))
        record_testsuite_property("ledger_us_per_call", round(min(times) * 1e6, 1))
        print(f"\nledger: {min(times) * 1e6:.1f} µs per call")
        assert ledger.snapshot().total.calls == 10_000


def _tell(ledger, events):
    for event in events:
        ledger(event)


def _held(root):
    """Bytes of everything that can be reached from it, but for what is the interpreter's."""
    seen, waiting, total = set(), [root], 0
    while waiting:
        reached = waiting.pop()
        if id(reached) not in seen and not isinstance(reached, type | ModuleType | FunctionType):
            seen.add(id(reached))
            total += sys.getsizeof(reached)
            waiting += gc.get_referents(reached)
    return total


def _event(number):
    latency_s = 0.2 + number % 97 / 10
    return ended(
        answer(latency_s=latency_s, first_s=0.1),
        latency_s=latency_s,
        first_s=0.1,
        run_id=str(number),
        tags=("web",),
        metadata={"tenant": number % 41},
    )


@pytest.mark.parametrize("name", ["chain", "deployment", "model", "tag", "run"])
def test_a_key_called_like_what_is_counted_anyway_is_refused(name):
    """A call would be counted by its chain and by what its metadata say of one."""
    for keeper in (Ledger, CostCallbackHandler, LatencyCallbackHandler):
        with pytest.raises(ValueError, match=f"by: '{name}' is counted by anyway"):
            keeper(by=("tenant", name))


@pytest.mark.parametrize("by", [5, None, [1], b"tenant", "", [""]], ids=repr)
@pytest.mark.parametrize("keeper", [Ledger, CostCallbackHandler, LatencyCallbackHandler])
def test_what_is_no_key_is_refused_as_the_ledger_is_made(keeper, by):
    """The error names the argument, what it was and what to write."""
    with pytest.raises(ValueError, match=r'by must name keys of config\["metadata"\], got .*; write by="tenant"'):
        keeper(by=by)


def test_one_key_may_be_given_as_a_text():
    """And is not taken for its letters."""
    ledger = Ledger(by="tenant")
    fake_chat_model({"a": "hi"}, listeners=[ledger]).invoke("x", {"metadata": {"tenant": "acme", "t": "letter"}})
    assert {name: summary.calls for name, summary in ledger.snapshot().by["tenant"].items()} == {"acme": 1}
    assert "t" not in ledger.snapshot().by
