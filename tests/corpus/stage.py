"""A server on the loopback that gives every case its answer, whatever the protocol asked in."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.corpus.cases import Case, System

_TYPES = {"sse": "text/event-stream", "anthropic": "text/event-stream", "aws": "application/vnd.amazon.eventstream"}


class Stage:
    """Answers a POST anywhere below `/<system>/<case>/`, or with that in the header x-case, as that case says.

    As many gateways do, it compresses for clients that take it; `rude`: for those that do not, too.
    """

    def __init__(self, systems: Iterable[System], *, rude: bool = False) -> None:
        answers = {f"{one.name}/{case.name}": _answer(case, one.framing) for one in systems for case in one.cases}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(answers, rude))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Stage:
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(answers: Mapping[str, tuple[int, Mapping[str, str], bytes]], rude: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, headers, body = answers[self.headers["x-case"] or "/".join(self.path.split("/")[1:3])]
            if rude or "gzip" in self.headers.get("accept-encoding", ""):
                headers, body = {**headers, "content-encoding": "gzip"}, gzip.compress(body)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _answer(case: Case, framing: str) -> tuple[int, Mapping[str, str], bytes]:
    if case.frames is not None:
        body = b"".join(_FRAMINGS[framing](frame) for frame in case.frames)
        return case.status, {"content-type": _TYPES[framing], **case.headers}, body
    if isinstance(case.body, str):
        return case.status, {"content-type": "text/plain; charset=utf-8", **case.headers}, case.body.encode()
    body = b"" if case.body is None else json.dumps(case.body).encode()
    return case.status, {"content-type": "application/json", **case.headers}, body


def _sse(frame: Any) -> bytes:
    return f"data: {frame if isinstance(frame, str) else json.dumps(frame)}\n\n".encode()


def _anthropic(frame: Mapping[str, Any]) -> bytes:
    return f"event: {frame['type']}\n".encode() + _sse(frame)


def _aws(frame: Mapping[str, Any]) -> bytes:
    """A message of AWS's binary event stream: `{event: name, data: {...}}` or `{exception: name, data: {...}}`."""
    kind = "event" if "event" in frame else "exception"
    named = {":message-type": kind, f":{kind}-type": frame[kind], ":content-type": "application/json"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    payload = json.dumps(frame["data"]).encode()
    prelude = struct.pack("!II", len(headers) + len(payload) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


_FRAMINGS = {"sse": _sse, "anthropic": _anthropic, "aws": _aws}
