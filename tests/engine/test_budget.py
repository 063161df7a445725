"""Money set aside and settled: never over by more than estimates were short of, and nothing of it ever lost."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from llm_fallback.engine import budget
from llm_fallback.engine.budget import Account, BudgetLimit, BudgetShortfall, Reservation, Spender, reserve
from tests.forks import in_child
from tests.thinning import examples

DAY_S = 86_400.0
CENT = Decimal("0.01")


def dollars(text):
    return Decimal(text)


def budget_limit(limit, window="none", **settings):
    """A limit with an account of its own."""
    return BudgetLimit(dollars(limit), Account(window, **settings), f"test, per {window}")


def total(of):
    """What all balances of a limit's account add up to: spent and set aside."""
    balances = of.account.balances()
    spent = sum((balance.spent for balance in balances), Decimal(0))
    return spent, sum((balance.reserved for balance in balances), Decimal(0))


class Wall:
    """A clock on the wall, moved by hand."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


class TestReserving:
    def test_an_estimate_is_set_aside_and_settled_to_the_cost(self):
        """Cheaper than thought frees the rest; dearer goes over by the difference, and stops the next."""
        one = budget_limit("0.05")
        hold = reserve([one], Spender(), dollars("0.03"))
        assert total(one) == (0, dollars("0.03"))
        hold.settle(CENT)
        assert total(one) == (CENT, 0)
        reserve([one], Spender(), dollars("0.04")).settle(dollars("0.09"))
        assert total(one) == (dollars("0.10"), 0)
        refused = reserve([one], Spender(), CENT)
        assert (refused.spent, refused.limit, refused.estimate) == (dollars("0.10"), dollars("0.05"), CENT)

    def test_a_call_that_one_limit_stops_may_go_on_cheaper_where_that_limit_says_so(self):
        """The refusal says so, and why."""
        one = BudgetLimit(CENT, Account("none"), "test", goes_cheaper=True)
        assert reserve([one], Spender(), 2 * CENT) == BudgetShortfall(Decimal(0), CENT, "test", 2 * CENT, True)

    def test_what_just_fits_fits(self):
        """Up to the limit, and not a millionth of a millionth more."""
        assert isinstance(reserve([budget_limit("0.05")], Spender(), dollars("0.05")), Reservation)
        assert isinstance(reserve([budget_limit("0.05")], Spender(), dollars("0.050000000001")), BudgetShortfall)
        assert isinstance(reserve([budget_limit("0.05")], Spender(), dollars("0.0500000000000001")), BudgetShortfall)

    def test_what_costs_nothing_always_goes(self):
        """Also when more was spent than is allowed."""
        one = budget_limit("0")
        one.account.spend(Spender(), CENT)
        assert isinstance(reserve([one], Spender(), Decimal(0)), Reservation)
        assert isinstance(reserve([one], Spender(), dollars("1e-12")), BudgetShortfall)

    def test_what_may_cost_nobody_knows_what_goes_while_anything_is_left(self):
        """And is counted as unpriced when it has ended."""
        one = budget_limit("0.02")
        for _ in range(2):
            reserve([one], Spender(), None).settle(None)
        reserve([one], Spender(), CENT).settle(CENT)
        assert isinstance(reserve([one], Spender(), None), Reservation)
        reserve([one], Spender(), CENT).settle(CENT)
        assert isinstance(reserve([one], Spender(), None), BudgetShortfall)
        assert [own.unpriced for own in one.account.balances()] == [2]

    def test_money_is_taken_from_all_accounts_or_from_none(self):
        """The refusal names the one that has too little."""
        rich, poor = budget_limit("1", "none"), budget_limit("0.01", "day")
        spender = Spender()
        assert isinstance(reserve([rich, poor], spender, CENT), Reservation)
        refused = reserve([rich, poor], spender, CENT)
        assert refused.scope == "test, per day"
        assert total(rich) == (0, CENT)

    def test_a_hold_is_settled_once(self):
        """Whoever settles it a second time changes nothing."""
        one = budget_limit("1")
        hold = reserve([one], Spender(), CENT)
        hold.settle(CENT)
        hold.settle(dollars("0.5"))
        assert total(one) == (CENT, 0)

    @pytest.mark.parametrize("spare", [0, 1])
    def test_of_many_threads_exactly_as_many_get_money_as_there_is_money_for(self, spare):
        """All ask at the same moment; some need a second account, in either order."""
        one, other = budget_limit("0.50"), budget_limit("10")
        start = threading.Barrier(200)

        def ask(number):
            limits = ([one], [one, other], [other, one])[number % 3]
            start.wait()
            return isinstance(reserve(limits, Spender(), CENT), Reservation)

        if spare:
            one.account.spend(Spender(), CENT)
        with ThreadPoolExecutor(200) as pool:
            assert sum(pool.map(ask, range(200))) == 50 - spare
        assert sum(total(one)) == dollars("0.50")


class TestWindows:
    def test_each_call_has_the_whole_limit(self):
        """A call's attempts share it, and it ends with the call."""
        one, spender = budget_limit("0.01", "call"), Spender()
        assert isinstance(reserve([one], spender, CENT), Reservation)
        assert isinstance(reserve([one], spender, CENT), BudgetShortfall)
        assert isinstance(reserve([one], Spender(), CENT), Reservation)
        assert one.account.balances() == []

    def test_two_limits_of_a_call_are_counted_apart(self):
        """Each holds what the call has spent, once."""
        one, other, spender = budget_limit("0.05", "call"), budget_limit("0.02", "call"), Spender()
        first, second, third = (reserve([one, other], spender, CENT) for _ in range(3))
        assert [isinstance(got, Reservation) for got in (first, second, third)] == [True, True, False]
        assert third.limit == dollars("0.02")

    def test_the_calls_of_a_run_share_its_limit(self):
        """A call outside of any run is one by itself."""
        one = budget_limit("0.01", "run")
        assert isinstance(reserve([one], Spender("r1"), CENT), Reservation)
        assert isinstance(reserve([one], Spender("r1"), CENT), BudgetShortfall)
        assert isinstance(reserve([one], Spender("r2"), CENT), Reservation)
        assert {own.day for own in one.account.balances()} == {""}
        assert isinstance(reserve([one], Spender(), CENT), Reservation)
        assert isinstance(reserve([one], Spender(), CENT), Reservation)

    def test_a_day_ends_at_midnight_utc(self):
        """What was reserved before is settled to the day it was reserved in."""
        wall = Wall(DAY_S - 1)
        one = budget_limit("0.02", "day", wall=wall)
        before, _ = reserve([one], Spender(), CENT), reserve([one], Spender(), CENT)
        wall.now = DAY_S - 0.001
        assert isinstance(reserve([one], Spender(), CENT), BudgetShortfall)
        wall.now = DAY_S
        assert isinstance(reserve([one], Spender(), CENT), Reservation)
        before.settle(dollars("5"))
        assert total(one) == (0, CENT)

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows sets no time zone for a process")
    def test_a_day_is_that_of_utc_wherever_the_process_runs(self, monkeypatch):
        """In New York it still is the day before."""
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "EST5")
            time.tzset()
            one = budget_limit("1", "day", wall=Wall(9 * DAY_S))
            reserve([one], Spender(), CENT)
        time.tzset()
        assert [own.day for own in one.account.balances()] == ["1970-01-10"]

    def test_a_clock_set_back_does_not_bring_yesterdays_money_back(self):
        """Nor does it forget what today has cost."""
        wall = Wall(DAY_S)
        one = budget_limit("0.01", "day", wall=wall)
        reserve([one], Spender(), CENT).settle(CENT)
        wall.now = DAY_S - 60
        assert isinstance(reserve([one], Spender(), CENT), BudgetShortfall)
        wall.now = DAY_S + 60
        assert isinstance(reserve([one], Spender(), CENT), BudgetShortfall)

    @pytest.mark.parametrize("window", ["run", "day", "none"])
    def test_each_value_of_a_metadata_key_has_the_limit_for_itself(self, window):
        """Values are told apart as text; calls without the key pay together; the refusal says whose it is."""
        one = budget_limit("0.01", window, per="tenant")
        payers = [Spender("r", {"tenant": who}) for who in ("acme", 7)] + [Spender("r"), Spender("r", {"user": "ann"})]
        first = [isinstance(reserve([one], spender, CENT), Reservation) for spender in payers]
        assert first == [True, True, True, False]
        assert reserve([one], Spender("r", {"tenant": "7"}), CENT).scope == f"test, per {window}, tenant 7"

    def test_spenders_of_past_days_are_forgotten(self):
        """A thousand new ones a day do not add up."""
        wall = Wall()
        one = budget_limit("1", "day", per="user", wall=wall)
        for day in range(5):
            wall.now = day * DAY_S
            for user in range(1000):
                reserve([one], Spender(None, {"user": (day, user)}), CENT).settle(CENT)
        assert len(one.account.balances()) == 1000

    def test_runs_that_are_long_without_a_call_are_forgotten(self, monkeypatch):
        """So that memory is bounded; a run that goes on calling is not."""
        monkeypatch.setattr(budget, "_MOST_RUNS", 3)
        one = budget_limit("0.02", "run")
        for run in ("a", "b", "c", "a", "d", "e"):
            reserve([one], Spender(run), CENT).settle(CENT)
        assert len(one.account.balances()) == 3
        assert isinstance(reserve([one], Spender("a"), CENT), BudgetShortfall)
        assert isinstance(reserve([one], Spender("e"), 2 * CENT), BudgetShortfall)


