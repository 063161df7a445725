"""Steps that are functions: they look at the messages of a request and say what the deployment does."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer, Reply, assert_attempts, fake_chat_model


def strict(messages):
    """Refuses long prompts, repeats short ones, and makes something up for an empty one."""
    text = messages[-1].text
    if len(text) > 20:
        return Fail("context_window")
    return f"you said {text}" if text else None


@pytest.fixture(params=["in the process", "over HTTP"])
def build(request):
    """Builds a model over scripts, in both worlds."""
    if request.param == "in the process":
        yield fake_chat_model
        return
    opened = []

    def build(scripts):
        server = FakeServer(scripts)
        opened.append(server.__enter__())
        opened.append(build_chat_model(server.spec()).__enter__())
        return opened[-1]

    yield build
    for each in reversed(opened):
        each.__exit__(None, None, None)


def test_a_function_answers_each_request_by_its_messages(build):
    """For ever, like any single step; plain and streamed."""
    model = build({"a": strict, "b": "the long one"})
    for _ in range(2):
        assert model.invoke("hi").text == "you said hi"
        assert "".join(chunk.text for chunk in model.stream("hi")) == "you said hi"
    assert_attempts(model.invoke("x" * 30), "a: context_window", "b: succeeded")


def test_it_gets_langchain_s_messages(build):
    """With roles, tool calls and what tools answered."""
    seen = []
    call = {"name": "weather", "args": {"city": "Oslo"}, "id": "1", "type": "tool_call"}
    history = [
        SystemMessage("be brief"),
        HumanMessage("how is it in Oslo?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("rain", tool_call_id="1"),
    ]
    build({"a": lambda messages: seen.extend(messages) or Reply("wet")}).invoke(history)
    assert [type(message) for message in seen] == [type(message) for message in history]
    assert (seen[1].text, seen[2].tool_calls, seen[3].content) == ("how is it in Oslo?", [call], "rain")


def test_among_the_steps_of_a_list_it_is_played_once(build):
    """And None is a sensible answer."""
    model = build({"a": ["first", strict, lambda messages: None]})
    assert [model.invoke("hi").text for _ in range(2)] == ["first", "you said hi"]
    assert model.invoke("hi").text


def test_a_script_may_be_replaced_by_one():
    """As by any other step."""
    model = fake_chat_model({"a": "before"})
    model.script("a", strict)
    assert model.invoke("hi").text == "you said hi"


def test_what_is_no_step_and_what_a_function_raises_reach_the_test():
    """In the process; a server answers 500, and its log has the traceback."""
    with pytest.raises(TypeError, match="3 is no step of a script"):
        fake_chat_model({"a": lambda messages: 3}).invoke("hi")
    with pytest.raises(TypeError, match="3 is no step of a script"):
        fake_chat_model({"a": 3})
    with pytest.raises(KeyError, match="city"):
        fake_chat_model({"a": lambda messages: {}["city"]}).invoke("hi")
    with FakeServer({"a": lambda messages: {}["city"], "b": "hello"}) as server:
        with build_chat_model(server.spec()) as model:
            assert_attempts(model.invoke("hi"), "a: server_error", "b: succeeded")
