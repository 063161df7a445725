"""Histories that other integrations made: each deployment gets them in a form it takes, and what it lacks is named.

The messages are as ChatOpenAI (Responses), ChatAnthropic, ChatBedrockConverse and ChatGoogleGenerativeAI make them.
What a server refuses is checked as OpenAI and vLLM check it, and for Anthropic by a server on the loopback.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.testing import Fail, FakeServer, fake_chat_model
from tests.asking import TWO_MODES, ask
from tests.litellm_adapter.test_thinking import Claude, chain, serving, weather

CALL = tool_call(name="weather", args={"city": "Oslo"}, id="call_1")
RESULT = ToolMessage("rain in Oslo", tool_call_id="call_1")
BYTES = "iVBORw0KGgo="
SIGNED = {"type": "thinking", "thinking": "step 0", "signature": "c2ln0"}
HIDDEN = {"type": "redacted_thinking", "data": "EmwKAhg0"}


def said_by(provider: str, content: Any, model: str = "", **more: Any) -> AIMessage:
    return AIMessage(content, response_metadata={"model_provider": provider, "model_name": model}, **more)


HISTORIES: dict[str, tuple[list[BaseMessage], list[str]]] = {
    "openai_responses_with_reasoning": (
        [
            HumanMessage("weather?"),
            said_by(
                "openai",
                [
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
                    {"type": "text", "text": "Let me look.", "annotations": [], "id": "msg_1", "phase": "commentary"},
                    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{}"},
                ],
                "gpt-5",
                tool_calls=[CALL],
            ),
            RESULT,
        ],
        ["reasoning"],
    ),
    "openai_responses_with_search": (
        [
            HumanMessage("news?"),
            said_by(
                "openai",
                [
                    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "news"}},
                    {"type": "text", "text": "Much.", "annotations": [{"type": "url_citation", "url": "https://x"}]},
                ],
                "gpt-5",
            ),
            HumanMessage("more"),
        ],
        ["web_search_call", "citations"],
    ),
    "openai_responses_before_blocks": (
        [
            HumanMessage("hi"),
            said_by(
                "openai",
                "Hello.",
                additional_kwargs={
                    "reasoning": {"id": "rs_1", "summary": []},
                    "tool_outputs": [{"type": "code_interpreter_call", "id": "ci_1"}],
                },
            ),
            HumanMessage("and?"),
        ],
        ["reasoning", "code_interpreter_call"],
    ),
    "openai_responses_refusal": (
        [HumanMessage("hi"), said_by("openai", [{"type": "refusal", "refusal": "No."}]), HumanMessage("why?")],
        [],
    ),
    "openai_responses_input": (
        [
            HumanMessage(
                [
                    {"type": "input_text", "text": "what is it?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{BYTES}", "detail": "low"},
                ]
            )
        ],
        [],
    ),
    "openai_responses_file": (
        [HumanMessage([{"type": "input_text", "text": "read"}, {"type": "input_file", "file_id": "file_1"}])],
        [],
    ),
    "a_text_among_blocks": (
        [
            HumanMessage("hi"),
            said_by("openai", ["Let me think.", {"type": "reasoning", "id": "rs_1", "summary": []}], "gpt-5"),
            HumanMessage("and?"),
        ],
        ["reasoning"],
    ),
    "anthropic_cached_reply": (
        [
            HumanMessage("hi"),
            said_by(
                "anthropic",
                [
                    {"type": "thinking", "thinking": "so", "signature": ""},
                    {"type": "text", "text": "A long text.", "cache_control": {"type": "ephemeral"}},
                ],
                "claude-sonnet-4-5-20250929",
            ),
            HumanMessage("and?"),
        ],
        ["thinking"],
    ),
    "anthropic_thinking": (
        [
            HumanMessage("weather?"),
            said_by(
                "anthropic",
                [
                    {**SIGNED, "index": 0},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
                ],
                "claude-sonnet-4-5-20250929",
                tool_calls=[CALL],
            ),
            RESULT,
        ],
        ["thinking"],
    ),
    "anthropic_hidden_thinking": (
        [
            HumanMessage("weather?"),
            said_by(
                "anthropic",
                [{**HIDDEN, "index": 0}, {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}],
                "claude-sonnet-4-5-20250929",
                tool_calls=[CALL],
            ),
            RESULT,
        ],
        ["thinking"],
    ),
    "anthropic_server_tools": (
        [
            HumanMessage("news?"),
            said_by(
                "anthropic",
                [
                    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "news"}},
                    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
                    {"type": "text", "text": "Much.", "citations": [{"type": "web_search_result_location"}]},
                ],
                "claude-sonnet-4-5-20250929",
            ),
            HumanMessage("more"),
        ],
        ["server_tool_use", "web_search_tool_result", "citations"],
    ),
    "anthropic_input": (
        [
            SystemMessage([{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]),
            HumanMessage(
                [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BYTES}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a text"}},
                ]
            ),
        ],
        [],
    ),
    "bedrock_converse_reasoning": (
        [
            HumanMessage("weather?"),
            said_by(
                "bedrock_converse",
                [
                    {"type": "reasoning_content", "reasoning_content": {"text": "step 0", "signature": "c2ln0"}},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
                ],
                "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
                tool_calls=[CALL],
            ),
            RESULT,
        ],
        ["thinking"],
    ),
    "bedrock_converse_input": (
        [HumanMessage([{"text": "what is it?"}, {"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}])],
        [],
    ),
    "gemini_code_and_signatures": (
        [
            HumanMessage("compute"),
            said_by(
                "google_genai",
                [
                    {"type": "thinking", "thinking": "so", "signature": "Cg=="},
                    {"type": "executable_code", "executable_code": "print(1)", "language": "PYTHON"},
                    {"type": "code_execution_result", "code_execution_result": "1", "outcome": 1},
                    {"type": "text", "text": "One.", "extras": {"signature": "Cg=="}},
                ],
                "gemini-3-pro-preview",
                tool_calls=[CALL],
                additional_kwargs={
                    "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                    "__gemini_function_call_thought_signatures__": {"call_1": "Cg=="},
                },
            ),
            RESULT,
        ],
        ["signature", "executable_code", "code_execution_result", "thinking"],
    ),
    "gemini_input": (
        [HumanMessage([{"type": "text", "text": "see"}, {"type": "media", "mime_type": "image/png", "data": BYTES}])],
        [],
    ),
    "gemini_file": (
        [
            HumanMessage(
                [{"type": "text", "text": "see"}, {"type": "media", "mime_type": "application/pdf", "data": BYTES}]
            )
        ],
        [],
    ),
    "langchain_v1_blocks": (
        [
            HumanMessage("news?"),
            said_by(
                "openai",
                [
                    {"type": "reasoning", "reasoning": "so", "extras": {"signature": "x"}},
                    {"type": "server_tool_call", "name": "web_search", "args": {}, "id": "ws_1"},
                    {"type": "server_tool_result", "tool_call_id": "ws_1", "status": "success"},
                    {"type": "non_standard", "value": {"type": "mcp_list_tools", "id": "m"}},
                    {"type": "text", "text": "Much."},
                ],
            ),
            HumanMessage("more"),
        ],
        ["reasoning", "server_tool_call", "server_tool_result", "mcp_list_tools"],
    ),
    "invalid_call_from_elsewhere": (
        [
            HumanMessage("weather?"),
            said_by(
                "anthropic",
                [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
                ],
                invalid_tool_calls=[invalid_tool_call(name="weather", args='{"ci', id="call_1", error=None)],
            ),
            ToolMessage("that was no call", tool_call_id="call_1"),
        ],
        [],
    ),
}
SERVER_PARTS = {"text", "image_url", "input_audio", "file"}
KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "reasoning_content"},
    "tool": {"role", "content", "tool_call_id"},
}


def assert_strict(messages: list[dict[str, Any]]) -> None:
    """As OpenAI looks at a conversation: known keys, known parts, of an assistant nothing but text, and an answer for
    every call."""
    for message in messages:
        assert message.keys() <= KEYS[message["role"]], message
        parts = message["content"] if isinstance(message["content"], list) else []
        allowed = {"text"} if message["role"] == "assistant" else SERVER_PARTS
        assert {part["type"] for part in parts} <= allowed
        for part in parts:
            assert part.keys() <= {"type", part["type"], "cache_control"}
    calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    assert calls == [message["tool_call_id"] for message in messages if message["role"] == "tool"]


def dropped(reply: AIMessage) -> list[list[str]]:
    return [attempt.get("dropped_content", []) for attempt in reply.response_metadata["llm_fallback"]["attempts"]]


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("name", HISTORIES)
async def test_a_history_from_elsewhere_is_taken_and_what_is_left_out_named(name, mode):
    """By a strict server over HTTP, and by the fake likewise; in every attempt."""
    history, left_out = HISTORIES[name]
    before = [message.model_copy(deep=True) for message in history]
    with FakeServer({"a": Fail(500), "b": "fine"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        reply = await ask(model, mode, history)
        asked = [received.body["messages"] for received in server.received()]
    fake = fake_chat_model({"a": Fail(500), "b": "fine"})
    pretended = await ask(fake, mode, history)
    assert dropped(reply) == dropped(pretended) == [left_out, left_out]
    for messages in (*asked, *(received.body["messages"] for received in fake.received())):
        assert_strict(messages)
        texts = str(messages)
        assert all(word not in texts for word in ("signature", "encrypted", "left_out", "origin"))
    assert history == before


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize(
    ("name", "thought"),
    [("anthropic_thinking", SIGNED), ("anthropic_hidden_thinking", HIDDEN), ("bedrock_converse_reasoning", SIGNED)],
)
async def test_a_signed_thought_goes_back_to_who_signed_it_and_to_nobody_else(name, thought, mode):
    """Claude gets the thought that ChatAnthropic or Converse kept, hidden or not, and goes on thinking; a server of
    one's own does not."""
    history, _ = HISTORIES[name]
    claude = Claude(calls=1, is_redacted=thought is HIDDEN)
    with serving(claude) as deployment, FakeServer({"own": Fail(500)}) as server:
        own = server.spec(backend="vllm")["deployments"]["own"]
        with build_chat_model(chain("own", "claude", own=own, claude=deployment)) as model:
            reply = await ask(model.bind_tools([weather]), mode, history)
        assert_strict(server.received()[0].body["messages"])
    assert dropped(reply) == [["thinking"], []]
    assert claude.asked[0]["messages"][1]["content"][0] == thought
    assert claude.asked[0]["thinking"]["type"] == "enabled"