class Shelf:
    """A store of what others have spent, told in turns."""

    owner = "test"

    def __init__(self, *told):
        self.told, self.kept = list(told), []

    def exchange(self, day, amounts):
        self.kept += [(day, *amount) for amount in amounts.items()]
        return self.told.pop(0) if self.told else []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
class TestForks:
    def test_a_child_goes_on_with_what_was_spent_and_not_with_what_is_set_aside(self):
        """What the parent has under way the parent settles; in the child it changes nothing."""
        one, acme = budget_limit("1", "day", per="tenant", wall=Wall()), Spender(None, {"tenant": "acme"})
        reserve([one], acme, None).settle(None)
        reserve([one], acme, CENT).settle(CENT)
        held = reserve([one], acme, 3 * CENT)

        def known():
            [own] = one.account.balances()
            return own.day, own.spender_key, own.spent, own.reserved, own.unpriced

        def goes_on():
            before = known()
            held.settle(3 * CENT)
            return before == known() == ("1970-01-01", "acme", CENT, 0, 1)

        assert in_child(goes_on)
        assert known() == ("1970-01-01", "acme", CENT, 3 * CENT, 1)

    def test_what_a_child_knows_from_its_parent_counts_until_the_store_tells_it(self):
        """Once, with what others have spent meanwhile; what it tells later comes on top."""
        shelf = Shelf()
        one = budget_limit("1", "day", wall=Wall(), store=shelf)
        reserve([one], Spender(), 2 * CENT).settle(2 * CENT)
        one.account.sync()

        def learns():
            shelf.told = [[], [(None, 5 * CENT)], [(None, CENT)]]
            known = []
            for _ in range(3):
                one.account.sync()
                known.append(total(one)[0])
            return known == [2 * CENT, 5 * CENT, 6 * CENT]

        assert in_child(learns)
        assert total(one)[0] == 2 * CENT


