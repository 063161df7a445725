"""A request goes one of two ways: translated by litellm and sent by us, or through litellm whole because somebody
listens there. Nobody may be able to tell by the answer which one it was."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger
from pydantic import SecretStr

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter.chat_model import FallbackChatModel
from llm_fallback.litellm_adapter.direct import DirectExchange, TranslatedExchange
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.translation import NotTranslated, translate
from llm_fallback.litellm_adapter.transport import _login_headers
from llm_fallback.testing import Cut, Empty, Fail, FakeServer, Garbage, Reply
from tests.asking import MODES, STREAMED, ask
from tests.plans import target

BACKENDS = ("vllm", "openai-compatible", "litellm-proxy")
CALLS = [
    {"name": "look_up", "args": {"city": "Oslo", "days": 3}, "id": "call_1"},
    {"name": "convert", "args": {"to": "EUR"}, "id": "call_2"},
]
SCRIPTS: dict[str, Any] = {
    "text": Reply("the quick brown fox", chunks=4, usage=(11, 4)),
    "thoughts": Reply("42", reasoning="six times seven", usage=(11, 9)),
    "think tags": Reply("<think>hm</think>so be it"),
    "tool calls": Reply("let me see", tool_calls=CALLS),
    "only a tool call": Reply("", tool_calls=CALLS[:1]),
    "length": Reply("the quick", finish="length"),
    "refused": Reply("I", finish="content_filter"),
    "empty": Empty(),
    "rate limited": Fail(429, retry_after=7),
    "too long": Fail("context_window"),
    "key": Fail("auth"),
    "down": Fail("connection"),
    "text for an error": Fail(503, body="Request dropped due to backpressure"),
    "html": Garbage("html"),
    "no choices": Garbage("no_choices"),
    **{
        f"cut by {how}": Cut(after_chunks=2, how=how) for how in ("reset", "close", "error_frame", "bad_frame", "abort")
    },
}


class Listener(CustomLogger):
    """Somebody who listens to litellm, and so sends everything through it whole."""


LISTS = (
    *("callbacks", "success_callback", "failure_callback", "input_callback"),
    *("_async_success_callback", "_async_failure_callback", "_async_input_callback"),
)


@contextmanager
def heard(way: str) -> Iterator[None]:
    """Somebody who listens to litellm, if that is what the way takes; afterwards nobody, as before."""
    kept = {name: list(getattr(litellm, name)) for name in LISTS}
    if way == "relayed":
        litellm.callbacks.append(Listener())
    try:
        yield
    finally:
        # litellm copies a listener from list to list.
        for name, callbacks in kept.items():
            setattr(litellm, name, callbacks)


@contextmanager
def answering(body: str, head: bytes = b"") -> Iterator[str]:
    """The address of a server that answers whatever it is asked with this body, below these headers."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + head + b"content-length: %d\r\n\r\n" % len(body.encode())

    def serve() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65_536)
                    peer.sendall(head + body.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def road_of(model: FallbackChatModel, name: str, **words: Any) -> type:
    """The road that a request to this deployment takes: DirectExchange, or LiteLLMExchange. Nothing is sent."""
    transport, target = model.runtime.engine.transport, model.runtime.plan.targets[name]
    exchange = transport.exchange(target, {**ASKED, **words}, target.credential.value)
    return type(await exchange._choose() if isinstance(exchange, TranslatedExchange) else exchange)


async def told_by(way: str, script: Any, mode: str, backend: str, **words: Any) -> dict[str, Any]:
    """All that a caller learns of a call whose first deployment plays a script, and what the server was sent."""
    with FakeServer({"first": script, "second": "from the second"}) as server, heard(way):
        with build_chat_model(server.spec(backend=backend, on_stream_break="hold")) as model:
            assert await road_of(model, "first") is (DirectExchange if way == "direct" else LiteLLMExchange)
            message = await ask(model, mode, **words)
        asked = [(request.body, request.headers.get("authorization")) for request in server.received("first")]
    facts = message.response_metadata["llm_fallback"]
    return {
        "content": message.content,
        "calls": message.tool_calls,
        "thoughts": message.additional_kwargs.get("reasoning_content"),
        "usage": message.usage_metadata,
        "finish": message.response_metadata.get("finish_reason"),
        "model": message.response_metadata["model_name"],
        "attempts": [(at["deployment"], at["outcome"], at["failure"], at["status"]) for at in facts["attempts"]],
        "said": [None if at["failure"] in SAID_BY_LIBRARIES else at["message"] for at in facts["attempts"]],
        "cost": facts["cost_usd"],
        "asked": asked,
    }


ASKED = {"messages": [{"role": "user", "content": "?"}]}
SAID_BY_LIBRARIES = ("connection", "invalid_response", "stream_broken")
"""Failures of which no server tells: the words are those of whichever library met them."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_both_ways_tell_the_same(name, mode, backend):
    """Content, tool calls, usage, finish, attempts, words of the server, cost, and the request itself."""
    ways = [await told_by(way, SCRIPTS[name], mode, backend) for way in ("direct", "relayed")]
    assert ways[0] == ways[1]


@pytest.mark.parametrize("mode", MODES)
async def test_both_ways_tell_the_same_in_every_mode(mode):
    """Whether the caller waits in a thread or in a task."""
    ways = [await told_by(way, SCRIPTS["tool calls"], mode, "vllm") for way in ("direct", "relayed")]
    assert ways[0] == ways[1]


TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
        "strict": True,
    },
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "words",
    [
        {"tools": [TOOL], "tool_choice": "required", "temperature": 0.5, "max_tokens": 7, "stop": ["\n"]},
        {"response_format": {"type": "json_object"}, "seed": 3, "logit_bias": {"7": -1}, "user": "me"},
        {"extra_body": {"top_k": 5, "guided_choice": ["a", "b"]}, "n": 1, "parallel_tool_calls": False},
        {"top_k": 3, "reasoning_effort": "low", "max_completion_tokens": 9},
    ],
)
async def test_both_ways_send_the_same_request(words, backend):
    """Parameters arrive as litellm puts them, whoever sends them, and none gets lost."""
    ways = [(await told_by(way, "fine", "ainvoke", backend, **words))["asked"] for way in ("direct", "relayed")]
    assert ways[0] == ways[1]
    assert len(ways[0]) == 1


async def test_headers_and_keys_arrive_the_same():
    """A deployment's own headers go out; a key that nobody gave does not."""
    own = {"params": {"extra_headers": {"X-Team": "search"}}}
    for way in ("direct", "relayed"):
        for backend in BACKENDS:
            with FakeServer({"a": "fine"}) as server, heard(way):
                with build_chat_model(server.spec(backend=backend, deployments={"a": own})) as model:
                    await model.ainvoke("hi")
                sent = server.received("a")[0].headers
            assert sent["x-team"] == "search"
            assert "authorization" not in sent


async def headers_of(way: str, backend: str, own: dict[str, Any]) -> Mapping[str, str]:
    """What a server is sent beside the request."""
    with FakeServer({"a": "fine"}) as server, heard(way):
        with build_chat_model(server.spec(backend=backend, deployments={"a": own})) as model:
            await model.ainvoke("hi")
        return server.received("a")[0].headers


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ["sk-canary", None])
@pytest.mark.parametrize("word", ["extra_headers", "headers"])
@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
async def test_a_login_of_ones_own_goes_out_alone(way, backend, key, word, name):
    """It is for a gateway that stands before the server; a key beside it would be told to somebody else."""
    sent = await headers_of(way, backend, {"api_key": key, "params": {word: {name: "Basic abc"}}})
    assert sent["authorization"] == "Basic abc"
    assert "sk-canary" not in str(sent)


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_number_in_a_header_is_sent_as_its_text(way, backend):
    """YAML makes one of what looks like one; a header that is null is none."""
    own = {"X-Tenant": 5, "X-Ratio": 0.5, "X-None": None}
    sent = await headers_of(way, backend, {"params": {"extra_headers": own}})
    assert (sent["x-tenant"], sent["x-ratio"], sent.get("x-none")) == ("5", "0.5", None)


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("own", [["X-Tenant: 5"], "X-Tenant: 5", 5])
async def test_headers_of_no_known_form_are_a_failure_and_no_accident(way, own):
    """litellm's opinion of them is heard, and the next deployment answers."""
    with FakeServer({"first": "fine", "second": "from the second"}) as server, heard(way):
        spec = server.spec(backend="vllm", deployments={"first": {"params": {"extra_headers": own}}})
        with build_chat_model(spec) as model:
            message = await model.ainvoke("hi")
    assert message.content == "from the second"


