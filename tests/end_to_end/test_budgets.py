"""Chains with a budget over real HTTP: what goes out is what can be paid, however calls are made."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import pairwise
from typing import TypedDict

import anyio
import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import END, START, StateGraph

from llm_fallback import (
    BudgetCallbackHandler,
    BudgetExceeded,
    Ledger,
    LLMFallbackError,
    SpecError,
    StreamBroken,
    build_chat_model,
)
from llm_fallback.engine.clock import RealClock
from llm_fallback.testing import Cut, FakeServer, Reply, Stall
from tests.asking import MODES, STREAMED, TWO_MODES, ask
from tests.disks import held_elsewhere

PRICED = {"price": {"input_per_million": 2, "output_per_million": 10}}
QUESTION = "x" * 400
REPLY = Reply("hello there", usage=(100, 100))
COST = (100 * 2 + 100 * 10) / 1_000_000
"""Of a call that is asked QUESTION, may answer in 100 tokens and does: $0.0012, thought and real."""


def budgeted(server, calls, window="day", **settings):
    """A spec whose budget is enough for so many calls."""
    names = dict.fromkeys(server.deployments, PRICED)
    return server.spec(deployments=names, budget={f"usd_per_{window}": round(calls * COST, 6), **settings})


def built(server, calls, window="day", **settings):
    return build_chat_model(budgeted(server, calls, window, **settings), max_tokens=100)


def is_allowed(model, config=None):
    """Whether the model was asked, or stopped for its budget."""
    try:
        model.invoke(QUESTION, config)
    except BudgetExceeded:
        return False
    return True


async def ais_allowed(model, mode="ainvoke", **kwargs):
    try:
        await ask(model, mode, QUESTION, **kwargs)
    except BudgetExceeded:
        return False
    return True


class TestManyAtOnce:
    """Two hundred calls at the same time, and money for fifty."""

    def test_threads_send_exactly_what_can_be_paid(self):
        """The server has seen fifty requests, and not one more comes of asking again."""
        with FakeServer({"a": REPLY}) as server, ThreadPoolExecutor(200) as pool:
            model = built(server, 50)
            assert sum(pool.map(lambda _: is_allowed(model), range(200))) == 50
            assert not is_allowed(model)
            assert len(server.received()) == 50

    @pytest.mark.parametrize("mode", ["ainvoke", "astream"])
    def test_tasks_send_exactly_what_can_be_paid(self, mode):
        """Plain and streamed."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 50)

            async def all_at_once():
                return await asyncio.gather(*(ais_allowed(model, mode) for _ in range(200)))

            assert sum(asyncio.run(all_at_once())) == 50
            assert len(server.received()) == 50

    @pytest.mark.parametrize("mode", ["batch", "abatch"])
    def test_batches_send_exactly_what_can_be_paid(self, mode):
        """What could not be paid comes back as an error, in its place."""
        with FakeServer({"a": REPLY}) as server:
            model, questions = built(server, 50), [QUESTION] * 200
            if mode == "batch":
                replies = model.batch(questions, return_exceptions=True)
            else:
                replies = asyncio.run(model.abatch(questions, return_exceptions=True))
            assert [isinstance(reply, BudgetExceeded) for reply in replies].count(True) == 150
            assert len(server.received()) == 50

    def test_replies_longer_than_thought_go_over_by_no_more_than_that(self):
        """Calls under way are not cut; each costs $0.004 more than was set aside for it."""
        with FakeServer({"a": Reply("hello", usage=(100, 500))}) as server, ThreadPoolExecutor(50) as pool:
            model, ledger = built(server, 50), Ledger()
            model.listeners = [ledger]
            went = sum(pool.map(lambda _: is_allowed(model), range(200)))
        assert 0 < went <= 50
        assert float(ledger.snapshot().total.cost_usd) <= 50 * COST + went * 0.004 + 1e-9


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("hedge", [None, {"after_s": 0.05}], ids=["alone", "hedged"])
async def test_calls_cut_by_a_cancel_scope_leave_no_money_set_aside(mode, hedge):
    """anyio's scopes cancel until the task is out. Each call is counted, and its places are free."""
    with FakeServer({"a": Stall(), "b": Stall()}) as server:
        spec = server.spec(deployments=dict.fromkeys("ab", PRICED), **({} if hedge is None else {"hedge": hedge}))
        model, ledger, budget = build_chat_model(spec), Ledger(), BudgetCallbackHandler(limit_usd=1)
        model.listeners = [ledger]
        for _ in range(3):
            with anyio.move_on_after(0.15):
                await ask(model, mode, QUESTION, config={"callbacks": [budget]})
        assert [own["in_flight"] for own in model.state().values()] == [0, 0]
        assert (ledger.snapshot().total.calls, budget.snapshot()["reserved_usd"]) == (3, 0)


