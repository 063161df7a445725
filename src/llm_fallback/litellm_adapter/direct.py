"""One attempt of which litellm only writes the request; it is sent, and its reply read, here."""

from __future__ import annotations

from collections.abc import Callable

import litellm

from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.response import as_stream_fault
from llm_fallback.engine.transport import (
    NO_PROVENANCE,
    Chunk,
    Exchange,
    Fault,
    Provenance,
    Reply,
    StreamEnd,
    Unsupported,
)
from llm_fallback.litellm_adapter.clients import ClientPool
from llm_fallback.litellm_adapter.errors import classes_of, fault_before_sending, fault_of_transfer
from llm_fallback.litellm_adapter.logins import Login, tokens_in
from llm_fallback.litellm_adapter.protocols import TranslatedRequest
from llm_fallback.litellm_adapter.reading import HTTPReading
from llm_fallback.litellm_adapter.request import DeploymentRequest, guarded
from llm_fallback.litellm_adapter.request_guard import RequestGuard
from llm_fallback.litellm_adapter.templates import DeploymentMemory
from llm_fallback.litellm_adapter.translation import LeftToLiteLLM, NotTranslated, translate


class DirectExchange:
    """One request to one deployment, past litellm on the way there and back."""

    def __init__(
        self,
        clients: ClientPool,
        clean: FaultCleaner,
        wanted: DeploymentRequest,
        translated: TranslatedRequest,
        login: Login | None = None,
    ) -> None:
        """`login` is to be put on the request before it is sent."""
        self._clients, self._clean, self._wanted, self._request = clients, clean, wanted, translated
        self._login, self._is_ready = login, login is None
        self.dropped_params = wanted.dropped_params
        self._guard = RequestGuard(wanted.target.most_reply_bytes)
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
        client, wanted = await self._clients.client(), self._wanted
        if self._login is not None:
            self._request, self._is_ready = await self._login.put_on(self._request), True
            self._clean.add(*tokens_in(self._request.headers))
        verify = wanted.target.parameters.get("ssl_verify")
        http = await client.http.send(self._request, self._guard, ssl_verify=verify)
        reader = self._request.protocol.reader_for(wanted.target)
        self._reading = HTTPReading(http, reader, self._clean, streamed=wanted.streamed)
        return self._reading

    def _fault(self, error: Exception) -> Fault:
        if not self._is_ready:
            return self._clean(Fault("auth", fault_before_sending(error, self._wanted.messages).message), error)
        status = None if self._reading is None else self._reading.response.status
        fault = self._guard.refused or fault_of_transfer(error, classes_of(error), status)
        return self._clean(fault, error)


class TranslatedExchange:
    """One attempt for which litellm is asked first what it would send: it is a `DirectExchange` then, or what
    `ask_whole` makes where only litellm whole can serve it."""

    def __init__(
        self,
        clients: ClientPool,
        clean: FaultCleaner,
        wanted: DeploymentRequest,
        memory: DeploymentMemory,
        ask_whole: Callable[[], Exchange],
    ) -> None:
        self._clients, self._clean, self._wanted, self._memory = clients, clean, wanted, memory
        self._ask_whole = ask_whole
        self._guard = wanted.guard()
        self._exchange: Exchange | None = None

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self._wanted.dropped_params

    @property
    def provenance(self) -> Provenance:
        return NO_PROVENANCE if self._exchange is None else self._exchange.provenance

    async def reply(self) -> Reply | Fault | Unsupported:
        chosen = await self._chosen()
        return chosen if isinstance(chosen, (Fault, Unsupported)) else await chosen.reply()

    async def next(self) -> Chunk | StreamEnd | Fault | Unsupported:
        if self._exchange is None:
            chosen = await self._chosen()
            if isinstance(chosen, (Fault, Unsupported)):
                return chosen
            return await chosen.next()
        return await self._exchange.next()

    async def close(self) -> None:
        if self._exchange is not None:
            await self._exchange.close()

    async def _chosen(self) -> Exchange | Fault | Unsupported:
        chosen: Exchange | Fault | Unsupported = await guarded(self._choose, self._fault)
        if self._guard.left_out:
            return Unsupported(self._guard.left_out)
        if not isinstance(chosen, (Fault, Unsupported)):
            self._exchange = chosen
        return chosen

    async def _choose(self) -> Exchange | Unsupported:
        handler = (await self._clients.client()).handler
        while True:
            try:
                request = await translate(self._wanted, self._guard, handler)
            except litellm.UnsupportedParamsError as error:
                refusal = self._wanted.refused(error)
                if refusal is not None:
                    return refusal
                continue
            except LeftToLiteLLM:
                return self._ask_whole()
            except NotTranslated as why:
                self._memory.leave_to_litellm(self._wanted.target, why)
                return self._ask_whole()
            self._clean.add(*tokens_in(request.headers))
            self._memory.templates.learn(self._wanted, request)
            return DirectExchange(self._clients, self._clean, self._wanted, request)

    def _fault(self, error: Exception) -> Fault:
        fault = self._guard.refusal(error) or fault_before_sending(error, self._wanted.messages)
        return self._clean(fault, error)
