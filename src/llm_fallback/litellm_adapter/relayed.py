"""One attempt that goes through litellm whole, because somebody listens to it there or its protocol is litellm's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import litellm

from llm_fallback.engine.protocol.chunks import text_of, tool_calls, usage_of
from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.finishes import read_finish
from llm_fallback.engine.protocol.sse import as_stream_fault
from llm_fallback.engine.transport import FINISHES, REFUSED_FINISH, Chunk, Fault, Reply, StreamEnd, Unsupported
from llm_fallback.litellm_adapter import wire_tap
from llm_fallback.litellm_adapter.clients import ClientPool, client_for, is_tapped, sends_by_httpx
from llm_fallback.litellm_adapter.errors import classes_of, fault_before_sending, fault_of_litellm, fault_of_transfer
from llm_fallback.litellm_adapter.quiet import quiet_logging
from llm_fallback.litellm_adapter.redirects import Redirects, guarding
from llm_fallback.litellm_adapter.replies import reply_of_litellm
from llm_fallback.litellm_adapter.request import DeploymentRequest, NotEncodable, deployment_headers, guarded
from llm_fallback.litellm_adapter.wire_tap import WireTap


class LiteLLMExchange:
    """One request to one deployment through `litellm.acompletion`."""

    def __init__(self, clients: ClientPool, clean: FaultCleaner, wanted: DeploymentRequest) -> None:
        self._clients, self._clean, self._wanted = clients, clean, wanted
        self._wire = WireTap(streamed=wanted.streamed, keyless=wanted.keyless)
        self._redirects = Redirects()
        self._stream: Any = None
        self._content_came = self._refused = False

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return self._wanted.dropped_params

    async def reply(self) -> Reply | Fault | Unsupported:
        answer = await self._guarded(self._send)
        if isinstance(answer, Fault | Unsupported):
            return answer
        reply = reply_of_litellm(answer)
        return self._clean(self._wire.fault() or reply) if isinstance(reply, Fault) else reply

    async def next(self) -> Chunk | StreamEnd | Fault | Unsupported:
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
            converted = self._converted(chunk)
            if converted is not None:
                self._content_came = self._content_came or converted.has_content
                return converted

    def with_text(self, chunk: Chunk, text: str) -> Chunk:
        raw = chunk.raw.model_copy(deep=True)
        delta = raw.choices[0].delta
        delta.content = text
        if getattr(delta, "reasoning_content", None):
            del delta.reasoning_content
        return chunk._replace(raw=raw, text=text, reasoning="")

    async def close(self) -> None:
        response, stream, self._stream = self._wire.response, self._stream, None
        with suppress(Exception):  # The answer is not wanted any more, nor is how that fails.
            if response is not None:
                await response.aclose()
            if stream is not None:
                await stream.aclose()

    # Asking.

    async def _guarded(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        token = wire_tap.current.set(self._wire)
        try:
            with quiet_logging(), guarding(self._redirects):
                return await guarded(ask, self._fault)
        finally:
            wire_tap.current.reset(token)

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
        self._wire.extra_headers = deployment_headers(parameters)
        if is_tapped(target):
            handler = await self._clients.client()
            parameters["client"] = client_for(handler, target, parameters.get("api_key", ""))
        return await litellm.acompletion(**parameters)

    # Reading.

    def _converted(self, chunk: Any) -> Chunk | None:
        """A chunk of litellm's as ours; None for a finish or a count that litellm invented."""
        usage = usage_of(getattr(chunk, "usage", None))
        if usage is not None and self._wire.is_readable and self._wire.usage is None:
            return None  # Where the server did not count, litellm counts, and would have us bill what nobody did.
        if not chunk.choices:
            return Chunk(chunk, usage=usage)
        delta, finish = chunk.choices[0].delta, chunk.choices[0].finish_reason
        if finish == REFUSED_FINISH:
            # litellm makes this of many words, and never of none; of Gemini's it does not tell that it received them.
            self._refused = True
        if finish is not None and self._finish() not in FINISHES:
            return None
        return Chunk(
            raw=chunk,
            text=text_of(delta.content),
            reasoning=getattr(delta, "reasoning_content", None) or "",
            tool_calls=tool_calls(getattr(delta, "tool_calls", None)),
            finish=finish,
            usage=usage,
        )

    def _finish(self) -> str | None:
        """The finish reason the server itself gave."""
        if self._wire.is_readable:
            return self._wire.finish
        if self._refused:
            return REFUSED_FINISH
        return read_finish(getattr(self._stream, "received_finish_reason", None))

    def _end(self) -> StreamEnd | Fault:
        if not self._wire.is_readable:
            return StreamEnd(self._finish())
        end = self._wire.end(content_came=self._content_came)
        return self._clean(end) if isinstance(end, Fault) else end

    # Faults.

    def _broken(self, fault: Fault) -> Fault:
        return as_stream_fault(fault, content_came=self._content_came)

    def _fault(self, error: Exception) -> Fault:
        classes = classes_of(error)
        fault = self._redirects.refused or self._wire.fault()
        if fault is not None:
            return self._clean(fault, error)
        if self._wire.is_readable:
            status = self._wire.status
            return self._clean(fault_of_transfer(error, classes, status), error)
        is_seen_to_send = sends_by_httpx(self._wanted.target) or isinstance(error, NotEncodable)
        if is_seen_to_send and not self._redirects.sent:
            return self._clean(fault_before_sending(error), error)
        return self._clean(fault_of_litellm(error, classes), error)
