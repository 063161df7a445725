"""How servers say no: the status, body and headers of a `Fail`, as real ones send them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.testing.scripts import Fail
from llm_fallback.testing.wire import encode


@dataclass(frozen=True, slots=True)
class Refusal:
    """One HTTP error response."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]


def refusal(fail: Fail, model: str) -> Refusal:
    """The response to a request for `model` that fails with a status or a word of `STATUS`."""
    status = fail.failure if isinstance(fail.failure, int) else STATUS[fail.failure]
    body = error_body(fail.failure, model) if fail.body is None else fail.body
    headers = dict(fail.headers or {})
    if fail.retry_after is not None:
        headers["Retry-After"] = _seconds(fail.retry_after)
    return Refusal(status, *_encoded(body), headers)


def error_body(failure: int | str, model: str) -> Mapping[str, Any] | str:
    """What a server usually says with this status or failure."""
    word = WORD_OF.get(failure, "") if isinstance(failure, int) else failure
    if word in BODIES:
        return _naming(model, BODIES[word])
    assert isinstance(failure, int)
    return OTHER_BODIES.get(failure) or _vllm(f"HTTP status {failure}", "Error", None, failure)


def _encoded(body: Mapping[str, Any] | str) -> tuple[str, bytes]:
    if not isinstance(body, str):
        return "application/json", encode(body)
    kind = "text/html" if body.lstrip().startswith("<") else "text/plain"
    return kind, body.encode()


def _seconds(retry_after: float | str) -> str:
    return retry_after if isinstance(retry_after, str) else f"{retry_after:g}"


def _naming(model: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    error = body.get("error")
    if not isinstance(error, Mapping):
        return body
    return {**body, "error": {**error, "message": error["message"].replace("{model}", model)}}


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
"""The failures that come as an HTTP status."""

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
"""Bodies of statuses that no failure has for its own."""
