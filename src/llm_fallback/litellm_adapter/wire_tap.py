"""What the server itself sent, read off the wire.

litellm turns a stream that was cut short into one that says "stop", and skips frames it cannot parse. Whoever wants
to know whether a reply is whole has to read what came: a `WireTap` is one response as it came. Where litellm reads the
response, the tap listens by httpx's public event hooks; it knows nothing of litellm.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx

from llm_fallback.engine.protocol.faults import LEAST_ERROR
from llm_fallback.engine.protocol.sse import ResponseState, SSEParser
from llm_fallback.engine.transport import Fault


@dataclass(slots=True)
class WireTap(ResponseState):
    """One response as it came over the wire."""

    keyless: bool = False
    """Whether to take off the authorization header litellm invents where no key is given."""
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers from the spec, re-applied here because litellm overwrites `Authorization` with the API key."""
    sent: bool = False
    response: httpx.Response | None = None
    is_compressed: bool = False
    """Whether the body comes compressed though nobody asked for that; litellm's account is all there is then."""

    @property
    def is_readable(self) -> bool:
        """Whether what the server sends is read here."""
        return self.sent and not self.is_compressed

    def fault(self) -> Fault | None:
        # `super()` knows no class that dataclasses made anew for its slots.
        return self.fault_seen if self.is_compressed else ResponseState.fault(self)

    def begin(self, response: httpx.Response) -> None:
        """Take note of how a response begins."""
        self.status, self.headers, self.response = response.status_code, response.headers, response

    def listen(self, response: httpx.Response) -> None:
        """Listen to the body of a response from here on, while somebody else reads it."""
        self.begin(response)
        self.body.clear()  # Of a redirect that was followed, there is one.
        self.is_compressed = response.headers.get("content-encoding", "identity") != "identity"
        if self.is_compressed:
            return
        if self.streamed and response.status_code < LEAST_ERROR:
            frames = SSEParser(self)
            response.stream = _Tap(response.stream, frames.feed, frames.end)
        else:
            response.stream = _Tap(response.stream, self.remember)


class _Tap(httpx.AsyncByteStream):
    """A stream that shows every read to a listener, which may shorten it; one cut short is over."""

    def __init__(self, stream: Any, listen: Callable[[bytes], bytes], end: Callable[[], object] = lambda: None) -> None:
        self._stream, self._listen, self._end = stream, listen, end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            passed = self._listen(data)
            if passed:
                yield passed
            if len(passed) < len(data):
                return
        self._end()

    async def aclose(self) -> None:
        await self._stream.aclose()


current: ContextVar[WireTap | None] = ContextVar("llm_fallback_wire", default=None)
"""The wire of the exchange under way in this context."""


async def on_request(request: httpx.Request) -> None:
    """An httpx request hook."""
    wire = current.get()
    if wire is not None:
        if wire.sent and wire.response is None:
            # litellm sends once more when the connection broke. One attempt is one request.
            raise sys.exc_info()[1] or httpx.ConnectError("the connection broke", request=request)
        wire.sent = True
        request.headers.update(wire.extra_headers)
        # The bytes are read as they come over the wire.
        request.headers["accept-encoding"] = "identity"
        if wire.keyless:
            request.headers.pop("authorization", None)


async def on_response(response: httpx.Response) -> None:
    """An httpx response hook."""
    wire = current.get()
    if wire is not None:
        wire.listen(response)


HOOKS: Mapping[str, list[Any]] = {"request": [on_request], "response": [on_response]}
