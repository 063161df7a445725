"""One attempt that litellm sends, and reads too for who listens there, or where it reshapes the reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import litellm

from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.finishes import read_finish
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.response import as_stream_fault, request_id_in
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import (
    FINISHES,
    REFUSED_FINISH,
    Chunk,
    Fault,
    Provenance,
    Reply,
    StreamEnd,
    Unsupported,
)
from llm_fallback.litellm_adapter import wire_tap
from llm_fallback.litellm_adapter.clients import ClientPool, client_for, is_tapped, sends_by_httpx
from llm_fallback.litellm_adapter.errors import classes_of, fault_before_sending, fault_of_litellm, fault_of_transfer
from llm_fallback.litellm_adapter.litellm_requests import asks_for_a_stream, reader_for_sent
from llm_fallback.litellm_adapter.logins import tokens_in
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.litellm_adapter.quiet import has_side_effects, quiet_logging, rewrites_replies
from llm_fallback.litellm_adapter.reading import HTTPReading, HttpxResponse
from llm_fallback.litellm_adapter.redirects import guarding
from llm_fallback.litellm_adapter.request import DeploymentRequest, NotEncodable, guarded, overriding_headers
from llm_fallback.litellm_adapter.wire_tap import WireTap

_NOTHING = object()
"""A chunk of litellm's in which nothing of the reply stands."""