class TestStores:
    def test_what_is_settled_is_kept_and_what_others_spent_is_known(self):
        """By the day and the spender; what cost nothing is no news, and what is of another window is not kept."""
        shelf = Shelf([("acme", 5 * CENT), (None, CENT)])
        one = budget_limit("1", "day", per="tenant", wall=Wall(), store=shelf)
        acme = Spender(None, {"tenant": "acme"})
        assert [(own.day, own.spender_key, own.spent) for own in one.account.balances()] == [
            ("1970-01-01", "acme", 5 * CENT),
            ("1970-01-01", None, CENT),
        ]
        for cost in (2 * CENT, Decimal(0), None):
            reserve([one], acme, CENT).settle(cost)
        one.account.spend(Spender(), 3 * CENT)
        one.account.spend(Spender(), None)
        one.account.sync()
        assert [own.unpriced for own in one.account.balances()] == [1, 1]
        assert shelf.kept == [("1970-01-01", "acme", 2 * CENT), ("1970-01-01", None, 3 * CENT)]
        assert total(one) == (11 * CENT, 0)
        assert one.account.is_kept
        assert not Account("day").is_kept

    def test_what_is_told_of_a_day_that_is_over_is_nobodys(self):
        """The store took its time."""
        wall = Wall()
        one = budget_limit("1", "day", wall=wall, store=LateShelf(wall))
        assert one.account.balances() == []
        one.account.sync()
        assert total(one) == (CENT, 0)


