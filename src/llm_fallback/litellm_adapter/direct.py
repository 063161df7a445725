"""One attempt of which litellm only translates the request; it is sent, and its reply read, here."""

from __future__ import annotations

import httpx

from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.response import as_stream_fault
from llm_fallback.engine.transport import NO_PROVENANCE, Chunk, Fault, Provenance, Reply, StreamEnd
from llm_fallback.litellm_adapter import redirects
from llm_fallback.litellm_adapter.clients import SOCKET_TIMEOUT_S, ClientPool
from llm_fallback.litellm_adapter.errors import classes_of, fault_of_transfer
from llm_fallback.litellm_adapter.families import reader_for
from llm_fallback.litellm_adapter.reading import HTTPReading
from llm_fallback.litellm_adapter.redirects import Redirects
from llm_fallback.litellm_adapter.request import DeploymentRequest, guarded
from llm_fallback.litellm_adapter.translation import HTTPRequest


class DirectExchange:
    """One request to one deployment, past litellm on the way there and back."""

    def __init__(
        self, clients: ClientPool, clean: FaultCleaner, wanted: DeploymentRequest, translated: HTTPRequest
    ) -> None:
        self._clients, self._clean, self._wanted, self._request = clients, clean, wanted, translated
        self.dropped_params = wanted.dropped_params
        self._redirects = Redirects(wanted.target.most_reply_bytes)
        self._reading: HTTPReading | None = None

    @property
    def provenance(self) -> Provenance:
        return NO_PROVENANCE if self._reading is None else self._reading.response.provenance

    async def reply(self) -> Reply | Fault:
        reply: Reply | Fault = await guarded(self._whole, self._fault)
        return reply

    async def next(self) -> Chunk | StreamEnd | Fault:
        if self._reading is None:
            fault = await guarded(self._open, self._fault)
            if fault is not None:
                return as_stream_fault(fault, content_came=False)
        assert self._reading is not None
        if self._reading.ready:
            return self._reading.ready.popleft()
        item: Chunk | StreamEnd | Fault = await guarded(self._reading.next, self._fault)
        if isinstance(item, Fault):
            return as_stream_fault(item, content_came=self._reading.content_came)
        return item

    async def close(self) -> None:
        if self._reading is not None:
            await self._reading.close()

    async def _whole(self) -> Reply | Fault:
        return await (await self._send()).reply()

    async def _open(self) -> Fault | None:
        return await (await self._send()).fault()

    async def _send(self) -> HTTPReading:
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
        token = redirects.current.set(self._redirects)  # As `guarding` does, in fewer steps.
        try:
            http = await client.send(ready, stream=True)
        finally:
            redirects.current.reset(token)
        wanted = self._wanted
        self._reading = HTTPReading(http, reader_for(wanted.target), self._clean, streamed=wanted.streamed)
        return self._reading

    def _headers(self) -> dict[str, str]:
        invented = self._wanted.invented_headers
        return {name: text for name, text in self._request.headers.items() if name.lower() not in invented}

    def _fault(self, error: Exception) -> Fault:
        status = None if self._reading is None else self._reading.response.status
        fault = self._redirects.refused or fault_of_transfer(error, classes_of(error), status)
        return self._clean(fault, error)
