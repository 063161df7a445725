"""Errors of a translation say what is wrong, and nothing of what was asked."""

from __future__ import annotations

import json
import logging
from typing import Any

import litellm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from litellm.integrations.custom_logger import CustomLogger

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.litellm_adapter.quotations import without_quotations
from tests.asking import TWO_MODES, ask
from tests.attacks.servers import Answer, Server
from tests.attacks.test_links import CALLBACKS
from tests.litellm_adapter.test_media import spec_of

SAID = "the patient's name is \"Ada\"\nand she is {'ill': [1, 2"


def user(content: Any) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"list index out of range\nReceived Messages={user(SAID)}", "list index out of range\nReceived Messages=…"),
        (f"Got={user(SAID)[0]}, call=None", "Got=…, call=None"),
        (f"Got={json.dumps(user(SAID))}. Please convert it", "Got=…. Please convert it"),
        (f"Invalid {user(SAID)[0]} in {user('hi')}: no", "Invalid … in …: no"),
        (f"Invalid image received - {SAID}", "Invalid image received - …"),
        (f"input_value={SAID!r}, input_type=str", "input_value='…', input_type=str"),
        (f"input_value={SAID[:30]}, input_type=str", "input_value=…, input_type=str"),
        (f"broken off: {str(user(SAID))[:60]}", "broken off: …"),
        ("(expected 2, got 1)", "(expected 2, got 1)"),
        ("the user message at index 0", "the user message at index 0"),
        (
            'supported: ["png"], as in "data:image/jpeg;base64,{data}"',
            'supported: ["png"], as in "data:image/jpeg;base64,{data}"',
        ),
    ],
)
def test_what_is_quoted_is_left_out_and_the_rest_stays(text, told):
    """Documents in Python's or JSON's form, whole or cut, and texts as they are."""
    assert without_quotations(text, user(SAID)) == told


@given(
    st.text(st.characters(exclude_characters="…"), min_size=8).filter(lambda text: not text.isspace()),
    st.sampled_from((str, repr, json.dumps)),
)
def test_no_text_of_a_message_is_found_in_what_is_left(said, written):
    """Whatever stands in it, and however it is quoted."""
    for quoted in (said, user(said), user([{"type": "text", "text": said}])):
        assert said not in without_quotations(f"No: {written(quoted)}", user(said))


def test_an_error_that_quotes_a_book_takes_no_longer():
    """And what stands at its cut is not told, since a secret may stand there."""
    told = without_quotations("no: " + "a word " * 1_000_000 + "sk-secret", user("b" * 10_000_000))
    assert len(told) < 10_000
    assert told.startswith("no: a word")


CASES: dict[str, list[Any]] = {
    "a role": [ChatMessage(role="critic", content=SAID)],
    "a picture": [HumanMessage([{"type": "image_url", "image_url": {"url": SAID}}])],
    "a file": [HumanMessage([{"type": "file", "file": {"file_data": SAID}}])],
    "a file without data": [HumanMessage([{"type": "file", "file": {"title": SAID}}])],
    "an answer to nobody": [HumanMessage("hi"), ToolMessage(SAID, tool_call_id="call_0")],
    "orders alone": [SystemMessage(SAID)],
    "arguments": [
        HumanMessage("hi"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"note": SAID}, "id": "call_1"}]),
        ToolMessage([{"type": "image_url", "image_url": {"url": "x"}}], tool_call_id="call_1"),
    ],
}
MODELS = (
    "anthropic/claude-sonnet-4-5",
    "azure_ai/claude-sonnet-4-5",
    "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
    "bedrock/invoke/anthropic.claude-3-5-sonnet-20240620-v1:0",
    "gemini/gemini-2.5-pro",
    "ollama/llama3",
)


@pytest.mark.parametrize("is_heard", [False, True], ids=["direct", "listened to"])
@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("model", MODELS)
async def test_no_prompt_stands_in_an_error_or_a_log(model, mode, is_heard, monkeypatch, caplog):
    """Nor in what it is raised from."""
    caplog.set_level(logging.DEBUG, "llm_fallback")
    for name in CALLBACKS:  # litellm copies a listener from list to list.
        monkeypatch.setattr(litellm, name, list(getattr(litellm, name)))
    if is_heard:
        litellm.callbacks.append(CustomLogger())
    with Server(lambda asked: Answer(500, (b"{}",))) as server:
        for messages in CASES.values():
            with build_chat_model(spec_of(model, server.url)) as asked, pytest.raises(ChainExhausted) as caught:
                await ask(asked, mode, messages)
            ours = [record.getMessage() for record in caplog.records if record.name == "llm_fallback"]
            assert ours
            told = f"{caught.value} {caught.value.__cause__} {caught.value.attempts} {ours}"
            assert "patient" not in told
