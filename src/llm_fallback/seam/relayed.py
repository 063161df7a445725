"""One attempt that goes through litellm whole, because somebody listens to it there or its protocol is litellm's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import litellm

from llm_fallback.exchange import REFUSED_FINISH, UNFINISHED, End, Piece, Reply, Unsupported
from llm_fallback.faults import Fault
from llm_fallback.protocol import broken
from llm_fallback.readings import text_of, usage_of
from llm_fallback.seam import wire as wires
from llm_fallback.seam.asking import Asking, guarded
from llm_fallback.seam.clients import client_for, is_tapped
from llm_fallback.seam.headers import own_headers
from llm_fallback.seam.quiet import quiet_logging
from llm_fallback.seam.readings import finish_of, reply_of_litellm, tool_calls_of
from llm_fallback.seam.redirects import Redirects, guarding
from llm_fallback.seam.upstream import classes_of, fault_of_litellm, fault_of_transfer
from llm_fallback.seam.wire import Wire

if TYPE_CHECKING:
    from llm_fallback.seam.transport import LiteLLMTransport


class RelayedExchange:
    """One request to one deployment through `litellm.acompletion`."""

    def __init__(self, transport: LiteLLMTransport, asking: Asking) -> None:
        self._transport, self._asking = transport, asking
        self._wire = Wire(streamed=asking.streamed, keyless=asking.keyless)
        self._redirects = Redirects()
        self._stream: Any = None
        self._content_came = self._refused = False

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self._asking.dropped_params

    async def reply(self) -> Reply | Fault | Unsupported:
        answer = await self._guarded(self._send)
        if isinstance(answer, Fault | Unsupported):
            return answer
        reply = reply_of_litellm(answer)
        return self._transport.scrubbed(self._wire.fault() or reply) if isinstance(reply, Fault) else reply

    async def next(self) -> Piece | End | Fault | Unsupported:
        if self._stream is None:
            stream = await self._guarded(self._send)
            if isinstance(stream, Fault | Unsupported):
                return stream
            self._stream = stream
        while True:
            chunk = await self._guarded(self._stream.__anext__)
            if isinstance(chunk, Fault):
                return self._broken(chunk)
            if chunk is None:
                return self._end()
            piece = self._piece(chunk)
            if piece is not None:
                self._content_came = self._content_came or piece.has_content
                return piece

    def rewritten(self, piece: Piece, text: str) -> Piece:
        raw = piece.raw.model_copy(deep=True)
        delta = raw.choices[0].delta
        delta.content = text
        if getattr(delta, "reasoning_content", None):
            del delta.reasoning_content
        return piece._replace(raw=raw, text=text, reasoning="")

    async def close(self) -> None:
        response, stream, self._stream = self._wire.response, self._stream, None
        with suppress(Exception):  # The answer is not wanted any more, nor is its farewell.
            if response is not None:
                await response.aclose()
            if stream is not None:
                await stream.aclose()

    # Asking.

    async def _guarded(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        token = wires.current.set(self._wire)
        try:
            with quiet_logging(), guarding(self._redirects):
                return await guarded(ask, self._fault)
        finally:
            wires.current.reset(token)

    async def _send(self) -> Any:
        while True:
            try:
                return await self._ask_litellm()
            except litellm.UnsupportedParamsError as error:
                refusal = self._asking.refused(error)
            if refusal is not None:
                return refusal

    async def _ask_litellm(self) -> Any:
        target, parameters = self._asking.target, self._asking.parameters()
        self._wire.own = own_headers(parameters)
        if is_tapped(target):
            handler = await self._transport.client()
            parameters["client"] = client_for(handler, target, parameters.get("api_key", ""))
        return await litellm.acompletion(**parameters)

    # Reading.

    def _piece(self, chunk: Any) -> Piece | None:
        """A chunk of litellm's as a piece; None for a finish or a count that litellm invented."""
        usage = usage_of(getattr(chunk, "usage", None))
        if usage is not None and self._wire.is_heard and self._wire.usage is None:
            return None  # Where the server did not count, litellm counts, and would have us bill what nobody did.
        if not chunk.choices:
            return Piece(chunk, usage=usage)
        delta, finish = chunk.choices[0].delta, chunk.choices[0].finish_reason
        if finish == REFUSED_FINISH:
            # litellm makes this of many words, and never of none; of Gemini's it does not tell that it received them.
            self._refused = True
        if finish is not None and self._finish() in UNFINISHED:
            return None
        return Piece(
            raw=chunk,
            text=text_of(delta.content),
            reasoning=getattr(delta, "reasoning_content", None) or "",
            tool_calls=tool_calls_of(delta),
            finish=finish,
            usage=usage,
        )

    def _finish(self) -> str | None:
        """The finish reason the server itself gave."""
        if self._wire.is_heard:
            return finish_of(self._wire.finish)
        if self._refused:
            return REFUSED_FINISH
        finish: str | None = getattr(self._stream, "received_finish_reason", None)
        return finish

    def _end(self) -> End | Fault:
        if not self._wire.is_heard:
            return End(self._finish())
        end = self._wire.end(content_came=self._content_came)
        return self._transport.scrubbed(end) if isinstance(end, Fault) else End(finish_of(end.finish))

    # Faults.

    def _broken(self, fault: Fault) -> Fault:
        return broken(fault, content_came=self._content_came)

    def _fault(self, error: Exception) -> Fault:
        classes = classes_of(error)
        said = self._redirects.refused or self._wire.fault()
        if said is not None:
            return self._transport.clean(error, said)
        if self._wire.is_heard:
            status = self._wire.status
            return self._transport.clean(error, fault_of_transfer(error, classes, status))
        return self._transport.clean(error, fault_of_litellm(error, classes))