class LiteLLMExchange:
    """One request to one deployment through `litellm.acompletion`."""

    def __init__(self, clients: ClientPool, clean: FaultCleaner, wanted: DeploymentRequest) -> None:
        self._clients, self._clean, self._wanted = clients, clean, wanted
        protocol = provider_called(wanted.target.litellm_provider).protocol
        self._wire = WireTap(protocol.reader_for(wanted.target), wanted.invented_headers, streamed=wanted.streamed)
        self._reader = OpenAIReader(wanted.target.finish_reasons)
        self._reader.signer = wanted.target.signer
        self._redirects = wanted.redirects()
        self._stream: Any = None
        self._refused = self._usage_told = self._is_open = False
        self._is_heard = has_side_effects()
        self._may_read_beside = self._is_heard and not rewrites_replies()
        self._wire.keeps = self._may_read_beside and wanted.streamed
        self._reads_beside = self._litellm_is_done = False
        self._reading: HTTPReading | None = None

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self._wanted.dropped_params

    @property
    def provenance(self) -> Provenance:
        if self._reading is not None:
            return self._reading.response.provenance
        if self._wire.is_readable:
            return self._wire.provenance
        http, reader = self._redirects.response, self._reader
        request_id = None if http is None else request_id_in(http.headers)
        return Provenance(request_id, reader.reply_id, reader.system_fingerprint)

    async def reply(self) -> Reply | Fault | Unsupported:
        answer = await self._guarded(self._send)
        if isinstance(answer, Unsupported):
            return answer
        reading = self._take_over()
        if reading is not None:
            reply: Reply | Fault = await guarded(reading.reply, self._fault)
            return reply
        if isinstance(answer, Fault):
            return answer
        reply = await self._guarded(partial(self._read, answer))
        return self._clean(self._wire.fault() or reply) if isinstance(reply, Fault) else reply

    async def next(self) -> Chunk | StreamEnd | Fault | Unsupported:
        if not self._is_open:
            refusal = await self._open()
            if refusal is not None:
                return refusal
        if self._reading is not None:
            return await self._next_read(self._reading)
        return await (self._next_beside_litellm() if self._reads_beside else self._next_of_litellm())

    async def _open(self) -> Fault | Unsupported | None:
        """Have litellm send the request; what refuses it, if something does."""
        answer = await self._guarded(self._send)
        if isinstance(answer, Unsupported):
            return answer
        self._is_open = True
        reading = self._take_over()
        if reading is not None:
            fault: Fault | None = await guarded(reading.fault, self._fault)
            return None if fault is None else as_stream_fault(fault, content_came=False)
        if isinstance(answer, Fault):
            return answer
        self._stream = answer
        self._read_beside()
        return None

    def _read_beside(self) -> bool:
        """Read what the server sends beside litellm, which reads it for those who listen there: where its protocol is
        known, and nobody there puts another reply in its place."""
        http, wire = self._redirects.response, self._wire
        if not self._may_read_beside or http is None or self._redirects.refused is not None:
            return False
        reader = reader_for_sent(_asked(http), self._wanted) if asks_for_a_stream(_asked(http)) else None
        if reader is None or (http.is_stream_consumed and not wire.sent):
            return False
        if not wire.sent:
            wire = self._wire = WireTap(reader, (), streamed=True)
            wire.sent = wire.keeps = wire.as_it_came = True
            wire.listen(http)
        self._reads_beside = True
        return True

    async def _next_beside_litellm(self) -> Chunk | StreamEnd | Fault:
        wire = self._wire
        while not wire.ready:
            if not self._litellm_is_done:
                heard = await self._guarded(partial(anext, self._stream, None))
                self._litellm_is_done = heard is None or isinstance(heard, Fault)
                continue
            fault = None if wire.is_read else await self._guarded(wire.pull)
            if isinstance(fault, Fault):
                return as_stream_fault(fault, content_came=wire.reader.content_came)
            if wire.is_read and not wire.ready:
                end = wire.end()
                return self._clean(end) if isinstance(end, Fault) else end
        return wire.ready.popleft()

    async def _next_read(self, reading: HTTPReading) -> Chunk | StreamEnd | Fault:
        item: Chunk | StreamEnd | Fault = await guarded(reading.next, self._fault)
        if isinstance(item, Fault):
            return as_stream_fault(item, content_came=reading.content_came)
        return item

    async def _next_of_litellm(self) -> Chunk | StreamEnd | Fault:
        while True:
            chunk = await self._guarded(self._next_chunk)
            if self._wire.sent and self._read_beside():  # Of a request that is sent for the first chunk.
                self._litellm_is_done = chunk is None or isinstance(chunk, Fault)
                return await self._next_beside_litellm()
            if isinstance(chunk, Fault):
                return as_stream_fault(chunk, content_came=self._reader.content_came)
            if chunk is _NOTHING:
                continue
            return self._end() if chunk is None else chunk

    def _take_over(self) -> HTTPReading | None:
        """The reading of the response, past what litellm makes of it, where nobody listens there and its protocol is
        known. Of what litellm has begun to read already, it reads the rest."""
        http, wanted = self._redirects.response, self._wanted
        if self._is_heard and (wanted.streamed or not self._may_read_beside):
            return None
        if http is None or self._redirects.refused is not None:
            return None
        if wanted.streamed and not (asks_for_a_stream(_asked(http)) and not http.is_stream_consumed):
            return None
        reader = reader_for_sent(_asked(http), wanted)
        if reader is not None:
            wire_tap.untap(http)
            self._reading = HTTPReading(HttpxResponse(http), reader, self._clean, streamed=wanted.streamed)
        return self._reading

    async def close(self) -> None:
        response, stream, self._stream = self._redirects.response, self._stream, None
        with suppress(Exception):  # The answer is not wanted any more, nor is how that fails.
            if response is not None:
                await response.aclose()
            if stream is not None:
                await stream.aclose()
            await self._wire.close()

    # Asking.

    async def _guarded(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        token = wire_tap.current.set(self._wire)
        try:
            with quiet_logging(), guarding(self._redirects):
                answer = await guarded(ask, self._fault)
        finally:
            wire_tap.current.reset(token)
        lacking = self._redirects.left_out
        return Unsupported(lacking) if lacking else answer

    async def _send(self) -> Any:
        while True:
            try:
                return await self._ask_litellm()
            except litellm.UnsupportedParamsError as error:
                refusal = self._wanted.refused(error)
            if refusal is not None:
                return refusal

    async def _ask_litellm(self) -> Any:
        target, parameters = self._wanted.target, self._wanted.parameters()
        self._wire.extra_headers = overriding_headers(parameters)
        if is_tapped(target):
            handler = (await self._clients.client()).handler
            parameters["client"] = client_for(handler, target, parameters.get("api_key", ""))
        try:
            answer = await litellm.acompletion(**parameters)
        finally:
            self._note_tokens()
        make_call = getattr(answer, "make_call", None)
        if make_call is not None and not self._is_heard:
            # Of Gemini's streams the request is sent for the first chunk, and litellm has begun to read by then.
            answer.completion_stream = await make_call(client=parameters.get("client"))
        return answer

    def _note_tokens(self) -> None:
        """Have the tokens that litellm asked for struck out of what its server says."""
        http = self._redirects.response
        if http is not None and not self._wanted.invented_headers:
            self._clean.add(*tokens_in(_asked(http).headers))

    # Reading: litellm's own documents are in OpenAI's form, and read like a server's.

    async def _read(self, answer: Any) -> Reply | Fault:
        document, said = answer.model_dump(), await self._server_reply()
        if isinstance(said, Fault):
            return said
        if said is not None:
            _tell_what_the_server_said(document, said)
            return self._reader.read_reply(document)
        for choice in document["choices"]:
            # litellm has a finish for every word and for none, and keeps the server's own beside it.
            native = (choice.get("provider_specific_fields") or {}).get("native_finish_reason")
            choice["finish_reason"] = native or choice.get("finish_reason")
        return self._reader.read_reply(document)

    async def _server_reply(self) -> Reply | Fault | None:
        """The plain reply as the server sent it; None where only litellm's account of it is there."""
        if self._wire.is_readable:
            return self._wire.plain_reply()
        http = self._redirects.response
        reader = None if http is None else reader_for_sent(_asked(http), self._wanted)
        return (
            None
            if reader is None
            else await HTTPReading(HttpxResponse(http), reader, self._clean, streamed=False).reply()
        )

    async def _next_chunk(self) -> Any:
        document = (await anext(self._stream)).model_dump()
        for choice in document["choices"]:
            if choice.get("finish_reason") == REFUSED_FINISH:
                # litellm makes this of many words, and never of none; of Gemini's it does not tell that it received it.
                self._refused = True
            if self._finish() not in FINISHES:
                choice["finish_reason"] = None  # It is litellm's invention.
        return self._reader.read_event(document) or _NOTHING

    def _finish(self) -> str | None:
        """The finish reason the server itself gave."""
        if self._wire.is_readable:
            return self._wire.reader.finish
        if self._refused:
            return REFUSED_FINISH
        return read_finish(getattr(self._stream, "received_finish_reason", None), self._reader.finish_words)

    def _end(self) -> Chunk | StreamEnd | Fault:
        if self._wire.is_readable:
            # Where the server did not count, litellm counts, and would have us bill what nobody did.
            end = self._wire.end()
            return self._clean(end) if isinstance(end, Fault) else end
        usage = None if self._usage_told else self._reader.usage_chunk()
        self._usage_told = True
        return usage or StreamEnd(self._finish())

    # Faults.

    def _fault(self, error: Exception) -> Fault:
        if isinstance(error, Unreadable):
            return self._clean(Fault("invalid_response", str(error), self._wire.status or 200), error)
        self._note_tokens()
        classes = classes_of(error)
        if self._reading is not None:
            return self._clean(fault_of_transfer(error, classes, self._reading.response.status), error)
        fault = self._redirects.refusal(error) or self._wire.fault()
        if fault is not None:
            return self._clean(fault, error)
        if self._wire.is_readable:
            status = self._wire.status
            return self._clean(fault_of_transfer(error, classes, status), error)
        is_seen_to_send = sends_by_httpx(self._wanted.target) or isinstance(error, NotEncodable)
        if is_seen_to_send and not self._redirects.sent:
            return self._clean(fault_before_sending(error, self._wanted.messages), error)
        return self._clean(fault_of_litellm(error, classes), error)


def _asked(http: Any) -> Any:
    """The request that litellm made, which tells what was asked: after a redirect the response has another, whose
    address may be any and whose body is read no more."""
    return http.history[0].request if http.history else http.request


def _tell_what_the_server_said(document: dict[str, Any], said: Reply) -> None:
    """Put the server's finish and usage in place of what litellm makes of them, or up."""
    for choice, own in zip(document["choices"], said.raw["choices"], strict=False):
        choice["finish_reason"] = own["finish_reason"]
    document["choices"][0]["finish_reason"] = said.finish
    document["usage"] = said.raw["usage"]
