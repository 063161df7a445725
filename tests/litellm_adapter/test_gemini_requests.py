"""Gemini, asked both ways: translated by litellm and sent by us, or through litellm whole. Nobody may be able to tell
by request or answer which it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from threading import Thread
from typing import Any

import litellm
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from llm_fallback import ChainExhausted, StreamBroken, build_chat_model
from llm_fallback.engine.transport import Exchange, Unsupported
from llm_fallback.litellm_adapter.chat_model import FallbackChatModel
from llm_fallback.litellm_adapter.direct import DirectExchange
from llm_fallback.litellm_adapter.gemini_requests import needs_litellm
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from llm_fallback.testing import Fail, FakeServer
from tests.asking import MODES, STREAMED, ask
from tests.litellm_adapter.test_direct_and_relayed_alike import heard, road_of

KEY = "AIza-canary-0123456789"
WAYS = ("direct", "relayed")
USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 42, "thoughtsTokenCount": 30}


def event(*parts: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [*parts]}, "index": 0}
    ended = {} if finish is None else {"finishReason": finish}
    return {"candidates": [{**candidate, **ended}], "usageMetadata": USAGE, "modelVersion": "gemini-2.5-flash"}


CALL = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2lnbmVk"}
TALK = [
    event({"text": "Let me see.", "thought": True}),
    event({"text": "Hello "}),
    event({"text": "world"}),
    event(CALL, finish="STOP"),
]


@dataclass
class Google:
    """A server that speaks generateContent, and what it was sent."""

    url: str = ""
    events: list[Any] = field(default_factory=lambda: TALK)
    """What it says: event by event, or all parts at once."""
    refusals: list[tuple[int, Any]] = field(default_factory=list)
    """Errors it answers with before that."""
    grounding: dict[str, Any] | None = None
    """What it looked its whole reply up in."""
    sent: list[tuple[str, str, Mapping[str, str], Any]] = field(default_factory=list)
    """Method, path with query, headers and body."""

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if "cachedContents" in path:
            return 200, "application/json", b'{"name": "cachedContents/it", "model": "models/m"}'
        if self.refusals:
            status, body = self.refusals.pop(0)
            return status, "application/json", json.dumps(body).encode()
        if ":streamGenerateContent" in path:
            frames = [b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in self.events]
            return 200, "text/event-stream", b"".join(frames)
        parts = [part for one in self.events for part in one["candidates"][0]["content"]["parts"]]
        finish = self.events[-1]["candidates"][0].get("finishReason")
        whole = event(*parts, finish=finish)
        if self.grounding is not None:
            whole["candidates"][0]["groundingMetadata"] = self.grounding
        return 200, "application/json", json.dumps(whole).encode()


@contextmanager
def serving() -> Iterator[Google]:
    google = Google()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): text for name, text in self.headers.items()}
            google.sent.append((self.command, self.path, headers, json.loads(body or b"null")))
            status, kind, answer = google.answer(self.path)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    google.url = f"http://127.0.0.1:{server.server_port}/v1beta"
    try:
        yield google
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def google() -> Iterator[Google]:
    with serving() as one:
        yield one


def model_of(google: Google, **own: Any) -> FallbackChatModel:
    deployment = {"model": "gemini/gemini-2.5-flash", "api_base": google.url, "api_key": KEY, **own}
    chain = {"tiers": ["gemini"], "retries": {"max": 0}}
    return build_chat_model({"deployments": {"gemini": deployment}, "chains": {"c": chain}})


def exchange_for(model: FallbackChatModel, messages: list[Any]) -> Exchange:
    request = {"messages": messages}
    return model.runtime.engine.transport.exchange(model.runtime.plan.targets["gemini"], request, None)


def told(message: AIMessage) -> dict[str, Any]:
    """What a caller learns, but for ids that are made up."""
    facts = message.response_metadata["llm_fallback"]
    return {
        "text": message.text,
        "thoughts": message.additional_kwargs["reasoning_content"],
        "calls": [(call["name"], call["args"], call["id"].partition("__thought__")[2]) for call in message.tool_calls],
        "signatures": message.additional_kwargs["provider_specific_fields"]["thought_signatures"],
        "usage": {name: message.usage_metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens")},
        "reasoning": message.usage_metadata["output_token_details"]["reasoning"],
        "finish": message.response_metadata["finish_reason"],
        "attempts": [(attempt["outcome"], attempt["status"]) for attempt in facts["attempts"]],
    }


SAID = {
    "text": "Hello world",
    "thoughts": "Let me see.",
    "calls": [("get_weather", {"city": "Oslo"}, "c2lnbmVk")],
    "signatures": ["c2lnbmVk"],
    "usage": {"input_tokens": 5, "output_tokens": 37, "total_tokens": 42},
    "reasoning": 30,
    "finish": "tool_calls",
    "attempts": [("succeeded", 200)],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
async def test_a_reply_is_what_the_server_said(google: Google, way: str, mode: str) -> None:
    """Text, thoughts, calls with their signature, the server's own usage and finish: each way, in every mode."""
    with heard(way), model_of(google) as model:
        kind = DirectExchange if way == "direct" else LiteLLMExchange
        assert await road_of(model, "gemini") is kind
        assert told(await ask(model, mode)) == SAID
    assert len(google.sent) == 1


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_that_is_cut_is_no_reply(google: Google, way: str, mode: str) -> None:
    """litellm makes a whole one of it, and says that it stopped."""
    google.events = TALK[:3]
    with heard(way), model_of(google) as model, pytest.raises(StreamBroken):
        await ask(model, mode)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_call_that_went_wrong_is_no_end(google: Google, way: str, mode: str) -> None:
    """litellm says that it stopped."""
    google.events = [event({"text": "I look."}), event(finish="MALFORMED_FUNCTION_CALL")]
    with heard(way), model_of(google) as model, pytest.raises((ChainExhausted, StreamBroken)) as caught:
        await ask(model, mode)
    assert "MALFORMED_FUNCTION_CALL" in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