class TestEndOfTheMoney:
    @pytest.mark.parametrize("mode", MODES)
    async def test_the_call_that_would_go_over_raises_and_sends_nothing(self, mode):
        """In every way to ask; the error says what was spent, what is allowed and for what, and pickles."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 2)
            for _ in range(2):
                await ask(model, mode, QUESTION)
            with pytest.raises(BudgetExceeded) as caught:
                await ask(model, mode, QUESTION)
            assert len(server.received()) == 2
        error = caught.value
        assert isinstance(error, LLMFallbackError)
        assert (error.spent, error.limit) == (pytest.approx(2 * COST), pytest.approx(2 * COST))
        assert (error.scope, error.attempt_usd, error.is_retryable) == ("chain default, per day", 0.0012, False)
        assert str(error).splitlines() == [
            "budget of $0.0024 for chain default, per day would be exceeded: $0.0024 spent or set aside, "
            "and the next attempt might cost $0.0012",
            "  a: skipped, budget",
        ]
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.__dict__) == (str(error), error.__dict__)

    @pytest.mark.parametrize("mode", MODES)
    async def test_what_was_tried_before_is_on_the_error(self, mode):
        """The first deployment was billed for a reply that broke off; there is nothing left for the second."""
        with FakeServer({"a": Cut(2, how="abort", reply=REPLY), "b": REPLY}) as server:
            spec = budgeted(server, 1.1, "call")
            spec["chains"]["default"]["on_stream_break"] = "hold"
            with pytest.raises(BudgetExceeded) as caught:
                await ask(build_chat_model(spec, max_tokens=100), mode, QUESTION)
            assert [received.deployment for received in server.received()] == ["a"]
        assert [attempt.deployment for attempt in caught.value.attempts] == ["a"]
        assert [(skip.deployment, skip.reason) for skip in caught.value.skipped] == [("b", "budget")]
        assert caught.value.scope == "chain default, per call"

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_a_stream_nobody_can_go_on_with_for_want_of_money_is_broken(self, mode):
        """And says so; what was delivered is on the error."""
        with FakeServer({"a": Cut(2, reply="once upon a time"), "b": REPLY}) as server:
            spec = budgeted(server, 1, "call")
            spec["chains"]["default"]["on_stream_break"] = "continue"
            with pytest.raises(StreamBroken, match="nobody goes on with it: budget of") as caught:
                await ask(build_chat_model(spec, max_tokens=100), mode, QUESTION)
        assert caught.value.partial.text == "once upon"

    async def test_listeners_and_books_are_told_that_it_was_the_budget(self):
        """A call without an answer, by its own word; it is no failure of a deployment's."""
        ledger = Ledger()
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 1)
            model.listeners = [ledger]
            assert [is_allowed(model), await ais_allowed(model), await ais_allowed(model, "astream")] == [
                True,
                False,
                False,
            ]
        total = ledger.snapshot().total
        assert (total.calls, dict(total.unanswered), dict(total.failures)) == (
            3,
            {"budget": 2},
            {},
        )

    def test_a_hedge_that_would_go_over_is_told_among_what_was_skipped(self):
        """The reply's metadata has it, with its reason."""
        with FakeServer({"a": Reply("late", delay_s=0.3, usage=(100, 100)), "b": REPLY}) as server:
            spec = budgeted(server, 1, "call")
            spec["chains"]["default"]["hedge"] = {"after_s": 0.01}
            facts = build_chat_model(spec, max_tokens=100).invoke(QUESTION).response_metadata["llm_fallback"]
            assert len(server.received()) == 1
        assert facts["skipped"] == [{"deployment": "b", "reason": "budget", "retry_in_s": None}]
        assert facts["deployment"] == "a"

    def test_a_reply_from_langchains_cache_is_not_paid_twice(self):
        """It is not even asked whether there is money for it."""
        with FakeServer({"a": REPLY}) as server:
            model = build_chat_model(budgeted(server, 1), max_tokens=100, cache=InMemoryCache())
            assert [is_allowed(model), is_allowed(model)] == [True, True]
            assert len(server.received()) == 1


