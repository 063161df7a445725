"""One deployment, asked once, through litellm: the seam.

Nothing above here imports litellm to call it, and nothing of litellm's gets past here: its exceptions come out as
faults without traceback, cause, request or response, its invented endings are told from real ones, and its own
logging is off while nobody registered a litellm callback (with two event loops its worker leaves destroyed tasks
behind; see docs/decisions/0002).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from openai import AsyncOpenAI
from pydantic import SecretStr

from llm_fallback import wire as wires
from llm_fallback.events import Usage
from llm_fallback.exchange import End, Exchange, Piece, Reply, ToolCallPart, Unsupported
from llm_fallback.faults import Fault, failure_of, retry_after_s, shortened
from llm_fallback.plan import Target
from llm_fallback.scrub import Scrubber, revealed
from llm_fallback.wire import Wire

try:
    from litellm._internal_context import is_internal_call
except ImportError:  # A private name: without it litellm logs every call, as it does for everybody else.
    is_internal_call = None

# litellm prints "Give Feedback / Get Help" to standard output for every error it maps.
litellm.suppress_debug_info = True

_SOCKET_TIMEOUT_S = 6000.0
"""The engine keeps time; a socket must never give up before it does."""

SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "n", "presence_penalty", "frequency_penalty", "seed", "stop"),
        *("logit_bias", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"),
        *("parallel_tool_calls", "reasoning_effort", "verbosity", "user"),
    }
)
"""Parameters a reply can do without; they are dropped for a deployment that does not take them."""

_CUT = frozenset(
    {
        *("ClientPayloadError", "ServerDisconnectedError", "ClientConnectorError", "ClientConnectionError"),
        *("ClientOSError", "ConnectError", "ConnectTimeout", "ReadError", "WriteError", "RemoteProtocolError"),
        *("ConnectionError", "IncompleteRead", "ClosedResourceError", "BrokenResourceError"),
    }
)
_TIMED_OUT = frozenset({"ReadTimeout", "Timeout", "APITimeoutError", "TimeoutError", "ServerTimeoutError"})
_UNREADABLE = frozenset({"JSONDecodeError", "APIResponseValidationError", "UnicodeDecodeError"})

_LOADED_LATE = (
    "anyio._backends._asyncio",
    "litellm.litellm_core_utils.default_encoding",
    "litellm.llms.hosted_vllm.chat.transformation",
    "litellm.proxy._types",
    "openai.resources.chat.completions",
)
"""Modules that litellm and its HTTP libraries load during a first request, for half a second or more."""


def warm_up() -> None:
    """Load what a first request would, so that its own limits are not spent on imports."""
    for name in _LOADED_LATE:
        with suppress(ImportError):
            import_module(name)


class LiteLLMTransport:
    """Opens exchanges through `litellm.acompletion`. Holds one HTTP client per event loop."""

    def __init__(self, scrub: Scrubber) -> None:
        self._scrub = scrub
        self._clients: dict[asyncio.AbstractEventLoop, _LoopClient] = {}
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
            own = self._clients[loop] = _LoopClient()
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


class _LoopClient:
    """An HTTP client that lives no longer than its event loop.

    It is held open by an async generator, because those are what a loop closes on its way out: whoever wraps each
    call in `asyncio.run` leaves no unclosed session behind.
    """

    def __init__(self) -> None:
        self.handler = AsyncHTTPHandler(timeout=_SOCKET_TIMEOUT_S, event_hooks=wires.HOOKS)
        self._closing: asyncio.Task[None] | None = None

    async def open(self, forget: Callable[[], object]) -> None:
        self._life = self._live(forget)
        await anext(self._life)

    async def _live(self, forget: Callable[[], object]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            forget()
            await self.handler.close()

    async def close(self) -> None:
        await self._life.aclose()

    def close_soon(self) -> None:
        # A loop keeps only weak references to its tasks.
        self._closing = asyncio.get_running_loop().create_task(self.close())


class UpstreamError(Exception):
    """What an upstream library said, without what it held: no traceback, request, response or headers."""

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        self.kind, self.message, self.status = kind, message, status
        super().__init__(kind, message, status)

    def __str__(self) -> str:
        status = f" ({self.status})" if self.status else ""
        return f"{self.kind}{status}: {self.message}"


class LiteLLMExchange:
    """One request to one deployment through litellm."""

    def __init__(
        self, transport: LiteLLMTransport, target: Target, request: Mapping[str, Any], api_key: SecretStr | None
    ) -> None:
        self._transport, self._target, self._request, self._key = transport, target, request, api_key
        self._wire = Wire(streamed=bool(request.get("stream")), keyless=api_key is None and not target.borrows_key)
        self._stream: Any = None
        self._content_came = False

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
        return dataclasses.replace(piece, raw=raw, text=text, reasoning="")

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
            with _quiet_logging():
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
        try:
            return await self._ask_litellm()
        except litellm.UnsupportedParamsError as error:
            named = self._named_in(str(error))
        if not named or not named <= SAMPLING:
            return Unsupported(tuple(sorted(named)))
        self._transport.drop(self._target, tuple(named))
        return await self._ask_litellm()

    async def _ask_litellm(self) -> Any:
        handler = await self._transport.client() if self._target.backend else None
        return await litellm.acompletion(**self._parameters(handler))

    def _parameters(self, handler: AsyncHTTPHandler | None) -> dict[str, Any]:
        target, dropped = self._target, self._transport.dropped(self._target)
        parameters: dict[str, Any] = {
            **revealed(target.parameters),
            **{name: _copied(value) for name, value in self._request.items() if name not in dropped},
            "model": target.parameters["model"],
            "timeout": _SOCKET_TIMEOUT_S,
            "num_retries": 0,
            "max_retries": 0,
        }
        if self._key is not None:
            parameters["api_key"] = self._key.get_secret_value()
        elif not target.borrows_key:
            # litellm would look for somebody else's key; this one is taken off again, or is none.
            parameters["api_key"] = "no-key"
        if handler is not None:
            parameters["client"] = _client(handler, parameters)
        return parameters

    def _named_in(self, text: str) -> set[str]:
        return {name for name in {*self._request, *self._target.parameters} if f"{name}" in text and name != "model"}

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
            text=_text(message.content),
            reasoning=getattr(message, "reasoning_content", None) or "",
            tool_calls=_tool_calls(message),
            finish=native if native in ("abort", "error") else choices[0].finish_reason,
            usage=_usage(getattr(raw, "usage", None)),
        )

    def _piece(self, chunk: Any) -> Piece | None:
        """A chunk of litellm's as a piece; None for a finish that litellm invented."""
        usage = _usage(getattr(chunk, "usage", None))
        if not chunk.choices:
            return Piece(chunk, usage=usage)
        delta, finish = chunk.choices[0].delta, chunk.choices[0].finish_reason
        if finish is not None and self._finish() is None:
            return None
        return Piece(
            raw=chunk,
            text=_text(delta.content),
            reasoning=getattr(delta, "reasoning_content", None) or "",
            tool_calls=_tool_calls(delta),
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
        if self._wire.flaw is not None:
            return self._broken(self._transport.scrubbed(self._wire.flaw))
        finish = self._finish()
        if self._is_tapped and finish is None and self._wire.is_noise and not self._content_came:
            return Fault("invalid_response", "the reply is no stream of choices", self._wire.status)
        return End(finish)

    # Faults.

    def _broken(self, fault: Fault) -> Fault:
        """After the first content every early end is the same to the caller: the stream broke."""
        if self._content_came and fault.failure not in ("content_policy",):
            return Fault("stream_broken", fault.message, fault.status, fault.retry_after_s, fault.cause)
        if fault.failure == "stream_broken":
            return Fault("invalid_response", fault.message, fault.status, fault.retry_after_s, fault.cause)
        return fault

    def _fault(self, error: Exception) -> Fault:
        classes = _classes(error)
        if self._wire.flaw is not None:
            return self._transport.clean(error, self._wire.flaw)
        if self._wire.status is not None and self._wire.status >= 400:
            return self._transport.clean(error, self._wire.fault())
        if self._is_tapped:
            status = self._wire.status
            return self._transport.clean(error, _fault_of_transfer(error, classes, status))
        return self._transport.clean(error, _fault_of_litellm(error, classes))


def _fault_of_transfer(error: Exception, classes: set[str], status: int | None) -> Fault:
    """A request that went out and came to no HTTP error."""
    text = shortened(str(error))
    if classes & _CUT or status is None:
        failure = "timeout" if classes & _TIMED_OUT and not classes & _CUT else "connection"
        return Fault(failure, text, status)  # type: ignore[arg-type]
    return Fault("invalid_response", text, status)


def _fault_of_litellm(error: Exception, classes: set[str]) -> Fault:
    """An error of which only litellm's own account is known."""
    text = shortened(str(error))
    if classes & _UNREADABLE or "Empty or invalid response" in text:
        return Fault("invalid_response", text, 200)
    if classes & _CUT or ("APIConnectionError" in classes and not classes & _TIMED_OUT):
        return Fault("connection", text)
    if classes & _TIMED_OUT and getattr(error, "status_code", None) in (None, 408):
        return Fault("timeout", text, getattr(error, "status_code", None))
    status = getattr(error, "status_code", None)
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    number = status if isinstance(status, int) else 400
    return Fault(failure_of(number, str(error), classes), text, number, retry_after_s(headers))


def _classes(error: BaseException) -> set[str]:
    """Names of the classes of an exception, of what caused it and of what it wraps."""
    names: set[str] = set()
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        names |= {kind.__name__ for kind in type(current).__mro__}
        pending += [current.__cause__, current.__context__, getattr(current, "original_exception", None)]
    return names


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """litellm's logging off, unless somebody registered a callback that wants to hear."""
    if is_internal_call is None or _somebody_listens():
        yield
        return
    token = is_internal_call.set(True)
    try:
        yield
    finally:
        is_internal_call.reset(token)


def _somebody_listens() -> bool:
    return bool(
        litellm.callbacks
        or litellm.success_callback
        or litellm.failure_callback
        or litellm._async_success_callback
        or litellm._async_failure_callback
        or litellm.input_callback
    )


def _client(handler: AsyncHTTPHandler, parameters: Mapping[str, Any]) -> AsyncHTTPHandler | AsyncOpenAI:
    """A client whose wire can be listened to, of the kind this provider of litellm's takes."""
    if parameters["model"].startswith("hosted_vllm/"):
        return handler
    return AsyncOpenAI(
        api_key=parameters["api_key"],
        base_url=parameters["api_base"],
        http_client=handler.client,
        max_retries=0,
    )


def _copied(value: Any) -> Any:
    """Containers copied at every level: litellm rewrites the messages it is given, and the next deployment needs
    them as they were."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _tool_calls(message: Any) -> tuple[ToolCallPart, ...]:
    calls = getattr(message, "tool_calls", None)
    if not calls:
        return ()
    return tuple(
        ToolCallPart(
            index=position if getattr(call, "index", None) is None else call.index,
            id=call.id,
            name=call.function.name,
            arguments=call.function.arguments or "",
        )
        for position, call in enumerate(calls)
    )


def _usage(usage: Any) -> Usage | None:
    """litellm's usage in our words. Anthropic's cache fields stand beside OpenAI's details; both are read."""
    if usage is None or not (usage.prompt_tokens or usage.completion_tokens):
        return None
    given, made = getattr(usage, "prompt_tokens_details", None), getattr(usage, "completion_tokens_details", None)
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=getattr(given, "cached_tokens", None) or 0,
        cache_write_tokens=getattr(given, "cache_creation_tokens", None)
        or getattr(usage, "cache_creation_input_tokens", None)
        or 0,
        reasoning_tokens=getattr(made, "reasoning_tokens", None) or 0,
        audio_input_tokens=getattr(given, "audio_tokens", None) or 0,
        audio_output_tokens=getattr(made, "audio_tokens", None) or 0,
    )
