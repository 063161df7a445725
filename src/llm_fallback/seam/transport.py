"""One deployment, asked once, through `litellm.acompletion`."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from pydantic import SecretStr

from llm_fallback.exchange import End, Exchange, Piece, Reply, Unsupported
from llm_fallback.faults import Fault, UpstreamError
from llm_fallback.plan import Target
from llm_fallback.protocol import broken
from llm_fallback.scrub import Scrubber, revealed
from llm_fallback.seam import wire as wires
from llm_fallback.seam.clients import SOCKET_TIMEOUT_S, LoopClient, client_for, is_tapped
from llm_fallback.seam.quiet import quiet_logging, somebody_listens, warm_up
from llm_fallback.seam.readings import text_of, tool_calls_of, usage_of
from llm_fallback.seam.upstream import classes_of, fault_of_litellm, fault_of_transfer
from llm_fallback.seam.wire import Wire
from llm_fallback.trial import UNFINISHED

SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "n", "presence_penalty", "frequency_penalty", "seed", "stop"),
        *("logit_bias", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"),
        *("parallel_tool_calls", "reasoning_effort", "verbosity", "user"),
    }
)
"""Parameters a reply can do without; they are dropped for a deployment that does not take them."""


class LiteLLMTransport:
    """Opens exchanges through `litellm.acompletion`. Holds one HTTP client per event loop."""

    def __init__(self, scrub: Scrubber) -> None:
        self._scrub = scrub
        self._clients: dict[asyncio.AbstractEventLoop, LoopClient] = {}
        warm_up()
        self._dropped: dict[str, tuple[str, ...]] = {}

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        if api_key is not None:
            # A key that is a function is not known before it is asked.
            self._scrub.learn(api_key.get_secret_value())
        return LiteLLMExchange(self, target, request, api_key)

    async def client(self) -> AsyncHTTPHandler:
        """This loop's HTTP client; its connections cannot be used from another loop."""
        loop = asyncio.get_running_loop()
        own = self._clients.get(loop)
        if own is None:
            own = self._clients[loop] = LoopClient()
            await own.open(lambda: self._clients.pop(loop, None))
        return own.handler

    def dropped(self, target: Target) -> tuple[str, ...]:
        """Parameters this deployment was found not to take."""
        return self._dropped.get(target.name, ())

    def drop(self, target: Target, parameters: tuple[str, ...]) -> None:
        self._dropped[target.name] = tuple(sorted({*self.dropped(target), *parameters}))

    def clean(self, error: BaseException, fault: Fault) -> Fault:
        """The fault with its text scrubbed and a cause that carries nothing but that text."""
        message = self._scrub(fault.message)
        cause = UpstreamError(type(error).__name__, message, fault.status)
        return Fault(fault.failure, message, fault.status, fault.retry_after_s, cause)

    def scrubbed(self, fault: Fault) -> Fault:
        return self.clean(UpstreamError(fault.failure, "", fault.status), fault)

    def close(self) -> None:
        """Close the connections of every loop that still runs; those of a closed loop died with it."""
        for loop, client in list(self._clients.items()):
            if loop.is_running():
                loop.call_soon_threadsafe(client.close_soon)

    async def aclose(self) -> None:
        """Like close, and wait for this loop's."""
        own = self._clients.get(asyncio.get_running_loop())
        if own is not None:
            await own.close()
        self.close()