class State(TypedDict, total=False):
    question: str
    answer: str


def graph_of(model, *, asynchronous):
    """Three nodes: one streams, one asks twice in a chain of its own, one in threads."""
    chain = ChatPromptTemplate.from_template("{q}") | model | StrOutputParser()

    def first(state):
        return {"answer": "".join(chunk.text for chunk in model.stream(state["question"]))}

    def second(state):
        return {"answer": str(RunnableParallel(left=chain, right=chain).invoke({"q": state["question"]}))}

    def third(state):
        return {"answer": str(model.batch([state["question"]] * 2))}

    async def afirst(state):
        return {"answer": "".join([chunk.text async for chunk in model.astream(state["question"])])}

    async def asecond(state):
        return {"answer": str(await RunnableParallel(left=chain, right=chain).ainvoke({"q": state["question"]}))}

    async def athird(state):
        return {"answer": str(await model.abatch([state["question"]] * 2))}

    nodes = (afirst, asecond, athird) if asynchronous else (first, second, third)
    graph = StateGraph(State)
    for node in nodes:
        graph.add_node(node.__name__, node)
    for before, after in pairwise([START, *(node.__name__ for node in nodes), END]):
        graph.add_edge(before, after)
    return graph.compile()


class TestRuns:
    @pytest.mark.parametrize("calls", [5, 4])
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_all_calls_of_a_graphs_run_share_its_budget(self, calls, asynchronous):
        """Five of them, three nodes deep and nested in chains; two runs at once have two budgets. Where there is money
        for four, the fourth goes out or is cancelled beside the fifth."""
        with FakeServer({"a": REPLY}) as server, ThreadPoolExecutor(2) as pool:
            graph = graph_of(built(server, calls, "run"), asynchronous=asynchronous)

            def run(_):
                given = {"question": QUESTION}
                try:
                    return asyncio.run(graph.ainvoke(given)) if asynchronous else graph.invoke(given)
                except BudgetExceeded as error:
                    return error

            for outcome in pool.map(run, range(2)):
                assert isinstance(outcome, BudgetExceeded) == (calls == 4)
            assert 2 * min(calls, 3) <= len(server.received()) <= 2 * calls
            assert calls == 4 or len(server.received()) == 10

    def test_each_item_of_a_batch_of_chains_is_a_run(self):
        """A chain that asks twice, thrice: there is money for one question of each."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 1, "run")
            twice = RunnableLambda(lambda q: model.invoke(q)) | RunnableLambda(lambda _: model.invoke(QUESTION))
            outcomes = twice.batch([QUESTION] * 3, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [BudgetExceeded] * 3
            assert len(server.received()) == 3

    def test_an_agents_run_ends_when_its_money_has(self):
        """It would call its tool for ever."""

        def weather(city: str) -> str:
            """The weather in a city."""
            return f"rain in {city}"

        call = Reply("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}}], usage=(100, 100))
        with FakeServer({"a": call}) as server:
            agent = create_agent(built(server, 4, "run"), [weather])
            for _ in range(2):
                server.reset()
                with pytest.raises(BudgetExceeded, match="chain default, per run"):
                    agent.invoke({"messages": [("user", "weather in Rome?")]})
                assert 2 <= len(server.received()) <= 4

    def test_a_call_outside_of_any_run_is_one_by_itself(self):
        """Its budget is not that of the one before."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 1, "run")
            assert [is_allowed(model), is_allowed(model)] == [True, True]

    def test_the_books_know_the_outermost_run(self):
        """A graph's calls are one run of the ledger, and a call by itself is another."""
        with FakeServer({"a": REPLY}) as server:
            model, ledger = built(server, 10, "run"), Ledger()
            model.listeners = [ledger]
            run_id = "0190d3c8-1111-7111-8111-111111111111"
            graph_of(model, asynchronous=False).invoke({"question": QUESTION}, {"run_id": run_id})
            model.invoke(QUESTION)
        runs = ledger.snapshot().by["run"]
        assert runs[run_id].calls == 5
        assert sorted(own.calls for own in runs.values()) == [1, 5]