@pytest.mark.parametrize("key", ["sk-canary", None])
async def test_a_page_is_asked_for_with_the_login_a_request_would_carry(key):
    """A gateway that lets requests in lets a ping in."""
    own = {"api_key": key, "params": {"extra_headers": {"authorization": "Basic abc", "X-Tenant": 5}}}
    with FakeServer({"a": "fine"}) as server:
        with build_chat_model(server.spec(backend="vllm", deployments={"a": own})) as model:
            target = model.runtime.plan.targets["a"]
    sent = _login_headers(target, None if key is None else SecretStr(key))
    assert sent == {"authorization": "Basic abc", "X-Tenant": "5"}


@pytest.mark.parametrize("mode", STREAMED)
async def test_usage_counts_once_though_every_frame_tells_it(mode):
    """Servers may put the sum so far into each frame; LangChain would add them all up."""
    words = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    with FakeServer({"a": Reply("one two three", chunks=3, usage=(10, 3))}) as server:
        with build_chat_model(server.spec(backend="vllm")) as model:
            message = await ask(model, mode, **words)
    assert message.usage_metadata["total_tokens"] == 13


async def test_a_connection_is_used_again():
    """One stream after another over the same connection, though a server's [DONE] ends each."""
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            for _ in range(3):
                assert [chunk async for chunk in model.astream("hi")]
                await model.ainvoke("hi")
        ports = {request.connection for request in server.received("a")}
    assert len(ports) == 1


