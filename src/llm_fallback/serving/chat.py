"""`POST /v1/chat/completions`: one request is one call of a chain.

A request goes from its body to the engine and back without a message of LangChain's on the way, which would lose what
LangChain has no place for, and cost several times as much. A client that leaves ends the call, and with it the request
to the model server.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import aclosing
from time import time
from typing import Any, TypeAlias
from uuid import uuid4

from starlette.types import Message, Receive, Scope, Send

from llm_fallback.chat_model.caller import CallContext, Listener
from llm_fallback.chat_model.conversion import to_call
from llm_fallback.chat_model.driver import adrive
from llm_fallback.chat_model.runtime import ModelRuntime
from llm_fallback.engine.engine import Answered, Engine, OverBudget, StreamBrokeOff
from llm_fallback.engine.execution import CallExecution
from llm_fallback.errors import BudgetExceeded, exhausted
from llm_fallback.events import Record
from llm_fallback.plan.plan import ChainPlan
from llm_fallback.serving.documents import ChunkWriter, completion, encoded, event
from llm_fallback.serving.errors import ErrorResponse, RefusedRequest, failed_call
from llm_fallback.serving.request import ChatRequest, read_chat_request

logger = logging.getLogger("llm_fallback")

LARGEST_BODY = 64 * 2**20
"""Bytes of a request, pictures in it included."""

Headers: TypeAlias = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events until it has a page of them.
]


class ClientLeft(Exception):
    """The client closed its connection."""


class ChatEndpoint:
    """The ASGI application behind the path."""

    def __init__(self, runtime: ModelRuntime, listeners: Iterable[Listener]) -> None:
        self._runtime, self._listeners = runtime, tuple(listeners)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = uuid4().hex
        try:
            _, plan, engine = self._runtime.state
            request = read_chat_request(await _body(receive), plan)
            async with _EndedBy(receive):
                await _ChatReply(request, plan.chain(request.chain), engine, request_id, send).give(self._listeners)
        except RefusedRequest as refused:
            await send_error(send, refused.response, [(b"x-request-id", request_id.encode())])
        except ClientLeft:
            logger.debug("the client of request %s left", request_id)


class _ChatReply:
    """The answer to one request."""

    def __init__(self, request: ChatRequest, chain: ChainPlan, engine: Engine, request_id: str, send: Send) -> None:
        self._request, self._chain, self._engine = request, chain, engine
        self._id, self._send = request_id, send
        self._created = int(time())
        self._began = False
        """Whether the head of the response was sent."""

    async def give(self, listeners: tuple[Listener, ...]) -> None:
        request = self._request
        caller = CallContext(listeners, metadata=dict(request.metadata))
        thread = request.metadata.get("thread_id") or request.metadata.get("session_id")
        call = to_call(request.words, self._chain, None, caller.spender(), thread)
        execution = CallExecution(self._engine, call)
        if request.streamed:
            await self._stream(execution, caller)
        else:
            async with aclosing(adrive(execution, caller)) as steps:
                await anext(steps, None)  # A whole reply has no chunks.
            end = execution.end
            if isinstance(end, Answered):
                body = encoded(completion(end, f"chatcmpl-{self._id}", self._created))
                await send_response(self._send, 200, body, self._headers(end.record))
            else:
                await self._fail(execution)

    async def _stream(self, execution: CallExecution, caller: CallContext) -> None:
        send = self._send
        writer: ChunkWriter | None = None
        usage: dict[str, Any] | None = None
        async with aclosing(adrive(execution, caller)) as steps:
            async for chunk in steps:
                if writer is None:
                    writer = await self._begin(execution.record())
                usage = chunk.raw.get("usage") or usage
                data = writer.write(chunk)
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        end = execution.end
        if isinstance(end, Answered):
            writer = writer or await self._begin(end.record)
            data = writer.end(end, usage, wants_usage=self._request.wants_usage)
            await send({"type": "http.response.body", "body": data})
        else:
            await self._fail(execution)

    async def _begin(self, record: Record) -> ChunkWriter:
        """The head of a stream, at its first content: who answers is known by then."""
        model = next(member.target.model_name for member in self._chain.members if member.name == record.deployment)
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": [*_EVENTS, *self._headers(record, ended=False)]}
        )
        self._began = True
        return ChunkWriter(f"chatcmpl-{self._id}", self._created, model)

    async def _fail(self, execution: CallExecution) -> None:
        error = self._error(execution)
        if self._began:
            # No `[DONE]`: whoever passes an unknown event over must not take what came for the whole reply.
            await self._send({"type": "http.response.body", "body": event(error.document())})
        else:
            await send_error(self._send, error, [(b"x-request-id", self._id.encode())])

    def _error(self, execution: CallExecution) -> ErrorResponse:
        end = execution.end
        assert end is not None
        assert not isinstance(end, Answered)
        facts, record = end.record.as_metadata(), end.record
        headers = {name.decode(): value.decode() for name, value in fact_headers(record)}
        match end:
            case OverBudget():
                exceeded = BudgetExceeded(*end.shortfall.as_floats, record.attempts, record.skipped)
                return failed_call("budget", str(exceeded), facts, headers, None)
            case StreamBrokeOff():
                message = f"{record.attempts[-1].deployment}: the stream broke off ({end.fault.message})"
                return failed_call(end.fault.failure, message, facts, headers, None)
        error = exhausted(record.chain, end.failure, record.attempts, record.skipped, reason=end.reason)
        return failed_call(end.failure, str(error), facts, headers, self._retry_after_s())

    def _retry_after_s(self) -> float | None:
        """Seconds until a deployment of the chain may be asked again; None if one may be now, or nobody knows when."""
        engine = self._engine
        now = engine.clock.now()
        with engine.health.lock:
            known = [engine.health[member.name].unavailable(now) for member in self._chain.members]
        waits = [0.0 if unavailable is None else unavailable.until - now for unavailable in known]
        soonest = min(waits, default=0.0)
        return soonest if 0 < soonest < math.inf else None

    def _headers(self, record: Record, *, ended: bool = True) -> Headers:
        return [(b"x-request-id", self._id.encode()), *fact_headers(record, ended=ended)]


def fact_headers(record: Record, *, ended: bool = True) -> Headers:
    """Who answered, after how many attempts, for how many US dollars; while a stream goes on, as far as it is known."""
    headers: Headers = []
    if record.deployment is not None:
        headers.append((b"x-llm-fallback-deployment", _for_a_header(record.deployment)))
    attempts = len(record.attempts) + (not ended)
    headers.append((b"x-llm-fallback-attempts", str(attempts).encode()))
    if ended and (cost := record.cost_usd) is not None:
        headers.append((b"x-llm-fallback-cost-usd", f"{cost.normalize():f}".encode()))
    return headers


def _for_a_header(name: str) -> bytes:
    """A deployment's name, which may be of any letters, as a header may have it."""
    return "".join(char if " " < char < "\x7f" or char == " " else "?" for char in name).encode()


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises RefusedRequest where it is too large, and ClientLeft."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY:
            raise RefusedRequest(ErrorResponse(413, f"the body is larger than {LARGEST_BODY >> 20} MB"))
        parts.append(part)
        if not message.get("more_body"):
            return part if len(parts) == 1 else b"".join(parts)


class _EndedBy:
    """Ends what is done inside when the client leaves: raises ClientLeft from it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.create_task(self._await_departure(task.cancel))

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._watch.cancel()
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientLeft

    async def _await_departure(self, leave: Callable[[], object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        leave()


async def send_error(send: Send, error: ErrorResponse, headers: Headers | None = None) -> None:
    """Send an error as a whole response."""
    own = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send_response(send, error.status, error.body(), [*(headers or ()), *own])


async def send_response(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a whole response of JSON."""
    head: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [_JSON, (b"content-length", str(len(body)).encode()), *headers],
    }
    await send(head)
    await send({"type": "http.response.body", "body": body})
