"""A server on loopback that says, byte for byte, what an attacker would have it say, and counts who asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import LoopbackServer

_BETWEEN_PARTS_S = 0.02
"""Seconds, so that two parts of a body come in two reads."""


@dataclass(frozen=True)
class Answer:
    """What a server says."""

    status: int = 200
    parts: tuple[bytes, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


Play = Callable[["Asked"], Answer]


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def is_streamed(self) -> bool:
        """Whether it asks for a stream, in OpenAI's and Anthropic's words or by a path of Google's or Amazon's."""
        return b'"stream":true' in self.body.replace(b" ", b"") or "stream" in self.path.lower()


class Server(LoopbackServer):
    """Answers every request as `play` says, and keeps it."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.received: list[Asked] = []
        super().__init__(_Handler)

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): text for name, text in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        self.server.received.append(asked)
        answer = self.server.play(asked)
        self.send_response_only(answer.status)
        content = {"Content-Type": "text/event-stream" if asked.is_streamed else "application/json"}
        head = {**content, **answer.headers, "Connection": "close"}
        lines = "".join(f"{name}: {text}\r\n" for name, text in head.items())
        # As it is written, whether it may stand in a header or not.
        self._headers_buffer.append(lines.encode("utf-8", "surrogateescape"))
        self.end_headers()
        for number, part in enumerate(answer.parts):
            if number:
                self.wfile.flush()
                time.sleep(_BETWEEN_PARTS_S)
            self.wfile.write(part)

    do_GET = do_HEAD = do_POST

    def log_message(self, *args: object) -> None:
        """Nothing to say."""
