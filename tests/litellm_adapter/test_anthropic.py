"""Anthropic on both ways: the request is the one litellm sends, and the reply is told the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter.direct import DirectExchange
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from tests.asking import MODES, ask
from tests.corpus.cases import Reply, systems
from tests.litellm_adapter.test_direct_and_relayed_alike import heard, road_of

(ANTHROPIC,) = [one for one in systems() if one.name == "anthropic"]
REPLIES = {one.name: one for one in ANTHROPIC.replies if one.failure is None and len(one.ways) > 1}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
ODD_TOOL = {"type": "function", "function": {"name": "look/up", "parameters": {"type": "object", "properties": {}}}}
SONNET, OLD = "anthropic/claude-sonnet-4-5", "anthropic/claude-3-5-haiku-latest"


class Server:
    """Speaks Messages on the loopback, and remembers what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[tuple[str, Mapping[str, str], Any]] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.asked.append((first, headers, body))
        frames = [f"event: {frame['type']}\ndata: {json.dumps(frame)}\n\n" for frame in self.reply.frames or ()]
        said = "".join(frames) if body.get("stream") else json.dumps(self.reply.body)
        kind = "text/event-stream" if body.get("stream") else "application/json"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(said.encode())}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n{said}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(name: str) -> AsyncIterator[tuple[Server, str]]:
    server = Server(REPLIES[name])
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def told_by(way: str, name: str, mode: str, own: Mapping[str, Any] | None = None, **words: Any) -> dict[str, Any]:
    """What a caller learns, and what the server was asked."""
    async with serving(name) as (server, url):
        spec = {"model": SONNET, "api_key": "sk-ant-given", "api_base": url, **(own or {})}
        with heard(way), build_chat_model({"deployments": {"a": spec}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            road = await road_of(model, "a", **words)
            message = await ask(model, mode, **words)
    ((first, headers, body),) = server.asked
    left_out = ("host", "content-length", "accept-encoding", "user-agent", "connection", "x-llm-fallback")
    return {
        "way": road,
        "text": message.content,
        "reasoning": message.additional_kwargs.get("reasoning_content"),
        "calls": message.tool_calls,
        "usage": message.usage_metadata,
        "finish": message.response_metadata.get("finish_reason"),
        "request": (first, {at: text for at, text in headers.items() if at not in left_out}, body),
    }


@pytest.mark.parametrize("name", sorted(REPLIES))
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_both_ways_tell_the_same(name, mode):
    """Content, reasoning, calls, the server's usage and finish, and the request with its headers."""
    direct, relayed = [await told_by(way, name, mode) for way in ("direct", "relayed")]
    assert (direct.pop("way"), relayed.pop("way")) == (DirectExchange, LiteLLMExchange)
    assert direct == relayed


@pytest.mark.parametrize("mode", MODES)
async def test_every_mode_brings_the_signed_thoughts(mode):
    """Plain or streamed, in a thread or a task: what a later turn has to send back is there."""
    async with serving("reasoning") as (_, url):
        spec = {"model": SONNET, "api_key": "sk-ant-given", "api_base": url}
        with build_chat_model({"deployments": {"a": spec}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            # A caller that waits in this thread would keep the server from answering.
            message = await asyncio.to_thread(lambda: asyncio.run(ask(model, mode)))
    assert message.additional_kwargs["provider_specific_fields"]["thinking_blocks"] == [
        {"type": "thinking", "thinking": "I'm working through it.", "signature": "EsECCokB"},
        {"type": "redacted_thinking", "data": "EmwKAhgB"},
    ]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, {"tools": [TOOL], "tool_choice": "required", "temperature": 0.5, "max_tokens": 70, "stop": ["X"]}),
        ({}, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}),
        ({"params": {"extra_headers": {"X-Team": "search", "anthropic-beta": "context-1m-2025-08-07"}}}, {}),
        ({"params": {"extra_headers": {"Authorization": "Basic abc"}}}, {}),
        ({"api_key": None, "params": {"extra_headers": {"X-Api-Key": "own"}}}, {}),
        ({"api_key": None}, {}),
        ({"api_key": "sk-ant-oat01-given"}, {}),
    ],
)
async def test_both_ways_send_the_same_request(own, words):
    """Parameters, betas and logins, whoever sends them."""
    direct, relayed = [await told_by(way, "whole", "ainvoke", own, **words) for way in ("direct", "relayed")]
    assert direct["way"] is DirectExchange
    assert direct["request"] == relayed["request"]


@pytest.mark.parametrize("way", ["direct", "relayed"])
async def test_no_key_is_sent_where_none_is_given(way):
    """litellm would log in with the name of none; a gateway's login stays."""
    own = {"api_key": None, "params": {"extra_headers": {"Authorization": "Basic abc"}}}
    _, headers, _ = (await told_by(way, "whole", "ainvoke", own))["request"]
    assert "x-api-key" not in headers
    assert headers["authorization"] == "Basic abc"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (SONNET, {"tools": [ODD_TOOL]}),
        (OLD, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}),
    ],
)
async def test_what_litellm_reshapes_on_the_way_back_is_left_to_it(model, words):
    """Tools under other names, and JSON by a tool nobody gave: that request, and no other of the deployment."""
    assert (await told_by("direct", "whole", "ainvoke", {"model": model}, **words))["way"] is LiteLLMExchange
    assert (await told_by("direct", "whole", "ainvoke", {"model": model}))["way"] is DirectExchange
