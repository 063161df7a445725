"""A server's error, in any of the shapes servers use, as a `Fault` in the contract's words.

The status decides first, because it means the same with every server; codes and wording decide what it leaves open: a
400 may be a prompt too long, a refusal, an account's trouble or a plain bad request. A refusal that says nothing about
the request, as a gateway's page or a 405, is the server's failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llm_fallback.engine.protocol.dialects import STATUSES, by_code, by_wording
from llm_fallback.engine.protocol.values import Unreadable, complete, decode
from llm_fallback.engine.transport import Fault, UpstreamError
from llm_fallback.events import Failure
from llm_fallback.spec.secrets import Redactor

LEAST_ERROR = 300
"""Statuses from here on are errors. So is 3xx: a redirect that arrives here was not followed."""

_LONGEST_MESSAGE = 500

MOST_SEARCHED = 8_192
"""Characters of a text that are searched for words: what is further on is hardly the error, but what it echoes."""


MOST_CLEANED = 2 * MOST_SEARCHED
"""Characters of a text that are searched for secrets. Of a longer one the second half of them is not told."""


class FaultCleaner:
    """Strikes secrets out of faults, makes one line of what they say, and gives each a cause that carries only that."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def add(self, *secrets: str) -> None:
        """Add secrets that showed after the spec was read, as a token that a cloud handed out."""
        self._redactor.add(*secrets)

    def __call__(self, fault: Fault, error: BaseException | None = None) -> Fault:
        """The fault cleaned; `error` is the exception a library raised, where it was not a server that said so."""
        message = self._told(fault.message)
        kind = UpstreamError if error is None else type(error)
        cause = UpstreamError(kind.__name__, message, fault.status)
        return Fault(fault.failure, message, fault.status, fault.retry_after_s, cause)

    def _told(self, text: str) -> str:
        """What is told of a text. Secrets are struck out before it is cut: of one across a cut, a part would be left.
        So of a text too long to be searched, what is told ends well before the search does."""
        message = self._redactor(text[:MOST_CLEANED])
        return shortened(message if len(text) <= MOST_CLEANED else message[:-MOST_SEARCHED])


_BY_STATUS: Mapping[int, Failure] = {
    401: "auth",
    402: "quota_exhausted",
    403: "auth",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    413: "bad_request",
    424: "server_error",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}

_ABOUT_THE_REQUEST = (400, 422)
"""Statuses by which a model's server refuses a request; by a page or nothing, it was not the model's server."""

_ANYTHING: frozenset[Failure] = frozenset(
    {"context_window", "content_policy", "quota_exhausted", "auth", "not_found", "overloaded", "bad_request"}
)
_LEFT_OPEN: Mapping[int, frozenset[Failure]] = {
    # A prompt was flagged, or money is short; a breaker opened as for a wrong key would punish every other prompt.
    403: frozenset({"content_policy", "quota_exhausted"}),
    # Ray Serve says "not found" for every route until its replicas are up: it is on its way, not misnamed.
    # And whoever passes a request on has nobody who takes this one; others it would have had.
    404: frozenset({"overloaded", "bad_request"}),
    429: frozenset({"quota_exhausted", "overloaded"}),
}
"""What a status that says much leaves to codes and wording. Other 4xx leave anything, 3xx and 5xx nothing."""


def failure_of(
    status: int | None, error: ErrorBody, classes: Collection[str] = (), *, guessed: bool = False
) -> Failure:
    """The contract's word for an error: by status, then by its codes, then by its wording.

    `classes` are names of exceptions a library made of it. Status None: no server said anything. `guessed`: no server
    said that status (the error came inside of a 200), so it decides last.
    """
    if status is None:
        return by_code(classes, _ANYTHING) or "connection"
    says_nothing = status not in _BY_STATUS and 400 <= status < 500
    open_to = _ANYTHING if guessed or says_nothing else _LEFT_OPEN.get(status, frozenset())
    code = by_code(error.codes, open_to)
    if code is not None:
        return code
    if status == 429 and error.wait_s is not None:
        # Google words a limit per minute as others word an empty account; whoever names a time means a limit.
        open_to -= {"quota_exhausted"}
    said = f"{error.message[:MOST_SEARCHED]}\n{error.text[:MOST_SEARCHED]}"
    word = by_wording(said, open_to) or by_code(classes, open_to)
    if word is None and status in _ABOUT_THE_REQUEST:
        return "server_error" if error.is_page else "bad_request"
    return word or _BY_STATUS.get(status, "server_error")


