"""The reading of one HTTP response."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Protocol

import httpx

from llm_fallback.engine.protocol.faults import FaultCleaner, fault_of_response
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.engine.protocol.response import Response
from llm_fallback.engine.transport import Chunk, Fault, Reply, StreamEnd
from llm_fallback.litellm_adapter.body import BodyRefused

_DRAIN_TIMEOUT_S = 0.05
"""How long the end of a connection's reply is waited for after the server said it is whole, so that it can be used
again."""


class ReadableResponse(Protocol):
    """A response to be read, of whichever library."""

    status: int
    headers: Mapping[str, str]

    def reads(self) -> AsyncIterator[bytes]:
        """The body, in pieces as they come."""
        ...

    async def whole(self) -> bytes:
        """The whole body."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class HttpxResponse:
    """A response that litellm sent for."""

    def __init__(self, http: httpx.Response) -> None:
        self.status: int = http.status_code
        self.headers: Mapping[str, str] = http.headers
        self.reads, self.whole, self.close = http.aiter_bytes, http.aread, http.aclose


class HTTPReading:
    """What comes of one response. Its methods let through what the HTTP library raises."""

    def __init__(self, http: ReadableResponse, reader: ReplyReader, clean: FaultCleaner, *, streamed: bool) -> None:
        self._http, self._clean = http, clean
        self.response = Response(reader, streamed=streamed)
        self.response.begin(http.status, http.headers)
        self._reads = http.reads()
        self.ready: deque[Chunk] = deque()
        """Chunks that were read and not taken yet."""
        self._is_over = False

    @property
    def content_came(self) -> bool:
        """Whether something of the reply came, so that a fault is a stream that broke."""
        return self.response.reader.content_came

    async def fault(self) -> Fault | None:
        """The fault of a response with an HTTP error."""
        return await self._error() if self.response.is_error else None

    async def _error(self) -> Fault:
        return self._clean(fault_of_response(self._http.status, self._http.headers, await self._http.whole()))

    async def reply(self) -> Reply | Fault:
        """The whole reply."""
        if self.response.is_error:
            return await self._error()
        reply = self.response.reply(await self._http.whole())
        return self._clean(reply) if isinstance(reply, Fault) else reply

    async def next(self) -> Chunk | StreamEnd | Fault:
        """The next chunk of a stream."""
        while not self.ready:
            if self._is_over:
                end = self.response.end()
                return self._clean(end) if isinstance(end, Fault) else end
            try:
                data = await anext(self._reads, None)
            except asyncio.CancelledError:
                if self.response.is_finished:
                    self._reads = _nothing()  # Whoever lost patience may ask for what came until then.
                raise
            except BodyRefused:
                raise
            except Exception:
                # How a connection ends says no more of a reply whose server said how that ended.
                if not self.response.is_finished:
                    raise
                data = None
            for _, chunk in self.response.read_events(data):
                if chunk is not None:
                    self.ready.append(chunk)
            if data is None or self.response.is_over:
                self._is_over = True
                await self._drain()
        return self.ready.popleft()

    async def close(self) -> None:
        """Drop the connection if the response is still under way. Never fails."""
        with suppress(Exception):  # The answer is not wanted any more, nor is how that fails.
            await self._http.close()

    async def _drain(self) -> None:
        # A connection whose reply was not read to its end cannot be used again; how that fails concerns nobody.
        with suppress(Exception):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S if self.response.is_whole else 0):
                async for _ in self._reads:
                    pass
        await self.close()


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for data in nothing:
        yield data
