"""A server that forwards requests to real ones and records the responses, with secrets removed."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web

from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.response import Response
from llm_fallback.spec.providers import BACKENDS
from llm_fallback.spec.secrets import REDACTED, Redactor, is_secret_name
from llm_fallback.spec.spellings import places, spellings
from llm_fallback.testing.deployments import RequestLog
from llm_fallback.testing.http_app import FakeApp
from llm_fallback.testing.openai_responses import encode
from llm_fallback.testing.playback import Pause, Reset, SendBody, SendHead, ServerAction
from llm_fallback.testing.recordings import End, Recorded, line_of
from llm_fallback.testing.scripts import Script

_CONNECTION_HEADERS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "keep-alive", "te", "upgrade"}
)
_RECORDED_HEADERS = ("retry-after", "retry-after-ms")
"""Response headers that matter to a client; others may identify the owner of the API key."""


class RecordingApp(FakeApp):
    """Forwards every request to its deployment's real server and writes the exchange to a file, which begins empty."""

    def __init__(
        self, scripts: Mapping[str, Script], log: RequestLog, *, upstream: Mapping[str, str], file: Path
    ) -> None:
        super().__init__(scripts, log)
        base_url = BACKENDS["openai-compatible"].base_url
        self._addresses = {name: f"{base_url(address)}/chat/completions" for name, address in upstream.items()}
        self._file = file
        file.write_text("", encoding="utf-8")

    async def _actions(
        self, name: str, body: Mapping[str, Any], number: int, request: web.BaseRequest
    ) -> AsyncGenerator[ServerAction, None]:
        recorder = ExchangeRecorder(bool(body.get("stream")))
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _CONNECTION_HEADERS}
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=None)) as session,
                session.post(
                    self._addresses[name], data=encode(body), headers={**headers, "Accept-Encoding": "identity"}
                ) as response,
            ):
                yield recorder.begin(response)
                async for data in response.content.iter_any():
                    yield recorder.add(data)
                    yield Pause(0)
            recorder.end = "whole"
        except ClientError:
            recorder.end = "cut"
            yield Reset()
        finally:
            secrets = _secrets(request.headers)
            line = line_of(name, _redacted(body, Redactor(secrets)), recorder.without(secrets))
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line)


class ExchangeRecorder:
    """One exchange that is being recorded."""

    def __init__(self, stream: bool) -> None:
        self._last = monotonic()
        self._head = SendHead()
        self._delay_s = 0.0
        self._parts: list[tuple[float, bytes]] = []
        self._length = 0
        self._response = Response(OpenAIReader(), streamed=stream)
        self.end: End = "silence"

    def begin(self, response: ClientResponse) -> SendHead:
        """Record the status and headers."""
        self._delay_s = self._pause()
        self._response.begin(response.status, response.headers)
        kept = {name: response.headers[name] for name in _RECORDED_HEADERS if name in response.headers}
        self._head = SendHead(response.status, response.content_type, response.content_length, kept)
        return self._head

    def add(self, data: bytes) -> SendBody:
        """Record a part of the body."""
        self._parts.append((self._pause(), data))
        self._length += len(data)
        if self._response.streamed and not self._response.is_over:
            self._response.feed(data)
        if self._is_complete:
            # A client that has everything may leave before the connection says that the response has ended.
            self.end = "whole"
        return SendBody(data)

    @property
    def _is_complete(self) -> bool:
        """Whether the response says itself that it has ended."""
        return self._response.saw_done or self._length == self._head.length

    def without(self, secrets: Sequence[str]) -> Recorded:
        """The exchange, with asterisks for each secret that the server repeated; lengths stay."""
        pauses, parts = [pause for pause, _ in self._parts], [data for _, data in self._parts]
        head = self._head
        return Recorded(
            stream=self._response.streamed,
            delay_s=self._delay_s,
            status=self._response.status,
            content_type=head.content_type,
            headers={name: Redactor(secrets)(text) for name, text in head.headers.items()},
            length=head.length,
            parts=tuple(zip(pauses, _masked(parts, secrets), strict=True)),
            end=self.end,
        )

    def _pause(self) -> float:
        now = monotonic()
        pause, self._last = now - self._last, now
        return pause


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """The secrets in a request's headers, whole and without the scheme before them; the longest first."""
    values = [value for name, value in headers.items() if is_secret_name(name) or name.lower() == "cookie"]
    secrets = {secret for value in values for secret in (value, value.rpartition(" ")[2]) if secret}
    return sorted(secrets, key=len, reverse=True)


def _masked(parts: Sequence[bytes], secrets: Iterable[str]) -> list[bytes]:
    """The parts with asterisks for secrets, however they are spelt, and for one that is divided between two parts of
    the response or two events of a stream."""
    lengths = [0, *map(len, parts)]
    whole = bytearray(b"".join(parts))
    text = whole.decode("latin-1")  # A character is a byte.
    wanted = spellings(secret.encode().decode("latin-1") for secret in secrets)
    said = [range(len(text)), *_said_in_parts(text)]
    for positions in said:
        for start, end in places("".join(text[at] for at in positions), wanted):
            for at in positions[start:end]:
                whole[at] = ord("*")
    return [bytes(whole[start:end]) for start, end in pairwise(accumulate(lengths))]


_MEMBER = re.compile(r"""\"(\w+)"\s*:\s*"((?:[^"\\]|\\.)*)""")


def _said_in_parts(text: str) -> Iterable[list[int]]:
    """Where the characters stand of what the events of a stream bring under one name: `content`, `arguments`."""
    by_name: dict[str, list[int]] = {}
    for member in _MEMBER.finditer(text):
        by_name.setdefault(member[1], []).extend(range(*member.span(2)))
    return by_name.values()


def _redacted(value: Any, redact: Redactor) -> Any:
    """The data without known secrets, and without the values under a secret's name."""
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: REDACTED if is_secret_name(key) else _redacted(item, redact) for key, item in value.items()}
        case list():
            return [_redacted(item, redact) for item in value]
    return json.loads(json.dumps(value))
