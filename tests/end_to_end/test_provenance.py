"""Where a reply came from, as its provider tells: ids to ask it by, the configuration, the probabilities of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from langchain_core.load import dumps, loads
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from llm_fallback import ChainExhausted, StreamBroken, build_chat_model
from llm_fallback.testing import Fail, FakeServer, Reply, Stall, fake_chat_model
from tests.asking import MODES, ask
from tests.litellm_adapter.test_direct_and_relayed_alike import heard

WAYS = ["direct", "relayed"]
HEAD = {"id": "chatcmpl-CYPS1lijGoK8gd9l", "created": 1762317021, "model": "gpt-4.1-2025-04-14"}
FINGERPRINT = "fp_f99638a8d7"


def token(text: str, logprob: float) -> dict[str, Any]:
    own = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
    return {**own, "top_logprobs": [own]}


TOKENS = [token("Hello", -0.12), token(" world", -0.5)]
LOGPROBS = {"content": TOKENS, "refusal": None}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def openais(streamed: bool) -> Any:
    """A reply as OpenAI sends it where `logprobs` is asked for."""
    if not streamed:
        message = {"role": "assistant", "content": "Hello world", "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": LOGPROBS, "finish_reason": "stop"}
        return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE} | NAMED
    deltas: list[tuple[dict[str, Any], Any, Any]] = [
        ({"role": "assistant", "content": "", "refusal": None}, {"content": [], "refusal": None}, None),
        *(({"content": one["token"]}, {"content": [one], "refusal": None}, None) for one in TOKENS),
        ({}, None, "stop"),
    ]
    chunks = [
        {"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}], "usage": None}
        for delta, logprobs, finish in deltas
    ]
    head = {**HEAD, "object": "chat.completion.chunk"} | NAMED
    return [{**head, **chunk} for chunk in [*chunks, {"choices": [], "usage": USAGE}]]


NAMED = {"system_fingerprint": FINGERPRINT, "service_tier": "default"}


@contextmanager
def serving(answer: Any, headers: Mapping[str, str]) -> Iterator[str]:
    """The address of a server that answers as `answer` says for a plain or a streamed request."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """It has nothing to say."""

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said = answer(bool(request.get("stream")) or "streamGenerateContent" in self.path)
            events = "".join(f"data: {json.dumps(one)}\n\n" for one in said) + "data: [DONE]\n\n"
            body = (events if isinstance(said, list) else json.dumps(said)).encode()
            kind = "text/event-stream" if isinstance(said, list) else "application/json"
            self.send_response(200)
            for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def spec(address: str, **deployment: Any) -> dict[str, Any]:
    own = {"backend": "openai-compatible", "model": "gpt-4.1", "api_base": address, **deployment}
    return {"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_id_fingerprint_and_probabilities_stand_where_chat_openai_puts_them(mode, way):
    """Once each however the reply came, so that streams and plain replies hold the same, and survive a cache."""
    with serving(openais, {"x-request-id": "req_1"}) as address, heard(way):
        with build_chat_model(spec(address), logprobs=True) as model:
            reply = await ask(model, mode)
        peer = await ask(ChatOpenAI(model="gpt-4.1", base_url=f"{address}/v1", api_key="k", logprobs=True), mode)
    told = reply.response_metadata
    assert told["id"] == HEAD["id"]
    assert told["system_fingerprint"] == peer.response_metadata["system_fingerprint"] == FINGERPRINT
    assert told["logprobs"] == peer.response_metadata["logprobs"] == LOGPROBS
    assert reply.content == "Hello world"
    assert loads(dumps(reply), allowed_objects="messages") == reply


async def test_each_chunk_of_a_stream_tells_the_probabilities_of_its_own_tokens():
    """As ChatOpenAI's do; who decides by them need not wait for the end."""
    with serving(openais, {}) as address, build_chat_model(spec(address), logprobs=True) as model:
        chunks = [chunk async for chunk in model.astream("hi")]
    told = [(chunk.content, chunk.response_metadata["logprobs"]) for chunk in chunks if chunk.content]
    assert told == [(one["token"], {"content": [one], "refusal": None}) for one in TOKENS]


@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_what_a_server_does_not_tell_is_not_made_up(mode):
    """An id that is empty, as of the first chunk of Azure's streams, is none, nor is one of another type."""

    def answer(streamed: bool) -> Any:
        said = openais(streamed)
        for document in said if streamed else [said]:
            document |= {"id": "", "system_fingerprint": None}
            for choice in document["choices"]:
                choice["logprobs"] = -0.5 if streamed else [0.5]
        return said

    with serving(answer, {}) as address, build_chat_model(spec(address)) as model:
        reply = await ask(model, mode)
    assert not {"id", "system_fingerprint", "logprobs"} & reply.response_metadata.keys()
    assert reply.response_metadata["llm_fallback"]["attempts"][0]["request_id"] is None


