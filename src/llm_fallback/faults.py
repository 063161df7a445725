"""An upstream failure put into the contract's words.

The status decides first, because it means the same with every server; codes and wording decide what it leaves open (a
400 may be a prompt too long, a refusal, or a plain bad request).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llm_fallback.bodies import Said, said_by, said_in
from llm_fallback.dialects import STATUSES, coded, worded
from llm_fallback.events import Failure

LEAST_ERROR = 300
"""The least status of a response that is none of the model's: a redirect that was not followed is an error too."""

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


_BY_STATUS: Mapping[int, Failure] = {
    401: "auth",
    402: "quota_exhausted",
    403: "auth",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    413: "context_window",
    424: "server_error",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}

_ANYTHING: frozenset[Failure] = frozenset(
    {"context_window", "content_policy", "quota_exhausted", "auth", "not_found", "overloaded"}
)
_LEFT_OPEN: Mapping[int, frozenset[Failure]] = {
    # A prompt was flagged, or money is short; a breaker opened as for a wrong key would punish every other prompt.
    403: frozenset({"content_policy", "quota_exhausted"}),
    # Ray Serve says "not found" for every route until its replicas are up: it is on its way, not misnamed.
    404: frozenset({"overloaded"}),
    429: frozenset({"quota_exhausted", "overloaded"}),
}
"""What a status that says much leaves to codes and wording. Other 4xx leave anything, 3xx and 5xx nothing."""


def failure_of(status: int | None, said: Said, classes: Collection[str] = (), *, guessed: bool = False) -> Failure:
    """The contract's word for an error: by status, then by its codes, then by its wording.

    `classes` are names of exceptions a library made of it. Status None: no server said anything. `guessed`: no server
    said that status (the error came inside of a 200), so it decides last.
    """
    if status is None:
        return coded(classes, _ANYTHING) or "connection"
    known = _BY_STATUS.get(status, "server_error" if status >= 500 or status < 400 else None)
    open_to = _ANYTHING if guessed or known is None else _LEFT_OPEN.get(status, frozenset())
    code = coded(said.codes, open_to)
    if code is not None:
        return code
    if status == 429 and said.wait_s is not None:
        # Google words a limit per minute as others word an empty account; whoever names a time means a limit.
        open_to -= {"quota_exhausted"}
    word = worded(f"{said.message}\n{said.text}", open_to) or coded(classes, open_to)
    return word or known or "bad_request"


def answered(status: int, headers: Mapping[str, str], body: bytes | str, classes: Collection[str] = ()) -> Fault:
    """The fault of a response with an HTTP error."""
    said = said_by(body)
    # Amazon's code stands in a header, at times with an address behind it.
    name = headers.get("x-amzn-errortype", "").partition(":")[0]
    said = replace(said, codes=(*said.codes, name)) if name else said
    named = retry_after_s(headers)
    said = said if named is None else replace(said, wait_s=named)
    return Fault(failure_of(status, said, classes), shortened(said.message), status, said.wait_s)


def error_in(data: Any) -> Fault | None:
    """The fault of an error inside of a 200, be it a frame of a stream or a whole body; None if there is none."""
    if not isinstance(data, dict) or not data.get("error"):
        return None
    said = said_in(data)
    status = said.status or next((STATUSES[code.lower()] for code in said.codes if code.lower() in STATUSES), 500)
    return Fault(failure_of(status, said, guessed=said.status is None), shortened(said.message), status, said.wait_s)


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
    except (ValueError, OverflowError):
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