class TestSharing:
    def test_what_is_derived_from_a_model_spends_its_money(self):
        """Copies, tools, structure, and the same chain by name."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 4)
            for derived in (
                model.model_copy(),
                model.bind_tools([]),
                model.with_chain("default"),
                model.bind(stop=["x"]),
            ):
                assert is_allowed(derived)
            assert not is_allowed(model)

    def test_chains_have_budgets_of_their_own(self):
        """One that has none is not stopped by another's."""
        with FakeServer({"a": REPLY}) as server:
            spec = budgeted(server, 1)
            spec["chains"]["free"] = {"tiers": ["a"]}
            model = build_chat_model({**spec, "default_chain": "default"}, max_tokens=100)
            assert [is_allowed(model), is_allowed(model), is_allowed(model.with_chain("free"))] == [True, False, True]

    def test_a_reload_does_not_bring_spent_money_back(self):
        """With the same budget nothing is left; with a larger one what was added is."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 2)
            assert [is_allowed(model), is_allowed(model), is_allowed(model)] == [True, True, False]
            model.reload(budgeted(server, 2))
            assert not is_allowed(model)
            model.reload(budgeted(server, 3))
            assert [is_allowed(model), is_allowed(model)] == [True, False]

    def test_a_metadata_key_splits_the_day(self):
        """From the config of the call or around it, or from the model itself."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 1, per="tenant")
            acme = {"metadata": {"tenant": "acme"}}
            around = RunnableLambda(lambda q: model.invoke(q))
            assert [is_allowed(model, acme), is_allowed(model, acme), is_allowed(model)] == [True, False, True]
            assert not is_allowed(around, acme)
            assert is_allowed(around, {"metadata": {"tenant": "umbrella"}})
            own = build_chat_model(budgeted(server, 1, per="tenant"), max_tokens=100, metadata={"tenant": "x"})
            with pytest.raises(BudgetExceeded, match="per day, tenant x"):
                [list(own.stream(QUESTION)) for _ in range(2)]

    def test_a_day_ends_at_midnight_utc(self, monkeypatch):
        """By the clock on the wall."""
        now = 1_795_305_599.0  # 2026-11-21 23:59:59
        monkeypatch.setattr(RealClock, "wall", lambda self: now)
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 1)
            assert [is_allowed(model), is_allowed(model)] == [True, False]
            now += 1
            assert [is_allowed(model), is_allowed(model)] == [True, False]

    def test_a_file_keeps_the_day_across_restarts(self, tmp_path, monkeypatch):
        """Named by a variable; another model, as after a restart, knows what was spent."""
        monkeypatch.setenv("STATE", str(tmp_path))
        with FakeServer({"a": REPLY}) as server:
            first, spec = built(server, 3, file="${STATE}/day"), budgeted(server, 3, file="${STATE}/day")
            assert [is_allowed(first), is_allowed(first)] == [True, True]
            second = build_chat_model(spec, max_tokens=100)
            assert [is_allowed(second), is_allowed(second), is_allowed(first)] == [True, False, False]
        assert (tmp_path / "day").exists()


def booked(path):
    """US dollars in a budget's file."""
    return sum(Decimal(json.loads(line)[2]) for line in path.read_text(encoding="utf-8").splitlines()[1:])


