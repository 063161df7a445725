"""Servers that never come to an end, never begin, or say what is no answer: one `Play` each, by what it does."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat

Play = Callable[[socket.socket], None]
"""What a server does with one connection; what it raises of OSError ends it."""

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
FRAME = b'data: {"choices":[{"delta":{"content":"x "}}]}\n\n'
WHOLE = b'{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'

PATIENCE_S = 20.0
"""How long a server goes on with somebody who does not leave."""


def take_request(peer: socket.socket) -> bytes:
    request = peer.recv(65_536)
    if b"\r\n\r\n" in request and request.endswith(b"\r\n\r\n"):
        request += peer.recv(65_536)
    return request


def stay(peer: socket.socket) -> None:
    """Until the other side leaves."""
    while peer.recv(65_536):
        pass


def leave(peer: socket.socket) -> None:
    """As one leaves."""


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_close(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)
    stay(peer)


def say(*parts: bytes, every_s: float = 0.0, then: Play = stay, again: bytes = b"") -> Play:
    """One part after the other, and `again` for ever."""

    def play(peer: socket.socket) -> None:
        take_request(peer)
        _send(peer, chain(parts, repeat(again) if again else ()), every_s)
        then(peer)

    return play


def trickle(text: bytes, again: bytes = b"") -> Play:
    """A byte now and then."""
    return say(*(bytes([byte]) for byte in text), every_s=0.02, again=again)


def _send(peer: socket.socket, parts: Iterable[bytes], every_s: float) -> None:
    for part in parts:
        peer.sendall(part)
        time.sleep(every_s)


def before_the_request(then: Play, *parts: bytes) -> Play:
    def play(peer: socket.socket) -> None:
        _send(peer, parts, 0.0)
        then(peer)

    return play


def never_reads(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    time.sleep(PATIENCE_S / 2)


def bomb(encoding: bytes, window: int) -> Play:
    """A gigabyte of zeros for each megabyte."""

    def play(peer: socket.socket) -> None:
        take_request(peer)
        peer.sendall(STREAM + b"Content-Encoding: " + encoding + b"\r\n\r\n")
        press, zeros = zlib.compressobj(9, zlib.DEFLATED, window), b"0" * 2**20
        while True:
            peer.sendall(press.compress(zeros))

    return play


def redirects_for_ever(location: bytes, status: bytes = b"307") -> Play:
    def play(peer: socket.socket) -> None:
        while take_request(peer):
            peer.sendall(b"HTTP/1.1 " + status + b" Go\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    return play


def answers_once(then: Play) -> Play:
    """The first request on a connection that is kept, well; the second not."""

    def play(peer: socket.socket) -> None:
        body = FRAME + FINISH + b"data: [DONE]\n\n" if b'"stream"' in take_request(peer) else WHOLE
        peer.sendall(JSON.replace(b"application/json", b"text/event-stream") if body is not WHOLE else JSON)
        peer.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        take_request(peer)
        then(peer)

    return play


GZIP_NAME = b"\x1f\x8b\x08\x08" + bytes(6)
"""The start of a gzip header that holds a file's name, up to a zero."""