async def test_litellm_answering_without_a_request_is_no_translation():
    """Then its own answer is the answer, and the deployment is asked through it whole from then on."""
    with pytest.raises(NotTranslated, match="without a request"):
        await translate(DeploymentRequest(target("a"), {**ASKED, "mock_response": "made up"}, None, set()))


@pytest.mark.parametrize("listed", ["pre_call_rules", "post_call_rules"])
async def test_rules_given_to_litellm_are_asked(listed, monkeypatch):
    """Whoever told litellm to judge every prompt or reply is heeded, also about ours."""
    judged: list[str] = []

    def judge(input: str) -> bool:
        judged.append(input)
        return True

    monkeypatch.setattr(litellm, listed, [judge])
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            await model.ainvoke("hi")
    assert judged == [{"pre_call_rules": "hi", "post_call_rules": "fine"}[listed]]


async def test_a_routers_own_callbacks_are_nobody_who_listens():
    """`model.router` registers its counters with litellm; calls of ours keep their way."""
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            assert model.router.model_list
            assert await road_of(model, "a") is DirectExchange
            model.router.discard()


async def test_the_word_cache_is_nobody_who_listens_where_there_is_no_cache(monkeypatch):
    """litellm's modules of Gemini sign up a cache of their own when they load, which would send every deployment
    beside a Gemini one through litellm whole, its logging on."""
    import_module("litellm.llms.vertex_ai.context_caching.vertex_ai_context_caching")
    monkeypatch.setattr(litellm, "success_callback", ["cache"])
    monkeypatch.setattr(litellm, "input_callback", ["cache"])
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            assert await road_of(model, "a") is DirectExchange
            monkeypatch.setattr(litellm, "cache", object())
            assert await road_of(model, "a") is LiteLLMExchange


