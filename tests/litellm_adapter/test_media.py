"""Pictures, sounds, videos and files: who cannot be given one is passed over, and nobody is asked without it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import litellm
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from litellm.integrations.custom_logger import CustomLogger

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.litellm_adapter.media import left_out, media_in
from llm_fallback.testing import FakeServer
from tests.asking import MODES, ask
from tests.attacks.servers import Answer, Server
from tests.attacks.test_links import CALLBACKS

DATA = base64.b64encode(b"a sound, a picture or a file. " * 9).decode()
HELD = DATA[-40:-4].encode()

PARTS: dict[str, dict[str, Any]] = {
    "a sound": {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}},
    "LangChain's sound": {"type": "audio", "base64": DATA, "mime_type": "audio/wav"},
    "vLLM's sound": {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{DATA}"}},
    "vLLM's video": {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}"}},
    "a picture": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
    "a file": {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{DATA}"}},
    "Anthropic's document": {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": DATA},
    },
}
AMAZON = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "x" * 40, "aws_region_name": "us-east-1"}
MODELS: dict[str, dict[str, Any]] = {
    "openai/gpt-4o": {},
    "hosted_vllm/m": {},
    "azure/prod": {"api_version": "2025-04-01"},
    "anthropic/claude-sonnet-4-5": {},
    "gemini/gemini-2.5-pro": {},
    "mistral/mistral-large-latest": {},
    "deepseek/deepseek-chat": {},
    "ollama_chat/llama3": {},
    "ollama/llama3": {},
    "azure_ai/claude-sonnet-4-5": {},
    "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0": AMAZON,
    "bedrock/invoke/anthropic.claude-3-5-sonnet-20240620-v1:0": AMAZON,
}
DEAF = ("anthropic/claude-sonnet-4-5", "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", "ollama_chat/llama3")


@pytest.fixture
def provider() -> Iterator[Server]:
    """Whoever is asked, and refuses."""
    with Server(lambda asked: Answer(400, (b'{"error": {"message": "no"}}',))) as server:
        yield server


@pytest.fixture(params=["direct", "listened to"])
def road(request, monkeypatch) -> str:
    """Whether litellm only translates, or sends too."""
    for name in CALLBACKS:  # litellm copies a listener from list to list.
        monkeypatch.setattr(litellm, name, list(getattr(litellm, name)))
    if request.param == "listened to":
        litellm.callbacks.append(CustomLogger())
    return str(request.param)


def spec_of(model: str, url: str) -> dict[str, Any]:
    """The deployment alone in its chain."""
    key = {} if model.startswith("bedrock") else {"api_key": "sk-0123456789"}
    deployment = {"model": model, "api_base": url, "params": MODELS[model], **key}
    return {"deployments": {"it": deployment}, "chains": {"c": {"tiers": ["it"], "retries": {"max": 0}}}}


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("model", MODELS)
def test_what_a_question_holds_is_sent_or_the_deployment_is_passed_over(model, provider):
    """Whatever the part, and whatever litellm makes of it: no request goes out without it."""
    for name, part in PARTS.items():
        with build_chat_model(spec_of(model, provider.url)) as asked, pytest.raises(ChainExhausted) as caught:
            asked.invoke([HumanMessage([{"type": "text", "text": "What is it?"}, part])])
        assert all(HELD in received.body for received in provider.received), name
        if not provider.received:
            skipped = [skip.reason for skip in caught.value.skipped]
            told = [(attempt.failure, attempt.status) for attempt in caught.value.attempts]
            assert skipped == ["unsupported"] or told == [("bad_request", None)], name
        provider.received.clear()


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", DEAF)
async def test_a_sound_goes_to_who_hears(model, mode, provider):
    """The first is passed over, without an attempt; the next one is given the sound."""
    with FakeServer({"backup": "a bell"}) as server:
        spec = server.spec()
        spec["deployments"]["deaf"] = spec_of(model, provider.url)["deployments"]["it"]
        spec["chains"]["default"]["tiers"] = ["deaf", "backup"]
        with build_chat_model(spec) as asked:
            message = await ask(asked, mode, [HumanMessage([{"type": "text", "text": "Hm?"}, PARTS["a sound"]])])
        [received] = server.received()
    facts = message.response_metadata["llm_fallback"]
    assert [(skip["deployment"], skip["reason"]) for skip in facts["skipped"]] == [("deaf", "unsupported")]
    assert [attempt["deployment"] for attempt in facts["attempts"]] == ["backup"]
    assert received.body["messages"][0]["content"][1] == PARTS["a sound"]
    assert provider.received == []


def test_a_sound_is_looked_for_behind_a_tool_s_call_too(provider):
    """In what the tool brought."""
    messages = [
        HumanMessage("Listen."),
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "call_1"}]),
        ToolMessage([{"type": "text", "text": "this"}, PARTS["a sound"]], tool_call_id="call_1"),
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with build_chat_model(spec_of(DEAF[0], provider.url)) as asked, pytest.raises(ChainExhausted) as caught:
        asked.invoke(messages, tools=[tool])
    assert ([skip.reason for skip in caught.value.skipped], provider.received) == (["unsupported"], [])


def user(*parts: Any) -> list[dict[str, Any]]:
    """A message of these parts."""
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("part", "body"),
    [
        ({"type": "file", "file": {"file_id": "file-1", "filename": "a"}}, b'{"messages": [{"file_id":"file-1"}]}'),
        ({"type": "document", "source": {"type": "text", "data": "Grüße"}}, b'{"messages": "Gr\\u00fc\\u00dfe"}'),
        ({"type": "document", "source": {"type": "text", "data": "Grüße"}}, '{"messages": "Grüße"}'.encode()),
        ({"type": "image_url", "image_url": "https://a/b.png"}, b'{"contents": "https://a/b.png"}'),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}, b'{"prompt": "YWJj"}'),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,YWI="}}, b'{"prompt": "YWI"}'),
    ],
)
def test_it_is_found_however_it_is_written(part, body):
    """A name, a link, data with and without padding, letters as they are and escaped."""
    media = media_in(user({"type": "text", "text": "?"}, part), ())
    assert left_out(media, body) == ()
    assert left_out(media, b'{"messages": "?"}') == (part["type"],)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["openai/gpt-4o", *DEAF])
async def test_half_a_character_at_its_end_is_the_request_s_own_fault(model, mode, provider):
    """As anywhere else in a request: nothing is sent."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA\ud83d"}}
    with build_chat_model(spec_of(model, provider.url)) as asked, pytest.raises(ChainExhausted) as caught:
        await ask(asked, mode, [HumanMessage([part])])
    assert [(attempt.failure, attempt.status) for attempt in caught.value.attempts] == [("bad_request", None)]
    assert "surrogate" in str(caught.value)
    assert provider.received == []


def test_a_request_for_a_login_lacks_nothing():
    """It has no messages."""
    media = media_in(user(PARTS["a sound"]), ())
    assert left_out(media, b"grant_type=apikey") == left_out(media, b'{"assertion": "x"}') == ()


def test_texts_and_what_a_model_said_need_not_be_found():
    """Nor what has nothing in it, or no name."""
    assert media_in([{"role": "user", "content": "hi"}], ()) == ()
    assert media_in(user({"type": "text", "text": "hi"}, {"type": "file"}, "bare"), ()) == ()
    assert media_in(user({"type": {"url": "x"}, "text": "hi"}, {"type": ["file"]}, {"type": None}), ()) == ()
    assert media_in([{"role": "assistant", "content": [PARTS["a picture"]]}], ()) == ()
