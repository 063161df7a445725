"""The server's side of OpenAI's chat protocol: completions, chunks of a stream, errors in the words of real servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.testing.answers.answer import Answer, ToolCall, split_evenly
from llm_fallback.testing.scripts import Fail

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
_CHARACTERS_PER_ARGUMENT_PIECE = 12


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that every document of one answer repeats."""

    id: str
    model: str
    created: int
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One HTTP error response."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def frame(document: Mapping[str, Any]) -> bytes:
    """A document as one server-sent event."""
    return b"data: " + encode(document) + b"\n\n"


def encode(document: object) -> bytes:
    """A document as compact JSON; letters outside ASCII are not escaped."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def completion(answer: Answer, envelope: Envelope, n: int = 1) -> dict[str, Any]:
    """The whole answer, `n` times over."""
    return {
        **_head(envelope, "chat.completion"),
        "choices": [_choice(answer, envelope, index) for index in range(n)],
        "usage": dict(answer.usage),
    }


def openings(envelope: Envelope, n: int = 1) -> list[dict[str, Any]]:
    """The chunks that begin a stream: the role, once for each choice."""
    return [chunk(envelope, {"role": "assistant", "content": ""}, index) for index in range(n)]


def deltas(answer: Answer, envelope: Envelope) -> list[dict[str, Any]]:
    """The deltas of a stream: reasoning, text, tool calls."""
    reasoning = [{"reasoning_content": piece} for piece in split_evenly(answer.reasoning or "", 2) if piece]
    text = [{"content": piece} for piece in answer.pieces if piece]
    calls = [
        delta
        for position, call in enumerate(answer.tool_calls)
        for delta in _call_deltas(call, position, _call_id(call, position, envelope))
    ]
    return [*reasoning, *text, *calls]


def closings(answer: Answer, envelope: Envelope, *, n: int = 1, with_usage: bool = False) -> list[dict[str, Any]]:
    """The chunks that end a stream: a finish reason for each choice, then the usage if asked for."""
    ends = [chunk(envelope, {}, index, answer.finish) for index in range(n)]
    return [*ends, usage_chunk(answer, envelope)] if with_usage else ends


def chunk(envelope: Envelope, delta: Mapping[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    """One chunk of a stream."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_head(envelope, "chat.completion.chunk"), "choices": [choice]}


def usage_chunk(answer: Answer, envelope: Envelope) -> dict[str, Any]:
    """The chunk with usage and no choices."""
    return {**_head(envelope, "chat.completion.chunk"), "choices": [], "usage": dict(answer.usage)}


def refusal_of(fail: Fail, model: str) -> Refusal:
    """The response to a request for `model` that fails with a status or a word of `STATUS`."""
    status = fail.failure if isinstance(fail.failure, int) else STATUS[fail.failure]
    body = error_body(fail.failure, model) if fail.body is None else fail.body
    headers, wait = dict(fail.headers or {}), fail.retry_after
    if wait is not None:
        headers["Retry-After"] = wait if isinstance(wait, str) else f"{wait:g}"
    return Refusal(status, *_encoded(body), headers)


def error_body(failure: int | str, model: str) -> Mapping[str, Any] | str:
    """What servers usually answer with this status or failure, as data or as text."""
    word = WORD_OF.get(failure, "") if isinstance(failure, int) else failure
    if word in BODIES:
        error = BODIES[word]["error"]
        return {"error": {**error, "message": error["message"].replace("{model}", model)}}
    assert isinstance(failure, int)
    return OTHER_BODIES.get(failure) or _vllm(f"HTTP status {failure}", "Error", None, failure)


def _head(envelope: Envelope, kind: str) -> dict[str, Any]:
    return {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}


def _choice(answer: Answer, envelope: Envelope, index: int) -> dict[str, Any]:
    has_no_text = answer.tool_calls and not answer.pieces
    message: dict[str, Any] = {"role": "assistant", "content": None if has_no_text else answer.text}
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [
            _call(call, _call_id(call, position, envelope)) for position, call in enumerate(answer.tool_calls)
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}


def _call_id(call: ToolCall, position: int, envelope: Envelope) -> str:
    return call.id if call.id is not None else f"call_{envelope.id}_{position}"


def _call(call: ToolCall, call_id: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id, "type": "function", "function": function}


def _call_deltas(call: ToolCall, position: int, call_id: str) -> list[dict[str, Any]]:
    whole = _call(call, call_id)
    arguments = whole["function"]["arguments"]
    count = len(arguments) // _CHARACTERS_PER_ARGUMENT_PIECE + 1
    first = {**whole, "index": position, "function": {"name": call.name, "arguments": ""}}
    rest = [{"index": position, "function": {"arguments": piece}} for piece in split_evenly(arguments, count)]
    return [{"tool_calls": [part]} for part in (first, *rest)]


def _encoded(body: Mapping[str, Any] | str) -> tuple[str, bytes]:
    if not isinstance(body, str):
        return "application/json", encode(body)
    kind = "text/html" if body.lstrip().startswith("<") else "text/plain"
    return kind, body.encode()


def _vllm(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _openai(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


STATUS = {
    "rate_limited": 429,
    "quota_exhausted": 429,
    "auth": 401,
    "not_found": 404,
    "context_window": 400,
    "content_policy": 400,
    "bad_request": 400,
    "server_error": 500,
    "overloaded": 503,
}
"""The status of each failure that comes as an HTTP status."""

WORD_OF = {
    400: "bad_request",
    401: "auth",
    404: "not_found",
    429: "rate_limited",
    500: "server_error",
    503: "overloaded",
}

BODIES: dict[str, dict[str, Any]] = {
    "rate_limited": _openai(
        "Rate limit reached for {model} on requests per min (RPM): Limit 3, Used 3, Requested 1.",
        "requests",
        "rate_limit_exceeded",
    ),
    "quota_exhausted": _openai(
        "You exceeded your current quota, please check your plan and billing details. For more information "
        "on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "auth": _openai("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    "not_found": _vllm("The model `{model}` does not exist.", "NotFoundError", "model", 404),
    "context_window": _vllm(
        "This model's maximum context length is 256 tokens. However, your prompt contains at least 257 input "
        "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
        "input prompt. (parameter=input_tokens, value=257)",
        "BadRequestError",
        "input_tokens",
        400,
    ),
    "content_policy": {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry. To learn more about our content "
            "filtering policies please read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
            },
        }
    },
    "bad_request": _vllm("temperature must be non-negative, got -1.0.", "BadRequestError", "temperature", 400),
    "server_error": _vllm(
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "InternalServerError",
        None,
        500,
    ),
    "overloaded": _vllm(
        "The engine is currently busy and cannot accept new requests. Please try again later or on a "
        "different instance.",
        "Service Unavailable",
        None,
        503,
    ),
}

OTHER_BODIES: dict[int, dict[str, Any] | str] = {
    402: _openai("Insufficient balance.", "invalid_request_error", "insufficient_balance"),
    403: _openai("You are not allowed to use this model.", "invalid_request_error", "permission_denied"),
    408: _vllm("Request server side timeout", "RequestTimeout", None, 408),
    422: {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]},
    502: "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
    529: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    504: {"error": "Not able to process the request in 8 seconds"},
}
"""Bodies of statuses that belong to no failure alone."""
