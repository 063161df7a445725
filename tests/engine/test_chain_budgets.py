"""Chains with a budget, over a transport in memory: who is still asked, what is set aside and what comes of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from llm_fallback.engine.budget import Account, BudgetLimit, ChainBudgets, Spender, estimate_cost, find_unpriced
from llm_fallback.engine.budget_file import DailySpendFile
from llm_fallback.engine.engine import Answered, OverBudget, StreamBrokeOff
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.engine.transport import Chunk, Fault
from llm_fallback.events import AttemptFailed, Usage
from llm_fallback.plan.plan import Plan
from llm_fallback.plan.pricing import FREE, Prices
from llm_fallback.spec import Budget, Hedge
from llm_fallback.spec.consistency import price_missing
from tests.engine.test_execution import BOTH, HANG, RAW, MemoryExchange, fail, no_key, played, say, stage, until
from tests.plans import DeclaredCatalogue, chain, member, target

CENT = Decimal("0.01")
BY_REQUEST = Prices(Decimal(0), Decimal(0), per_request=CENT)
BY_TOKEN = Prices(input=Decimal(2), output=Decimal(10))
USAGE = Usage(100, 50)


def priced(name, prices=BY_REQUEST, **settings):
    return member(name, prices=prices, **settings)


def answers(*texts):
    return say(*(texts or ("fine",)), usage=USAGE)


def piece(text):
    return Chunk(dict(RAW), text=text)


def spent(on, plan=None):
    """What the chain's accounts hold: spent and set aside."""
    limits = on.engine.budgets.limits(plan or on.plan)
    balances = [balance for budget_limit in limits for balance in budget_limit.account.balances()]
    settled = sum((balance.spent for balance in balances), Decimal(0))
    return settled, sum((balance.reserved for balance in balances), Decimal(0))


