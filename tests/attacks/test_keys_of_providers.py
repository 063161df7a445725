"""A server that echoes all it was sent shows the key to nobody, wherever its provider's requests carry it.

Each protocol has a header, or a place in the address, of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import litellm
import pytest

from tests.attacks.servers import Answer, Asked, Play, Server
from tests.attacks.test_keys import KEY, fine, leaks, of_calls
from tests.corpus.stage import framed
from tests.thinning import combinations


class Protocol(NamedTuple):
    """How a provider is asked, and how it streams."""

    entry: dict[str, Any]
    framing: str
    content: Sequence[Any]
    """The frames of a reply under way."""
    fault: Callable[[str], Any]
    """A frame with an error."""
    finish: Callable[[str], Any]
    """A frame with a finish word."""


def choice(delta: Any, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
BEDROCK = {"aws_access_key_id": "AKIA", "aws_secret_access_key": KEY, "aws_session_token": KEY}

PROTOCOLS: dict[str, Protocol] = {
    "OpenAI": Protocol(
        {"model": "openai/m", "api_key": KEY},
        "sse",
        [choice({"role": "assistant", "content": "fi"})],
        lambda text: {"error": {"message": text, "type": "server_error", "code": text}},
        lambda text: choice({}, text),
    ),
    "Azure": Protocol(
        {"model": "azure/m", "api_key": KEY, "params": {"api_version": "2025-04-01"}},
        "sse",
        [choice({"role": "assistant", "content": "fi"})],
        lambda text: {"error": {"message": text, "type": text, "code": "500"}},
        lambda text: choice({}, text),
    ),
    "Anthropic": Protocol(
        {"model": "anthropic/claude-sonnet-4-5", "api_key": KEY},
        "anthropic",
        [
            {"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 1, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "fi"}},
        ],
        lambda text: {"type": "error", "error": {"type": text, "message": text}},
        lambda text: {"type": "message_delta", "delta": {"stop_reason": text}, "usage": {"output_tokens": 1}},
    ),
    "Gemini": Protocol(
        {"model": "gemini/gemini-2.5-flash", "api_key": KEY},
        "sse",
        [{"candidates": [{"content": {"role": "model", "parts": [{"text": "fi"}]}, "index": 0}]}],
        lambda text: {"error": {"code": 503, "message": text, "status": text}},
        lambda text: {"candidates": [{"content": {"role": "model", "parts": []}, "index": 0, "finishReason": text}]},
    ),
    "Ollama": Protocol(
        {"model": "ollama_chat/llama3", "api_key": KEY},
        "ndjson",
        [{"model": "m", "message": {"role": "assistant", "content": "fi"}, "done": False}],
        lambda text: {"error": text},
        lambda text: {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": text},
    ),
    "Bedrock": Protocol(
        {"model": "bedrock/converse/anthropic.claude-m", "params": {**BEDROCK, "aws_region_name": "us-east-1"}},
        "aws",
        [
            {"event": "messageStart", "data": {"role": "assistant"}},
            {"event": "contentBlockDelta", "data": {"contentBlockIndex": 0, "delta": {"text": "fi"}}},
        ],
        lambda text: {"exception": "throttlingException", "data": {"message": text}},
        lambda text: {"event": "messageStop", "data": {"stopReason": text}},
    ),
}


def sent(asked: Asked) -> str:
    """All of a request but its body."""
    return f"{asked.method} {asked.path} {json.dumps(dict(asked.headers))} {KEY}"


def streaming(protocol: Protocol, *frames: Any) -> tuple[bytes, ...]:
    return tuple(framed(frames, protocol.framing))


def in_two_reads(protocol: Protocol, asked: Asked) -> tuple[bytes, ...]:
    *before, last = streaming(protocol, *protocol.content, protocol.fault(sent(asked)))
    half = last.index(KEY.encode()) + 12
    return (*before, last[:half], last[half:])


def whole_or(protocol: Protocol, asked: Asked, *stream: bytes) -> Answer:
    """A stream; to who asked for none, an error with 200."""
    plain = json.dumps({"error": {"message": sent(asked)}}).encode()
    kind = {"Content-Type": "application/vnd.amazon.eventstream"} if protocol.framing == "aws" else {}
    return Answer(200, stream, kind) if asked.is_streamed else Answer(200, (plain,))


def redirecting(asked: Asked) -> Answer:
    return Answer(307, (), {"Location": f"http://{KEY}@localhost:1/{KEY}?key={KEY}&{asked.path.rpartition('?')[2]}"})


def in_headers(asked: Asked) -> Answer:
    echoed = {f"X-Echo-{name}": text for name, text in asked.headers.items()}
    named = {"X-Request-Id": KEY, "X-Amzn-ErrorType": KEY, "Retry-After": KEY, "WWW-Authenticate": f'Bearer "{KEY}"'}
    return Answer(401, (b'{"error": {"message": "no"}}',), {**echoed, **named})


ECHOES: dict[str, Callable[[Protocol], Play]] = {
    "in an error": lambda protocol: (
        lambda asked: (
            Answer(401, (json.dumps(protocol.fault(sent(asked))).encode(),))
            if protocol.framing != "aws"
            else Answer(403, (json.dumps({"message": sent(asked)}).encode(),))
        )
    ),
    "in a text": lambda _: lambda asked: Answer(500, (sent(asked).encode(),), {"Content-Type": "text/plain"}),
    "in headers": lambda _: in_headers,
    "in a redirect": lambda _: redirecting,
    "in what is no JSON": lambda protocol: lambda asked: whole_or(protocol, asked, f"data: {sent(asked)}\n\n".encode()),
    "in an error with 200": lambda protocol: (
        lambda asked: whole_or(protocol, asked, *streaming(protocol, protocol.fault(sent(asked))))
    ),
    "in an error in the middle": lambda protocol: (
        lambda asked: whole_or(protocol, asked, *streaming(protocol, *protocol.content, protocol.fault(sent(asked))))
    ),
    "in an error in the middle, in two reads": lambda protocol: (
        lambda asked: whole_or(protocol, asked, *in_two_reads(protocol, asked))
    ),
    "in a finish word": lambda protocol: (
        lambda asked: whole_or(protocol, asked, *streaming(protocol, *protocol.content, protocol.finish(sent(asked))))
    ),
}


def told_of(provider: str, echo: str, how: str, folder: Path, *unread_logs: str) -> tuple[dict[str, str], list[Asked]]:
    """What is told of calls at a server that echoes, and what it was asked."""
    protocol, told = PROTOCOLS[provider], dict[str, str]()
    with Server(ECHOES[echo](protocol)) as server, Server(fine) as healthy:
        entry = protocol.entry
        if protocol.framing == "aws":  # Amazon's addresses are signed for, where they stand in the parameters.
            entry = {
                **entry,
                "api_base": None,
                "params": {**entry["params"], "aws_bedrock_runtime_endpoint": server.url},
            }
        of_calls(told, server, healthy, how, folder, entry, ("botocore", *unread_logs))
        # Ollama is also asked what a model can do, without a key.
        return told, [one for one in server.received if one.method == "POST" and one.path != "/api/show"]


def assert_nothing_leaks(told: dict[str, str], asked: list[Asked]) -> None:
    assert asked
    assert all(KEY in f"{one.path}{dict(one.headers)}" for one in asked)
    assert {place: found for place, text in told.items() if (found := leaks(text))} == {}


@pytest.mark.parametrize(
    ("provider", "echo", "how"),
    combinations(PROTOCOLS, ECHOES, ("invoke", "stream"), fast=lambda provider, echo, how: how == "stream"),
)
def test_no_exit_shows_what_a_provider_echoes(provider, echo, how, tmp_path):
    """Not half of it, in any spelling, at any of the exits."""
    assert_nothing_leaks(*told_of(provider, echo, how, tmp_path))


@pytest.mark.parametrize(
    ("provider", "echo", "how"),
    combinations(
        PROTOCOLS,
        ECHOES,
        ("invoke", "stream"),
        fast=lambda provider, echo, how: how == "stream" and echo in ("in headers", "in a finish word"),
    ),
)
def test_nor_does_one_where_somebody_listens_to_litellm(provider, echo, how, tmp_path, monkeypatch):
    """Requests go through litellm whole then. Its own log has what a server said, and OpenAI's the id of a request."""
    monkeypatch.setattr(litellm, "success_callback", [lambda *told: None])
    assert_nothing_leaks(*told_of(provider, echo, how, tmp_path, "LiteLLM", "openai"))
