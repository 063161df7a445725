"""What the server itself sent, read off the wire.

litellm turns a stream that was cut short into one that says "stop", and skips frames it cannot parse. Whoever wants
to know whether a reply is whole has to look at what came: a `Wire` is one response as it came, `Frames` takes its
stream apart. Where litellm reads the response, the wire listens by httpx's public event hooks. All of this knows
OpenAI's protocol and nothing of litellm.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx

from llm_fallback.faults import Fault, answered, error_in

_REMEMBERED_BODY = 16_384
_NOT_FINISHES = frozenset({"abort", "error"})
"""vLLM's words for a reply it gave up on; litellm calls both "stop"."""


@dataclass(slots=True)
class Wire:
    """One response as it came over the wire."""

    streamed: bool
    keyless: bool = False
    """Whether to take off the authorization header litellm invents where no key is given."""
    sent: bool = False
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    """The start of a plain body or an error's, or of what should have been a stream and is none."""
    frames: int = 0
    choices: int = 0
    finish: str | None = None
    usage: dict[str, Any] | None = None
    flaw: Fault | None = None
    """What is wrong with the stream, once it was seen; the bytes from there on are withheld."""
    said_done: bool = False
    response: httpx.Response | None = None
    muffled: bool = False
    """Whether the body comes compressed though nobody asked for that; litellm's account is all there is then."""

    @property
    def is_heard(self) -> bool:
        """Whether what the server sends is read here."""
        return self.sent and not self.muffled

    @property
    def is_noise(self) -> bool:
        """Whether something came that is no stream of choices."""
        return bool(self.body.strip()) or (self.frames > 0 and self.choices == 0)

    def fault(self) -> Fault | None:
        """What the response itself says went wrong; None if it says nothing of the kind."""
        if self.flaw is not None or self.muffled:
            return self.flaw
        if self.status is not None and self.status >= 400:
            return answered(self.status, self.headers, bytes(self.body))
        return self._error_with_200() if self.body else None

    def _error_with_200(self) -> Fault | None:
        try:
            return error_in(json.loads(self.body))
        except ValueError:
            return None

    def begin(self, response: httpx.Response) -> None:
        """Take note of how a response begins."""
        self.status, self.headers, self.response = response.status_code, response.headers, response

    def listen(self, response: httpx.Response) -> None:
        """Listen to the body of a response from here on, while somebody else reads it."""
        self.begin(response)
        self.muffled = response.headers.get("content-encoding", "identity") != "identity"
        if self.muffled:
            return
        if self.streamed and response.status_code < 400:
            frames = Frames(self)
            response.stream = _Tap(response.stream, frames.feed, frames.end)
        else:
            response.stream = _Tap(response.stream, self.remember)

    def remember(self, data: bytes) -> bytes:
        """Keep the start of a body that is no stream."""
        self.body += data[: _REMEMBERED_BODY - len(self.body)]
        return data


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


class Frames:
    """Takes a stream apart into its server-sent events, whatever the reads it comes in."""

    def __init__(self, wire: Wire, take: Callable[[dict[str, Any]], object] = lambda frame: None) -> None:
        self._wire, self._take = wire, take
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The part of a read that may pass: all of it, or all before the first flaw."""
        *lines, rest = (self._rest + data).split(b"\n")
        passed = -len(self._rest)
        for line in lines:
            if not self._is_sound(line):
                return data[: max(passed, 0)]
            passed += len(line) + 1
        self._rest = rest
        return data

    def end(self) -> None:
        """Take what came after the last line break, too."""
        rest, self._rest = self._rest, b""
        self._is_sound(rest)

    def _is_sound(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            if line.strip() and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                self._wire.body += line[:_REMEMBERED_BODY]
            return True
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self._wire.said_done = True
            return True
        return not payload or self._takes(payload)

    def _takes(self, payload: bytes) -> bool:
        wire = self._wire
        wire.frames += 1
        try:
            frame = json.loads(payload)
        except ValueError:
            wire.flaw = Fault("stream_broken", "a frame of the stream does not parse", 200)
            return False
        if not isinstance(frame, dict):
            return True
        wire.flaw = error_in(frame)
        if wire.flaw is not None:
            return False
        wire.usage = frame.get("usage") or wire.usage
        for choice in frame.get("choices") or ():
            wire.choices += 1
            wire.finish = choice.get("finish_reason") or wire.finish
        if wire.finish in _NOT_FINISHES:
            return False
        self._take(frame)
        return True


current: ContextVar[Wire | None] = ContextVar("llm_fallback_wire", default=None)
"""The wire of the exchange under way in this context."""


async def on_request(request: httpx.Request) -> None:
    """An httpx request hook."""
    wire = current.get()
    if wire is not None:
        if wire.sent and wire.response is None:
            # litellm sends once more when the connection broke. One attempt is one request.
            raise sys.exc_info()[1] or httpx.ConnectError("the connection broke", request=request)
        wire.sent = True
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