async def test_what_a_reply_was_looked_up_in_is_told(google: Google, way: str, mode: str) -> None:
    """Which places of it are from which pages, and all that Google says of its search: once, though it says so in event
    after event, and in the first of them nothing."""
    place = {"startIndex": 1, "endIndex": 5}
    grounding = {
        "webSearchQueries": ["hello"],
        "groundingChunks": [{"web": {"uri": "https://a.test/", "title": "a.test"}}],
        "groundingSupports": [{"segment": place, "groundingChunkIndices": [0], "confidenceScores": [0.5]}],
    }
    google.events = [event({"text": "Hello "}), event({"text": "wor"}), event({"text": "ld"}, finish="STOP")]
    for one, said in zip(google.events, ({}, grounding, grounding), strict=True):
        one["candidates"][0]["groundingMetadata"] = said
    google.grounding = grounding
    with heard(way), model_of(google) as model:
        message = await ask(model, mode)
    assert message.text == "Hello world"
    assert message.response_metadata["provider_specific_fields"] == [grounding]
    assert message.response_metadata["llm_fallback"]["deployment"] == "gemini"
    if way == "direct" or mode not in STREAMED:  # litellm has no annotations in its streams.
        (annotation,) = message.additional_kwargs["annotations"]
        assert annotation["url_citation"]["url"] == "https://a.test/"


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_search_may_be_told_after_all_else(google: Google, mode: str) -> None:
    """In an event without a word, which litellm would drop."""
    google.events = [event({"text": "Hello"}, finish="STOP"), event()]
    google.events[1]["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["hello"]}
    with model_of(google) as model:
        message = await ask(model, mode)
    assert message.response_metadata["provider_specific_fields"] == [{"webSearchQueries": ["hello"]}]


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Looks it up.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False},
        "strict": True,
    },
}
SCHEMA = {"name": "answer", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}
WORDS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5, "max_tokens": 7, "stop": ["\n"], "top_p": 0.9},
    {"tools": [TOOL], "tool_choice": "required"},
    {"tools": [{"googleSearch": {}}]},
    {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    {"reasoning_effort": "low"},
    {"n": 2},
]
PICTURE = "data:image/png;base64,iVBORw0KGgo="
TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Ålesund? 🌍"}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": PICTURE}]},
        {"role": "assistant", "content": "A picture."},
        {"role": "user", "content": "And?"},
    ],
    [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ],
]
PASSING = ("user-agent", "accept", "accept-encoding", "connection", "host", "content-length")
"""Headers of whichever client sends."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("messages", "words"), [(TALKS[0], words) for words in WORDS] + [(t, {}) for t in TALKS[1:]])
async def test_what_is_sent_is_what_litellm_sends(
    google: Google, messages: list[Any], words: dict[str, Any], stream: bool
) -> None:
    """Address, query, headers and body, byte for byte where the headers are not the client's own."""
    model = model_of(google, params={"extra_headers": {"X-Team": "search"}})
    transport, target = model.runtime.engine.transport, model.runtime.plan.targets["gemini"]
    key = target.api_key
    request = {"messages": messages, "stream": stream, **words}
    assert await road_of(model, "gemini", **request) is DirectExchange
    exchange = transport.exchange(target, request, key)
    await (exchange.next() if stream else exchange.reply())
    await exchange.close()
    own = {"api_base": google.url, "api_key": KEY, "extra_headers": {"X-Team": "search"}, "num_retries": 0}
    theirs = await litellm.acompletion(
        "gemini/gemini-2.5-flash", json.loads(json.dumps(messages)), stream=stream, **own, **words
    )
    if stream:
        await anext(theirs)
    ours, litellms = (
        (method, path, {name: text for name, text in headers.items() if name not in PASSING}, body)
        for method, path, headers, body in google.sent
    )
    assert ours == litellms
    assert ours[2]["x-goog-api-key"] == KEY
    assert ours[1].endswith("?alt=sse") is stream
    await model.aclose()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("login", [None, {"Authorization": "Basic abc"}, {"X-Goog-Api-Key": "theirs"}])