class TestFileHeldByAnother:
    """A process that was stopped, or whose disk hangs, while it had its turn with the file."""

    @pytest.mark.parametrize("mode", TWO_MODES)
    async def test_the_call_is_answered_within_its_time_and_booked_later(self, tmp_path, caplog, mode):
        """It waits for a second of that time; the next one does not. One warning says what becomes of the money."""
        path = tmp_path / "day"
        with FakeServer({"a": REPLY}) as server:
            spec = {**budgeted(server, 3, file=str(path))}
            spec["chains"]["default"]["timeouts"] = {"total_s": 10}
            model = build_chat_model(spec, max_tokens=100)
            assert await ais_allowed(model)
            caplog.clear()
            with held_elsewhere(path):
                for most_s in (9, 0.9):
                    began = time.monotonic()
                    assert (await ask(model, mode, QUESTION)).text == "hello there"
                    assert time.monotonic() - began < most_s
                assert not await ais_allowed(model)
                assert path.read_text(encoding="utf-8").count("chain default") == 1
            [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert said.startswith(f"budget file {path} cannot be written (no turn within 1 s")
            assert not await ais_allowed(model)
            end = time.monotonic() + 10
            while booked(path) != Decimal("0.0036"):
                assert time.monotonic() < end, "not booked in ten seconds"
                await asyncio.sleep(0.001)

    @pytest.mark.parametrize("mode", TWO_MODES)
    async def test_calls_of_another_model_are_not_kept(self, tmp_path, mode):
        """They may run on the same event loop."""
        path = tmp_path / "day"
        with FakeServer({"a": REPLY}) as server:
            spec = budgeted(server, 9, file=str(path))
            model, other = build_chat_model(spec, max_tokens=100), build_chat_model(server.spec())
            assert is_allowed(model)
            await ask(other, mode)
            with held_elsewhere(path):
                waiting = asyncio.create_task(asyncio.to_thread(model.invoke, QUESTION))
                also_waiting = asyncio.create_task(model.ainvoke(QUESTION))
                await asyncio.sleep(0.05)
                began = time.monotonic()
                await ask(other, mode)
                assert time.monotonic() - began < 0.9
                assert not waiting.done()
                assert not also_waiting.done()
                await waiting
                await also_waiting

    async def test_a_hedge_is_not_kept_for_long(self, tmp_path):
        """It looks at the file, too, before it goes out."""
        path = tmp_path / "day"
        with FakeServer({"a": Stall(), "b": REPLY}) as server:
            spec = budgeted(server, 9, file=str(path))
            spec["chains"]["default"] |= {"hedge": {"after_s": 0.1}, "timeouts": {"total_s": 3}}
            model = build_chat_model(spec, max_tokens=100)
            with held_elsewhere(path):
                assert (await model.ainvoke(QUESTION)).response_metadata["llm_fallback"]["deployment"] == "b"

    def test_a_model_is_built_though(self, tmp_path, caplog):
        """A second later, with a warning."""
        path = tmp_path / "day"
        with FakeServer({"a": REPLY}) as server:
            assert is_allowed(built(server, 1, file=str(path)))
            with held_elsewhere(path):
                began = time.monotonic()
                model = built(server, 1, file=str(path))
                assert time.monotonic() - began < 3
                assert f"budget file {path} cannot be written (no turn within 1 s" in caplog.text
                assert is_allowed(model)
            assert not is_allowed(model)


class TestPrices:
    NOBODYS = {"deployments": {"a": {"model": "openai/nobody-sells-this"}}, "chains": {"c": {"tiers": ["a"]}}}

    def test_a_budget_over_a_model_nobody_has_a_price_for_is_refused(self):
        """The deployment is named, and what to write; so it is when the budget comes with the build."""
        told = r"deployments.a.price: is missing: chain 'c' has a budget.*'openai/nobody-sells-this'.*write 'free'"
        spec = {**self.NOBODYS, "defaults": {"budget": {"usd_per_day": 1}}}
        with pytest.raises(SpecError, match=told):
            build_chat_model(spec)
        with pytest.raises(SpecError, match=told):
            build_chat_model(self.NOBODYS, budget={"usd_per_call": 1})
        build_chat_model(self.NOBODYS)
        build_chat_model(spec, budget=None)

    @pytest.mark.parametrize("known", [{"base_model": "gpt-4.1"}, {"price": "free"}, PRICED])
    def test_a_price_from_anywhere_will_do(self, known):
        """Declared, free, or litellm's for the model that is served."""
        own = {"a": {**self.NOBODYS["deployments"]["a"], **known}}
        build_chat_model({**self.NOBODYS, "deployments": own}, budget={"usd_per_day": 1})

    def test_a_reload_that_is_refused_changes_nothing(self):
        """The old budget still holds."""
        with FakeServer({"a": REPLY}) as server:
            model = built(server, 1)
            wrong = {**self.NOBODYS, "chains": {"default": {"tiers": ["a"], "budget": {"usd_per_day": 1}}}}
            with pytest.raises(SpecError):
                model.reload(wrong)
            assert [is_allowed(model), is_allowed(model)] == [True, False]

    def test_the_prompt_is_counted_with_its_tools_and_not_by_the_bytes_of_a_picture(self):
        """A megabyte of picture is taken for a page of text, 1000 tokens; tools are read as well."""
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
        message = [("user", [{"type": "text", "text": QUESTION}, picture])]
        estimated = (100 + 1000) * 2 / 1e6 + COST - 100 * 2 / 1e6
        with FakeServer({"a": REPLY}) as server:
            with pytest.raises(BudgetExceeded) as caught:
                built(server, 1, "call").invoke(message)
            assert caught.value.attempt_usd == pytest.approx(estimated)

            def weather(city: str) -> str:
                """The weather in a city, as it is, was, or will be."""
                return city

            with pytest.raises(BudgetExceeded) as caught:
                built(server, 1, "call").bind_tools([weather]).invoke(QUESTION)
            assert caught.value.attempt_usd > COST
            assert server.received() == []
