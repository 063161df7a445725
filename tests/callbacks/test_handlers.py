"""The handlers for cost and latency, over real HTTP: every number against a table, and nothing counted twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypedDict
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from llm_fallback import ChainExhausted, Ledger, StreamBroken, build_chat_model
from llm_fallback.callbacks.handlers import (
    CostCallbackHandler,
    LatencyCallbackHandler,
    get_cost_callback,
    get_latency_callback,
)
from llm_fallback.callbacks.observer import _MAX_OPEN_CALLS
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, fake_chat_model
from tests.asking import MODES, STREAMED, ask

PRICED = {"price": {"input_per_million": 2, "output_per_million": 10, "cached_input_per_million": 0.5}}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
CACHED = {
    **USAGE,
    "prompt_tokens_details": {"cached_tokens": 600},
    "completion_tokens_details": {"reasoning_tokens": 40},
}
COST, CACHED_COST = 0.003, 0.0021
"""1000 at $2 + 100 at $10 a million; 400 at $2 + 600 at $0.50 + 100 at $10."""


def one(script, **settings):
    """A server of one priced deployment, `a`."""
    server = FakeServer({"a": script})
    return server, lambda: build_chat_model(server.spec(deployments={"a": PRICED}), **settings)


def counts(latency):
    """What the latency handler counted, without the times."""
    names = ("calls", "answered")
    return {
        dimension: {name: [times[key] for key in names] for name, times in latency[dimension].items()}
        for dimension in ("by_chain", "by_deployment", "by_model", "by_tag")
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["config", "model", "both"])
async def test_a_call_is_counted_once_in_every_way_to_ask_and_to_attach(mode, where):
    """In the config, on the model or on both, and by a with block besides."""
    cost, latency = CostCallbackHandler(by=("tenant",)), LatencyCallbackHandler()
    server, build = one(Reply("hello there", usage=CACHED), callbacks=[] if where == "config" else [cost, latency])
    config = {"metadata": {"tenant": "acme"}, "callbacks": [] if where == "model" else [cost, latency]}
    with server, get_cost_callback() as around:
        await ask(build(), mode, config=config)
    costs, times = cost.snapshot(), latency.snapshot()
    assert around.snapshot() == {**{key: value for key, value in costs.items() if key != "by_tenant"}, "by": {}}
    assert (costs["calls"], costs["unpriced_calls"], costs["total_usd"]) == (1, 0, pytest.approx(CACHED_COST))
    assert costs["tokens"] == {"input": 1000, "output": 100, "cached": 600, "reasoning": 40}
    assert costs["by_tenant"] == {"acme": pytest.approx(CACHED_COST)}
    assert times["latency_s"]["count"] == times["by_deployment"]["a"]["latency_s"]["count"] == 1
    assert times["time_to_first_token_s"]["count"] == (1 if mode in STREAMED else 0)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("by", ["tenant", ["tenant"], ("tenant",)])
async def test_one_key_of_metadata_may_be_a_text_or_a_list_of_one(mode, by):
    """As an argument of a handler and of a with block, in its snapshot and its report."""
    attached = [CostCallbackHandler(by=by), LatencyCallbackHandler(by=by)]
    model = fake_chat_model({"a": "hello"})
    with get_cost_callback(by=by) as cost, get_latency_callback(by=by) as latency:
        await ask(model, mode, config={"metadata": {"tenant": "acme"}, "callbacks": attached})
    for handler in (*attached, cost, latency):
        assert list(handler.snapshot()["by_tenant"]) == ["acme"]
        assert "by tenant\n  acme  " in handler.report()


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_a_key_that_is_named_twice_is_counted_once(mode):
    """However `by` was put together."""
    cost = CostCallbackHandler(by=("tenant", "tenant"))
    await ask(fake_chat_model({"a": "hello"}), mode, config={"metadata": {"tenant": "acme"}, "callbacks": [cost]})
    assert "by tenant\n  acme  cost unknown in 1 call," in cost.report()
    assert cost.report().count("by tenant") == 1


class State(TypedDict, total=False):
    question: str
    answer: str


def graph_of(model, other):
    """Three nodes: one streams, one invokes, one asks several things at once."""

    def draft(state, config):
        return {"answer": "".join(chunk.text for chunk in model.stream(state["question"], config))}

    def improve(state, config):
        return {"answer": other.invoke(state["question"], config).text}

    def check(state, config):
        tagged = [{**config, "tags": ["check"]}, {**config, "tags": ["check"]}]
        return {"answer": " ".join(reply.text for reply in model.batch(["is it?", "is it not?"], tagged))}

    return _compiled(draft, improve, check)


def async_graph_of(model, other):
    """The same with coroutines."""

    async def draft(state, config):
        return {"answer": "".join([chunk.text async for chunk in model.astream(state["question"], config)])}

    async def improve(state, config):
        return {"answer": (await other.ainvoke(state["question"], config)).text}

    async def check(state, config):
        tagged = [{**config, "tags": ["check"]}, {**config, "tags": ["check"]}]
        return {"answer": " ".join(reply.text for reply in await model.abatch(["is it?", "is it not?"], tagged))}

    return _compiled(draft, improve, check)


def _compiled(*nodes):
    graph = StateGraph(State)
    for node in nodes:
        graph.add_node(node.__name__, node)
    names = [START, *(node.__name__ for node in nodes), END]
    for before, after in pairwise(names):
        graph.add_edge(before, after)
    return graph.compile()


class TestGraph:
    """A graph run three times at once, for two tenants.

    | node    | asks             | chain | answered by     | calls | each   |
    |---------|------------------|-------|-----------------|-------|--------|
    | draft   | model.stream     | good  | a, then backup  | 3     | 0.0021 |
    | improve | other.invoke     | cheap | mystery         | 3     | None   |
    | check   | model.batch of 2 | good  | a, then backup  | 6     | 0.0021 |

    `a` fails the first request it gets, and `backup` answers that call at 0.003: 8 × 0.0021 + 0.003 = 0.0198.
    """

    TOTAL = 8 * CACHED_COST + COST

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_every_number_equals_the_table(self, kind):
        """Sync over threads, async over tasks; streamed, plain and in batches."""
        cost, latency = CostCallbackHandler(by=("tenant",)), LatencyCallbackHandler(by=("tenant",))
        with FakeServer(
            {"a": Fail(500), "backup": Reply("b", usage=USAGE), "mystery": Reply("m", usage=USAGE)}
        ) as server:
            model = build_chat_model(self.spec(server))
            configs = [
                {"callbacks": [cost, latency], "metadata": {"tenant": tenant}, "tags": ["graph"]}
                for tenant in ("acme", "acme", "umbrella")
            ]
            # The first request fails; then a answers for ever. Asked once, so that it is one fallback in any order.
            first = {"callbacks": [cost, latency], "metadata": {"tenant": "acme"}, "tags": ["graph", "check"]}
            model.invoke("warm", first)
            server.script("a", Reply("one two three", usage=CACHED))
            self.run(kind, model, configs)
        costs = cost.snapshot()
        assert costs == {
            "total_usd": pytest.approx(COST + 9 * CACHED_COST),
            "unpriced_calls": 3,
            "calls": 13,
            "tokens": {"input": 13_000, "output": 1_300, "cached": 9 * 600, "reasoning": 9 * 40},
            "by_chain": {"cheap": None, "good": pytest.approx(COST + 9 * CACHED_COST)},
            "by_deployment": {"a": pytest.approx(9 * CACHED_COST), "backup": pytest.approx(COST), "mystery": None},
            "by_model": {"a": pytest.approx(9 * CACHED_COST), "backup": pytest.approx(COST), "mystery": None},
            "by_tag": {
                "check": pytest.approx(COST + 6 * CACHED_COST),
                "graph": pytest.approx(COST + 9 * CACHED_COST),
            },
            "by_tenant": {
                "acme": pytest.approx(COST + 6 * CACHED_COST),
                "umbrella": pytest.approx(3 * CACHED_COST),
            },
            "by": {"tenant": costs["by_tenant"]},
        }
        times = latency.snapshot()
        assert (times["calls"], times["answered"], times["latency_s"]["count"]) == (13, 13, 13)
        assert times["time_to_first_token_s"]["count"] == 3
        assert times["by_tenant"]["umbrella"]["calls"] == 4
        assert counts(times) == {
            "by_chain": {"cheap": [3, 3], "good": [10, 10]},
            "by_deployment": {"a": [10, 9], "backup": [1, 1], "mystery": [3, 3]},
            "by_model": {"a": [10, 9], "backup": [1, 1], "mystery": [3, 3]},
            "by_tag": {"check": [7, 7], "graph": [13, 13]},
        }

    @staticmethod
    def spec(server):
        spec = server.spec(deployments={"a": PRICED, "backup": PRICED})
        spec["chains"] = {"good": {"tiers": ["a", "backup"]}, "cheap": {"tiers": ["mystery"]}}
        return {**spec, "default_chain": "good"}

    @staticmethod
    def run(kind, model, configs):
        other, question = model.with_chain("cheap"), {"question": "why?"}
        if kind == "sync":
            graph = graph_of(model, other)
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(lambda config: graph.invoke(question, config), configs))
            return
        graph = async_graph_of(model, other)

        async def run_all():
            await asyncio.gather(*(graph.ainvoke(question, config) for config in configs))

        asyncio.run(run_all())


class TestNesting:
    def test_calls_deep_in_a_composition_are_counted_once(self):
        """A prompt, a parallel step, a parser; LangChain's own tags make no tag of theirs."""
        server, build = one(Reply("hello", usage=USAGE))
        with server, get_cost_callback() as cost:
            steps = ChatPromptTemplate.from_template("{q}") | build() | StrOutputParser()
            RunnableParallel(left=steps, right=steps).batch([{"q": "1"}, {"q": "2"}], {"tags": ["mine"]})
        assert (cost.snapshot()["calls"], cost.snapshot()["by_tag"]) == (4, {"mine": pytest.approx(4 * COST)})

    def test_an_agent_s_calls_are_counted(self):
        """One that calls the tool, one that answers."""

        def weather(city: str) -> str:
            """The weather in a city."""
            return f"rain in {city}"

        steps = [
            Reply("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}}], usage=USAGE),
            Reply("rain", usage=USAGE),
        ]
        server, build = one(steps)
        with server, get_cost_callback() as cost, get_latency_callback() as latency:
            create_agent(build(), [weather]).invoke({"messages": [("user", "weather in Rome?")]})
        assert cost.snapshot()["total_usd"] == pytest.approx(2 * COST)
        assert latency.snapshot()["answered"] == 2

    def test_blocks_nest_and_end(self):
        """The outer counts all, the inner its own; after the block nothing is counted."""
        server, build = one(Reply("hello", usage=USAGE))
        with server:
            model = build()
            with get_cost_callback() as outer:
                model.invoke("1")
                with get_cost_callback() as inner, get_latency_callback():
                    model.invoke("2")
                model.invoke("3")
            model.invoke("4")
        assert (outer.snapshot()["calls"], inner.snapshot()["calls"]) == (3, 1)

    def test_blocks_leave_no_more_hooks_behind_than_were_ever_nested(self):
        """LangChain keeps every hook for ever."""
        from langchain_core.tracers.context import _configure_hooks

        with get_cost_callback(), get_latency_callback(), get_cost_callback(), get_cost_callback():
            before = len(_configure_hooks)
        for _ in range(50):
            with get_cost_callback(), get_latency_callback():
                pass
        assert len(_configure_hooks) == before

    def test_blocks_of_several_tasks_are_apart(self):
        """Each counts its own calls."""
        server, build = one(Reply("hello", usage=USAGE))

        async def count(model, times):
            with get_cost_callback() as cost:
                for _ in range(times):
                    await model.ainvoke("x")
                return cost.snapshot()["calls"]

        async def count_all(model):
            return await asyncio.gather(*(count(model, times) for times in (1, 2, 3)))

        with server:
            assert asyncio.run(count_all(build())) == [1, 2, 3]


class TestWithoutAnAnswer:
    @pytest.mark.parametrize("mode", MODES)
    async def test_a_chain_without_an_answer_is_counted_with_its_attempts(self, mode):
        """As a call, not as an answer; at no cost, for nothing was billed."""
        with FakeServer({"a": Fail(500), "b": Fail(401)}) as server, get_latency_callback() as latency:
            model = build_chat_model(server.spec(), max_retries=0)
            with get_cost_callback() as cost, pytest.raises(ChainExhausted):
                await ask(model, mode)
        assert cost.snapshot()["by_deployment"] == {"a": 0.0, "b": 0.0}
        assert counts(latency.snapshot())["by_deployment"] == {"a": [1, 0], "b": [1, 0]}
        assert latency.snapshot()["latency_s"]["count"] == 0

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_a_stream_that_broke_is_in_the_books_as_the_error_tells_it(self, mode):
        """Its attempts, and what is known of their cost."""
        server, build = one(Cut(after_chunks=2, reply=Reply("a b c d e")))
        with server, get_cost_callback() as cost, pytest.raises(StreamBroken) as caught:
            await ask(build(), mode)
        known = caught.value.attempts[0].cost_usd
        costs = cost.snapshot()
        assert (costs["calls"], costs["unpriced_calls"]) == (1, int(known is None))
        assert costs["total_usd"] == pytest.approx(float(known or 0))

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_an_abandoned_stream_is_no_error_and_not_free(self, mode):
        """LangChain tells no handler what it cost; the model does: 40 characters asked and one word read, estimated."""
        with FakeServer({"a": Fail(500), "b": Reply("word two three four", usage=USAGE)}) as server:
            model = build_chat_model(server.spec(deployments={"b": PRICED}))
            ledger = Ledger()
            model.listeners = [ledger]
            with get_cost_callback() as cost, get_latency_callback() as latency:
                await _leave(model, mode)
        costs = cost.snapshot()
        assert (costs["calls"], costs["unpriced_calls"]) == (1, 0)
        assert costs["by_deployment"] == {"a": 0.0, "b": pytest.approx((10 * 2 + 1 * 10) / 1e6)}
        assert costs["total_usd"] == float(ledger.snapshot().total.cost_usd)
        assert (latency.snapshot()["calls"], latency.snapshot()["answered"]) == (1, 0)

    async def test_a_cancelled_plain_call_counts_though_langchain_does_not_tell_of_it(self):
        """The model does: it is an estimate of the prompt, for nothing had come."""
        server, build = one([Reply("late", delay_s=30), Reply("hello", usage=USAGE)])
        async with server:
            with get_cost_callback() as cost:
                model = build()
                call = asyncio.ensure_future(model.ainvoke("x" * 40))
                await server.await_until(lambda: server.received())
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert (cost.snapshot()["calls"], cost.snapshot()["total_usd"]) == (1, pytest.approx(10 * 2 / 1e6))
                await model.ainvoke("x")
        assert (cost.snapshot()["calls"], cost.snapshot()["total_usd"]) == (2, pytest.approx(COST + 10 * 2 / 1e6))


async def _leave(model, mode):
    """Read until there is text, and go."""
    if mode == "stream":
        chunks = model.stream("x" * 40)
        while not next(chunks).text:
            pass
        chunks.close()
        return
    achunks = model.astream("x" * 40)
    while not (await anext(achunks)).text:
        pass
    await achunks.aclose()


class TestCache:
    @pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in STREAMED])
    async def test_a_reply_from_langchains_cache_counts_nothing(self, mode):
        """Neither cost nor call nor time."""
        server, build = one(Reply("hello", usage=USAGE), cache=InMemoryCache())
        with server, get_cost_callback() as cost, get_latency_callback() as latency:
            model = build()
            for _ in range(3):
                await ask(model, mode)
            assert len(server.received()) == 1
        assert (cost.snapshot()["calls"], cost.snapshot()["total_usd"]) == (1, pytest.approx(COST))
        assert latency.snapshot()["calls"] == 1


