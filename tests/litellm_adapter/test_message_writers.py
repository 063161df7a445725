"""Messages are written as litellm writes them, and what only litellm knows is left to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from llm_fallback.litellm_adapter.message_writers import (
    AnthropicWriter,
    ConverseWriter,
    GeminiWriter,
    OllamaWriter,
    OpenAIWriter,
    Unusual,
    shape_of,
)
from llm_fallback.litellm_adapter.protocols import COHERE_CHAT, Protocol
from llm_fallback.litellm_adapter.quiet import warm_up
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.request_guard import guard_clients
from llm_fallback.litellm_adapter.translation import translate
from tests.plans import target

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def call(number: int, arguments: str = '{"city": "Oslo", "days": 1.50}', name: str = "look_up") -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(number: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text}


TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Where is this? é🌍"}, PICTURE]},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [call(1), call(2, "{}", "now")]},
    result(1, '{"t": 7.0}'),
    result(2, "noon"),
    {"role": "assistant", "content": "In Oslo."},
    {"role": "user", "content": "And"},
    {"role": "user", "content": "tomorrow?"},
    {"role": "assistant", "content": "", "tool_calls": [call(3)]},
    result(3, "rain"),
]
"""What an agent's conversation has: a system, pictures, calls with and without a text, results, two in a row."""
WRITERS: dict[str, tuple[type, dict[str, Any]]] = {
    "mistral/mistral-large-latest": (OpenAIWriter, {}),
    "hosted_vllm/m": (OpenAIWriter, {"api_base": "http://127.0.0.1:9/v1"}),
    "azure/gpt-4o": (OpenAIWriter, {"api_base": "http://127.0.0.1:9", "api_version": "2025-04-01-preview"}),
    "anthropic/claude-sonnet-4-5": (AnthropicWriter, {}),
    "gemini/gemini-2.5-flash": (GeminiWriter, {}),
    "ollama_chat/llama3.1": (OllamaWriter, {}),
    "bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0": (
        ConverseWriter,
        {"aws_access_key_id": "a", "aws_secret_access_key": "s", "aws_region_name": "eu-west-1"},
    ),
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("look_up", "now")
]


@pytest.fixture(scope="module", autouse=True)
def _requests_are_taken() -> None:
    warm_up()
    guard_clients()


async def litellms(model: str, messages: list[dict[str, Any]]) -> tuple[Protocol, Any]:
    """In which protocol litellm would send these messages, and in which body."""
    provider, _, name = model.partition("/")
    own = target(name, provider=provider, params=WRITERS[model][1])
    asked = DeploymentRequest(own, {"messages": messages, "tools": TOOLS}, SecretStr("sk-given"), set())
    request = await translate(asked)
    return request.protocol, json.loads(request.body)


@pytest.mark.parametrize("length", range(2, len(TALK) + 1))
@pytest.mark.parametrize("model", WRITERS)
async def test_a_conversation_is_written_as_litellm_writes_it(model, length):
    """At each of its turns, in every protocol."""
    protocol, body = await litellms(model, TALK[:length])
    writer = protocol.writer
    assert type(writer) is WRITERS[model][0]
    assert {place: body[place] for place in writer.places if place in body} == writer.write(TALK[:length])


