"""What the server itself sent, read off the wire while litellm reads it.

litellm turns a stream that was cut short into one that says "stop", and skips frames it cannot parse. Whoever wants
to know whether a reply is whole has to read what came. A `WireTap` is one response as it came: it listens by httpx's
public event hooks, and hands on to litellm no more than is sound.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

import httpx

from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.engine.protocol.response import Response
from llm_fallback.engine.protocol.sse import Event
from llm_fallback.engine.transport import FINISHES, Chunk, Fault, Reply


class WireTap(Response):
    """One response as it came over the wire."""

    def __init__(self, reader: ReplyReader, *, streamed: bool) -> None:
        super().__init__(reader, streamed=streamed)
        self._whole = bytearray()
        self.sent = False
        self.response: Any = None
        self.keeps = False
        """Whether what is read here is kept in `ready`, and read on though litellm stops."""
        self.ready: deque[Chunk] = deque()
        self.as_it_came = False
        """Whether litellm is handed all bytes as they came, as it was before anybody listened."""
        self._reads: AsyncIterator[bytes] | None = None
        self._broke: Exception | None = None
        self._has_ended = False

    @property
    def is_readable(self) -> bool:
        """Whether what the server sends is read here."""
        return self.sent

    def listen(self, response: httpx.Response) -> None:
        """Listen to the body of a response from here on, while litellm reads it."""
        self.begin(response.status_code, response.headers)
        self.response = response
        self.body.clear()  # Of a redirect that was followed, there is one.
        self._whole.clear()
        stream: Any = response.stream
        self._reads, self._broke, self._has_ended = aiter(stream), None, False
        response.stream = _tap_class(_byte_stream(stream))(stream, self)

    def plain_reply(self) -> Reply | Fault:
        """A plain reply, when it was read."""
        return self.reply(bytes(self._whole))

    def hand_on(self, data: bytes | None) -> bytes:
        """What of a read litellm may see; None: of the end."""
        if self.is_error:
            return self.remember(data or b"")
        if not self.streamed:
            self._whole += data or b""
            return self.remember(data or b"")
        if self.saw_done:
            return b""
        came = self.read_events(data)
        if self.keeps:
            self.ready += [chunk for _, chunk in came if chunk is not None]
        if self.as_it_came:
            return data or b""
        events = [event for event, _ in came]
        # By a word that litellm does not know, it would make a whole reply of what is none.
        return b"".join(map(_bytes_of, events[:-1] if self._ended_badly else events))

    async def pull(self) -> bytes | None:
        """What of the next read litellm may see; None: it is over. Who stops asking does not end the reading, which
        somebody else may go on with."""
        assert self._reads is not None
        if self._broke is not None:
            raise self._broke
        if self._has_ended or self.is_cut:
            return None
        try:
            data = await anext(self._reads, None)
        except Exception as error:
            self._broke = error
            raise
        self._has_ended = data is None
        return self.hand_on(data)

    async def close(self) -> None:
        """Close the body, whoever may still read it."""
        if self.response is not None:
            untap(self.response)
            await self.response.stream.aclose()

    @property
    def is_read(self) -> bool:
        """Whether there is nothing more to read."""
        return self._has_ended or self.is_over

    @property
    def is_cut(self) -> bool:
        """Whether what follows is withheld."""
        return self.is_over and (self._ended_badly or self.fault() is not None)

    @property
    def _ended_badly(self) -> bool:
        return self.reader.is_over and self.reader.finish not in (None, *FINISHES)


class _Tap:
    """A body that is read on its way; one that is cut is over. The base of a stream of whichever httpx reads it."""

    def __init__(self, stream: Any, wire: WireTap) -> None:
        self.stream, self._wire = stream, wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (passed := await self._wire.pull()) is not None:
            if passed:
                yield passed

    async def aclose(self) -> None:
        if not self._wire.keeps:
            await self.stream.aclose()


@cache
def _tap_class(byte_stream: type) -> Any:
    return type("Tap", (_Tap, byte_stream), {})


def _byte_stream(stream: Any) -> type:
    """The class that the httpx of a body demands of it."""
    return next((kind for kind in type(stream).__mro__ if kind.__name__ == "AsyncByteStream"), httpx.AsyncByteStream)


def untap(response: httpx.Response) -> None:
    """Let a response that nobody has begun to read be read as it came."""
    if isinstance(response.stream, _Tap):
        response.stream = response.stream.stream


def _bytes_of(event: Event) -> bytes:
    name = b"event: " + event.name + b"\n" if event.name else b""
    return name + b"data: " + event.data.replace(b"\n", b" ") + b"\n\n"


current: ContextVar[WireTap | None] = ContextVar("llm_fallback_wire", default=None)
"""The wire of the exchange under way in this context."""


async def on_request(request: httpx.Request) -> None:
    """An httpx request hook."""
    wire = current.get()
    if wire is not None and not _is_for_a_cache(request):
        if wire.sent and wire.response is None:
            # litellm sends once more when the connection broke. One attempt is one request.
            raise sys.exc_info()[1] or httpx.ConnectError("the connection broke", request=request)
        wire.sent = True
        # The bytes are read as they come over the wire.
        request.headers["accept-encoding"] = "identity"


async def on_response(response: httpx.Response) -> None:
    """An httpx response hook."""
    wire = current.get()
    if wire is not None and not _is_for_a_cache(response.request):
        wire.listen(response)


def _is_for_a_cache(request: httpx.Request) -> bool:
    """Whether litellm looks after Google's cache, which it does before it asks a model."""
    return request.url.path.endswith("/cachedContents")


HOOKS: Mapping[str, list[Any]] = {"request": [on_request], "response": [on_response]}