async def test_a_key_that_nobody_gave_is_not_sent(google: Google, way: str, login: dict[str, str] | None) -> None:
    """litellm sends one that is none; a gateway with a login of its own is told that alone."""
    params = {"params": {"extra_headers": login}} if login else {}
    with heard(way), model_of(google, api_key=None, **params) as model:
        await model.ainvoke("hi")
    logins = {name: text for name, text in google.sent[0][2].items() if name in ("authorization", "x-goog-api-key")}
    assert logins == {name.lower(): text for name, text in (login or {}).items()}


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_stands_in_no_error(google: Google, way: str) -> None:
    """Not even where the server repeats it."""
    google.refusals = [(400, {"error": {"code": 400, "message": f"key {KEY} is odd", "status": "INVALID_ARGUMENT"}})]
    with heard(way), model_of(google) as model, pytest.raises(ChainExhausted) as caught:
        await model.ainvoke("hi")
    assert "is odd" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_what_is_to_be_cached_is_left_to_litellm(google: Google, mode: str) -> None:
    """It looks after Google's cache first, which is no part of the reply; the next request goes direct again."""
    long = {"type": "text", "text": "word " * 5000, "cache_control": {"type": "ephemeral"}}
    with model_of(google) as model:
        messages = [HumanMessage([long]), AIMessage("Yes."), HumanMessage("And?")]
        assert told(await ask(model, mode, messages)) == SAID
        assert await road_of(model, "gemini") is DirectExchange
    assert [path.rpartition("/")[2].partition("?")[0] for _, path, _, _ in google.sent][:-1].count(
        "cachedContents"
    ) >= 1


