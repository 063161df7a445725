"""The HTTP side of a fake server: it receives requests and sends what the scripts say."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing
from time import time
from typing import Any, assert_never
from urllib.parse import unquote

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from llm_fallback.testing import openai_responses
from llm_fallback.testing.deployments import Received, ReceivedHeaders, RequestLog
from llm_fallback.testing.openai_responses import Refusal, refusal_of
from llm_fallback.testing.playback import KEEP_ALIVE_EVERY_S, Pause, Reset, SendBody, SendHead, ServerAction, play
from llm_fallback.testing.scripts import Fail, Script

_CHAT = "/v1/chat/completions"
_MODELS = "/v1/models"
_HEALTH = "/health"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FakeApp:
    """Answers requests to the deployments it has scripts for, and lists them as models."""

    def __init__(self, scripts: Mapping[str, Script], log: RequestLog) -> None:
        self._scripts = scripts
        self._log = log
        self.closing = False
        """Set before the server closes connections, which does not count as a client that leaves."""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if request.method == "POST" and path.endswith(_CHAT):
            return await self._chat(unquote(path[1 : -len(_CHAT)]), request)
        if request.method == "GET" and path.endswith(_MODELS):
            return self._models(unquote(path[1 : -len(_MODELS)]))
        if request.method == "GET" and path.endswith(_HEALTH):
            return self._health(unquote(path[1 : -len(_HEALTH)]))
        return _json({"detail": "Not Found"}, status=404)

    async def _chat(self, deployment: str, request: web.BaseRequest) -> web.StreamResponse:
        body = _parsed(await request.read())
        name = deployment or str(body.get("model"))
        if name not in self._scripts:
            return _refused(refusal_of(Fail(404), name))
        number = self._log.add(_received(name, request, body, self._log.now()))
        if "messages" not in body:
            self._log.answered(number)
            return _refused(refusal_of(Fail(400, body=_NO_MESSAGES), name))
        writer = ResponseWriter(request, number, self._log)
        try:
            async with aclosing(self._actions(name, body, number, request)) as actions:
                return await writer.play(actions)
        except (asyncio.CancelledError, ConnectionError):
            if not (self.closing or writer.is_done):
                self._log.client_gone(number)
            raise

    async def _actions(
        self, name: str, body: Mapping[str, Any], number: int, request: web.BaseRequest
    ) -> AsyncGenerator[ServerAction, None]:
        """What a deployment does about a request."""
        envelope = openai_responses.Envelope(f"chatcmpl-{number}", str(body.get("model", name)), int(time()))
        for action in play(self._scripts[name].next(body.get("messages") or ()), body, envelope):
            yield action

    def _models(self, deployment: str) -> web.Response:
        names = [deployment] if deployment else list(self._scripts)
        if not all(name in self._scripts for name in names):
            return _refused(refusal_of(Fail(404), deployment))
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "llm-fallback"} for name in names]
        return _json({"object": "list", "data": rows})

    def _health(self, deployment: str) -> web.Response:
        known = not deployment or deployment in self._scripts
        return web.Response(status=200 if known else 404)


class ResponseWriter:
    """Writes the answer to one request. Parts without a pause between them are one write."""

    def __init__(self, request: web.BaseRequest, number: int, log: RequestLog) -> None:
        self._request = request
        self._number = number
        self._log = log
        self._head: SendHead | None = None
        self._response: web.StreamResponse | None = None
        self._unsent = bytearray()
        self.is_done = False
        """Everything was sent; a client that leaves now misses nothing."""

    async def play(self, actions: AsyncIterable[ServerAction]) -> web.StreamResponse:
        """Do the actions, in order; ConnectionError or CancelledError if the client leaves before the end."""
        async for action in actions:
            match action:
                case SendHead():
                    self._head = action
                case SendBody():
                    data = action.data
                    self._unsent += data if isinstance(data, bytes) else openai_responses.frame(data)
                case Pause():
                    await self._pause(action)
                case Reset():
                    return await self._reset()
                case _:
                    assert_never(action)
        return await self._finish()

    async def _pause(self, pause: Pause) -> None:
        await self._flush()
        if pause.seconds is not None:
            await asyncio.sleep(pause.seconds)
        elif not pause.keep_alive:
            await asyncio.get_running_loop().create_future()
        else:
            assert self._response is not None
            while True:
                await asyncio.sleep(KEEP_ALIVE_EVERY_S)
                await self._response.write(pause.keep_alive)

    async def _reset(self) -> web.StreamResponse:
        await self._flush()
        self._end()
        transport = self._request.transport
        if transport is not None:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        return self._response or web.Response()

    async def _finish(self) -> web.StreamResponse:
        assert self._head is not None
        self._end()
        if self._response is None and self._head.length is not None:
            return web.Response(body=bytes(self._unsent), status=self._head.status, headers=self._headers(self._head))
        response = await self._opened()
        await response.write_eof(bytes(self._unsent))
        return response

    async def _flush(self) -> None:
        if self._head is None:
            return
        response = await self._opened()
        if self._unsent:
            await response.write(bytes(self._unsent))
            self._unsent.clear()

    async def _opened(self) -> web.StreamResponse:
        if self._response is None:
            assert self._head is not None
            self._response = web.StreamResponse(status=self._head.status, headers=self._headers(self._head))
            self._response.content_length = self._head.length
            await self._response.prepare(self._request)
        return self._response

    def _headers(self, head: SendHead) -> dict[str, str]:
        return {"Content-Type": head.content_type, "x-request-id": f"req-{self._number}", **head.headers}

    def _end(self) -> None:
        self.is_done = True
        self._log.answered(self._number)


def unlimited_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request as aiohttp builds it, with no limit on the size of its body: images are large."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=0)


_NO_MESSAGES = {
    "error": {
        "message": "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages'}",
        "type": "Bad Request",
        "param": "body.messages",
        "code": 400,
    }
}


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _received(deployment: str, request: web.BaseRequest, body: Mapping[str, Any], at: float) -> Received:
    peer = request.transport and request.transport.get_extra_info("peername")
    return Received(
        deployment=deployment,
        path=request.path,
        headers=ReceivedHeaders((name.lower(), value) for name, value in request.headers.items()),
        body=body,
        at=at,
        stream=bool(body.get("stream")),
        connection=peer[1] if peer else 0,
    )


def _json(document: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=openai_responses.encode(document), status=status, content_type="application/json")


def _refused(refusal: Refusal) -> web.Response:
    headers = {"Content-Type": refusal.content_type, **refusal.headers}
    return web.Response(body=refusal.body, status=refusal.status, headers=headers)
