"""One attempt of which litellm only translates the request; it is sent, and its reply read, here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx

from llm_fallback.engine.protocol.faults import FaultCleaner, fault_of_response
from llm_fallback.engine.protocol.response import Response, as_stream_fault
from llm_fallback.engine.transport import Chunk, Fault, Reply, StreamEnd
from llm_fallback.litellm_adapter.clients import SOCKET_TIMEOUT_S, ClientPool
from llm_fallback.litellm_adapter.errors import classes_of, fault_of_transfer
from llm_fallback.litellm_adapter.families import reader_for
from llm_fallback.litellm_adapter.redirects import Redirects, guarding
from llm_fallback.litellm_adapter.request import DeploymentRequest, guarded
from llm_fallback.litellm_adapter.translation import HTTPRequest

_DRAIN_TIMEOUT_S = 0.05
"""How long the end of a connection's reply is waited for after the server said [DONE], so that it can be used again."""


class DirectExchange:
    """One request to one deployment, past litellm on the way there and back."""

    def __init__(
        self, clients: ClientPool, clean: FaultCleaner, wanted: DeploymentRequest, translated: HTTPRequest
    ) -> None:
        self._clients, self._clean, self._wanted, self._request = clients, clean, wanted, translated
        self._response = Response(reader_for(wanted.target), streamed=wanted.streamed)
        self._http: httpx.Response | None = None
        self._redirects = Redirects()
        self._ready: deque[Chunk] = deque()
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
                return as_stream_fault(fault, content_came=self._response.reader.content_came)
        return self._ready.popleft()

    async def close(self) -> None:
        if self._http is not None:
            with suppress(Exception):  # The answer is not wanted any more, nor is how that fails.
                await self._http.aclose()

    # Sending.

    async def _send(self) -> httpx.Response | Fault:
        """The response; a Fault for one that carries an HTTP error."""
        client: httpx.AsyncClient = (await self._clients.client()).client
        request = self._request
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
        self._http = response
        self._response.begin(response.status_code, response.headers)
        if not self._response.is_error:
            return response
        return self._clean(fault_of_response(response.status_code, response.headers, await response.aread()))

    def _headers(self) -> dict[str, str]:
        invented = self._wanted.invented_headers
        return {name: text for name, text in self._request.headers.items() if name.lower() not in invented}

    # Reading.

    async def _whole(self) -> Reply | Fault:
        response = await self._send()
        if isinstance(response, Fault):
            return response
        reply = self._response.reply(await response.aread())
        return self._clean(reply) if isinstance(reply, Fault) else reply

    async def _listen(self) -> Fault | None:
        """Take in one read; the first brings the response."""
        if self._reads is None:
            response = await self._send()
            if isinstance(response, Fault):
                return response
            self._reads = response.aiter_bytes()
        data = await anext(self._reads, None)
        self._ready += self._response.feed(data)
        if data is None or self._response.is_over:
            self._over = True
            await self._drain(self._reads)
        return None

    async def _drain(self, reads: AsyncIterator[bytes]) -> None:
        # A connection whose reply was not read to its end cannot be used again; how that fails concerns nobody.
        with suppress(Exception):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S if self._response.is_whole else 0):
                async for _ in reads:
                    pass
        await self.close()

    def _end(self) -> Chunk | StreamEnd | Fault:
        end = self._response.end()
        return self._clean(end) if isinstance(end, Fault) else end

    def _fault(self, error: Exception) -> Fault:
        refused = self._redirects.refused
        fault = refused or fault_of_transfer(error, classes_of(error), self._response.status)
        return self._clean(fault, error)
