"""A server on the loopback that gives every case and every reply its answer, whatever the protocol asked in."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.corpus.cases import Case, Reply, System, Way

_TYPES = {
    "sse": "text/event-stream",
    "anthropic": "text/event-stream",
    "cohere": "text/event-stream",
    "watsonx": "text/event-stream",
    "aws": "application/vnd.amazon.eventstream",
    "ndjson": "application/x-ndjson",
}


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    parts: Sequence[bytes]
    """The frames of a stream; a body as one."""


class Stage:
    """Answers a POST anywhere below a case's or a reply's place, or with that in the header x-case, as those say.

    As many gateways do, it compresses for clients that take it; `rude`: for those that do not, too.
    """

    def __init__(self, systems: Iterable[System], *, rude: bool = False) -> None:
        self.cuts: dict[str, int] = {}
        """The places whose streams end early, as if nothing were wrong, and after how many frames."""
        self.spoilt: dict[str, Callable[[bytes], bytes]] = {}
        """The places whose answers come with something done to their bytes."""
        answers = {place: ways for one in systems for place, ways in _answers(one)}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(answers, self, rude))
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


def _handler(answers: Mapping[str, Mapping[Way, _Answer]], stage: Stage, rude: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["content-length"]))
            place = self.headers["x-case"] or "/".join(self.path.split("/")[1:3])
            way = _way(self.path, request)
            answer = answers[place].get(way, _NOT_THIS_WAY)
            body = b"".join(answer.parts[: stage.cuts.get(place) if way == "streamed" else None])
            body = stage.spoilt.get(place, bytes)(body)
            if rude or "gzip" in self.headers.get("accept-encoding", ""):
                answer, body = (
                    replace(answer, headers={**answer.headers, "content-encoding": "gzip"}),
                    gzip.compress(body),
                )
            self.send_response(answer.status)
            for name, value in {**answer.headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


_NOT_THIS_WAY = _Answer(501, {}, (b"nothing is known of what is said when asked this way",))


def _way(path: str, request: bytes) -> Way:
    """What a request asks for: by its address where a protocol has two, else by its body."""
    if "stream" in path.lower().rsplit("/", 1)[-1]:
        return "streamed"
    return "streamed" if json.loads(request).get("stream") else "plain"


def _answers(system: System) -> Iterable[tuple[str, Mapping[Way, _Answer]]]:
    for case in system.cases:
        answer = _answer_of_case(case, system.framing)
        yield case.place, {"plain": answer, "streamed": answer}
    for reply in system.replies:
        yield reply.place, _answers_of_reply(reply, system.framing)


def _answer_of_case(case: Case, framing: str) -> _Answer:
    if case.frames is not None:
        return _Answer(case.status, {"content-type": _TYPES[framing], **case.headers}, framed(case.frames, framing))
    if isinstance(case.body, str):
        headers = {"content-type": "text/plain; charset=utf-8", **case.headers}
        return _Answer(case.status, headers, [case.body.encode()])
    body = b"" if case.body is None else json.dumps(case.body).encode()
    return _Answer(case.status, {"content-type": "application/json", **case.headers}, [body])


def _answers_of_reply(reply: Reply, framing: str) -> Mapping[Way, _Answer]:
    answers: dict[Way, _Answer] = {}
    if reply.body is not None:
        answers["plain"] = _Answer(200, {"content-type": "application/json"}, [json.dumps(reply.body).encode()])
    if reply.frames is not None:
        frames = [*reply.frames, *(["[DONE]"] if reply.done else [])]
        answers["streamed"] = _Answer(200, {"content-type": _TYPES[framing]}, framed(frames, framing))
    return answers


def framed(frames: Iterable[Any], framing: str) -> list[bytes]:
    """Events of a stream as they come over the wire."""
    return [_FRAMINGS[framing](frame) for frame in frames]


def _sse(frame: Any) -> bytes:
    """An event; a text that is a comment or has fields of its own stands by itself."""
    if isinstance(frame, str):
        event = frame if frame.startswith((":", "event:", "data:")) else f"data: {frame}"
        return f"{event}\n\n".encode(errors="surrogatepass")
    return f"data: {json.dumps(frame)}\n\n".encode()


def _named_sse(frame: Any) -> bytes:
    """An event whose name is its type."""
    return (
        _sse(frame)
        if isinstance(frame, str)
        else f"event: {frame.get('type', '')}\n".encode(errors="surrogatepass") + _sse(frame)
    )


def _message_sse(frame: Any) -> bytes:
    """An event of watsonx, whose name is always the same."""
    return b"id: 1\nevent: message\n" + _sse(frame)


def _ndjson(frame: Any) -> bytes:
    return f"{frame if isinstance(frame, str) else json.dumps(frame)}\n".encode()


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


_FRAMINGS = {
    "sse": _sse,
    "anthropic": _named_sse,
    "cohere": _named_sse,
    "watsonx": _message_sse,
    "aws": _aws,
    "ndjson": _ndjson,
}
