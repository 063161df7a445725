"""Money set aside and settled: never over by more than estimates were short of, and nothing of it ever lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from llm_fallback import budget
from llm_fallback.budget import Cap, Hold, Overdraft, Payer, Purse, reserve

DAY_S = 86_400.0
CENT = Decimal("0.01")


def dollars(text):
    return Decimal(text)


def cap(limit, window="none", **settings):
    """A limit on a purse of its own."""
    return Cap(dollars(limit), Purse(window, **settings), f"test, per {window}")


def total(of):
    """What all sums of a cap's purse come to: spent and set aside."""
    sums = of.purse.sums()
    return sum((own.spent for own in sums), Decimal(0)), sum((own.reserved for own in sums), Decimal(0))


class Wall:
    """A clock on the wall, moved by hand."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


class TestReserving:
    def test_an_estimate_is_set_aside_and_settled_to_the_cost(self):
        """Cheaper than thought frees the rest; dearer goes over by the difference, and stops the next."""
        one = cap("0.05")
        hold = reserve([one], Payer(), dollars("0.03"))
        assert total(one) == (0, dollars("0.03"))
        hold.settle(CENT)
        assert total(one) == (CENT, 0)
        reserve([one], Payer(), dollars("0.04")).settle(dollars("0.09"))
        assert total(one) == (dollars("0.10"), 0)
        refused = reserve([one], Payer(), CENT)
        assert (refused.spent, refused.limit, refused.estimate) == (dollars("0.10"), dollars("0.05"), CENT)

    def test_what_just_fits_fits(self):
        """Up to the limit, and not a millionth of a millionth more."""
        assert isinstance(reserve([cap("0.05")], Payer(), dollars("0.05")), Hold)
        assert isinstance(reserve([cap("0.05")], Payer(), dollars("0.050000000001")), Overdraft)
        assert isinstance(reserve([cap("0.05")], Payer(), dollars("0.0500000000000001")), Overdraft)

    def test_what_costs_nothing_always_goes(self):
        """Also when more was spent than is allowed."""
        one = cap("0")
        one.purse.spend(Payer(), CENT)
        assert isinstance(reserve([one], Payer(), Decimal(0)), Hold)
        assert isinstance(reserve([one], Payer(), dollars("1e-12")), Overdraft)

    def test_what_may_cost_nobody_knows_what_goes_while_anything_is_left(self):
        """And is counted as unpriced when it has ended."""
        one = cap("0.02")
        reserve([one], Payer(), None).settle(None)
        reserve([one], Payer(), CENT).settle(CENT)
        assert isinstance(reserve([one], Payer(), None), Hold)
        reserve([one], Payer(), CENT).settle(CENT)
        assert isinstance(reserve([one], Payer(), None), Overdraft)
        assert [own.unpriced for own in one.purse.sums()] == [1]

    def test_money_is_taken_from_all_purses_or_from_none(self):
        """The refusal names the one that has too little."""
        rich, poor = cap("1", "none"), cap("0.01", "day")
        payer = Payer()
        assert isinstance(reserve([rich, poor], payer, CENT), Hold)
        refused = reserve([rich, poor], payer, CENT)
        assert refused.scope == "test, per day"
        assert total(rich) == (0, CENT)

    def test_a_hold_is_settled_once(self):
        """Whoever settles it a second time changes nothing."""
        one = cap("1")
        hold = reserve([one], Payer(), CENT)
        hold.settle(CENT)
        hold.settle(dollars("0.5"))
        assert total(one) == (CENT, 0)

    @pytest.mark.parametrize("spare", [0, 1])
    def test_of_many_threads_exactly_as_many_get_money_as_there_is_money_for(self, spare):
        """All ask at the same moment; some need a second purse, in either order."""
        one, other = cap("0.50"), cap("10")
        start = threading.Barrier(200)

        def ask(number):
            caps = ([one], [one, other], [other, one])[number % 3]
            start.wait()
            return isinstance(reserve(caps, Payer(), CENT), Hold)

        if spare:
            one.purse.spend(Payer(), CENT)
        with ThreadPoolExecutor(200) as pool:
            assert sum(pool.map(ask, range(200))) == 50 - spare
        assert sum(total(one)) == dollars("0.50")


class TestWindows:
    def test_each_call_has_the_whole_limit(self):
        """A call's attempts share it, and it ends with the call."""
        one, payer = cap("0.01", "call"), Payer()
        assert isinstance(reserve([one], payer, CENT), Hold)
        assert isinstance(reserve([one], payer, CENT), Overdraft)
        assert isinstance(reserve([one], Payer(), CENT), Hold)
        assert one.purse.sums() == []

    def test_the_calls_of_a_run_share_its_limit(self):
        """A call outside of any run is one by itself."""
        one = cap("0.01", "run")
        assert isinstance(reserve([one], Payer("r1"), CENT), Hold)
        assert isinstance(reserve([one], Payer("r1"), CENT), Overdraft)
        assert isinstance(reserve([one], Payer("r2"), CENT), Hold)
        assert isinstance(reserve([one], Payer(), CENT), Hold)
        assert isinstance(reserve([one], Payer(), CENT), Hold)

    def test_a_day_ends_at_midnight_utc(self):
        """What was reserved before is settled to the day it was reserved in."""
        wall = Wall(DAY_S - 1)
        one = cap("0.02", "day", wall=wall)
        before, _ = reserve([one], Payer(), CENT), reserve([one], Payer(), CENT)
        wall.now = DAY_S - 0.001
        assert isinstance(reserve([one], Payer(), CENT), Overdraft)
        wall.now = DAY_S
        assert isinstance(reserve([one], Payer(), CENT), Hold)
        before.settle(dollars("5"))
        assert total(one) == (0, CENT)

    def test_a_clock_set_back_does_not_bring_yesterdays_money_back(self):
        """Nor does it forget what today has cost."""
        wall = Wall(DAY_S)
        one = cap("0.01", "day", wall=wall)
        reserve([one], Payer(), CENT).settle(CENT)
        wall.now = DAY_S - 60
        assert isinstance(reserve([one], Payer(), CENT), Overdraft)
        wall.now = DAY_S + 60
        assert isinstance(reserve([one], Payer(), CENT), Overdraft)

    @pytest.mark.parametrize("window", ["run", "day", "none"])
    def test_each_value_of_a_metadata_key_has_the_limit_for_itself(self, window):
        """Values are told apart as text; calls without the key pay together; the refusal says whose it is."""
        one = cap("0.01", window, per="tenant")
        payers = [Payer("r", {"tenant": who}) for who in ("acme", 7)] + [Payer("r"), Payer("r", {"user": "ann"})]
        first = [isinstance(reserve([one], payer, CENT), Hold) for payer in payers]
        assert first == [True, True, True, False]
        assert reserve([one], Payer("r", {"tenant": "7"}), CENT).scope == f"test, per {window}, tenant 7"

    def test_spenders_of_past_days_are_forgotten(self):
        """A thousand new ones a day do not add up."""
        wall = Wall()
        one = cap("1", "day", per="user", wall=wall)
        for day in range(5):
            wall.now = day * DAY_S
            for user in range(1000):
                reserve([one], Payer(None, {"user": (day, user)}), CENT).settle(CENT)
        assert len(one.purse.sums()) == 1000

    def test_runs_that_are_long_without_a_call_are_forgotten(self, monkeypatch):
        """So that memory is bounded; a run that goes on calling is not."""
        monkeypatch.setattr(budget, "_MOST_RUNS", 3)
        one = cap("0.02", "run")
        for run in ("a", "b", "c", "a", "d", "e"):
            reserve([one], Payer(run), CENT).settle(CENT)
        assert len(one.purse.sums()) == 3
        assert isinstance(reserve([one], Payer("a"), CENT), Overdraft)


