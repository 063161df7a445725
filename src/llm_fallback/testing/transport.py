"""Scripts in place of deployments, in the process: the engine's requests, answered by the acts of a script.

Whatever is sent is read as bytes by the same code that reads a real server's answer; only the sockets are missing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import cycle
from time import time
from typing import Any, assert_never

from pydantic import SecretStr

from llm_fallback.engine.clock import Clock
from llm_fallback.engine.protocol.chunks import ChunkReader, reply_in
from llm_fallback.engine.protocol.sse import ResponseState, SSEParser, as_stream_fault
from llm_fallback.engine.transport import Chunk, Fault, Reply, StreamEnd, UpstreamError
from llm_fallback.plan.plan import Target
from llm_fallback.spec.secrets import Redactor, unmask
from llm_fallback.testing.deployments import FakeDeployments, Received
from llm_fallback.testing.openai_responses import Envelope, encode, frame
from llm_fallback.testing.playback import KEEP_ALIVE_EVERY_S, Pause, Reset, SendBody, SendHead, ServerAction, play

_PATH = "/v1/chat/completions"
_NOT_IN_THE_BODY = ("model", "api_base", "api_version", "extra_headers", "extra_body", "metadata")


class ScriptedTransport:
    """Opens exchanges with the deployments of a cast."""

    def __init__(self, cast: FakeDeployments, clock: Clock, scrub: Redactor) -> None:
        self.cast, self.clock, self.scrub = cast, clock, scrub

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> ScriptedExchange:
        return ScriptedExchange(self, target, request)

    async def get_page(self, target: Target, url: str, api_key: SecretStr | None) -> None:
        """There is no server to look at."""

    def close(self) -> None:
        """There is nothing to close."""

    async def aclose(self) -> None:
        """There is nothing to close."""


class ScriptedExchange:
    """One request to one scripted deployment."""

    dropped_params: tuple[str, ...] = ()

    def __init__(self, transport: ScriptedTransport, target: Target, request: Mapping[str, Any]) -> None:
        self._transport, self._target = transport, target
        self._body = _body(target, request)
        self._response = ResponseState(streamed=bool(request.get("stream")))
        self._frames = SSEParser(self._response, self._take)
        self._document = bytearray()
        self._chunks = ChunkReader()
        self._pieces: deque[Chunk] = deque()
        self._actions: Iterator[ServerAction] | None = None
        self._number = 0
        self._over = False

    async def reply(self) -> Reply | Fault:
        while (act := self._next_act()) is not None:
            fault = await self._play(act)
            if fault is not None:
                return self._clean(fault)
        answer = self._response.fault() or reply_in(bytes(self._document))
        return answer if isinstance(answer, Reply) else self._clean(answer)

    async def next(self) -> Chunk | StreamEnd | Fault:
        while not self._pieces:
            act = self._next_act()
            if act is None:
                return self._end()
            fault = await self._play(act)
            if fault is not None:
                return self._clean(as_stream_fault(fault, content_came=self._chunks.content_came))
        return self._pieces.popleft()

    def with_text(self, piece: Chunk, text: str) -> Chunk:
        return self._chunks.with_text(piece, text)

    async def close(self) -> None:
        if self._actions is not None and not self._over:
            self._over = True
            self._transport.cast.left(self._number)

    # Playing.

    def _next_act(self) -> ServerAction | None:
        """What happens next; None when nothing does."""
        if self._actions is None:
            self._actions = self._begin()
        act = None if self._over else next(self._actions, None)
        if act is None and not self._over:
            self._finish()
        return act

    def _begin(self) -> Iterator[ServerAction]:
        cast, clock = self._transport.cast, self._transport.clock
        streamed = self._response.streamed
        step, self._number = cast.begin(Received(self._target.name, _PATH, {}, self._body, clock.now(), streamed, 0))
        return play(step, self._body, Envelope(f"chatcmpl-{self._number}", self._body["model"], int(time())))

    def _finish(self) -> None:
        self._over = True
        self._transport.cast.answered(self._number)

    async def _play(self, act: ServerAction) -> Fault | None:
        match act:
            case SendHead():
                self._response.status = act.status
                self._response.headers = {name.lower(): value for name, value in act.headers.items()}
            case SendBody():
                self._receive(act.data if isinstance(act.data, bytes) else frame(act.data))
            case Pause():
                await self._wait(act)
            case Reset():
                self._finish()
                return Fault("connection", "the connection was reset")
            case _:
                assert_never(act)
        return None

    async def _wait(self, wait: Pause) -> None:
        if wait.seconds is not None:
            await self._transport.clock.sleep(wait.seconds)
        elif wait.keep_alive:
            self._actions = cycle((Pause(KEEP_ALIVE_EVERY_S), SendBody(wait.keep_alive)))
        else:
            await asyncio.get_running_loop().create_future()

    def _receive(self, data: bytes) -> None:
        if self._is_refused:
            self._response.remember(data)
        elif not self._response.streamed:
            self._document += data
        elif len(self._frames.feed(data)) < len(data):
            self._finish()  # What follows a flaw, or a finish that is none, is not read.

    # Reading.

    @property
    def _is_refused(self) -> bool:
        return self._response.status is not None and self._response.status >= 400

    def _take(self, chunk: dict[str, Any]) -> None:
        piece = self._chunks.piece(chunk)
        if piece is not None:
            self._pieces.append(piece)

    def _end(self) -> Chunk | StreamEnd | Fault:
        self._frames.end()
        usage = None if self._response.fault_seen else self._chunks.usage(self._response.usage)
        if usage is not None:
            return usage
        end = self._response.end(content_came=self._chunks.content_came)
        return end if isinstance(end, StreamEnd) else self._clean(end)

    def _clean(self, fault: Fault) -> Fault:
        """The fault with the spec's secrets struck from its text, and a cause that says no more."""
        message = self._transport.scrub(fault.message)
        cause = UpstreamError(fault.failure, message, fault.status)
        return dataclasses.replace(fault, message=message, cause=cause)


def _body(target: Target, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as a server would get it."""
    words = {**unmask(target.parameters), **request}
    sent = {name: value for name, value in words.items() if name not in _NOT_IN_THE_BODY and value is not None}
    body = {"model": target.model_name, **sent, **(words.get("extra_body") or {})}
    document: dict[str, Any] = json.loads(encode(body))
    return document
