"""One attempt of which litellm only translates the request; it is sent, and its reply read, here."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx

from llm_fallback.engine.protocol.chunks import ChunkReader
from llm_fallback.engine.protocol.faults import LEAST_ERROR, FaultCleaner, fault_of_response
from llm_fallback.engine.protocol.sse import SSEParser, as_stream_fault
from llm_fallback.engine.transport import Chunk, Fault, Reply, StreamEnd
from llm_fallback.litellm_adapter.clients import SOCKET_TIMEOUT_S, ClientPool
from llm_fallback.litellm_adapter.errors import classes_of, fault_of_transfer
from llm_fallback.litellm_adapter.redirects import Redirects, guarding
from llm_fallback.litellm_adapter.replies import reply_of
from llm_fallback.litellm_adapter.request import DeploymentRequest, guarded
from llm_fallback.litellm_adapter.translation import HTTPRequest
from llm_fallback.litellm_adapter.wire_tap import WireTap

_DRAIN_TIMEOUT_S = 0.05
"""How long the end of a connection's reply is waited for after the server said [DONE], so that it can be used again."""


class DirectExchange:
    """One request to one deployment, past litellm on the way there and back."""

    def __init__(
        self, clients: ClientPool, clean: FaultCleaner, wanted: DeploymentRequest, translated: HTTPRequest
    ) -> None:
        self._clients, self._clean, self._wanted, self._request = clients, clean, wanted, translated
        self._wire = WireTap(streamed=wanted.streamed)
        self._redirects = Redirects()
        self._ready: deque[Chunk] = deque()
        self._parser = SSEParser(self._wire, self._take)
        self._reader = ChunkReader()
        self._reads: AsyncIterator[bytes] | None = None
        self._over = False

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self._wanted.dropped_params

    async def reply(self) -> Reply | Fault:
        reply: Reply | Fault = await guarded(self._whole, self._fault)
        return reply

    async def next(self) -> Chunk | StreamEnd | Fault:
        while not self._ready:
            if self._over:
                return self._end()
            fault = await guarded(self._listen, self._fault)
            if isinstance(fault, Fault):
                return as_stream_fault(fault, content_came=self._reader.content_came)
        return self._ready.popleft()

    def with_text(self, chunk: Chunk, text: str) -> Chunk:
        return self._reader.with_text(chunk, text)

    async def close(self) -> None:
        if self._wire.response is not None:
            with suppress(Exception):  # The answer is not wanted any more, nor is how that fails.
                await self._wire.response.aclose()

    # Sending.

    async def _send(self) -> httpx.Response | Fault:
        """The response; a Fault for one that carries an HTTP error."""
        client: httpx.AsyncClient = (await self._clients.client()).client
        request = self._request
        self._wire.sent = True
        ready = client.build_request(
            "POST",
            request.url,
            content=request.body,
            headers=self._headers(),
            params=request.query,
            timeout=SOCKET_TIMEOUT_S,
        )
        with guarding(self._redirects):
            response = await client.send(ready, stream=True)
        self._wire.begin(response)
        if response.status_code < LEAST_ERROR:
            return response
        return self._clean(fault_of_response(response.status_code, response.headers, await response.aread()))

    def _headers(self) -> dict[str, str]:
        keyless = self._wanted.keyless
        return {name: text for name, text in self._request.headers.items() if not (keyless and name == "Authorization")}

    # Reading.

    async def _whole(self) -> Reply | Fault:
        response = await self._send()
        if isinstance(response, Fault):
            return response
        reply = reply_of(json.loads(await response.aread()))
        return self._clean(reply) if isinstance(reply, Fault) else reply

    async def _listen(self) -> Fault | None:
        """Take in one read; the first brings the response."""
        if self._reads is None:
            response = await self._send()
            if isinstance(response, Fault):
                return response
            self._reads = response.aiter_bytes()
        data = await anext(self._reads, None)
        if data is None:
            self._parser.end()
        if data is None or len(self._parser.feed(data)) < len(data) or self._wire.saw_done:
            self._over = True
            await self._drain(self._reads)
        return None

    def _take(self, frame: dict[str, Any]) -> None:
        chunk = self._reader.read(frame)
        if chunk is not None:
            self._ready.append(chunk)

    async def _drain(self, reads: AsyncIterator[bytes]) -> None:
        # A connection whose reply was not read to its end cannot be used again; how that fails concerns nobody.
        with suppress(Exception):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S if self._wire.saw_done else 0):
                async for _ in reads:
                    pass
        await self.close()

    def _end(self) -> Chunk | StreamEnd | Fault:
        usage = None if self._wire.fault_seen else self._reader.usage(self._wire.usage)
        if usage is not None:
            return usage
        end = self._wire.end(content_came=self._reader.content_came)
        return self._clean(end) if isinstance(end, Fault) else end

    def _fault(self, error: Exception) -> Fault:
        refused = self._redirects.refused
        fault = refused or fault_of_transfer(error, classes_of(error), self._wire.status)
        return self._clean(fault, error)
