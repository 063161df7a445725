"""An upstream failure put into the contract's words.

Class and status decide first, because they mean the same with every provider; wording decides only what those
leave open (a 400 may be a prompt too long, a refusal, or a plain bad request). The patterns are taken from error
bodies of real servers; tests/corpus/ keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llm_fallback.events import Failure

_LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt failed."""

    failure: Failure
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    cause: BaseException | None = field(default=None, compare=False)
    """The upstream exception, cleaned of secrets."""


class UpstreamError(Exception):
    """What an upstream library said, without what it held: no traceback, request, response or headers."""

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        self.kind, self.message, self.status = kind, message, status
        super().__init__(kind, message, status)

    def __str__(self) -> str:
        status = f" ({self.status})" if self.status else ""
        return f"{self.kind}{status}: {self.message}"


_BY_CLASS: tuple[tuple[str, Failure], ...] = (
    # The first match wins: litellm's classes are subclasses of each other in odd ways.
    ("ContextWindowExceededError", "context_window"),
    ("ContentPolicyViolationError", "content_policy"),
    ("PaymentRequiredError", "quota_exhausted"),
    ("AuthenticationError", "auth"),
    ("PermissionDeniedError", "auth"),
)

_BY_STATUS: Mapping[int, Failure] = {
    401: "auth",
    402: "quota_exhausted",
    403: "auth",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    413: "context_window",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}

_CONTEXT_WINDOW = re.compile(
    r"""maximum\ context\ length | context_length_exceeded | context\ window | ContextWindowExceeded
    | maximum\ input\ length\ of | exceed_context_size | exceeds?\ the\ (?:available\ )?context\ size
    | cannot\ be\ greater\ than\ max_model_len | should\ not\ exceed\ max_(?:seq_len|num_tokens|input_len)
    | larger\ than\ max_seq_len | prompt\ is\ too\ long | input\ is\ too\ long | too\ many\ input\ tokens
    | longer\ than\ the\ model's\ context | input\ token\ count.*exceeds\ the\ maximum
    | max_tokens.*exceed\ context\ limit | Requested\ token\ count\ exceeds""",
    re.IGNORECASE | re.VERBOSE,
)
_CONTENT_POLICY = re.compile(
    r"""content_filter | content_policy | content\ management\ policy | responsible\ ?ai\ ?policy
    | content\ policy | safety\ system | ResponsibleAIPolicyViolation | blocked\ by\ (?:our\ )?content
    | prompt\ was\ (?:blocked|flagged)""",
    re.IGNORECASE | re.VERBOSE,
)
_QUOTA = re.compile(
    r"""insufficient_quota | exceeded\ your\ current\ quota | credit\ balance\ is\ too\ low | out\ of\ credits
    | billing[ _]hard[ _]limit | billing_not_active | check\ your\ billing | payment\ required""",
    re.IGNORECASE | re.VERBOSE,
)
_AUTH = re.compile(
    r"api key not valid|invalid api key|incorrect api key|no_db_connection|invalid x-api-key", re.IGNORECASE
)
_NOT_FOUND = re.compile(
    r"invalid model name|model_not_found|is not a valid model|server is pinned to|the model .{1,200} does not exist",
    re.IGNORECASE,
)
_BOOTING = re.compile(r"/-/routes for available routes|route table is not populated", re.IGNORECASE)

_WORDING_OF_REFUSALS: tuple[tuple[re.Pattern[str], Failure], ...] = (
    (_CONTEXT_WINDOW, "context_window"),
    (_CONTENT_POLICY, "content_policy"),
    (_QUOTA, "quota_exhausted"),
    (_AUTH, "auth"),
    (_NOT_FOUND, "not_found"),
)


def failure_of(status: int | None, text: str, classes: Collection[str] = ()) -> Failure:
    """The contract's word for an error of that HTTP status, text and exception classes."""
    for name, failure in _BY_CLASS:
        if name in classes:
            return failure
    if status is None:
        return "connection"
    if status == 429 and _QUOTA.search(text):
        return "quota_exhausted"
    if status == 404 and _BOOTING.search(text):
        # Ray Serve says "not found" for every route until its replicas are up: it is on its way, not misnamed.
        return "overloaded"
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return "server_error"
    return _refusal(text)


def _refusal(text: str) -> Failure:
    for pattern, failure in _WORDING_OF_REFUSALS:
        if pattern.search(text):
            return failure
    return "bad_request"


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds a server asks to stay away, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None


def shortened(text: str) -> str:
    """One line, of a length that fits a log record and a trace."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"