class LiteLLMExchange:
    """One request to one deployment through litellm."""

    def __init__(
        self, transport: LiteLLMTransport, target: Target, request: Mapping[str, Any], api_key: SecretStr | None
    ) -> None:
        self._transport, self._target, self._request, self._key = transport, target, request, api_key
        self._wire = Wire(streamed=bool(request.get("stream")), keyless=api_key is None and not target.borrows_key)
        self._stream: Any = None
        self._content_came = self._finish_came = self._usage_came = False

    @property
    def dropped_params(self) -> tuple[str, ...]:
        return tuple(name for name in self._transport.dropped(self._target) if name in self._request)

    async def reply(self) -> Reply | Fault | Unsupported:
        answer = await self._guarded(self._send)
        return answer if isinstance(answer, Fault | Unsupported) else self._reply(answer)

    async def next(self) -> Piece | End | Fault | Unsupported:
        if self._stream is None:
            stream = await self._guarded(self._send)
            if isinstance(stream, Fault | Unsupported):
                return stream
            self._stream = stream
        if self._may_leave_litellm:
            rest: Piece | End | Fault = await self._guarded(self._rest)
            return rest
        while True:
            chunk = await self._guarded(self._stream.__anext__)
            if isinstance(chunk, Fault):
                return self._broken(chunk)
            if chunk is None:
                return self._end()
            piece = self._piece(chunk)
            if piece is not None:
                self._content_came = self._content_came or piece.has_content
                self._finish_came = self._finish_came or piece.finish is not None
                return piece

    def rewritten(self, piece: Piece, text: str) -> Piece:
        raw = piece.raw.model_copy(deep=True)
        delta = raw.choices[0].delta
        delta.content = text
        if getattr(delta, "reasoning_content", None):
            del delta.reasoning_content
        return dataclasses.replace(piece, raw=raw, text=text, reasoning="")

    @property
    def _may_leave_litellm(self) -> bool:
        """Whether what is left of the stream can be read past litellm.

        After a finish only usage follows, which the wire knows. litellm would put the whole reply together again,
        count and price it in a thread of its own, for callbacks of which there are none: more work than the reply.
        """
        return self._finish_came and self._is_tapped and self._wire.finish is not None and not somebody_listens()

    async def _rest(self) -> Piece | End | Fault:
        async for _ in self._stream.completion_stream:
            pass
        usage = self._wire.usage
        if usage is not None and not self._usage_came and self._wire.flaw is None:
            self._usage_came = True
            return Piece({"choices": [], "usage": usage}, usage=usage_of(usage))
        return self._end()

    async def close(self) -> None:
        response, stream, self._stream = self._wire.response, self._stream, None
        with suppress(Exception):  # The answer is not wanted any more, nor is its farewell.
            if response is not None:
                await response.aclose()
            if stream is not None:
                await stream.aclose()

    # Asking.

    async def _guarded(self, ask: Callable[[], Any]) -> Any:
        """What `ask` brings: an answer, None at the end of a stream, or a fault made of its exception.

        Exceptions are turned into values inside and raised, if at all, outside of the `except`, so that none takes
        litellm's frames, and the key in them, along.
        """
        token = wires.current.set(self._wire)
        cancelled = False
        try:
            with quiet_logging():
                return await ask()
        except StopAsyncIteration:
            return None
        except asyncio.CancelledError:
            cancelled = True
        except Exception as error:  # noqa: BLE001 - whatever an upstream library raises is a fault to classify
            return self._fault(error)
        finally:
            wires.current.reset(token)
        if cancelled:
            raise asyncio.CancelledError
        return None

    async def _send(self) -> Any:
        while True:
            try:
                return await self._ask_litellm()
            except litellm.UnsupportedParamsError as error:
                named = self._named_in(str(error)) - set(self._transport.dropped(self._target))
            # litellm names them in stages: what it objects to next shows only when the first are gone.
            if not named or not named <= SAMPLING:
                return Unsupported(tuple(sorted(named)))
            self._transport.drop(self._target, tuple(named))

    async def _ask_litellm(self) -> Any:
        handler = await self._transport.client() if is_tapped(self._target) else None
        return await litellm.acompletion(**self._parameters(handler))

    def _parameters(self, handler: AsyncHTTPHandler | None) -> dict[str, Any]:
        target, dropped = self._target, self._transport.dropped(self._target)
        parameters: dict[str, Any] = {
            **revealed({name: value for name, value in target.parameters.items() if name not in dropped}),
            **{name: _copied(value) for name, value in self._request.items() if name not in dropped},
            "model": target.parameters["model"],
            "timeout": SOCKET_TIMEOUT_S,
            "num_retries": 0,
            "max_retries": 0,
        }
        if self._key is not None:
            parameters["api_key"] = self._key.get_secret_value()
        elif not target.borrows_key:
            # litellm would look for somebody else's key; this one is taken off again, or is none.
            parameters["api_key"] = "no-key"
        if handler is not None:
            parameters["client"] = client_for(handler, target, parameters.get("api_key", ""))
        return parameters

    def _named_in(self, text: str) -> set[str]:
        words = set(re.findall(r"\w+", text))
        return words & {*self._request, *self._target.parameters} - {"model", "messages", "stream"}

    # Reading.

    @property
    def _is_tapped(self) -> bool:
        return self._wire.sent

    def _reply(self, raw: Any) -> Reply | Fault:
        choices = getattr(raw, "choices", None)
        if not choices:
            return self._transport.scrubbed(Fault("invalid_response", "a reply without choices", 200))
        message = choices[0].message
        native = (getattr(choices[0], "provider_specific_fields", None) or {}).get("native_finish_reason")
        return Reply(
            raw=raw,
            text=text_of(message.content),
            reasoning=getattr(message, "reasoning_content", None) or "",
            tool_calls=tool_calls_of(message),
            finish=native if native in ("abort", "error") else choices[0].finish_reason,
            usage=usage_of(getattr(raw, "usage", None)),
        )

    def _piece(self, chunk: Any) -> Piece | None:
        """A chunk of litellm's as a piece; None for a finish or a count that litellm invented."""
        usage = usage_of(getattr(chunk, "usage", None))
        if usage is not None and self._is_tapped and self._wire.usage is None:
            return None  # Where the server did not count, litellm counts, and would have us bill what nobody did.
        if not chunk.choices:
            return Piece(chunk, usage=usage)
        delta, finish = chunk.choices[0].delta, chunk.choices[0].finish_reason
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
        if self._is_tapped:
            return self._wire.finish
        finish: str | None = getattr(self._stream, "received_finish_reason", None)
        return finish

    def _end(self) -> End | Fault:
        if not self._is_tapped:
            return End(self._finish())
        end = self._wire.end(content_came=self._content_came)
        return end if isinstance(end, End) else self._transport.scrubbed(end)

    # Faults.

    def _broken(self, fault: Fault) -> Fault:
        return broken(fault, content_came=self._content_came)

    def _fault(self, error: Exception) -> Fault:
        classes = classes_of(error)
        if self._wire.flaw is not None:
            return self._transport.clean(error, self._wire.flaw)
        if self._wire.status is not None and self._wire.status >= 400:
            return self._transport.clean(error, self._wire.fault())
        if self._is_tapped:
            status = self._wire.status
            return self._transport.clean(error, fault_of_transfer(error, classes, status))
        return self._transport.clean(error, fault_of_litellm(error, classes))


def _copied(value: Any) -> Any:
    """Containers copied at every level: litellm rewrites the messages it is given, and the next deployment needs
    them as they were."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