async def test_another_claude_does_not_get_it():
    """A signature holds with the model that made it; that one is asked without thinking."""
    history, _ = HISTORIES["anthropic_thinking"]
    claude = Claude(calls=1)
    with serving(claude, model="anthropic/claude-opus-4-5") as deployment:
        with build_chat_model(chain("claude", claude=deployment)) as model:
            reply = await model.bind_tools([weather]).ainvoke(history)
    assert dropped(reply) == [["thinking"]]
    assert "signature" not in str(claude.asked[0]["messages"])


def test_a_reply_of_another_tier_of_ours_is_carried_too():
    """What Claude thought stays out for the next tier, and is named."""
    ours = AIMessage(
        "I look.",
        tool_calls=[CALL],
        additional_kwargs={"thinking_blocks": [{**SIGNED, "origin": "anthropic/claude-sonnet-4-5"}]},
    )
    with FakeServer({"a": "fine"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        reply = model.invoke([HumanMessage("weather?"), ours, RESULT])
        assert_strict(server.received()[0].body["messages"])
    assert dropped(reply) == [["thinking"]]


@pytest.mark.parametrize("outputs", [5, True, "x", {"type": "web_search_call"}])
def test_outputs_of_tools_that_are_no_list_are_left_out_too(outputs):
    """A history may have been through many hands."""
    history = [HumanMessage("news?"), AIMessage("Much.", additional_kwargs={"tool_outputs": outputs})]
    with FakeServer({"a": "fine"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        [named] = dropped(model.invoke([*history, HumanMessage("more")]))
    assert len(named) == 1


@pytest.mark.parametrize(
    "part",
    [
        {"image": {"format": "png", "source": {"bytes": True}}},
        {"document": {"format": "pdf", "name": "x", "source": {"bytes": 5}}},
        {"document": {"format": "pdf", "name": "x", "source": True}},
    ],
)
def test_a_picture_of_bedrocks_without_bytes_is_the_requests_own_fault(part):
    """LangChain's own reading of it ends in one error or another."""
    with FakeServer({"a": "fine"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        with pytest.raises(ChainExhausted) as raised:
            model.invoke([HumanMessage([{"type": "text", "text": "?"}, part])])
    assert [(attempt.failure, attempt.status) for attempt in raised.value.attempts] == [("bad_request", None)]


def test_a_history_of_ones_own_loses_nothing():
    """And no attempt says so."""
    with FakeServer({"a": "fine"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        reply = model.invoke([HumanMessage("weather?"), AIMessage("", tool_calls=[CALL]), RESULT])
    assert "dropped_content" not in reply.response_metadata["llm_fallback"]["attempts"][0]
