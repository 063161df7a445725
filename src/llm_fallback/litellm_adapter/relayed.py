"""One attempt that litellm sends, and reads too for who listens there, or where it reshapes the reply.

Which reading its response gets: `reading.HTTPReading` of the response itself, past litellm; `ReadingBeside` of what the
server sends, while litellm reads for those who listen there; `LiteLLMReading` of what litellm makes of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import litellm

from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.response import as_stream_fault, request_id_in
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import Chunk, Fault, Provenance, Reply, StreamEnd, Unsupported
from llm_fallback.litellm_adapter import wire_tap
from llm_fallback.litellm_adapter.clients import ClientPool, client_for, is_tapped, sends_by_httpx
from llm_fallback.litellm_adapter.errors import classes_of, fault_before_sending, fault_of_litellm, fault_of_transfer
from llm_fallback.litellm_adapter.litellm_reading import LiteLLMReading
from llm_fallback.litellm_adapter.litellm_requests import asks_for_a_stream, reader_for_sent
from llm_fallback.litellm_adapter.logins import tokens_in
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.litellm_adapter.quiet import has_side_effects, quiet_logging, rewrites_replies
from llm_fallback.litellm_adapter.reading import HTTPReading, HttpxResponse
from llm_fallback.litellm_adapter.reading_beside import ReadingBeside
from llm_fallback.litellm_adapter.request import DeploymentRequest, NotEncodable, guarded, overriding_headers
from llm_fallback.litellm_adapter.request_guard import guarding
from llm_fallback.litellm_adapter.wire_tap import WireTap


class LiteLLMExchange:
    """One request to one deployment through `litellm.acompletion`."""

    def __init__(self, clients: ClientPool, clean: FaultCleaner, wanted: DeploymentRequest) -> None:
        self._clients, self._clean, self._wanted = clients, clean, wanted
        protocol = provider_called(wanted.target.litellm_provider).protocol
        self._wire = WireTap(protocol.reader_for(wanted.target), streamed=wanted.streamed)
        self._guard = wanted.guard()
        self._is_heard = has_side_effects()
        self._may_read_beside = self._is_heard and not rewrites_replies()
        self._wire.keeps = self._may_read_beside and wanted.streamed
        self._answer: Any = None
        self._reading: HTTPReading | ReadingBeside | LiteLLMReading | None = None

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self._wanted.dropped_params

    @property
    def provenance(self) -> Provenance:
        reading, http = self._reading, self._guard.response
        if isinstance(reading, HTTPReading):
            return reading.response.provenance
        if self._wire.is_readable:
            return self._wire.provenance
        request_id = None if http is None else request_id_in(http.headers)
        return reading.provenance(request_id) if isinstance(reading, LiteLLMReading) else Provenance(request_id)

    async def reply(self) -> Reply | Fault | Unsupported:
        answer = await self._guarded(self._send)
        if isinstance(answer, Unsupported):
            return answer
        response = self._take_over()
        if response is not None:
            reply: Reply | Fault = await guarded(response.reply, self._fault)
            return reply
        if isinstance(answer, Fault):
            return answer
        self._reading = reading = LiteLLMReading(answer, self._wanted.target, self._wire, self._clean)
        reply = await self._guarded(partial(self._read, reading))
        return self._clean(self._wire.fault() or reply) if isinstance(reply, Fault) else reply

    async def next(self) -> Chunk | StreamEnd | Fault | Unsupported:
        if self._reading is None:
            refusal = await self._open()
            if refusal is not None:
                return refusal
        item: Chunk | StreamEnd | Fault | Unsupported | None = None
        while item is None:
            item = await self._next_of(self._reading)
        return item

    async def _next_of(self, reading: Any) -> Chunk | StreamEnd | Fault | Unsupported | None:
        """What comes next; None where nothing of the reply came, or another reading goes on in the place of this."""
        if isinstance(reading, HTTPReading):
            item: Chunk | StreamEnd | Fault | Unsupported | None = await guarded(reading.next, self._fault)
        else:
            item = await self._guarded(reading.next)
            # Some requests are sent for the first chunk.
            if isinstance(reading, LiteLLMReading) and self._wire.sent and self._read_beside(reading.is_over):
                return None
        return as_stream_fault(item, content_came=reading.content_came) if isinstance(item, Fault) else item

    async def _open(self) -> Fault | Unsupported | None:
        """Have litellm send the request; what refuses it, if something does."""
        answer = await self._guarded(self._send)
        if isinstance(answer, Unsupported):
            return answer
        response = self._take_over()
        if response is not None:
            fault: Fault | None = await guarded(response.fault, self._fault)
            return None if fault is None else as_stream_fault(fault, content_came=False)
        if isinstance(answer, Fault):
            return answer
        self._answer = answer
        self._reading = LiteLLMReading(answer, self._wanted.target, self._wire, self._clean)
        self._read_beside(is_heard=False)
        return None

    # How the response is read.

    def _take_over(self) -> HTTPReading | None:
        """The reading of the response, past what litellm makes of it, where nobody listens there and its protocol is
        known. Of what litellm has begun to read already, it reads the rest."""
        http, wanted = self._guard.response, self._wanted
        if self._is_heard and (wanted.streamed or not self._may_read_beside):
            return None
        if http is None or self._guard.refused is not None:
            return None
        if wanted.streamed and not (asks_for_a_stream(_asked(http)) and not http.is_stream_consumed):
            return None
        reader = reader_for_sent(_asked(http), wanted)
        if reader is None:
            return None
        wire_tap.untap(http)
        self._reading = reading = HTTPReading(HttpxResponse(http), reader, self._clean, streamed=wanted.streamed)
        return reading

    def _read_beside(self, is_heard: bool) -> bool:
        """Read what the server sends beside litellm, which reads it for those who listen there: where its protocol is
        known, and nobody there puts another reply in its place."""
        http, wire = self._guard.response, self._wire
        if not self._may_read_beside or http is None or self._guard.refused is not None:
            return False
        reader = reader_for_sent(_asked(http), self._wanted) if asks_for_a_stream(_asked(http)) else None
        if reader is None or (http.is_stream_consumed and not wire.sent):
            return False
        if not wire.sent:
            wire = self._wire = WireTap(reader, streamed=True)
            wire.sent = wire.keeps = wire.as_it_came = True
            wire.listen(http)
        self._note_tokens()
        self._reading = ReadingBeside(wire, self._answer, self._clean, is_heard=is_heard)
        return True

    async def _read(self, reading: LiteLLMReading) -> Reply | Fault:
        said = await self._server_reply()
        return said if isinstance(said, Fault) else reading.reply(said)

    async def _server_reply(self) -> Reply | Fault | None:
        """The plain reply as the server sent it; None where only litellm's account of it is there."""
        if self._wire.is_readable:
            return self._wire.plain_reply()
        http = self._guard.response
        reader = None if http is None else reader_for_sent(_asked(http), self._wanted)
        if reader is None:
            return None
        return await HTTPReading(HttpxResponse(http), reader, self._clean, streamed=False).reply()

    async def close(self) -> None:
        response, stream, self._answer = self._guard.response, self._answer, None
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
            with quiet_logging(), guarding(self._guard):
                answer = await guarded(ask, self._fault)
        finally:
            wire_tap.current.reset(token)
        lacking = self._guard.left_out
        return Unsupported(lacking) if lacking else answer

    async def _send(self) -> Any:
        while True:
            try:
                return await self._ask_litellm()
            except litellm.UnsupportedParamsError as error:
                refusal = self._wanted.refused(error)
            finally:
                self._note_tokens()
            if refusal is not None:
                return refusal

    async def _ask_litellm(self) -> Any:
        target, parameters = self._wanted.target, self._wanted.parameters()
        self._guard.extra_headers = overriding_headers(parameters)
        if is_tapped(target):
            handler = (await self._clients.client()).handler
            parameters["client"] = client_for(handler, target, parameters.get("api_key", ""))
        answer = await litellm.acompletion(**parameters)
        make_call = getattr(answer, "make_call", None)
        if make_call is not None and not self._is_heard:
            # Of Gemini's streams the request is sent for the first chunk, and litellm has begun to read by then.
            answer.completion_stream = await make_call(client=parameters.get("client"))
        return answer

    def _note_tokens(self) -> None:
        """Have the tokens that litellm asked for struck out of what its server says."""
        http = self._guard.response
        if http is not None and not self._wanted.invented_headers:
            self._clean.add(*tokens_in(_asked(http).headers))

    # Faults.

    def _fault(self, error: Exception) -> Fault:
        if isinstance(error, Unreadable):
            return self._clean(Fault("invalid_response", str(error), self._wire.status or 200), error)
        self._note_tokens()
        classes = classes_of(error)
        if isinstance(self._reading, HTTPReading):
            return self._clean(fault_of_transfer(error, classes, self._reading.response.status), error)
        fault = self._guard.refusal(error) or self._wire.fault()
        if fault is not None:
            return self._clean(fault, error)
        if self._wire.is_readable:
            status = self._wire.status
            return self._clean(fault_of_transfer(error, classes, status), error)
        is_seen_to_send = sends_by_httpx(self._wanted.target) or isinstance(error, NotEncodable)
        if is_seen_to_send and not self._guard.sent:
            return self._clean(fault_before_sending(error, self._wanted.messages), error)
        return self._clean(fault_of_litellm(error, classes), error)


def _asked(http: Any) -> Any:
    """The request that litellm made, which tells what was asked: after a redirect the response has another, whose
    address may be any and whose body is read no more."""
    return http.history[0].request if http.history else http.request
