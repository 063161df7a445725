"""The engine's requests, answered in the process by the scripts of fake deployments.

A script's answer is made as bytes and read by the same code that reads a real server's; only the sockets are missing.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import cycle
from time import time
from typing import Any, assert_never

from pydantic import SecretStr

from llm_fallback.engine.clock import Clock
from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.response import Response, as_stream_fault
from llm_fallback.engine.transport import Chunk, Exchange, Fault, Provenance, RefusedExchange, Reply, StreamEnd
from llm_fallback.plan.plan import Target
from llm_fallback.spec.secrets import Redactor, unmask
from llm_fallback.testing.deployments import FakeDeployments, Received
from llm_fallback.testing.openai_responses import Envelope, encode, frame
from llm_fallback.testing.playback import KEEP_ALIVE_EVERY_S, Pause, Reset, SendBody, SendHead, ServerAction, play
from llm_fallback.testing.translation import as_sent, refusal

_PATH = "/v1/chat/completions"
_NOT_IN_THE_BODY = ("model", "api_base", "api_version", "extra_headers", "extra_body", "metadata")


class ScriptedTransport:
    """Sends requests to fake deployments."""

    def __init__(self, fakes: FakeDeployments, clock: Clock, redactor: Redactor) -> None:
        self.fakes, self.clock, self.clean = fakes, clock, FaultCleaner(redactor)

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        refused = refusal(request)
        if refused is not None:
            return RefusedExchange(self.clean(refused))
        return ScriptedExchange(self.fakes, self.clock, self.clean, target, request)

    async def get_page(self, target: Target, url: str, api_key: SecretStr | None) -> None:
        """There is no server to look at."""

    def close(self) -> None:
        """There is nothing to close."""

    async def aclose(self) -> None:
        """There is nothing to close."""


class ScriptedExchange:
    """One request to one fake deployment."""

    dropped_params: tuple[str, ...] = ()

    def __init__(
        self, fakes: FakeDeployments, clock: Clock, clean: FaultCleaner, target: Target, request: Mapping[str, Any]
    ) -> None:
        self._fakes, self._clock, self._clean, self._target = fakes, clock, clean, target
        self._body = _body(target, request)
        self._response = Response(OpenAIReader(target.finish_reasons), streamed=bool(request.get("stream")))
        self._document = bytearray()
        self._unread: deque[Chunk] = deque()
        self._actions: Iterator[ServerAction] | None = None
        self._number = 0
        self._is_over = False

    @property
    def provenance(self) -> Provenance:
        return self._response.provenance

    async def reply(self) -> Reply | Fault:
        while (action := self._next_action()) is not None:
            fault = await self._play(action)
            if fault is not None:
                return self._clean(fault)
        answer = self._response.fault() or self._response.reply(bytes(self._document))
        return answer if isinstance(answer, Reply) else self._clean(answer)

    async def next(self) -> Chunk | StreamEnd | Fault:
        while not self._unread:
            action = self._next_action()
            if action is None:
                return self._end()
            fault = await self._play(action)
            if fault is not None:
                return self._clean(as_stream_fault(fault, content_came=self._response.reader.content_came))
        return self._unread.popleft()

    async def close(self) -> None:
        if self._actions is not None and not self._is_over:
            self._is_over = True
            self._fakes.client_gone(self._number)

    def _next_action(self) -> ServerAction | None:
        """The next thing the deployment does; None after the last one."""
        if self._actions is None:
            self._actions = self._begin()
        action = None if self._is_over else next(self._actions, None)
        if action is None and not self._is_over:
            self._finish()
        return action

    def _begin(self) -> Iterator[ServerAction]:
        sent_at, streamed = self._clock.now(), self._response.streamed
        received = Received(self._target.name, _PATH, {}, self._body, sent_at, streamed, connection=0)
        step, self._number = self._fakes.begin(received)
        return play(step, self._body, Envelope(f"chatcmpl-{self._number}", self._body["model"], int(time())))

    def _finish(self) -> None:
        self._is_over = True
        self._fakes.answered(self._number)

    async def _play(self, action: ServerAction) -> Fault | None:
        """Do it; the fault is what the caller sees, if the connection does not survive it."""
        match action:
            case SendHead():
                headers = {"x-request-id": f"req-{self._number}", **action.headers}
                self._response.begin(action.status, {name.lower(): value for name, value in headers.items()})
            case SendBody():
                self._receive(action.data if isinstance(action.data, bytes) else frame(action.data))
            case Pause():
                await self._wait(action)
            case Reset():
                self._finish()
                return Fault("connection", "the connection was reset")
            case _:
                assert_never(action)
        return None

    async def _wait(self, pause: Pause) -> None:
        if pause.seconds is not None:
            await self._clock.sleep(pause.seconds)
        elif pause.keep_alive:
            self._actions = cycle((Pause(KEEP_ALIVE_EVERY_S), SendBody(pause.keep_alive)))
        else:
            await asyncio.get_running_loop().create_future()

    def _receive(self, data: bytes) -> None:
        if self._response.is_error:
            self._response.remember(data)
        elif not self._response.streamed:
            self._document += data
        else:
            self._take(data)

    def _take(self, data: bytes | None) -> None:
        if self._response.is_over:
            return
        self._unread += self._response.feed(data)
        if self._response.is_over and not self._response.is_whole:
            self._finish()  # What follows a flaw is read by nobody.

    def _end(self) -> Chunk | StreamEnd | Fault:
        self._take(None)
        if self._unread:
            return self._unread.popleft()
        end = self._response.end()
        return self._clean(end) if isinstance(end, Fault) else end


def _body(target: Target, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as a server would get it."""
    parameters = {**unmask(target.parameters), **as_sent(request)}
    sent = {name: value for name, value in parameters.items() if name not in _NOT_IN_THE_BODY and value is not None}
    body = {"model": target.model_name, **sent, **(parameters.get("extra_body") or {})}
    document: dict[str, Any] = json.loads(encode(body))
    return document
