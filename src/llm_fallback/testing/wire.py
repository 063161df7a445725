"""OpenAI's chat protocol: an answer as one completion, or as the chunks of a stream. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.testing.answers import Answer, ToolCall, split_evenly

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
_CHARACTERS_PER_ARGUMENT_PIECE = 12


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every document of one answer repeats."""

    id: str
    model: str
    created: int
    """Seconds since the epoch."""


def frame(document: Mapping[str, Any]) -> bytes:
    """A document as one server-sent event."""
    return b"data: " + encode(document) + b"\n\n"


def encode(document: object) -> bytes:
    """A document as compact JSON, other scripts than Latin left as they are."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def completion(answer: Answer, envelope: Envelope, n: int = 1) -> dict[str, Any]:
    """The whole answer, `n` times over."""
    return {
        **_head(envelope, "chat.completion"),
        "choices": [_choice(answer, envelope, index) for index in range(n)],
        "usage": dict(answer.usage),
    }


def openings(envelope: Envelope, n: int = 1) -> list[dict[str, Any]]:
    """The chunks that say who speaks."""
    return [chunk(envelope, {"role": "assistant", "content": ""}, index) for index in range(n)]


def deltas(answer: Answer, envelope: Envelope) -> list[dict[str, Any]]:
    """What the stream says, piece by piece: thoughts, text, tool calls."""
    thoughts = [{"reasoning_content": piece} for piece in split_evenly(answer.reasoning or "", 2) if piece]
    text = [{"content": piece} for piece in answer.pieces if piece]
    calls = [
        delta
        for place, call in enumerate(answer.tool_calls)
        for delta in _call_deltas(call, place, _call_id(call, place, envelope))
    ]
    return [*thoughts, *text, *calls]


def closings(answer: Answer, envelope: Envelope, *, n: int = 1, with_usage: bool = False) -> list[dict[str, Any]]:
    """The chunks that end a stream: a finish reason each, then the usage if asked for."""
    ends = [chunk(envelope, {}, index, answer.finish) for index in range(n)]
    return [*ends, usage_chunk(answer, envelope)] if with_usage else ends


def chunk(envelope: Envelope, delta: Mapping[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    """One chunk of a stream."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_head(envelope, "chat.completion.chunk"), "choices": [choice]}


def usage_chunk(answer: Answer, envelope: Envelope) -> dict[str, Any]:
    """The chunk with usage and no choices."""
    return {**_head(envelope, "chat.completion.chunk"), "choices": [], "usage": dict(answer.usage)}


def _head(envelope: Envelope, kind: str) -> dict[str, Any]:
    return {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}


def _choice(answer: Answer, envelope: Envelope, index: int) -> dict[str, Any]:
    says_nothing = answer.tool_calls and not answer.pieces
    message: dict[str, Any] = {"role": "assistant", "content": None if says_nothing else answer.text}
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [
            _call(call, _call_id(call, place, envelope)) for place, call in enumerate(answer.tool_calls)
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}


def _call_id(call: ToolCall, place: int, envelope: Envelope) -> str:
    return call.id if call.id is not None else f"call_{envelope.id}_{place}"


def _call(call: ToolCall, call_id: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id, "type": "function", "function": function}


def _call_deltas(call: ToolCall, place: int, call_id: str) -> list[dict[str, Any]]:
    whole = _call(call, call_id)
    arguments = whole["function"]["arguments"]
    count = len(arguments) // _CHARACTERS_PER_ARGUMENT_PIECE + 1
    first = {**whole, "index": place, "function": {"name": call.name, "arguments": ""}}
    rest = [{"index": place, "function": {"arguments": piece}} for piece in split_evenly(arguments, count)]
    return [{"tool_calls": [part]} for part in (first, *rest)]
