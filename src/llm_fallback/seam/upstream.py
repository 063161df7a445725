"""An exception of litellm's, or of a library below it, as a fault."""

from __future__ import annotations

import re

from llm_fallback.faults import Fault, failure_of, retry_after_s, shortened
from llm_fallback.protocol import said_by

_CUT = frozenset(
    {
        *("ClientPayloadError", "ServerDisconnectedError", "ClientConnectorError", "ClientConnectionError"),
        *("ClientOSError", "ConnectError", "ConnectTimeout", "ReadError", "WriteError", "RemoteProtocolError"),
        *("ConnectionError", "IncompleteRead", "ClosedResourceError", "BrokenResourceError"),
    }
)
_TIMED_OUT = frozenset({"ReadTimeout", "Timeout", "APITimeoutError", "TimeoutError", "ServerTimeoutError"})
_UNREADABLE = frozenset({"JSONDecodeError", "APIResponseValidationError", "UnicodeDecodeError"})


_ITS_NAMES = re.compile(r"^(?:litellm\.\w+: )*(?:\w+(?: \w+)?: )?(?:\w+Exception -? ?)?(?:\w+Error: )?(?:- )?")


def plain(text: str) -> str:
    """What the provider said, without the names litellm puts in front of it."""
    said = _ITS_NAMES.sub("", text, count=1).strip()
    return shortened(said_by(said.encode())[1] or text)


def fault_of_transfer(error: Exception, classes: set[str], status: int | None) -> Fault:
    """A request that went out and came to no HTTP error."""
    text = plain(str(error))
    if classes & _CUT:
        return Fault("connection", text)
    if status is None:
        return Fault("timeout" if classes & _TIMED_OUT else "connection", text)
    return Fault("invalid_response", text, status)


def fault_of_litellm(error: Exception, classes: set[str]) -> Fault:
    """An error of which only litellm's own account is known."""
    text = plain(str(error))
    if classes & _UNREADABLE or "Empty or invalid response" in text:
        return Fault("invalid_response", text, 200)
    if classes & _CUT or ("APIConnectionError" in classes and not classes & _TIMED_OUT):
        return Fault("connection", text)
    if classes & _TIMED_OUT and getattr(error, "status_code", None) in (None, 408):
        return Fault("timeout", text, getattr(error, "status_code", None))
    status = getattr(error, "status_code", None)
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    number = status if isinstance(status, int) else 400
    return Fault(failure_of(number, str(error), classes), text, number, retry_after_s(headers))


def classes_of(error: BaseException) -> set[str]:
    """Names of the classes of an exception, of what caused it and of what it wraps."""
    names: set[str] = set()
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        names |= {kind.__name__ for kind in type(current).__mro__}
        pending += [current.__cause__, current.__context__, getattr(current, "original_exception", None)]
    return names