AMOUNTS = st.integers(0, 2000).map(lambda mills: Decimal(mills) / 1000)
TENANTS = st.sampled_from(("acme", "umbrella", None))


class Books(RuleBasedStateMachine):
    """Three limits of different windows over one clock, and a plain account of what they should hold."""

    holds = Bundle("holds")

    def __init__(self):
        super().__init__()
        self.wall = Wall()
        self.caps = [
            Cap(Decimal(3), Purse("none"), "all"),
            Cap(Decimal(2), Purse("day", "tenant", self.wall), "day"),
            Cap(Decimal(1), Purse("run"), "run"),
        ]
        self.open: list[tuple[Hold, tuple, Decimal]] = []
        self.spent: dict[tuple, Decimal] = {}
        self.short: dict[tuple, Decimal] = {}
        """By how much estimates were short of costs, for each sum."""

    def keys(self, tenant, run):
        return ("all",), ("day", self.wall.now // DAY_S, tenant), ("run", run)

    def reserved(self, key):
        return sum((amount for _, keys, amount in self.open if key in keys), Decimal(0))

    @rule(target=holds, amount=AMOUNTS, tenant=TENANTS, run=st.sampled_from("rst"), which=st.permutations((0, 1, 2)))
    def reserve(self, amount, tenant, run, which):
        keys = self.keys(tenant, run)
        fits = all(
            self.spent.get(key, 0) + self.reserved(key) + amount <= one.usd
            for key, one in zip(keys, self.caps, strict=True)
        )
        got = reserve([self.caps[place] for place in which], Payer(run, {"tenant": tenant}), amount)
        assert isinstance(got, Hold) == (fits or amount == 0)
        if isinstance(got, Hold):
            self.open.append((got, keys, amount))
        return got

    @rule(hold=consumes(holds), cost=AMOUNTS)
    def settle(self, hold, cost):
        for own in [own for own in self.open if own[0] is hold]:
            self.open.remove(own)
            for key in own[1]:
                self.spent[key] = self.spent.get(key, Decimal(0)) + cost
                self.short[key] = self.short.get(key, Decimal(0)) + max(Decimal(0), cost - own[2])
            hold.settle(cost)

    @rule(hold=consumes(holds))
    def drop(self, hold):
        self.settle(hold, Decimal(0))

    @rule(hours=st.integers(1, 30))
    def wait(self, hours):
        self.wall.now += hours * 3600

    @invariant()
    def every_sum_is_what_was_spent_and_what_is_under_way(self):
        for key, one in self._known():
            assert (one.spent, one.reserved) == (self.spent.get(key, 0), self.reserved(key))

    @invariant()
    def no_limit_is_exceeded_by_more_than_estimates_were_short_of(self):
        limits = {"all": Decimal(3), "day": Decimal(2), "run": Decimal(1)}
        for key, one in self._known():
            assert one.total <= limits[key[0]] + self.short.get(key, 0)

    def teardown(self):
        for hold, _, _ in self.open:
            hold.settle(Decimal(0))
        assert all(own.reserved == 0 for one in self.caps for own in one.purse.sums())

    def _known(self):
        whole, days, runs = (one.purse for one in self.caps)
        yield from ((("all",), own) for own in whole.sums())
        yield from ((("day", self.wall.now // DAY_S, own.whose), own) for own in days.sums())
        yield from ((("run", run), runs.of(Payer(run))) for run in "rst")


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.decimals(0, 1, places=15), max_size=30))
@settings(max_examples=50, deadline=None)
def test_nothing_is_left_of_what_was_set_aside_however_fine_the_estimates(estimates):
    """Estimates are rounded up to a millionth of a millionth, and given back to the last digit."""
    one = cap("1000")
    holds = [reserve([one], Payer(), estimate) for estimate in estimates]
    assert 0 <= total(one)[1] - sum(estimates, Decimal(0)) <= len(estimates) * Decimal("1e-12")
    for hold in holds:
        hold.settle(Decimal(0))
    assert total(one) == (0, 0)