class TestOtherModels:
    def other(self, server, model="gpt-4.1", **settings):
        """LangChain's own model for OpenAI, at our server."""
        return ChatOpenAI(model=model, base_url=server.base("a") + "/v1", api_key="x", max_retries=0, **settings)

    @pytest.mark.parametrize("mode", MODES)
    async def test_a_model_that_is_not_ours_is_priced_by_litellms_list(self, mode):
        """By model; there is no chain and no deployment."""
        with FakeServer({"a": Reply("hello there", usage=USAGE)}) as server:
            with get_cost_callback() as cost, get_latency_callback() as latency:
                await ask(self.other(server, stream_usage=True), mode)
        costs = cost.snapshot()
        assert costs["total_usd"] == pytest.approx(1000 * 2e-6 + 100 * 8e-6)
        assert (costs["by_model"], costs["by_chain"], costs["by_deployment"]) == (
            {"gpt-4.1": pytest.approx(0.0028)},
            {},
            {},
        )
        assert latency.snapshot()["time_to_first_token_s"]["count"] == (1 if mode in STREAMED else 0)
        assert latency.snapshot()["by_model"]["gpt-4.1"]["latency_s"]["count"] == 1

    def test_an_unlisted_model_and_missing_usage_are_unpriced(self):
        """Not known is not free."""
        with FakeServer({"a": Reply("hello", usage=USAGE)}) as server, get_cost_callback() as cost:
            self.other(server, model="nobody-sells-this").invoke("x")
            list(self.other(server, stream_usage=False).stream("x"))
        assert (cost.snapshot()["unpriced_calls"], cost.snapshot()["total_usd"]) == (2, 0.0)

    def test_a_stream_that_is_left_is_of_unknown_cost(self):
        """Nobody tells what was billed of it; where nothing had come, nothing was."""
        with FakeServer({"a": [Reply("one two three", usage=USAGE)]}) as server:
            with get_cost_callback() as cost:
                chunks = self.other(server).stream("x")
                while not next(chunks).text:
                    pass
                chunks.close()
        assert (cost.snapshot()["calls"], cost.snapshot()["unpriced_calls"]) == (1, 1)

    def test_a_model_of_texts_counts_as_a_call_of_unknown_cost(self):
        """LangChain's older kind, which knows no messages."""
        with get_cost_callback() as cost:
            assert FakeListLLM(responses=["fine"]).invoke("x") == "fine"
        assert (cost.snapshot()["calls"], cost.snapshot()["unpriced_calls"]) == (1, 1)

    def test_calls_whose_end_is_never_told_are_forgotten_some_time(self):
        """The oldest first: a process that runs for months keeps no list of them."""
        handler = CostCallbackHandler()
        runs = [uuid4() for _ in range(_MAX_OPEN_CALLS + 1)]
        for run in runs:
            handler.on_chat_model_start({}, [], run_id=run)
        for run in (runs[0], runs[-1]):
            handler.on_llm_end(LLMResult(generations=[]), run_id=run)
        assert handler.snapshot()["calls"] == 1

    def test_its_errors_count_as_calls_at_no_cost(self):
        """A request that was refused is not billed."""
        with FakeServer({"a": Fail(500)}) as server, get_cost_callback() as cost, pytest.raises(Exception, match="500"):
            self.other(server).invoke("x")
        assert (cost.snapshot()["calls"], cost.snapshot()["unpriced_calls"]) == (1, 0)

    def test_the_handlers_do_not_import_litellm(self):
        """Who has no litellm loaded does not wait for it."""
        code = (
            "import sys, llm_fallback.callbacks.handlers, llm_fallback.ledger.ledger, llm_fallback.exporters.jsonl;"
            "print([name for name in sys.modules if name.startswith(('litellm', 'langchain_litellm'))])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"


class TestReports:
    def test_the_reports_say_what_a_person_wants_to_know(self):
        """Sum first, then a line for each part."""
        with FakeServer({"a": Reply("hello", usage=USAGE), "b": Reply("hello", usage=USAGE)}) as server:
            spec = server.spec(deployments={"a": PRICED})
            spec["chains"] = {"x": {"tiers": ["a"]}, "y": {"tiers": ["b"]}}
            model = build_chat_model({**spec, "default_chain": "x"})
            with get_cost_callback() as cost, get_latency_callback() as latency:
                model.invoke("1")
                model.invoke("2", chain="y")
        lines = cost.report().splitlines()
        assert lines[0] == "$0.003000 in 2 calls, 1 of them unpriced, 2000 + 200 tokens"
        assert "  b  cost unknown in 1 call, 1000 + 100 tokens" in lines
        assert latency.report().startswith("2 of 2 calls answered; latency p50 0.")

    def test_without_calls_there_is_nothing_to_tell(self):
        """And nothing fails."""
        assert CostCallbackHandler().report() == "$0.000000 in 0 calls, 0 + 0 tokens"
        assert LatencyCallbackHandler().report() == "0 of 0 calls answered"
        assert LatencyCallbackHandler().snapshot()["latency_s"]["p95"] is None

    def test_threads_may_share_a_handler(self):
        """Every call is counted."""
        server, build = one(Reply("hello", usage=USAGE))
        cost = CostCallbackHandler()
        with server:
            model = build()
            ask_it = [threading.Thread(target=lambda: model.batch(["x"] * 5, {"callbacks": [cost]})) for _ in range(4)]
            for thread in ask_it:
                thread.start()
            for thread in ask_it:
                thread.join()
        assert (cost.snapshot()["calls"], cost.snapshot()["total_usd"]) == (20, pytest.approx(20 * COST))
