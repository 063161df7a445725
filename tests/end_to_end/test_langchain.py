"""The model where LangChain's own machinery drives it: agents, graphs, event streams, caches, limits."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import LLMToolSelectorMiddleware, ModelRetryMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from llm_fallback import ChainExhausted, CostCallbackHandler, build_chat_model
from llm_fallback.events import CallEnded
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, assert_attempts, fake_chat_model
from tests.asking import MODES, STREAMED, ask


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


CALL = Reply("", tool_calls=[{"name": "weather", "args": {"city": "Oslo"}}])


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_agent_works_while_its_first_deployment_is_down(mode):
    """create_agent calls its tool and answers, each step through the fallback."""
    with FakeServer({"a": Fail(500), "b": [CALL, "it rains in Oslo"]}) as server:
        agent: Any = create_agent(build_chat_model(server.spec()), [weather])
        given = {"messages": [HumanMessage("weather in Oslo?")]}
        if mode == "invoke":
            state = agent.invoke(given)
        elif mode == "ainvoke":
            state = await agent.ainvoke(given)
        elif mode == "stream":
            state = list(agent.stream(given, stream_mode="values"))[-1]
        else:
            state = [part async for part in agent.astream(given, stream_mode="values")][-1]
    assert state["messages"][-1].content == "it rains in Oslo"
    assert [message.content for message in state["messages"] if message.type == "tool"] == ["rain in Oslo"]
    assert_attempts(state["messages"][-1], "a: server_error", "b: succeeded")


async def test_a_graph_streams_tokens_of_the_deployment_that_answers():
    """stream_mode="messages" shows the backup's tokens and no trace of the primary's."""
    with FakeServer({"a": Fail(429), "b": "one two three"}) as server:
        model = build_chat_model(server.spec())

        async def ask(state: MessagesState) -> dict[str, list[AIMessage]]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        graph.add_edge("ask", END)
        tokens = [
            chunk.content
            async for chunk, _ in graph.compile().astream({"messages": [HumanMessage("go")]}, stream_mode="messages")
        ]
    assert "".join(tokens) == "one two three"


async def test_events_of_version_three_carry_the_whole_answer():
    """LangChain's newer event stream drives the model past its own stream(), and falls back alike."""
    with FakeServer({"a": Fail(500), "b": "one two three"}) as server:
        model = build_chat_model(server.spec())
        stream = model.stream_events("go", version="v3")
        for _ in stream:
            pass
        message = stream.output
        astream = await model.astream_events("go", version="v3")
        async for _ in astream:
            pass
    assert message.text == "one two three"
    assert message.response_metadata["llm_fallback"]["deployment"] == "b"


def test_a_cached_reply_asks_nobody_and_chains_do_not_share_entries():
    """LangChain's cache works; another chain, or another parameter, is another question."""
    with FakeServer({"a": ["first", "second", "third"], "b": "other"}) as server:
        spec = server.spec()
        spec["chains"] = {"one": {"tiers": ["a"]}, "two": {"tiers": ["b"]}}
        spec["default_chain"] = "one"
        model = build_chat_model(spec, cache=InMemoryCache())
        assert [model.invoke("x").content for _ in range(2)] == ["first", "first"]
        assert model.invoke("x", chain="two").content == "other"
        assert model.with_chain("two").invoke("x").content == "other"
        assert model.invoke("x", temperature=1).content == "second"
        assert len(server.received("a")) == 2


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_a_cached_reply_says_so_and_counts_nothing(mode):
    """The first time it was paid for; what the cache holds is what it was given, however often it is asked."""
    cost, ended = CostCallbackHandler(), []
    with FakeServer({"a": Fail(500), "b": Reply("x", usage=(1000, 100))}) as server:
        listener = lambda event: ended.append(event) if isinstance(event, CallEnded) else None  # noqa: E731
        with build_chat_model(server.spec(), cache=InMemoryCache(), listeners=[listener]) as model:
            replies = [await ask(model, mode, "q", config={"callbacks": [cost]}) for _ in range(3)]
    first, *cached = [reply.response_metadata["llm_fallback"] for reply in replies]
    assert "cached" not in first
    assert len(first["attempts"]) == 2
    assert (
        cached
        == [
            {
                **{name: first[name] for name in ("chain", "deployment", "model", "fell_back")},
                "attempts": [],
                "skipped": [],
                "latency_s": None,
                "time_to_first_token_s": None,
                "cost_usd": 0.0,
                "cached": True,
            }
        ]
        * 2
    )
    assert len(ended) == 1
    assert cost.snapshot()["calls"] == 1


def test_langchains_rate_limiter_is_asked_before_each_call():
    """A field of every chat model; ours is no exception."""
    with FakeServer({"a": "fine"}) as server:
        limiter = InMemoryRateLimiter(requests_per_second=1000, check_every_n_seconds=0.001)
        assert build_chat_model(server.spec(), rate_limiter=limiter).invoke("x").content == "fine"