@pytest.mark.parametrize("goes_cheaper", [False, True])
def test_where_other_processes_spend_the_same_money_what_they_leave_decides(goes_cheaper):
    """By the limit, the spender and the estimate; what costs nothing asks nobody."""
    account, lacking, asked = Account("day", "tenant", Wall()), None, []
    one = BudgetLimit(dollars("1"), account, "test", goes_cheaper)
    acme = Spender(None, {"tenant": "acme"})

    class Left:
        def __init__(self, limit, balance):
            self.of = (limit, balance.spender_key)

        def shortfall(self, estimate):
            asked.append((*self.of, estimate))
            return lacking

    account.shared = Left
    assert isinstance(reserve([one], acme, CENT), Reservation)
    lacking = (3 * CENT, True)
    assert isinstance(reserve([one], acme, Decimal(0)), Reservation)
    assert reserve([one], acme, 2 * CENT) == BudgetShortfall(
        *(3 * CENT, 1, "test, tenant acme", 2 * CENT, goes_cheaper), is_momentary=True
    )
    lacking = (3 * CENT, False)
    assert not reserve([one], acme, None).is_momentary
    assert asked == [(one, "acme", CENT), (one, "acme", 2 * CENT), (one, "acme", None)]


class LateShelf(Shelf):
    """A store that is asked before midnight and answers after it, the first time."""

    def __init__(self, wall):
        super().__init__()
        self.wall = wall

    def exchange(self, day, amounts):
        if self.wall.now < DAY_S:
            self.wall.now = DAY_S
        return [(None, CENT)]


AMOUNTS = st.integers(0, 2000).map(lambda mills: Decimal(mills) / 1000)
TENANTS = st.sampled_from(("acme", "umbrella", None))


class BudgetLimits(RuleBasedStateMachine):
    """Three limits of different windows over one clock, and a plain account of what they should hold."""

    holds = Bundle("holds")

    def __init__(self):
        super().__init__()
        self.wall = Wall()
        self.limits = [
            BudgetLimit(Decimal(3), Account("none"), "all"),
            BudgetLimit(Decimal(2), Account("day", "tenant", self.wall), "day"),
            BudgetLimit(Decimal(1), Account("run"), "run"),
        ]
        self.open: list[tuple[Reservation, tuple, Decimal]] = []
        self.spent: dict[tuple, Decimal] = {}
        self.short: dict[tuple, Decimal] = {}
        """By how much estimates were short of costs, for each key."""

    def keys(self, tenant, run):
        return ("all",), ("day", self.wall.now // DAY_S, tenant), ("run", run)

    def reserved(self, key):
        return sum((amount for _, keys, amount in self.open if key in keys), Decimal(0))

    @rule(target=holds, amount=AMOUNTS, tenant=TENANTS, run=st.sampled_from("rst"), which=st.permutations((0, 1, 2)))
    def reserve(self, amount, tenant, run, which):
        keys = self.keys(tenant, run)
        fits = all(
            self.spent.get(key, 0) + self.reserved(key) + amount <= one.usd
            for key, one in zip(keys, self.limits, strict=True)
        )
        got = reserve([self.limits[place] for place in which], Spender(run, {"tenant": tenant}), amount)
        assert isinstance(got, Reservation) == (fits or amount == 0)
        if isinstance(got, Reservation):
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
        assert all(own.reserved == 0 for one in self.limits for own in one.account.balances())

    def _known(self):
        whole, days, runs = (one.account for one in self.limits)
        yield from ((("all",), own) for own in whole.balances())
        yield from ((("day", self.wall.now // DAY_S, own.spender_key), own) for own in days.balances())
        yield from ((("run", run), runs.of(Spender(run))) for run in "rst")


TestBudgetLimits = BudgetLimits.TestCase
TestBudgetLimits.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)


@given(st.lists(st.decimals(0, 1, places=15), max_size=30))
@settings(max_examples=examples(50), deadline=None)
def test_nothing_is_left_of_what_was_set_aside_however_fine_the_estimates(estimates):
    """Estimates are rounded up to a millionth of a millionth, and given back to the last digit."""
    one = budget_limit("1000")
    holds = [reserve([one], Spender(), estimate) for estimate in estimates]
    assert 0 <= total(one)[1] - sum(estimates, Decimal(0)) <= len(estimates) * Decimal("1e-12")
    for hold in holds:
        hold.settle(Decimal(0))
    assert total(one) == (0, 0)