SAID = {"role": "user", "content": "hi"}
UNUSUAL: dict[str, dict[str, Any]] = {
    "a blank text": {"role": "user", "content": " \n"},
    "a link": {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.test/a.png"}}]},
    "a picture of another kind": {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA=="}}],
    },
    "a part of another kind": {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
    "an empty part": {"role": "user", "content": [{"type": "text", "text": ""}]},
    "a content that is none": {"role": "user", "content": 3},
    "arguments that are no object": {"role": "assistant", "content": "", "tool_calls": [call(1, "[1]")]},
    "arguments that are no JSON": {"role": "assistant", "content": "", "tool_calls": [call(1, "{")]},
    "a name that a provider might not take": {"role": "assistant", "content": "", "tool_calls": [call(1, name="a/b")]},
    "a call with more to it": {"role": "assistant", "content": "", "tool_calls": [{**call(1), "index": 0}]},
    "a signed call": {"role": "tool", "tool_call_id": "call_1__thought__abc", "content": "7"},
    "an id that a provider might not take": {"role": "tool", "tool_call_id": "a b", "content": "7"},
    "a picture without an address": {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": 3}}],
    },
    "a call of nothing": {"role": "assistant", "content": "", "tool_calls": [{**call(1), "function": None}]},
    "a picture for a result": {"role": "tool", "tool_call_id": "call_1", "content": "data:image/png;base64,AA=="},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_of_what_is_unusual_there_is_no_shape(name):
    """What becomes of it depends on more than its form."""
    with pytest.raises(Unusual):
        shape_of(UNUSUAL[name])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"content": "one"}, {"content": "two words"}, True),
        ({"content": "one"}, {"content": " one"}, False),
        ({"content": "one"}, {"content": "one\n"}, False),
        ({"content": "one"}, {"content": ""}, False),
        ({"content": "one"}, {"content": [{"type": "text", "text": "one"}]}, False),
        ({"content": "one"}, {"content": "one", "name": "me"}, False),
        ({"content": [{"type": "text", "text": "a"}]}, {"content": [{"type": "text", "text": "b"}]}, True),
        ({"content": [{"type": "text", "text": "a"}]}, {"content": [{"type": "text", "text": "a"}, PICTURE]}, False),
        (
            {"content": [{"type": "text", "text": "a"}]},
            {"content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            False,
        ),
        ({"content": "", "tool_calls": [call(1)]}, {"content": "", "tool_calls": [call(2), call(3)]}, True),
        ({"content": "", "tool_calls": [call(1)]}, {"content": "", "tool_calls": [call(1, "{}")]}, False),
        ({"content": "", "tool_calls": [call(1)]}, {"content": None, "tool_calls": [call(1)]}, False),
    ],
)
def test_messages_of_one_shape_differ_in_their_texts_and_names_alone(one, other, same):
    """All else may be translated otherwise."""
    shapes = [shape_of({"role": "assistant", **message}) for message in (one, other)]
    assert (shapes[0] == shapes[1]) is same


@pytest.mark.parametrize("text", ["7", '{"t": 7}', "[7]", "{", ""])
def test_a_result_that_is_json_has_a_shape_of_its_own(text):
    """Some protocols take it for an object, others for a text."""
    others = [shape_of(result(1, other)) for other in ("7", '{"t": 7}', "[7]", "{", "") if other != text]
    assert shape_of(result(1, text)) not in others


@pytest.mark.parametrize("writer", [AnthropicWriter(), GeminiWriter(), ConverseWriter(), OllamaWriter()])
@pytest.mark.parametrize(
    "message",
    [{**SAID, "name": "me"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}],
    ids=["a name", "thoughts"],
)
def test_fields_that_a_writer_does_not_know_are_left_to_litellm(writer, message):
    """Nothing of a message is left out in silence."""
    with pytest.raises(Unusual):
        writer.write([SAID, message, SAID])


@pytest.mark.parametrize("writer", [AnthropicWriter(), GeminiWriter(), ConverseWriter()])
def test_a_result_of_a_call_that_nobody_made_is_left_to_litellm(writer):
    """These protocols pair them."""
    with pytest.raises(Unusual):
        writer.write([SAID, result(1, "7")])


def test_of_cohere_s_requests_only_litellm_knows():
    """There is no writer for every protocol that is read."""
    with pytest.raises(Unusual):
        _ = COHERE_CHAT.writer


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"role": "user", "content": ["a text alone"]}, id="a part that is a text"),
        pytest.param({"role": "assistant", "content": "", "tool_calls": [call(1), call(2)]}, id="one call twice"),
        pytest.param(
            {"role": "user", "content": [{**PICTURE, "image_url": {**PICTURE["image_url"], "detail": "low"}}]},
            id="a picture with a detail",
        ),
    ],
)
def test_what_litellm_writes_for_gemini_in_ways_of_its_own_is_left_to_it(message):
    """Nobody here guesses how."""
    with pytest.raises(Unusual):
        shape_of(message)
        GeminiWriter().write([message])