@pytest.mark.skipif(
    find_spec("litellm.llms.vertex_ai.gemini.rejected_thought_signature_retry") is None,
    reason="litellm asks a second time, without signatures, from 1.110 on",
)
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_signature_of_somebody_else_is_left_out_when_it_is_refused(google: Google, mode: str) -> None:
    """It holds only where it was issued, and a chain may have been answered elsewhere before."""
    refusal = {"error": {"code": 400, "message": "Corrupted thought signature.", "status": "INVALID_ARGUMENT"}}
    google.refusals = [(400, refusal)]
    call = {"name": "get_weather", "args": {}, "id": "call_1__thought__dGhlaXJz"}
    talk = [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id=call["id"])]
    with model_of(google) as model:
        assert told(await ask(model, mode, talk)) == SAID
    assert len(google.sent) == 2


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_signed_call_of_another_integration_is_signed_still(google: Google, mode: str) -> None:
    """ChatGoogleGenerativeAI keeps signatures beside the message, where Gemini would not find them: it refuses a tool's
    result without. Who is none of Google's gets the call without it, which is named."""
    call = {"name": "get_weather", "args": {"city": "Oslo"}, "id": "call_1"}
    signatures = {"__gemini_function_call_thought_signatures__": {"call_1": "c2lnbmVk"}}
    said = {"model_provider": "google_genai", "model_name": "gemini-3-pro-preview"}
    reply = AIMessage("", tool_calls=[call], additional_kwargs=signatures, response_metadata=said)
    talk = [HumanMessage("?"), reply, ToolMessage("rain", tool_call_id="call_1")]
    with FakeServer({"own": Fail(500)}) as server:
        own = server.spec(backend="vllm")["deployments"]["own"]
        gemini = {"model": "gemini/gemini-3-pro-preview", "api_base": google.url, "api_key": KEY}
        spec = {"deployments": {"own": own, "gemini": gemini}, "chains": {"c": {"tiers": ["own", "gemini"]}}}
        with build_chat_model(spec) as model:
            answer = await ask(model, mode, talk)
        [refused] = server.received()
    attempts = answer.response_metadata["llm_fallback"]["attempts"]
    assert [attempt.get("dropped_content") for attempt in attempts] == [["signature"], None]
    assert refused.body["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert refused.body["messages"][2]["tool_call_id"] == "call_1"
    parts = [part for said in google.sent[-1][3]["contents"] for part in said["parts"]]
    assert [part["thoughtSignature"] for part in parts if "function_call" in part] == ["c2lnbmVk"]
    assert talk[1].tool_calls[0]["id"] == "call_1"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_nothing_that_a_message_points_to_is_fetched(google: Google, way: str, mode: str) -> None:
    """litellm would, from wherever a message says. Gemini is not asked, and what it does not take is named."""
    link = {"type": "image_url", "image_url": {"url": f"{google.url}/secret.png"}}
    talk = [{"type": "text", "text": "?"}, link]
    with heard(way), model_of(google) as model:
        exchange = exchange_for(model, [{"role": "user", "content": talk}])
        assert await exchange.reply() == await exchange.next() == Unsupported(("image_url",))
        with pytest.raises(ChainExhausted) as caught:
            await ask(model, mode, [HumanMessage(talk)])
    assert [skip.reason for skip in caught.value.skipped] == ["unsupported"]
    assert google.sent == []


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_gemini_on_vertex_is_sent_with_the_token_that_litellm_gets(
    google: Google, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is litellm's to ask for, each time; what came, how it ended and what it cost is the server's word."""
    issued: list[str] = []

    async def token(*_: Any, **__: Any) -> tuple[str, str]:
        issued.append(f"ya29.{len(issued)}")
        return issued[-1], "project"

    monkeypatch.setattr(litellm.main.vertex_chat_completion, "_ensure_access_token_async", token)
    own = {"model": "vertex_ai/gemini-2.5-flash", "api_key": None, "params": {"vertex_location": "europe-west1"}}
    with model_of(google, **own) as model:
        assert await road_of(model, "gemini") is DirectExchange
        for _ in range(4):
            assert told(await ask(model, mode)) == SAID
            assert google.sent[-1][2]["authorization"] == f"Bearer {issued[-1]}"
        if mode == "astream":
            google.events = TALK[:3]
            with pytest.raises(StreamBroken):
                await ask(model, mode)


async def test_a_file_that_was_uploaded_to_google_is_passed_on(google: Google) -> None:
    """It stands where Gemini finds it."""
    uploaded = "https://generativelanguage.googleapis.com/v1beta/files/abc"
    link = {"type": "image_url", "image_url": {"url": uploaded, "format": "image/png"}}
    with model_of(google) as model:
        await model.ainvoke([HumanMessage([{"type": "text", "text": "?"}, link])])
    (_, _, _, body) = google.sent[0]
    assert uploaded in json.dumps(body)


@pytest.mark.parametrize(
    ("parameters", "needs"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, False),
        ({"messages": [{"role": "user", "content": "hi"}], "functions": [{"name": "f"}]}, True),
        ({"messages": [{"role": "user", "content": "hi", "cache_control": {"type": "ephemeral"}}]}, True),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "call_1"}]}]}, False),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "call_1__thought__a"}]}]}, True),
    ],
)
def test_litellm_is_needed_where_one_request_may_not_do(parameters: dict[str, Any], needs: bool) -> None:
    """For a cache, for signatures, and for an answer in an older form."""
    assert needs_litellm(parameters) is needs