def fault_of_response(
    status: int, headers: Mapping[str, str], body: bytes | str, classes: Collection[str] = ()
) -> Fault:
    """The fault of a response with an HTTP error."""
    error = parse_error_body(body)
    # Amazon's code stands in a header, at times with an address behind it.
    name = headers.get("x-amzn-errortype", "").partition(":")[0]
    error = replace(error, codes=(*error.codes, name)) if name else error
    # Every reply names when limits are reset; only to one that was refused for a limit is that a time to wait.
    waits = (retry_after_s(headers), error.wait_s, reset_after_s(headers) if status == 429 else None)
    error = replace(error, wait_s=next((wait for wait in waits if wait is not None), None))
    failure = failure_of(status, error, classes)
    # Money that is used up comes back by no limit's clock.
    wait_s = None if (status, failure) == (429, "quota_exhausted") else error.wait_s
    return Fault(failure, error.message, status, wait_s)


def fault_in_body(data: Any) -> Fault | None:
    """The fault of an error inside of a 200, be it a frame of a stream or a whole body; None if there is none.

    Google puts an error into a list where it was to send a list of chunks."""
    if isinstance(data, list):
        return next((fault for fault in map(fault_in_body, data) if fault is not None), None)
    if not isinstance(data, dict) or not (data.get("error") or data.get("object") == "error"):
        return None
    error = parse_error(data)
    status = error.status or next((STATUSES[code.lower()] for code in error.codes if code.lower() in STATUSES), 500)
    return Fault(failure_of(status, error, guessed=error.status is None), error.message, status, error.wait_s)


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


_RESET = re.compile(r"x-rate-?limit-reset(?:-(\w+))?|anthropic-ratelimit-([\w-]+)-reset", re.IGNORECASE)


