"""One answer in every provider's protocol: as a whole, and in the chunks of a stream."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CHUNKS = 100
"""Of a stream, beside those that begin and end it."""
WORDS = ["word "] * CHUNKS
TEXT = "".join(WORDS)
PROMPT_TOKENS = 12


@dataclass(frozen=True)
class Answer:
    """What a server sends."""

    plain: bytes
    kind: str
    """The content type of a stream."""
    frames: tuple[bytes, ...]


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _sse(document: Mapping[str, Any]) -> bytes:
    name = f"event: {document['type']}\n".encode() if "type" in document else b""
    return name + b"data: " + _json(document) + b"\n\n"


def _openai() -> Answer:
    head = {"id": "chatcmpl-1", "created": 1764000000, "model": "gpt-4.1"}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": CHUNKS, "total_tokens": PROMPT_TOKENS + CHUNKS}
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    plain = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
        return _sse({**head, "object": "chat.completion.chunk", "choices": choices})

    last = _sse({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    frames = (
        frame({"role": "assistant", "content": ""}),
        *(frame({"content": word}) for word in WORDS),
        frame({}, "stop"),
        last + b"data: [DONE]\n\n",
    )
    return Answer(_json(plain), "text/event-stream", frames)


def _anthropic() -> Answer:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": CHUNKS}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    plain = {**head, "content": [{"type": "text", "text": TEXT}], **end, "usage": usage}
    begun = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    frames = (
        _sse({"type": "message_start", "message": begun}),
        _sse({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            _sse({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
            for word in WORDS
        ),
        _sse({"type": "content_block_stop", "index": 0}),
        _sse({"type": "message_delta", "delta": end, "usage": usage}) + _sse({"type": "message_stop"}),
    )
    return Answer(_json(plain), "text/event-stream", frames)


def _gemini() -> Answer:
    def document(text: str, finish: str | None = None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        counts = {"promptTokenCount": PROMPT_TOKENS, "candidatesTokenCount": CHUNKS}
        usage = {**counts, "totalTokenCount": PROMPT_TOKENS + CHUNKS}
        head = {"modelVersion": "gemini-2.5-flash", "responseId": "r1"}
        return {"candidates": [candidate], "usageMetadata": usage, **head}

    frames = (*(_sse(document(word)) for word in WORDS[1:]), _sse(document(WORDS[0], "STOP")))
    return Answer(_json(document(TEXT, "STOP")), "text/event-stream", frames)


def _converse() -> Answer:
    counts = {"inputTokens": PROMPT_TOKENS, "outputTokens": CHUNKS, "totalTokens": PROMPT_TOKENS + CHUNKS}
    usage = {"usage": counts, "metrics": {"latencyMs": 1}}
    message = {"role": "assistant", "content": [{"text": TEXT}]}
    plain = {"output": {"message": message}, "stopReason": "end_turn", **usage}
    frames = (
        _aws("messageStart", {"role": "assistant"}),
        *(_aws("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in WORDS),
        _aws("contentBlockStop", {"contentBlockIndex": 0}),
        _aws("messageStop", {"stopReason": "end_turn"}) + _aws("metadata", usage),
    )
    return Answer(_json(plain), "application/vnd.amazon.eventstream", frames)


def _aws(name: str, document: Mapping[str, Any]) -> bytes:
    """A message of AWS's binary event stream."""
    named = {":message-type": "event", ":event-type": name, ":content-type": "application/json"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    payload = _json(document)
    prelude = struct.pack("!II", len(headers) + len(payload) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


def _ollama() -> Answer:
    def document(text: str, *, done: bool) -> dict[str, Any]:
        head = {"model": "llama3.1", "created_at": "2026-01-01T00:00:00Z", "done": done}
        counts = {"done_reason": "stop", "prompt_eval_count": PROMPT_TOKENS, "eval_count": CHUNKS} if done else {}
        return {**head, "message": {"role": "assistant", "content": text}, **counts}

    def lines() -> Iterator[bytes]:
        for word in WORDS:
            yield _json(document(word, done=False)) + b"\n"
        yield _json(document("", done=True)) + b"\n"

    return Answer(_json(document(TEXT, done=True)), "application/x-ndjson", tuple(lines()))


_MAKERS: Mapping[str, Callable[[], Answer]] = {
    "/chat/completions": _openai,
    "/messages": _anthropic,
    ":generateContent": _gemini,
    ":streamGenerateContent": _gemini,
    "/converse": _converse,
    "/converse-stream": _converse,
    "/api/chat": _ollama,
}
"""By the end of an address."""


def answers() -> Mapping[str, Answer]:
    """Every protocol's answer, by the end of the addresses it is asked at."""
    return {ending: make() for ending, make in _MAKERS.items()}
