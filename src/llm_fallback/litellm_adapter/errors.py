"""An exception of litellm's, or of a library below it, as a fault."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from llm_fallback.engine.protocol.faults import (
    LEAST_ERROR,
    failure_of,
    fault_in_body,
    fault_of_response,
    parse_error_body,
)
from llm_fallback.engine.transport import Fault
from llm_fallback.litellm_adapter.quotations import without_quotations

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


_ITS_SOCKET = re.compile(r" ssl:(?:default|<[^<>]*>)")


def plain(text: str) -> str:
    """What the provider said, without the names litellm puts in front of it and what aiohttp tells of its sockets."""
    message = _ITS_NAMES.sub("", text, count=1)
    message = _ITS_SOCKET.sub("", message).strip()
    return parse_error_body(message).message or text


def fault_of_transfer(error: Exception, classes: set[str], status: int | None) -> Fault:
    """A request that went out and came to no HTTP error."""
    text = plain(str(error))
    if classes & _CUT:
        return Fault("connection", text)
    if status is None:
        return Fault("timeout" if classes & _TIMED_OUT else "connection", text)
    return Fault("invalid_response", text, status)


def fault_of_litellm(error: Exception, classes: set[str]) -> Fault:
    """An error of a provider whose response we could not read ourselves.

    litellm puts statuses of its own over the server's (529 becomes 500) and drops headers, but what it made its
    exception of still hangs on it: the response itself, or the nearest exception that knows a status.
    """
    links = list(links_of(error))
    for link in links:
        if isinstance(link, httpx.HTTPStatusError) and link.response.status_code >= LEAST_ERROR:
            return fault_of_response(link.response.status_code, link.response.headers, _content(link.response), classes)
    faults = (fault_in_body({"error": getattr(link, "body", None)}) for link in links)
    return next((fault for fault in faults if fault is not None), None) or _by_its_classes(_nearest(links), classes)


class NoToken(Exception):
    """The user's function that hands out tokens has none to give."""


_OF_CREDENTIALS = ("botocore", "boto3", "google.auth", "azure.identity", "azure.core", "msal")
"""Libraries that find, renew or use a provider's credentials, and do nothing else before a request is sent."""


def fault_before_sending(error: Exception, messages: Sequence[Mapping[str, Any]]) -> Fault:
    """What keeps litellm from sending a request: it has no credentials, or cannot translate what it is asked. No server
    said anything, so there is no status. What is quoted of the messages is left out."""
    links = list(links_of(error))
    for link in links:
        if isinstance(link, NoToken):
            return Fault("auth", without_quotations(str(link), messages))
    text = without_quotations(plain(str(error).partition("Traceback (most recent call last)")[0]), messages)
    # The first is litellm's summary, chosen by words that may be the prompt's own.
    return Fault("auth" if any(map(_lacks_credentials, links[1:] or links)) else "bad_request", text)


def _lacks_credentials(link: BaseException) -> bool:
    kind = type(link)
    return (
        (isinstance(link, ImportError) and link.name != "PIL")  # Of the library that knows a cloud's credentials.
        or kind.__module__.startswith(_OF_CREDENTIALS)
        or (kind.__module__.startswith("openai") and kind.__name__ == "OpenAIError")  # Of a client that cannot be made.
        or kind.__name__ == "AuthenticationError"
        or getattr(link, "status_code", None) == 401
    )


def _by_its_classes(nearest: BaseException, classes: set[str]) -> Fault:
    text = plain(str(nearest))
    status = getattr(nearest, "status_code", None)
    if classes & _UNREADABLE or "Empty or invalid response" in text:
        return Fault("invalid_response", text, 200)
    if "Stream ended before a finish_reason" in text:
        # Said since 1.110 of what ended in an invented "stop" before; after content it is a stream that broke.
        return Fault("empty_response", text, 200)
    if classes & _CUT or ("APIConnectionError" in classes and not classes & _TIMED_OUT):
        return Fault("connection", text)
    if classes & _TIMED_OUT and status in (None, 408):
        return Fault("timeout", text, status)
    body, number = parse_error_body(text), status if isinstance(status, int) else 400
    return Fault(failure_of(number, body, classes, guessed=True), text, number, body.wait_s)


def _nearest(links: list[BaseException]) -> BaseException:
    """The exception that knows a status and is nearest to the wire: a provider's before litellm's common ones."""
    knowing = [link for link in links if isinstance(getattr(link, "status_code", None), int)]
    theirs = [link for link in knowing if type(link).__module__ != "litellm.exceptions"]
    return next(iter(theirs), knowing[-1] if knowing else links[0])


def _content(response: httpx.Response) -> bytes:
    try:
        return response.content
    except httpx.StreamError:
        return b""


def classes_of(error: BaseException) -> set[str]:
    """Names of the classes of an exception, of what caused it and of what it wraps."""
    return {kind.__name__ for link in links_of(error) for kind in type(link).__mro__}


def links_of(error: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it and what it wraps."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending += [getattr(link, "original_exception", None), link.__context__, link.__cause__]