HEADS: dict[str, Play] = {
    "accepts and says nothing": stay,
    "accepts and leaves": leave,
    "accepts and resets": reset,
    "half-closes before the request": half_close,
    "takes the request and says nothing": say(),
    "takes the request and leaves": say(then=leave),
    "takes the request and resets": say(then=reset),
    "takes the request and half-closes": say(then=half_close),
    "never reads": never_reads,
    "no HTTP": say(again=b"SSH-2.0-OpenSSH_9.6\r\n"),
    "no HTTP, no line": say(again=b"\x00\xff" * 4_096),
    "HTTP/2": say(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
    "a status nobody knows": say(b"HTTP/1.1 999 What\r\n\r\n"),
    "a status below zero": say(b"HTTP/1.1 -1 What\r\n\r\n"),
    "half a status line": say(b"HTTP/1.1 20"),
    "a head, a byte at a time": trickle(STREAM + b"X-More: " + b"m" * 1_000),
    "a status line without end": say(b"HTTP/1.1 200 ", again=b"O" * 65_536),
    "headers without end": say(STREAM, again=b"X-More: more\r\n" * 500),
    "headers without end, slowly": say(STREAM, again=b"X-More: more\r\n", every_s=0.02),
    "one header without end": say(STREAM + b"X-More: ", again=b"m" * 65_536),
    "cookies without end": say(STREAM, again=b"Set-Cookie: a=b\r\n" * 500),
    "a folded header without end": say(STREAM + b"X-More: m\r\n", again=b" more\r\n" * 500),
    "100 Continue for ever": say(again=b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
    "100 Continue now and then": say(again=b"HTTP/1.1 100 Continue\r\n\r\n", every_s=0.02),
    "103 Early Hints for ever": say(again=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2_000),
    "101 Switching Protocols": say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "two lengths": say(JSON + b"Content-Length: 5\r\nContent-Length: 500\r\n\r\n" + WHOLE),
    "a length and chunks": say(JSON + b"Content-Length: 5\r\n" + CHUNKED + WHOLE),
    "a length below zero": say(JSON + b"Content-Length: -1\r\n\r\n" + WHOLE),
    "a length that is none": say(JSON + b"Content-Length: many\r\n\r\n" + WHOLE),
    "a coding nobody knows": say(JSON + b"Transfer-Encoding: rot13\r\n\r\n" + WHOLE),
    "redirects to itself": redirects_for_ever(b"/v1/chat/completions"),
    "redirects to others": redirects_for_ever(b"http://192.0.2.1/", b"302"),
    "redirects to nowhere": redirects_for_ever(b"http://[/"),
    "redirects far away": redirects_for_ever(b"/" + b"a" * 6_000, b"308"),
}
"""What comes before a body."""

BODIES: dict[str, Play] = {
    "a head and nothing more": say(STREAM + b"\r\n"),
    "a head and nothing more, plain": say(JSON + b"\r\n"),
    "a length and nothing more": say(JSON + b"Content-Length: 1000000\r\n\r\n"),
    "a length and less": say(JSON + b"Content-Length: 1000000\r\n\r\n" + WHOLE, then=leave),
    "a length, and half of it": say(JSON + b"Content-Length: 10\r\n\r\n" + WHOLE),
    "no body at all": say(b"HTTP/1.1 204 No Content\r\n\r\n", then=leave),
    "an empty body": say(JSON + b"Content-Length: 0\r\n\r\n"),
    "a byte now and then": say(STREAM + b"\r\n", again=b"d", every_s=0.02),
    "a byte now and then, plain": say(JSON + b"\r\n", again=b" ", every_s=0.02),
    "spaces without end": say(JSON + b"\r\n", again=b" " * 65_536),
    "a text without end": say(JSON + b'\r\n{"choices":[{"message":{"content":"', again=b"x" * 65_536),
    "brackets without end": say(JSON + b"\r\n", again=b"[" * 65_536),
    "a number without end": say(JSON + b'\r\n{"created":', again=b"9" * 65_536),
    "chunks without a size": say(STREAM + CHUNKED + b"no size\r\n"),
    "a chunk's size without end": say(STREAM + CHUNKED, again=b"0" * 65_536),
    "a chunk larger than all": say(STREAM + CHUNKED + b"f" * 15 + b"\r\n", again=b": x\n" * 10_000),
    "a chunk's extension without end": say(STREAM + CHUNKED + b"1;", again=b"a=b;" * 10_000),
    "trailers without end": say(STREAM + CHUNKED + b"0\r\n", again=b"X-More: more\r\n" * 500),
    "chunks of a byte": say(STREAM + CHUNKED, again=b"1\r\nx\r\n" * 5_000),
    "chunks, and no last one": say(STREAM + CHUNKED + b"%x\r\n" % len(FRAME) + FRAME + b"\r\n", then=leave),
    "an error without end": say(b"HTTP/1.1 400 No\r\n\r\n", again=b"input token count word " * 3_000),
    "an error without a word": say(b"HTTP/1.1 500 No\r\n\r\n"),
    "an error, a byte at a time": say(b"HTTP/1.1 500 No\r\n\r\n", again=b"n", every_s=0.02),
    "an error shorter than its length": say(b"HTTP/1.1 500 No\r\nContent-Length: 900\r\n\r\nno", then=leave),
    "a time to wait that never ends": say(
        b"HTTP/1.1 429 No\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n", then=leave
    ),
    "a gzip bomb": bomb(b"gzip", zlib.MAX_WBITS | 16),
    "a deflate bomb": bomb(b"deflate", zlib.MAX_WBITS),
    "a raw deflate bomb": bomb(b"deflate", -zlib.MAX_WBITS),
    "a gzip header without end": say(STREAM + b"Content-Encoding: gzip\r\n\r\n" + GZIP_NAME, again=b"n" * 65_536),
    "gzip that is none": say(STREAM + b"Content-Encoding: gzip\r\n\r\n" + FRAME),
    "gzip that is cut": say(STREAM + b"Content-Encoding: gzip\r\n\r\n" + zlib.compress(FRAME)[:9], then=leave),
    "brotli": say(STREAM + b"Content-Encoding: br\r\n\r\n", again=bytes(65_536)),
    "zstd": say(STREAM + b"Content-Encoding: zstd\r\n\r\n", again=bytes(65_536)),
    "gzip in gzip": say(STREAM + b"Content-Encoding: gzip, gzip\r\n\r\n", again=bytes(65_536)),
}
"""What a plain call and a stream may both meet."""

STREAMS: dict[str, Play] = {
    "content and nothing more": say(STREAM + b"\r\n" + FRAME),
    "content and a reset": say(STREAM + b"\r\n" + FRAME, then=reset),
    "content and half a close": say(STREAM + b"\r\n" + FRAME, then=half_close),
    "content without a pause": say(STREAM + b"\r\n", again=FRAME * 500),
    "content now and then": say(STREAM + b"\r\n", again=FRAME, every_s=0.02),
    "content, a byte at a time": trickle(STREAM + b"\r\n" + FRAME * 20),
    "content and comments for ever": say(STREAM + b"\r\n" + FRAME, again=b": keep-alive\n\n", every_s=0.02),
    "a finish and more for ever": say(STREAM + b"\r\n" + FRAME + FINISH, again=FRAME * 500),
    "comments without end": say(STREAM + b"\r\n", again=b": keep-alive\n\n" * 1_000),
    "comments now and then": say(STREAM + b"\r\n", again=b": keep-alive\n\n", every_s=0.02),
    "empty lines without end": say(STREAM + b"\r\n", again=b"\n" * 65_536),
    "empty events without end": say(STREAM + b"\r\n", again=b"data: {}\n\n" * 1_000),
    "roles without end": say(STREAM + b"\r\n", again=b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n' * 500),
    "one line without end": say(STREAM + b"\r\ndata: ", again=b"x" * 65_536),
    "one comment without end": say(STREAM + b"\r\n:", again=b"x" * 65_536),
    "one event without end": say(STREAM + b"\r\n", again=b"data: x\n" * 5_000),
    "names of an event without end": say(STREAM + b"\r\n", again=b"event: x\n" * 5_000),
    "tool calls without end": say(
        STREAM + b'\r\ndata: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]}}]}\n\n',
        again=b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"x"}}]}}]}\n\n' * 500,
    ),
}
"""What only a stream takes for a beginning."""

KEPT: dict[str, Play] = {
    "a kept connection that is gone": answers_once(leave),
    "a kept connection that is reset": answers_once(reset),
    "a kept connection that is silent": answers_once(stay),
}
"""What goes well once."""

HANDSHAKES: dict[str, Play] = {
    "no handshake": stay,
    "a handshake that is none": before_the_request(stay, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a handshake, a byte at a time": lambda peer: _send(peer, repeat(b"\x16"), 0.02),
    "half a handshake": before_the_request(stay, b"\x16\x03\x03\x40\x00\x02"),
}
"""Where TLS is spoken."""


@contextmanager
def hostile(play: Play) -> Iterator[str]:
    """The address of a server that does this with each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def play_to(peer: socket.socket) -> None:
        peer.settimeout(PATIENCE_S)
        with suppress(OSError), peer:
            play(peer)

    def serve() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=play_to, args=(peer,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()


@contextmanager
def never_accepting() -> Iterator[str]:
    """The address of a server whose queue is full: a connection to it is never refused, and never made."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, suppress(OSError):
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for peer in waiting:
            peer.setblocking(False)
            peer.connect_ex(address)
        try:
            yield f"127.0.0.1:{address[1]}"
        finally:
            for peer in waiting:
                peer.close()