class TestEndOfTheMoney:
    @BOTH
    async def test_a_call_that_could_go_over_makes_no_request(self, streamed):
        """It ends, and says what was spent, what is allowed, and for what."""
        plan = chain(priced("a"), priced("b"), budget=Budget(usd_per_day="0.02"))
        on = stage(plan, a=answers(), b=answers())
        assert [isinstance((await on.call(streamed=streamed)).end, Answered) for _ in range(2)] == [True, True]
        out = await on.call(streamed=streamed)
        assert isinstance(out.end, OverBudget)
        assert out.end.shortfall.as_floats == (0.02, 0.02, "chain assistant, per day", 0.01)
        assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("a", "budget")]
        assert (on.asked, out.items, spent(on)) == (["a", "a"], [], (2 * CENT, 0))
        on.check_nothing_is_left()

    @BOTH
    async def test_it_ends_in_the_middle_of_a_chain_too(self, streamed):
        """With the attempts so far: what failed before a first token was not billed, but what follows is dearer."""
        cause = ValueError("upstream's own")
        dear = priced("b", replace(BY_REQUEST, per_request=3 * CENT))
        plan = chain(priced("a"), dear, priced("c"), budget=Budget(usd_per_call="0.02"))
        on = stage(plan, a=fail("server_error", cause=cause), b=answers(), c=answers())
        out = await on.call(streamed=streamed)
        assert isinstance(out.end, OverBudget)
        assert (out.attempts, out.end.cause) == ([("a", "server_error")], cause)
        assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("b", "budget")]
        assert [type(item) for item in out.items] == [AttemptFailed]
        on.check_nothing_is_left()

    async def test_a_call_goes_on_cheaper_where_the_chain_says_so(self):
        """With the next deployment that the money suffices for."""
        dear = priced("a", replace(BY_REQUEST, per_request=3 * CENT))
        on = stage(
            chain(dear, priced("b"), budget=Budget(usd_per_call="0.02", on_limit="cheaper")), a=answers(), b=answers()
        )
        out = await on.call()
        assert out.attempts == [("b", "succeeded")]
        assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("a", "budget")]

    def test_each_window_has_an_account_that_outlives_a_reload(self, tmp_path):
        """Only what a day costs is kept in the file."""
        budget = Budget(usd_per_call=1, usd_per_run=2, usd_per_day=3, per="tenant", file=str(tmp_path / "spent"))
        plan, budgets = chain(priced("a"), budget=budget), ChainBudgets(lambda: 0.0)
        limits = budgets.limits(plan)
        assert [(one.usd, one.scope, one.account.window, one.account.per, one.account.is_kept) for one in limits] == [
            (1, "chain assistant, per call", "call", "tenant", False),
            (2, "chain assistant, per run", "run", "tenant", False),
            (3, "chain assistant, per day", "day", "tenant", True),
        ]
        assert [one.account for one in budgets.limits(plan)] == [one.account for one in limits]

    async def test_a_repeat_costs_as_well(self):
        """Broken replies were billed; a third request would go over."""
        plan = chain(priced("a"), budget=Budget(usd_per_call="0.02"), on_stream_break="hold", retries=5)
        on = stage(plan, a=say("half", finish=None, usage=USAGE))
        out = await on.call()
        assert isinstance(out.end, OverBudget)
        assert out.attempts == [("a", "stream_broken")] * 2
        assert out.end.record.skipped == ()
        assert out.end.record.cost_usd == 2 * CENT

    async def test_a_stream_under_way_is_never_cut(self):
        """It costs ten times what was thought, and is delivered to its end; the next call is stopped."""
        plan = chain(priced("a", BY_TOKEN), budget=Budget(usd_per_day="0.003"))
        on = stage(plan, a=say(*["word"] * 50, usage=Usage(0, 2560)))
        out = await on.call()
        assert isinstance(out.end, Answered)
        assert len(out.text) == 200
        assert spent(on) == (Decimal("0.0256"), 0)
        assert isinstance((await on.call()).end, OverBudget)

    @pytest.mark.parametrize("limit", ["0.01", "0.02"])
    async def test_a_broken_stream_goes_on_only_if_there_is_money_for_it(self, limit):
        """Else it ends as broken, with what was delivered, and says that it was for the budget."""
        plan = chain(priced("a"), priced("b"), budget=Budget(usd_per_call=limit), on_stream_break="continue")
        broken = [*say("once upon ", finish=None, usage=USAGE)[:-1], Fault("stream_broken", "cut")]
        on = stage(plan, a=broken, b=answers("a time"))
        out = await on.call()
        if limit == "0.02":
            assert (type(out.end), out.text) == (Answered, "once upon a time")
            return
        assert isinstance(out.end, StreamBrokeOff)
        assert (out.end.fault.failure, out.end.delivered.text, on.asked) == ("stream_broken", "once upon ", ["a"])
        assert "cut; nobody goes on with it: budget of $0.01 for chain assistant, per call" in out.end.fault.message
        assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("b", "budget")]
        on.check_nothing_is_left()

    async def test_what_is_free_is_asked_when_the_money_is_gone(self):
        """It cannot make it worse."""
        plan = chain(priced("a", FREE), budget=Budget(usd_per_day=0))
        on = stage(plan, a=answers())
        assert isinstance((await on.call()).end, Answered)

    async def test_a_budget_beside_the_chains_counts_as_well(self):
        """Whichever has too little ends the call; both are settled."""
        plan = chain(priced("a"), budget=Budget(usd_per_day="1"))
        own = BudgetLimit(CENT, Account("none"), "mine")
        on = stage(plan, a=answers())
        assert isinstance((await on.call(spender=Spender(limits=[own]))).end, Answered)
        out = await on.call(spender=Spender(limits=[own]))
        assert out.end.shortfall.scope == "mine"
        assert (spent(on), [one.spent for one in own.account.balances()]) == ((CENT, 0), [CENT])