async def test_a_request_shows_no_key():
    """What is about to be sent holds the key; printing it must not."""
    own = target("a", params={"api_base": "http://localhost"})
    request = await translate(DeploymentRequest(own, ASKED, SecretStr("sk-canary"), set()))
    assert "Bearer sk-canary" in request.headers.values()
    assert json.loads(request.body)["messages"] == ASKED["messages"]
    assert "sk-canary" not in repr(request)


@pytest.mark.parametrize(
    "frame", [b'{"choices": ["hi"]}', b'{"choices": [{"delta": "hi"}]}', b'{"choices": 3}', b"[1]"]
)
async def test_a_frame_of_no_known_form_is_a_failure_and_no_accident(frame):
    """Whatever a server calls a chunk, the next deployment answers."""

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        writer.write(head + b"data: " + frame + b"\n\ndata: [DONE]\n\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(odd, "127.0.0.1", 0) as first:
        port = first.sockets[0].getsockname()[1]
        with FakeServer({"second": "from the second"}) as server:
            spec = server.spec(backend="vllm")
            own = {"backend": "vllm", "model": "m", "api_base": f"http://127.0.0.1:{port}"}
            spec["deployments"] = {"first": own, **spec["deployments"]}
            spec["chains"]["default"]["tiers"] = ["first", "second"]
            async with build_chat_model(spec) as model:
                message = await ask(model, "astream")
    assert message.content == "from the second"
    assert message.response_metadata["llm_fallback"]["attempts"][0]["failure"] == "invalid_response"


class Rewriter(CustomLogger):
    """Somebody who puts another reply in place of the one that came."""

    async def async_post_call_success_deployment_hook(self, request_data: Any, response: Any, call_type: Any) -> Any:
        response.choices[0].message.content = "rewritten"
        return response


async def test_who_rewrites_replies_in_litellm_is_heeded():
    """What a guardrail took out stays out."""
    with FakeServer({"a": "as it came"}) as server, heard("relayed"):
        litellm.callbacks.append(Rewriter())
        async with build_chat_model(server.spec(backend="vllm")) as model:
            assert (await model.ainvoke("hi")).content == "rewritten"


class Counting(CustomLogger):
    """Somebody who counts what litellm tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.told.append(response_obj.choices[0].message.content)


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_listener_hears_the_reply_that_is_read_beside_it(backend, mode):
    """Once, whole, and through to its end."""
    with FakeServer({"a": Reply("one two three", chunks=3)}) as server, heard("relayed"):
        litellm.callbacks.append(listener := Counting())
        async with build_chat_model(server.spec(backend=backend)) as model:
            assert (await ask(model, mode)).content == "one two three"
            async with asyncio.timeout(5):
                while not listener.told:
                    await asyncio.sleep(0.01)
    assert listener.told == ["one two three"]


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("usage", [{"prompt_tokens": "many", "completion_tokens": 1}, {"prompt_tokens": [1]}, "5"])
async def test_a_count_of_no_known_type_is_unknown_though_litellm_refuses_it(usage, mode):
    """The reply is sound; of what it cost nobody knows."""
    reply = {"id": "1", "choices": [{"index": 0, "finish_reason": "stop"}], "usage": usage}
    reply["choices"][0]["delta" if mode == "astream" else "message"] = {"role": "assistant", "content": "hello"}
    frames = f"data: {json.dumps(reply)}\n\ndata: [DONE]\n\n" if mode == "astream" else json.dumps(reply)
    with answering(frames) as address, heard("relayed"):
        deployment = {"model": "moonshot/m", "api_base": f"{address}/v1", "api_key": "sk-1"}
        async with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            message = await ask(model, mode)
    assert (message.content, message.usage_metadata) == ("hello", None)
