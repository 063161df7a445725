"""The handler that stops calls before they go over: on our own models and on others, wherever it is attached."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from llm_fallback import BudgetCallbackHandler, BudgetExceeded, build_chat_model
from llm_fallback.testing import Cut, Fail, FakeServer, Reply
from tests.asking import MODES, ask

# Where a handler raises in an async start, LangChain leaves what it had prepared for the others unawaited.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'ahandle_event' was never awaited:RuntimeWarning")

PRICED = {"price": {"input_per_million": 2, "output_per_million": 10}}
QUESTION = "x" * 400
REPLY = Reply("hello there", usage=(100, 100))
COST = (100 * 2 + 100 * 10) / 1_000_000
"""Of a call that is asked QUESTION, may answer in 100 tokens and does: $0.0012, thought and real."""
OPENAIS_COST = (100 * 2 + 100 * 8) / 1_000_000
"""The same at OpenAI's price for gpt-4.1."""


def ours(server, **settings):
    names = dict.fromkeys(server.deployments, PRICED)
    return build_chat_model(server.spec(deployments=names), max_tokens=100, **settings)


def another(server, **settings):
    """LangChain's own model for OpenAI, at our server."""
    at = server.base("a") + "/v1"
    return ChatOpenAI(model="gpt-4.1", base_url=at, api_key="x", max_retries=0, stream_usage=True, **settings)


def allowing(calls, of=COST, **settings):
    return BudgetCallbackHandler(round(calls * of, 6), **settings)


async def went(model, mode="invoke", **config):
    """Whether the model was asked, or stopped for its budget."""
    try:
        await ask(model, mode, QUESTION, config=config)
    except BudgetExceeded:
        return False
    return True


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["config", "model", "both"])
@pytest.mark.parametrize("build", [ours, another])
async def test_a_call_that_would_go_over_is_stopped_in_every_way_to_ask_and_to_attach(mode, where, build):
    """Ours before it is sent for what it might cost; others once what was allowed is spent."""
    handler = allowing(2, COST if build is ours else OPENAIS_COST)
    with FakeServer({"a": REPLY}) as server:
        model = build(server, callbacks=[handler] if where != "config" else None)
        config = {"callbacks": [handler]} if where != "model" else {}
        assert [await went(model, mode, **config) for _ in range(3)] == [True, True, False]
        assert len(server.received()) == 2
    snapshot = handler.snapshot()
    assert (snapshot["spent_usd"], snapshot["reserved_usd"]) == (pytest.approx(snapshot["limit_usd"]), 0)