class TestHedges:
    def hedged(self, limit, **settings):
        plan = chain(priced("a"), priced("b"), hedge=Hedge(after_s=1.0), budget=Budget(usd_per_call=limit), **settings)
        return stage(plan, a=[5.0, *answers("late")], b=answers("quick"))

    @BOTH
    async def test_a_hedge_that_would_go_over_is_skipped(self, streamed):
        """The call waits for its first deployment, which is no worse off."""
        on = self.hedged("0.01")
        out = await on.call(streamed=streamed)
        assert (on.asked, out.attempts) == (["a"], [("a", "succeeded")])
        assert [(skip.deployment, skip.reason) for skip in out.end.record.skipped] == [("b", "budget")]
        assert on.health["b"].hedges_sent == 0
        on.check_nothing_is_left()

    async def test_a_hedge_there_is_money_for_is_sent_and_both_are_settled(self):
        """The loser at its estimate: its prompt was read."""
        plan = chain(
            priced("a", BY_TOKEN), priced("b", BY_TOKEN), hedge=Hedge(after_s=1.0), budget=Budget(usd_per_day=1)
        )
        on = stage(plan, a=[5.0, *answers("late")], b=answers("quick"))
        out = await on.call(tokens=1000)
        assert sorted(out.attempts) == [("a", "cancelled"), ("b", "succeeded")]
        assert spent(on) == (Decimal(1000 * 2 + 100 * 2 + 50 * 10) / 1_000_000, 0)

    async def test_a_hedge_that_was_never_sent_costs_nothing(self):
        """Its key function failed; what was set aside for it is free again."""
        plan = chain(priced("a"), priced("b", api_key=no_key), hedge=Hedge(after_s=1.0), budget=Budget(usd_per_day=1))
        on = stage(plan, a=[5.0, *answers()])
        assert (await on.call()).attempts == [("a", "succeeded")]
        assert spent(on) == (CENT, 0)

    async def test_a_hedge_counts_what_others_have_spent_while_the_first_was_waited_for(self, tmp_path):
        """Another process that shares the file has taken the rest meanwhile."""
        budget = Budget(usd_per_day="0.03", file=str(tmp_path / "spent"))
        on = stage(
            chain(priced("a"), priced("b"), hedge=Hedge(after_s=1.0), budget=budget), a=[5.0, *answers()], b=answers()
        )
        other = Account("day", None, on.clock.wall, DailySpendFile(tmp_path / "spent", "chain assistant"))

        def spends_meanwhile(clock, act):
            other.spend(Spender(), 2 * CENT)
            other.sync()
            return MemoryExchange(clock, act)

        on.transport.make_exchange = spends_meanwhile
        assert (await on.call()).attempts == [("a", "succeeded")]

    async def test_the_hedge_there_was_no_money_for_may_follow_when_the_first_has_failed(self):
        """A failure before the first token costs nothing, and its money is free again."""
        plan = chain(priced("a"), priced("b"), hedge=Hedge(after_s=1.0), budget=Budget(usd_per_call="0.01"))
        on = stage(plan, a=fail("server_error", after=2.0), b=answers())
        out = await on.call()
        assert out.attempts == [("a", "server_error"), ("b", "succeeded")]
        assert out.end.record.skipped == ()


class TestLeaving:
    @pytest.mark.parametrize("act", [[HANG], [piece("one "), piece("two "), HANG]], ids=["before content", "after it"])
    @pytest.mark.parametrize("hedge", [None, Hedge(after_s=1.0)])
    async def test_a_caller_who_leaves_leaves_no_money_set_aside(self, act, hedge):
        """Whatever was under way: it is settled at what was read and said."""
        plan = chain(priced("a", BY_TOKEN), priced("b", BY_TOKEN), hedge=hedge, budget=Budget(usd_per_day=1))
        on = stage(plan, a=act, b=act)
        task = asyncio.ensure_future(on.call(tokens=1000))
        expected = 2 if hedge and act == [HANG] else 1
        await until(lambda: len(on.transport.exchanges) == expected)
        for _ in range(4):  # So that what is there is read, and not so many that the clock jumps to a deadline.
            await asyncio.sleep(0)
        assert spent(on)[1] > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asked, said = len(on.asked), 0 if act == [HANG] else 2
        assert spent(on) == (Decimal(1000 * 2 * asked + said * 10) / 1_000_000, 0)
        on.check_nothing_is_left()

    async def test_calls_at_the_same_time_do_not_spend_what_others_have_set_aside(self):
        """Two hundred at once, and money for fifty."""
        plan = chain(priced("a"), budget=Budget(usd_per_day="0.50"))
        on = stage(plan, a=[1.0, *answers()])
        outs = await asyncio.gather(*(on.call(streamed=number % 2 == 0) for number in range(200)))
        assert [type(out.end) for out in outs].count(Answered) == len(on.asked) == 50
        assert spent(on) == (50 * CENT, 0)