HEADERS = [
    {"x-request-id": "req_1"},
    {"Request-Id": "req_1"},
    {"x-amzn-RequestId": "req_1"},
    {"apim-request-id": "req_1"},
    {"apim-request-id": "other", "x-request-id": "req_1"},
    {"mistral-correlation-id": "req_1"},
    {"x-ds-trace-id": "req_1"},
    {"Nvcf-Reqid": "req_1"},
    {"x-litellm-call-id": "req_1"},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("headers", HEADERS, ids=[", ".join(each) for each in HEADERS])
async def test_an_attempt_tells_by_what_name_its_provider_knows_the_request(headers, way):
    """By whichever header it tells it, and whoever reads the reply."""
    with serving(openais, headers) as address, heard(way), build_chat_model(spec(address)) as model:
        reply = await model.ainvoke("hi")
    assert reply.response_metadata["llm_fallback"]["attempts"][0]["request_id"] == "req_1"


FAILURES = [Fail(429), Fail(500), Fail("bad_request"), Stall(after_chunks=1)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_attempts_that_failed_tell_it_too(failure, way):
    """It is of those that a provider is asked about: refused, or silent in the middle of a stream."""
    with FakeServer({"a": failure}) as server, heard(way):
        with build_chat_model(server.spec(timeouts={"idle_s": 0.2}, retries={"max": 0})) as model:
            with pytest.raises((ChainExhausted, StreamBroken)) as caught:
                await ask(model, "astream")
    assert [attempt.request_id for attempt in caught.value.attempts] == ["req-1"]


@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_a_key_that_a_server_echoes_as_a_name_is_struck_out(mode):
    """A gateway may name requests by who sent them."""
    key = "sk-a-key-that-nobody-may-see"

    def answer(streamed: bool) -> Any:
        said = openais(streamed)
        for document in said if streamed else [said]:
            document |= {"id": f"chatcmpl-{key}", "system_fingerprint": key}
        return said

    with serving(answer, {"x-request-id": f"req-{key}"}) as address:
        with build_chat_model(spec(address, api_key=key)) as model:
            reply = await ask(model, mode)
    assert "id" in reply.response_metadata
    assert key not in str(reply)


@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_the_fake_tells_the_ids_that_its_server_would(mode):
    """So that a test of what reads them needs no server."""
    model = fake_chat_model({"a": Reply("hi", headers={"x-request-id": "req_1"})})
    reply = await ask(model, mode)
    assert reply.response_metadata["id"].startswith("chatcmpl-")
    assert reply.response_metadata["llm_fallback"]["attempts"][0]["request_id"] == "req_1"


class City(BaseModel):
    """A city."""

    name: str


async def test_the_raw_reply_of_structured_output_tells_its_id_though_it_is_not_of_the_form():
    """It was received, and paid for."""
    with serving(openais, {"x-request-id": "req_1"}) as address, build_chat_model(spec(address)) as model:
        answer = await model.with_structured_output(City, include_raw=True).ainvoke("hi")
    assert answer["parsing_error"] is not None
    assert answer["raw"].response_metadata["id"] == HEAD["id"]


ANTHROPICS = {
    "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hi!"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 2},
}
CHOSEN = {"token": "Hi", "tokenId": 17, "logProbability": -0.1}
LIKELY = {"candidates": [CHOSEN, {"token": "Hey", "logProbability": -2.5}]}
GEMINIS = {
    "responseId": "9uQzadG5Oc2ZkdUP",
    "modelVersion": "gemini-2.5-flash",
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "Hi"}]},
            "finishReason": "STOP",
            "index": 0,
            "avgLogprobs": -0.1,
            "logprobsResult": {"chosenCandidates": [CHOSEN], "topCandidates": [LIKELY]},
        }
    ],
    "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1, "totalTokenCount": 6},
}


async def test_anthropics_messages_are_named_too():
    """In the body, and the request in a header of its own."""
    with serving(lambda streamed: ANTHROPICS, {"request-id": "req_011CSHoEeqs5C35K2UUqR7Fy"}) as address:
        own = {"model": "anthropic/claude-sonnet-4-5", "api_base": address, "api_key": "k"}
        with build_chat_model({"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            reply = await model.ainvoke("hi")
    assert reply.response_metadata["id"] == ANTHROPICS["id"]
    [attempt] = reply.response_metadata["llm_fallback"]["attempts"]
    assert attempt["request_id"] == "req_011CSHoEeqs5C35K2UUqR7Fy"


@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_geminis_probabilities_are_told_in_openais_form(mode):
    """As litellm tells them, plain and streamed."""
    with serving(lambda streamed: [GEMINIS] if streamed else GEMINIS, {}) as address:
        own = {"model": "gemini/gemini-2.5-flash", "api_base": address, "api_key": "k"}
        with build_chat_model({"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            reply = await ask(model, mode)
    assert reply.response_metadata["id"] == GEMINIS["responseId"]
    tokens = [{"token": "Hi", "logprob": -0.1, "bytes": None}, {"token": "Hey", "logprob": -2.5, "bytes": None}]
    assert reply.response_metadata["logprobs"] == {"content": [{**tokens[0], "top_logprobs": tokens}]}