class TestOurs:
    @pytest.mark.parametrize("mode", ["threads", "tasks"])
    def test_two_hundred_calls_at_once_send_exactly_what_can_be_paid(self, mode):
        """Fifty, of two models together, plain and streamed."""
        handler = allowing(50)
        with FakeServer({"a": REPLY}) as server:
            models = [ours(server, callbacks=[handler]), ours(server, callbacks=[handler])]

            async def tasks():
                ways = [(models[number % 2], ("ainvoke", "astream")[number // 2 % 2]) for number in range(200)]
                return await asyncio.gather(*(went(*way) for way in ways))

            def thread(number):
                return asyncio.run(went(models[number % 2], ("invoke", "stream")[number // 2 % 2]))

            if mode == "tasks":
                assert sum(asyncio.run(tasks())) == 50
            else:
                with ThreadPoolExecutor(200) as pool:
                    assert sum(pool.map(thread, range(200))) == 50
            assert len(server.received()) == 50
        assert (handler.snapshot()["spent_usd"], handler.snapshot()["reserved_usd"]) == (pytest.approx(50 * COST), 0)

    async def test_failed_and_broken_attempts_are_paid_as_they_were_billed(self):
        """What failed before the first token is free; what broke off costs what was read and said."""
        handler = BudgetCallbackHandler(1)
        with FakeServer({"a": Fail(500), "b": Cut(1, how="abort", reply="word word"), "c": REPLY}) as server:
            names = dict.fromkeys(server.deployments, PRICED)
            spec = server.spec(deployments=names, on_stream_break="hold")
            list(build_chat_model(spec, callbacks=[handler]).stream(QUESTION))
        assert handler.snapshot()["spent_usd"] == pytest.approx((100 * 2 + 10) / 1e6 + COST)

    async def test_a_caller_who_leaves_leaves_nothing_set_aside(self):
        """The stream it left costs what was read and said."""
        handler = BudgetCallbackHandler(1)
        with FakeServer({"a": Reply("word two three", usage=(100, 100), chunk_delay_s=0.05)}) as server:
            chunks = ours(server, callbacks=[handler]).stream(QUESTION)
            while not next(chunks).text:
                pass
            assert handler.snapshot()["reserved_usd"] == pytest.approx(COST)
            chunks.close()
        snapshot = handler.snapshot()
        assert (snapshot["spent_usd"], snapshot["reserved_usd"]) == (pytest.approx((100 * 2 + 10) / 1e6), 0)

    async def test_a_reply_from_langchains_cache_costs_nothing(self):
        """And is given also when nothing is left."""
        handler = allowing(1)
        with FakeServer({"a": REPLY}) as server:
            model = ours(server, callbacks=[handler], cache=InMemoryCache())
            assert [await went(model, mode) for mode in ("invoke", "ainvoke", "batch")] == [True, True, True]
            assert len(server.received()) == 1
        assert handler.snapshot()["spent_usd"] == pytest.approx(COST)

    async def test_what_has_no_price_is_counted_as_such_and_asked_while_anything_is_left(self):
        """A server of one's own without a price beside one that has one."""
        handler = allowing(1)
        with FakeServer({"a": REPLY, "free": REPLY}) as server:
            spec = server.spec(deployments={"a": PRICED})
            spec["chains"] = {"x": {"tiers": ["a"]}, "y": {"tiers": ["free"]}}
            model = build_chat_model({**spec, "default_chain": "x"}, max_tokens=100, callbacks=[handler])
            unpriced = model.with_chain("y")
            assert [await went(each) for each in (unpriced, model, unpriced)] == [True, True, False]
        assert handler.snapshot()["unpriced_attempts"] == 1

    async def test_a_call_has_its_own_limit(self):
        """It does not run dry with others."""
        handler = allowing(1, window="call")
        with FakeServer({"a": REPLY}) as server:
            model = ours(server, callbacks=[handler])
            assert [await went(model, mode) for mode in MODES] == [True] * len(MODES)
            with pytest.raises(BudgetExceeded, match="BudgetCallbackHandler, per call"):
                model.invoke(QUESTION * 2)


class TestWindows:
    @pytest.mark.parametrize("build", [ours, another])
    async def test_a_day_ends_at_midnight_utc(self, build):
        """By an injected clock."""
        now = 86_399.0
        handler = allowing(1, COST if build is ours else OPENAIS_COST, window="day", wall=lambda: now)
        with FakeServer({"a": REPLY}) as server:
            model = build(server, callbacks=[handler])
            assert [await went(model), await went(model)] == [True, False]
            now = 86_400.0
            assert [await went(model), await went(model)] == [True, False]
        assert handler.snapshot()["spent_usd"] == handler.snapshot()["limit_usd"]

    @pytest.mark.parametrize("build", [ours, another])
    async def test_each_value_of_a_metadata_key_has_the_limit_for_itself(self, build):
        """Also deep in a chain; calls without it pay together."""
        handler = allowing(1, COST if build is ours else OPENAIS_COST, per="tenant")
        with FakeServer({"a": REPLY}) as server:
            model = build(server)
            chain = RunnableLambda(lambda q: model.invoke(q))
            for tenant in ("acme", "umbrella"):
                config = {"callbacks": [handler], "metadata": {"tenant": tenant}}
                assert [await went(chain, mode, **config) for mode in ("invoke", "ainvoke")] == [True, False]
            assert [await went(model, callbacks=[handler]), await went(chain, callbacks=[handler])] == [True, False]
        spent = pytest.approx(handler.snapshot()["limit_usd"])
        assert handler.snapshot()["by_tenant"] == {"": spent, "acme": spent, "umbrella": spent}

    @pytest.mark.parametrize("build", [ours, another])
    @pytest.mark.parametrize("where", ["config", "model"])
    @pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])
    async def test_the_calls_of_a_run_share_its_limit_however_deep_they_are_made(self, build, where, mode):
        """Three calls in chains of chains, and money for two; each run begins anew."""
        handler = allowing(2, COST if build is ours else OPENAIS_COST, window="run")
        with FakeServer({"a": REPLY}) as server:
            model = build(server, callbacks=[handler] if where == "model" else None)
            inner = ChatPromptTemplate.from_template("{q}") | model | StrOutputParser()
            again = RunnableLambda(lambda _: {"q": QUESTION})
            outer = again | inner | again | (again | inner) | again | RunnableParallel(only=inner)
            config = {"callbacks": [handler]} if where == "config" else {}
            for _ in range(2):
                server.reset()
                with pytest.raises(BudgetExceeded, match="per run"):
                    await ask(outer, mode, "go", config=config)
                assert len(server.received()) == 2

    @pytest.mark.parametrize("where", ["config", "model"])
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_a_graphs_calls_of_ours_and_of_others_are_one_runs(self, where, asynchronous):
        """Ours, then another, then ours: $0.0012, $0.001, and nothing left for a third."""
        handler = BudgetCallbackHandler(0.003, window="run")
        attached = [handler] if where == "model" else None
        with FakeServer({"a": REPLY}) as server:
            models = [ours(server, callbacks=attached), another(server, callbacks=attached)]

            def node(model):
                async def aask(state):
                    await model.ainvoke(QUESTION)

                def ask(state):
                    model.invoke(QUESTION)

                return aask if asynchronous else ask

            graph = StateGraph(dict)
            for name, model in zip("123", (models[0], models[1], models[0]), strict=True):
                graph.add_node(name, node(model))
            for before, after in ((START, "1"), ("1", "2"), ("2", "3"), ("3", END)):
                graph.add_edge(before, after)
            run = graph.compile()
            config = {"callbacks": [handler]} if where == "config" else {}
            for _ in range(2):
                server.reset()
                with pytest.raises(BudgetExceeded, match="per run"):
                    await run.ainvoke({}, config) if asynchronous else run.invoke({}, config)
                assert len(server.received()) == 2

    @pytest.mark.parametrize("build", [ours, another])
    def test_an_agents_run_ends_when_its_money_has(self, build):
        """It would call its tool for ever."""

        def weather(city: str) -> str:
            """The weather in a city."""
            return f"rain in {city}"

        call = Reply("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}}], usage=(100, 100))
        handler = allowing(3, OPENAIS_COST, window="run")
        with FakeServer({"a": call}) as server:
            agent = create_agent(build(server), [weather])
            for _ in range(2):
                server.reset()
                with pytest.raises(BudgetExceeded, match="per run"):
                    agent.invoke({"messages": [("user", "weather?")]}, {"callbacks": [handler]})
                assert 2 <= len(server.received()) <= 3


class TestOthers:
    async def test_what_nobody_has_a_price_for_is_told(self):
        """It cannot be counted, and does not stop."""
        handler = BudgetCallbackHandler(0.000001)
        with FakeServer({"a": REPLY}) as server:
            model = another(server, callbacks=[handler]).model_copy(update={"model_name": "nobody-sells-this"})
            assert [await went(model), await went(model)] == [True, True]
        assert (handler.snapshot()["unpriced_attempts"], handler.snapshot()["spent_usd"]) == (2, 0)

    async def test_what_fails_costs_nothing(self):
        """The limit is for what was answered."""
        handler = allowing(1, OPENAIS_COST)
        with FakeServer({"a": Fail(500)}) as server:
            model = another(server, callbacks=[handler])
            for _ in range(3):
                with pytest.raises(Exception, match="500"):
                    await went(model)
        assert handler.snapshot()["spent_usd"] == 0

    async def test_a_reply_from_langchains_cache_costs_nothing(self):
        """Once."""
        handler = allowing(2, OPENAIS_COST)
        with FakeServer({"a": REPLY}) as server:
            model = another(server, callbacks=[handler], cache=InMemoryCache())
            assert [await went(model) for _ in range(4)] == [True] * 4
        assert handler.snapshot()["spent_usd"] == pytest.approx(OPENAIS_COST)


class TestItself:
    @pytest.mark.parametrize("limit", [-1, float("nan"), float("inf"), "much", None, True])
    def test_a_limit_is_an_amount_of_money(self, limit):
        """Not less than nothing."""
        with pytest.raises(ValueError, match="limit_usd must be an amount of US dollars"):
            BudgetCallbackHandler(limit)

    def test_a_window_is_one_of_four(self):
        """The error says which."""
        with pytest.raises(ValueError, match="window must be one of call, run, day, none, got 'week'"):
            BudgetCallbackHandler(1, window="week")

    @pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
    @pytest.mark.parametrize("per", ["tenant", ["tenant"], ("tenant",)])
    async def test_a_key_may_be_a_list_of_one(self, mode, per):
        """It is that key."""
        handler = BudgetCallbackHandler(1, per=per)
        with FakeServer({"a": REPLY}) as server:
            assert await went(ours(server), mode, callbacks=[handler], metadata={"tenant": "acme"})
        assert list(handler.snapshot()["by_tenant"]) == ["acme"]

    def test_no_key_in_a_list_is_no_key(self):
        """As in the other handlers."""
        assert BudgetCallbackHandler(1, per=[]).snapshot().keys() == BudgetCallbackHandler(1).snapshot().keys()

    def test_several_keys_are_refused_at_once(self):
        """The error names the argument, what it was and what to write."""
        message = r"per takes one key of metadata, got \['tenant', 'user'\]; write per='tenant', and one more handler"
        with pytest.raises(ValueError, match=message):
            BudgetCallbackHandler(1, per=["tenant", "user"])

    @pytest.mark.parametrize("per", [5, [1], [["tenant"]], b"tenant", "", [""], [None]], ids=repr)
    def test_what_is_no_key_is_refused_at_once(self, per):
        """Not at the first call, and not taken for a key that no call has."""
        with pytest.raises(ValueError, match=r'per must name keys .*, got .*; write per="tenant"'):
            BudgetCallbackHandler(1, per=per)

    def test_its_errors_are_raised_and_not_swallowed(self):
        """LangChain only logs what a handler raises, unless told otherwise."""
        assert BudgetCallbackHandler(limit_usd=Decimal("0.5"), per=None, window="day").raise_error

    async def test_it_reports(self):
        """The sum first, then whoever spent it."""
        handler = BudgetCallbackHandler(1, per="tenant", window="day")
        with FakeServer({"a": REPLY}) as server:
            await went(ours(server), callbacks=[handler], metadata={"tenant": "acme"})
        assert handler.report().splitlines() == [
            "$0.001200 spent, $1.000000 allowed (today)",
            "by tenant",
            "  acme  $0.001200",
        ]
        assert repr(handler) == "BudgetCallbackHandler($0.001200 spent, $1.000000 allowed (today))"

    async def test_without_a_key_it_reports_the_sum_alone(self):
        """On one line."""
        assert BudgetCallbackHandler(1).report() == "$0.000000 spent, $1.000000 allowed (in all)"