class TestEstimates:
    def health(self, *replies):
        known = DeploymentHealth(None, None)
        for tokens, seconds in replies:
            known.record_usage(tokens, seconds)
        return known

    @pytest.mark.parametrize(
        ("request_", "params", "output"),
        [
            ({}, {}, 256),
            ({"max_tokens": 40}, {}, 40),
            ({}, {"max_tokens": 70}, 70),
            ({"max_tokens": 40}, {"max_tokens": 70}, 40),
            ({"max_completion_tokens": 30, "max_tokens": 90}, {}, 30),
            ({"max_tokens": 40, "n": 3}, {}, 120),
            ({"max_tokens": None}, {"max_tokens": None}, 256),
            ({"max_tokens": "40", "n": "3"}, {}, 120),
            *(({"max_tokens": odd}, {}, 256) for odd in (-1, "ten", "", [], {"a": 1}, {40}, float("inf"), "9" * 5_000)),
            *(({"max_tokens": 40, "n": odd}, {}, 40) for odd in (-3, 0, "many", [])),
            ({"max_tokens": 10**30, "n": 10**30}, {}, 10**12),
        ],
    )
    def test_a_reply_is_as_long_as_it_may_be_or_else_256_tokens(self, request_, params, output):
        """What the call asks for counts before what the deployment has."""
        deployment = replace(target("a"), parameters={"model": "m", **params})
        usd = estimate_cost(BY_TOKEN, deployment, request_, 100, self.health())
        assert usd == Decimal(100 * 2 + output * 10) / 1_000_000

    def test_a_deployments_own_replies_are_a_better_guess(self):
        """The mean of its last ones, where the call sets no limit."""
        known = self.health((100, 1.0), (200, 3.0))
        assert estimate_cost(BY_TOKEN, target("a"), {}, 0, known) == Decimal(150 * 10) / 1_000_000
        assert estimate_cost(BY_TOKEN, target("a"), {"max_tokens": 7}, 0, known) == Decimal(7 * 10) / 1_000_000

    def test_old_replies_are_forgotten(self):
        """The mean follows the last 256."""
        known = self.health(*[(1000, 9.0)] * 300, *[(10, 1.0)] * 256)
        assert (known.mean_output_tokens, known.mean_seconds) == (10.0, 1.0)

    def test_a_gpu_is_guessed_by_the_time_replies_take(self):
        """Ten seconds before the first."""
        by_hour = Prices(Decimal(0), Decimal(0), per_gpu_hour=Decimal(36))
        assert estimate_cost(by_hour, target("a"), {}, 0, self.health()) == Decimal("0.1")
        assert estimate_cost(by_hour, target("a"), {}, 0, self.health((5, 2.0), (5, 4.0))) == Decimal("0.03")

    async def test_answers_teach_how_long_replies_are(self):
        """As their servers count them; failures do not."""
        plan = chain(priced("a", BY_TOKEN), budget=Budget(usd_per_day=1))
        on = stage(plan, a=[say("x", usage=Usage(10, 90)), fail("server_error"), say("x", usage=Usage(10, 110))])
        for _ in range(2):
            await on.call()
        assert on.health["a"].mean_output_tokens == 100.0

    async def test_a_reply_that_is_gone_on_with_has_a_longer_prompt(self):
        """What was delivered is read again, and what is left of max_tokens is smaller."""
        plan = chain(
            priced("a", FREE), priced("b", BY_TOKEN), budget=Budget(usd_per_call=0), on_stream_break="continue"
        )
        broken = [*say("x" * 400, finish=None)[:-1], Fault("stream_broken", "cut")]
        on = stage(plan, a=broken, b=answers())
        run = on.start(tokens=50)
        run.call = replace(run.call, request={"messages": [], "max_tokens": 150})
        async for _ in played(run.steps()):
            pass
        needed = Decimal((50 + 100) * 2 + (150 - 100) * 10) / 1_000_000
        assert f"might cost ${float(needed):g}" in run.end.fault.message


class TestUnpriced:
    def found(self, **budgets):
        """The mistakes of a plan of two chains, of which the first asks a, the second b."""
        chains = {
            name: replace(chain(member(name, prices=prices)), name=name, budget=budgets.get(name))
            for name, prices in (("a", None), ("b", BY_TOKEN))
        }
        targets = {name: own.members[0].target for name, own in chains.items()}
        return list(find_unpriced(Plan(chains, "a", targets, ()), DeclaredCatalogue()))

    def test_a_budget_over_a_deployment_of_unknown_price_is_a_mistake(self):
        """Named by its deployment; other chains do not matter, and a budget that limits nothing is none."""
        daily = Budget(usd_per_day=1)
        assert self.found(a=daily) == [price_missing("a", "a", "openai/a")]
        assert self.found(b=daily) == []
        assert self.found(a=Budget(per="tenant")) == []

    async def test_without_a_budget_nothing_is_estimated(self):
        """The price may be unknown."""
        on = stage(chain(member("a")), a=answers())
        assert isinstance((await on.call()).end, Answered)