def reset_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds until a limit is reset, by the headers of a refused request: `x-ratelimit-reset-tokens: 6m0s` and alike.

    Of several limits the one counts of which nothing remains, or else the last to be reset. Servers write durations
    as Go does, seconds, or a moment in seconds or milliseconds since 1970 or in RFC 3339.
    """
    moment = now or datetime.now(UTC)
    waits: list[float] = []
    used_up: list[float] = []
    for name, text in headers.items():
        seconds = _seconds_until(text, moment) if _RESET.fullmatch(name) else None
        if seconds is None:
            continue
        waits.append(seconds)
        remaining = headers.get(name.replace("reset", "remaining").replace("Reset", "Remaining"))
        if _number(remaining) == 0:
            used_up.append(seconds)
    return max(used_up or waits, default=None)


def _seconds_until(text: str, now: datetime) -> float | None:
    number = _number(text)
    if number is not None:
        since_1970 = number / 1000 if number > 1e11 else number
        return max(0.0, since_1970 - now.timestamp()) if since_1970 > 1e9 else number
    if _DURATIONS.fullmatch(text):
        return _seconds_in(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None


def shortened(text: str) -> str:
    """One line, of a length that fits a log record and a trace."""
    line = " ".join(complete(text[:MOST_SEARCHED]).split())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"


_CODED = ("code", "type", "status", "error_type", "reason")
_NESTED = ("error", "innererror", "metadata", "details", "detail")
_TELLING = ("flagged_input",)
"""Keys whose presence alone says what happened."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[dhms])", re.IGNORECASE)
_DURATIONS = re.compile(r"(?:\d+(?:\.\d+)? ?(?:ms|[dhms]))+", re.IGNORECASE)
_WAIT = re.compile(
    r"""\b(?:(?:re)?try\ (?:again\ )?(?:after|in)|wait(?:\ for)?)
        \ ((?:\d+(?:\.\d+)?\ ?(?:ms|m(?:in\w*)?|s(?:ec\w*)?|h(?:our\w*)?)(?![a-z])\ ?)+)""",
    re.IGNORECASE | re.VERBOSE,
)
"""Where a text tells to wait, and for how long."""
_REPLENISHED = re.compile(
    r"\bquota will be replenished in (?:(\d{1,5})\.)?(\d{1,2}):(\d\d):(\d\d(?:\.\d{1,7})?)\b", re.IGNORECASE
)
"""The wait in front of Azure, in days, hours, minutes and seconds as .NET writes them."""
_DELAY = re.compile(r'"retryDelay": ?"(\d+(?:\.\d+)?)s"')
"""Google's word for a wait, among the details of an error."""
_STATUSES = frozenset(map(str, range(400, 600)))
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error says."""

    message: str = ""
    codes: tuple[str, ...] = ()
    """Codes, types and the like, the most telling first."""
    text: str = ""
    """All of it."""
    status: int | None = None
    """A status among the codes."""
    wait_s: float | None = None
    """The seconds it asks to wait, if it names a time."""

    @property
    def is_page(self) -> bool:
        """Whether it is empty or a page for a browser: a gateway's word, not the model server's."""
        return not self.text.strip() or self.text.lstrip().startswith("<")


def parse_error_body(body: bytes | str) -> ErrorBody:
    """What an error body says."""
    text = body.decode("utf-8-sig", errors="replace") if isinstance(body, bytes) else body
    try:
        data = decode(text)
    except Unreadable:
        return ErrorBody(text, text=text, wait_s=_wait_in(text))
    return parse_error(data, text)


def parse_error(data: Any, text: str | None = None) -> ErrorBody:
    """What a parsed error body, or an error inside of a stream, says."""
    text = json.dumps(data, ensure_ascii=False) if text is None else text
    codes = tuple(dict.fromkeys(str(code) for code in _codes(data)))
    message = complete(_message(data) or text)
    named = [float(delay) for delay in _DELAY.findall(text[:MOST_SEARCHED])]
    waits = (max(named, default=None), _wait_in(message), _reset_in(data))
    return ErrorBody(message, codes, text, _status(codes), next((wait for wait in waits if wait is not None), None))


def _codes(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for item in data:
            yield from _codes(item)
    if isinstance(data, Mapping):
        yield from (data[key] for key in _CODED if isinstance(data.get(key), str | int))
        yield from (key for key in _TELLING if key in data)
        for key in _NESTED:
            yield from _codes(data.get(key))


def _message(data: Any) -> str | None:
    """The first text that a person is meant to read."""
    if isinstance(data, str):
        return data
    if not isinstance(data, Mapping):
        return None
    for key in ("error", "message", "detail"):
        message = _message(data.get(key))
        if message:
            return message
    return None


def _reset_in(data: Any) -> float | None:
    """OpenRouter hands on the headers of the provider behind it."""
    metadata = data.get("error", {}) if isinstance(data, Mapping) else None
    metadata = metadata.get("metadata") if isinstance(metadata, Mapping) else None
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    if not isinstance(headers, Mapping):
        return None
    return reset_after_s({str(name): str(text) for name, text in headers.items()})


def _status(codes: tuple[str, ...]) -> int | None:
    return next((int(code) for code in codes if code in _STATUSES), None)


def _wait_in(text: str) -> float | None:
    match = _WAIT.search(text[:MOST_SEARCHED])
    if match is not None:
        return _seconds_in(match[1])
    match = _REPLENISHED.search(text[:MOST_SEARCHED])
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _seconds_in(durations: str) -> float:
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _DURATION.findall(durations))