def test_retrying_middleware_lets_an_exhausted_chain_pass():
    """The chain has repeated already; repeating it from outside would triple its requests."""
    with FakeServer({"a": Fail(500)}) as server:
        model = build_chat_model(server.spec(retries={"max": 0}))
        retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, on_failure="error")
        agent: Any = create_agent(model, [weather], middleware=[retry])
        with pytest.raises(ChainExhausted):
            agent.invoke({"messages": [HumanMessage("x")]})
        assert len(server.received("a")) == 1


async def test_the_same_prompt_in_a_batch_is_answered_for_each():
    """batch and abatch are calls of their own, and one failing does not fail the others if asked so."""
    with FakeServer({"a": ["one", Fail("bad_request"), "three"]}) as server:
        model = build_chat_model(server.spec(retries={"max": 0}))
        answers = model.batch(["1", "2", "3"], config={"max_concurrency": 1}, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False]


async def test_a_stream_in_lcel_goes_on_where_it_broke():
    """Parsers behind the model see one text."""
    from langchain_core.output_parsers import StrOutputParser

    broken = Cut(after_chunks=2, reply=Reply("one two three", chunks=["one ", "two ", "three"]))
    with FakeServer({"a": broken, "b": "three"}) as server:
        chain = build_chat_model(server.spec(on_stream_break="continue")) | StrOutputParser()
        assert "".join(chain.stream("go")) == "one two three"
        server.script("a", broken)
        assert "".join([part async for part in chain.astream("go")]) == "one two three"


class Traced(BaseCallbackHandler):
    """What tracers read before and after a call."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[Any] = []

    def on_chat_model_start(self, serialized, messages, *, metadata=None, **kwargs):
        self.before.append(metadata["ls_model_name"])

    def on_llm_end(self, response, **kwargs):
        self.after.append(response.llm_output)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["real", "fake"])
async def test_traces_name_models_and_not_chains(world, mode):
    """Before a call the one that is asked first, after it the one that served; of a stream LangChain tells no more."""
    scripts, traced = {"claude": Fail(503), "llama": "hello"}, Traced()
    with FakeServer(scripts) as server:
        model = build_chat_model(server.spec()) if world == "real" else fake_chat_model(scripts)
        await ask(model, mode, config={"callbacks": [traced]})
        assert traced.before == ["claude"]
        assert [(output or {}).get("model_name") for output in traced.after] == [None if mode in STREAMED else "llama"]


def test_a_chain_chosen_in_the_call_is_traced_by_its_own_model():
    """Wherever it is named."""
    with FakeServer({"a": "x", "b": "y"}) as server:
        spec = server.spec()
        spec["chains"] = {"one": {"tiers": ["a"]}, "two": {"tiers": ["b"]}}
        model = build_chat_model({**spec, "default_chain": "one"})
        traced = Traced()
        for asked in (
            model.bind(chain="two"),
            model.with_chain("two"),
            model.with_config(configurable={"chain": "two"}),
        ):
            asked.invoke("x", config={"callbacks": [traced]})
    assert traced.before == ["b"] * 3


def test_several_replies_at_once_are_of_one_model_or_of_none():
    """What is true of a part only is not said of the whole."""
    with FakeServer({"a": ["x", Fail(500), "x", "x"], "b": "y"}) as server:
        model = build_chat_model(server.spec())
        mixed = model.generate([[HumanMessage("1")], [HumanMessage("2")]]).llm_output
        alike = model.generate([[HumanMessage("3")], [HumanMessage("4")]]).llm_output
    assert "model_name" not in mixed
    assert alike["model_name"] == "a"
    assert alike["token_usage"]["total_tokens"] > 0


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("malformed", ['{"tool": 1}', "I would take the weather."])
async def test_a_middleware_that_selects_tools_sees_no_malformed_reply(malformed, mode):
    """The next deployment is asked, as for any reply that is not of the form asked for."""
    selected = Reply('{"tools": ["weather"]}')
    scripts = {"a": [Reply(malformed), Reply("Sunny.")], "b": [selected, Reply("Sunny.")]}
    with FakeServer(scripts) as server:
        agent: Any = create_agent(
            build_chat_model(server.spec()), [weather], middleware=[LLMToolSelectorMiddleware(max_tools=1)]
        )
        state = await ask(agent, mode, {"messages": [("user", "Oslo?")]})
        assert [len(server.received(name)) for name in ("a", "b")] == [2, 1]
    assert state["messages"][-1].text == "Sunny."


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("malformed", ['{"tool": 1}', "I would take the weather."])
async def test_when_no_reply_selects_tools_the_call_ends_as_a_parsing_failure(malformed, mode):
    """Of the chain, which has asked everybody; the middleware does not ask again."""
    with FakeServer({"a": Reply(malformed), "b": Reply(malformed)}) as server:
        selector = LLMToolSelectorMiddleware(max_retries=3, on_parsing_failure="all")
        agent: Any = create_agent(build_chat_model(server.spec(retries={"max": 0})), [weather], middleware=[selector])
        with pytest.raises(ChainExhausted) as caught:
            await ask(agent, mode, {"messages": [("user", "Oslo?")]})
        assert len(server.received()) == 2
    assert isinstance(caught.value, OutputParserException)
