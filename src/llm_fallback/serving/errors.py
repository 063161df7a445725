"""Errors in OpenAI's form: which status, type and code a caller gets, and whether it helps to ask again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm_fallback.events import Unanswered


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """One error, as it is sent."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None
    """Of the call that failed; None if none was made."""

    def document(self) -> dict[str, Any]:
        """The body, or the last event of a stream."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error} if self.facts is None else {"error": error, "llm_fallback": self.facts}

    def body(self) -> bytes:
        return json.dumps(self.document(), ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


class RefusedRequest(Exception):
    """A request that no chain was asked for."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.message)
        self.response = response


def invalid(message: str, param: str | None = None) -> RefusedRequest:
    """A request that is not of the form it should be."""
    return RefusedRequest(ErrorResponse(400, message, param=param))


class _Kind(NamedTuple):
    status: int
    type: str
    code: str


_SERVER_ERROR = "server_error"
_INVALID = "invalid_request_error"

FAILURES: Mapping[Unanswered, _Kind] = {
    "rate_limited": _Kind(429, "requests", "rate_limit_exceeded"),
    "quota_exhausted": _Kind(429, "insufficient_quota", "insufficient_quota"),
    "budget": _Kind(429, "insufficient_quota", "budget_exceeded"),
    "context_window": _Kind(400, _INVALID, "context_length_exceeded"),
    "content_policy": _Kind(400, _INVALID, "content_policy_violation"),
    "bad_request": _Kind(400, _INVALID, "bad_request"),
    "overloaded": _Kind(503, _SERVER_ERROR, "overloaded"),
    "timeout": _Kind(504, _SERVER_ERROR, "timeout"),
    "first_token_timeout": _Kind(504, _SERVER_ERROR, "first_token_timeout"),
    "idle_timeout": _Kind(504, _SERVER_ERROR, "idle_timeout"),
    # What is wrong between the chain and its providers is not the caller's: neither its key nor its model's name.
    "auth": _Kind(502, _SERVER_ERROR, "upstream_auth"),
    "not_found": _Kind(502, _SERVER_ERROR, "upstream_not_found"),
    "connection": _Kind(502, _SERVER_ERROR, "connection"),
    "server_error": _Kind(502, _SERVER_ERROR, "server_error"),
    "invalid_response": _Kind(502, _SERVER_ERROR, "invalid_response"),
    "empty_response": _Kind(502, _SERVER_ERROR, "empty_response"),
    "rejected": _Kind(502, _SERVER_ERROR, "rejected"),
    "stream_broken": _Kind(502, _SERVER_ERROR, "stream_broken"),
    "cancelled": _Kind(499, _SERVER_ERROR, "cancelled"),
}
"""What a caller is told of each way a chain can fail. docs/serving.md shows it."""

ASK_LATER = frozenset({429, 503})
"""Statuses that may come with a Retry-After."""


def failed_call(
    failure: Unanswered, message: str, facts: Mapping[str, Any], headers: Mapping[str, str], retry_after_s: float | None
) -> ErrorResponse:
    """The error of a call without an answer. `retry_after_s`: until somebody may be asked again, if that is known."""
    kind = FAILURES[failure]
    if retry_after_s is not None and kind.status in ASK_LATER:
        again = {"retry-after": str(math.ceil(retry_after_s))}
    else:
        # OpenAI's clients heed it: the chain asked everybody it could, and each repeat of theirs would do so again.
        again = {"x-should-retry": "false"}
    return ErrorResponse(kind.status, message, kind.type, kind.code, headers={**headers, **again}, facts=facts)
