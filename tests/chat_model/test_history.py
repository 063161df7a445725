"""Tool calls that nobody could read, when the conversation goes on: over HTTP, and in the fake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from llm_fallback import build_chat_model
from llm_fallback.testing import FakeServer, Reply, fake_chat_model
from tests.asking import MODES, ask

CUT_OFF = '{"city": "Os'
WORLDS = ("real", "fake")


@contextmanager
def models(world: str, scripts: dict[str, Any], **settings: Any) -> Iterator[tuple[Any, Any]]:
    """A model over deployments that play scripts, and what tells the requests they got."""
    if world == "fake":
        model = fake_chat_model(scripts, **settings)
        yield model, model.received
        return
    with FakeServer(scripts) as server, build_chat_model(server.spec(backend="vllm"), **settings) as model:
        yield model, server.received


def asked(world: str, script: Any) -> AbstractContextManager[tuple[Any, Any]]:
    """The same over a single deployment."""
    return models(world, {"a": script})


def assert_taken(messages: list[dict[str, Any]]) -> None:
    """As OpenAI and vLLM look at it: an answer for every call, a call for every answer, arguments that are objects."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    answers = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert sorted(call["id"] for call in calls) == sorted(answers)
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)


def history(*answers: ToolMessage) -> list[Any]:
    said = AIMessage(
        "",
        tool_calls=[tool_call(name="weather", args={"city": "Rome"}, id="good")] if len(answers) > 1 else [],
        invalid_tool_calls=[invalid_tool_call(name="weather", args=CUT_OFF, id="bad", error=None)],
    )
    return [HumanMessage("weather?"), said, *answers, HumanMessage("go on")]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@pytest.mark.parametrize("world", WORLDS)
def test_an_agent_goes_on_after_a_call_that_nobody_could_read(world):
    """LangChain's agent answers it itself on the next turn; without its call providers refuse that for good."""
    broken = Reply("", tool_calls=[{"name": "weather", "args": '{"city": Oslo', "id": "c1"}])
    with asked(world, [broken, "done"]) as (model, received):
        agent: Any = create_agent(model, [weather], checkpointer=InMemorySaver())
        thread = {"configurable": {"thread_id": "1"}}
        agent.invoke({"messages": [HumanMessage("weather in Oslo?")]}, thread)
        state = agent.invoke({"messages": [HumanMessage("try again")]}, thread)
        messages = received("a")[-1].body["messages"]
    assert state["messages"][-1].text == "done"
    assert_taken(messages)
    [call] = messages[1]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("c1", "function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"unreadable_arguments": '{"city": Oslo'}


NO_JSON = ('{"celsius": NaN}', '{"celsius": [-Infinity]}', '{"celsius": 1e999}', '{"city": Oslo', '{"city":' * 300)
"""Of the first three Python makes objects, which no request can hold."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arguments", NO_JSON, ids=[written[:24] for written in NO_JSON])
@pytest.mark.parametrize("world", WORLDS)
async def test_a_conversation_goes_on_after_arguments_that_are_no_json(world, arguments, mode):
    """Plain and streamed, they are an invalid call, which goes back with its answer in a form every server takes."""
    said = Reply("", tool_calls=[{"name": "weather", "args": arguments, "id": "c1"}])
    with asked(world, [said, "done"]) as (model, received):
        message = await ask(model, mode, "weather?")
        assert message.tool_calls == []
        [call] = message.invalid_tool_calls
        assert (call["name"], call["id"]) == ("weather", "c1")
        assert call["args"].startswith(arguments)
        turns = [HumanMessage("weather?"), message, ToolMessage("not understood", tool_call_id="c1")]
        assert (await ask(model, mode, turns)).text == "done"
        messages = received("a")[-1].body["messages"]
    assert_taken(messages)
    [sent] = messages[1]["tool_calls"]
    assert json.loads(sent["function"]["arguments"])["unreadable_arguments"].startswith(arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", WORLDS)
async def test_calls_that_could_be_read_and_one_that_could_not_go_back_together(world, mode):
    """Each with the answer it got."""
    answers = (ToolMessage("rain", tool_call_id="good"), ToolMessage("no JSON", tool_call_id="bad"))
    with asked(world, "fine") as (model, received):
        await ask(model, mode, history(*answers))
        messages = received("a")[0].body["messages"]
    assert_taken(messages)
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["good", "bad"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_call_that_nobody_answered_stays_away(world):
    """Servers refuse a call without an answer, too."""
    with asked(world, "fine") as (model, received):
        model.invoke(history())
        assert "tool_calls" not in received("a")[0].body["messages"][1]


@pytest.mark.parametrize("arguments", ["", None, "[1]", '{"x": NaN}', "12", "[" * 100_000, '{"city": "Oslo"}'])
@pytest.mark.parametrize("world", WORLDS)
def test_arguments_of_any_kind_are_sent_as_an_object(world, arguments):
    """What is one already stays as it is; of no arguments an empty one is made."""
    said = AIMessage("", invalid_tool_calls=[invalid_tool_call(name=None, args=arguments, id="bad", error=None)])
    with asked(world, "fine") as (model, received):
        model.invoke([HumanMessage("x"), said, ToolMessage("no", tool_call_id="bad")])
        messages = received("a")[0].body["messages"]
    assert_taken(messages)
    expected = {"": {}, None: {}, '{"city": "Oslo"}': {"city": "Oslo"}}
    sent = json.loads(messages[1]["tool_calls"][0]["function"]["arguments"])
    assert sent == expected.get(arguments, {"unreadable_arguments": arguments})
