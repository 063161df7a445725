"""Servers that never come to an end, or never begin: a call ends within its time all the same, in bounded memory."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from llm_fallback import ChainExhausted, StreamBroken, build_chat_model
from llm_fallback.testing import FakeServer
from tests.asking import ask

TOTAL_S = 0.5
MARGIN_S = 4.0
"""What a call may take beyond total_s: the promise is 50 ms, the rest is for machines that do much else, and for what
LangChain does with thousands of chunks, which counts as the reader's time."""

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
FRAME = b'data: {"choices":[{"delta":{"content":"x "}}]}\n\n'
Play = Callable[[socket.socket], None]


def take_request(peer: socket.socket) -> None:
    peer.recv(65_536)


def say_for_ever(begin: bytes, again: bytes, pause_s: float = 0.0) -> Play:
    def play(peer: socket.socket) -> None:
        take_request(peer)
        peer.sendall(begin)
        while True:
            peer.sendall(again)
            time.sleep(pause_s)

    return play


def accept_only(peer: socket.socket) -> None:
    time.sleep(5)


def never_closes(peer: socket.socket) -> None:
    take_request(peer)
    peer.sendall(OK + b"\r\n" + FRAME)
    time.sleep(5)


def gzip_bomb(peer: socket.socket) -> None:
    take_request(peer)
    peer.sendall(OK + b"Content-Encoding: gzip\r\n\r\n")
    press = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    zeros = b"0" * 2**20
    while True:
        peer.sendall(press.compress(zeros))


HOSTILE: dict[str, Play] = {
    "a byte now and then": say_for_ever(OK + b"\r\n", b"d", 0.05),
    "a stream without a pause": say_for_ever(OK + b"\r\n", FRAME * 500),
    "accepts and says nothing": accept_only,
    "says nothing more": never_closes,
    "headers without end": say_for_ever(OK, b"X-More: more\r\n" * 500),
    "one header without end": say_for_ever(OK + b"X-More: ", b"m" * 65_536),
    "an error without end": say_for_ever(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"input token count word " * 3_000),
    "comments without end": say_for_ever(OK + b"\r\n", b": keep-alive\n\n" * 1_000),
    "empty events without end": say_for_ever(OK + b"\r\n", b"data: {}\n\n" * 1_000),
    "one line without end": say_for_ever(OK + b"\r\ndata: ", b"x" * 65_536),
    "100 Continue for ever": say_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a gzip bomb": gzip_bomb,
}


@contextmanager
def hostile(play: Play) -> Iterator[str]:
    """The address of a server that does this with each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def play_to(peer: socket.socket) -> None:
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


def spec_of(address: str, **limits: Any) -> dict[str, Any]:
    return {
        "deployments": {"a": {"backend": "vllm", "model": "m", "api_base": address, "limits": limits}},
        "chains": {"c": {"tiers": ["a"], "timeouts": {"total_s": TOTAL_S}, "retries": {"max": 0}}},
    }


async def seconds_to_fail(model: Any, mode: str) -> tuple[float, Exception]:
    """Asked a second time, as the first call of a process loads what all need."""
    began = time.monotonic()
    with pytest.raises((ChainExhausted, StreamBroken)) as failed:
        await ask(model, mode)
    return time.monotonic() - began, failed.value


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    with FakeServer({"a": "fine"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        model.invoke("hi")


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "astream"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_call_ends_within_its_time(name, mode):
    """Whatever the server does, streamed or not."""
    with hostile(HOSTILE[name]) as address, build_chat_model(spec_of(f"http://{address}")) as model:
        took_s, _ = await seconds_to_fail(model, mode)
    assert took_s < TOTAL_S + MARGIN_S


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_handshake_that_never_ends_is_left(mode):
    """No TLS, no answer."""
    with hostile(accept_only) as address, build_chat_model(spec_of(f"https://{address}")) as model:
        took_s, _ = await seconds_to_fail(model, mode)
    assert took_s < TOTAL_S + MARGIN_S


@pytest.mark.parametrize("name", ["a stream without a pause", "an error without end", "a gzip bomb"])
async def test_others_go_on_meanwhile(name):
    """The event loop is everybody's: a server that always has more to say does not keep it."""
    with hostile(HOSTILE[name]) as address, build_chat_model(spec_of(f"http://{address}")) as model:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        others = asyncio.create_task(count_turns())
        await asyncio.sleep(0)
        await seconds_to_fail(model, "astream")
        others.cancel()
    assert turns >= 1


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("name", ["a gzip bomb", "one line without end", "comments without end"])
async def test_a_reply_longer_than_its_limit_is_no_reply(name, mode):
    """By what it is decompressed: `limits.reply_mb`."""
    spec = spec_of("http://none", reply_mb=0.5)
    spec["chains"]["c"]["timeouts"]["total_s"] = 20
    with hostile(HOSTILE[name]) as address:
        spec["deployments"]["a"]["api_base"] = f"http://{address}"
        with build_chat_model(spec) as model:
            _, failed = await seconds_to_fail(model, mode)
    [attempt] = failed.attempts
    assert (attempt.failure, attempt.status) == ("invalid_response", 200)
    assert "longer than 0.5 MB (limits.reply_mb)" in attempt.message


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_of_an_endless_error_the_status_decides_at_once(mode):
    """Its body is left after 256 KB."""
    with hostile(HOSTILE["an error without end"]) as address:
        spec = spec_of(f"http://{address}")
        spec["chains"]["c"]["timeouts"]["total_s"] = 20
        with build_chat_model(spec) as model:
            took_s, failed = await seconds_to_fail(model, mode)
    assert (failed.attempts[0].failure, failed.attempts[0].status) == ("bad_request", 400)
    assert took_s < 10


async def test_a_bomb_takes_no_memory():
    """A megabyte on the wire that would be a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile(HOSTILE["a gzip bomb"]) as address:
        with build_chat_model(spec_of(f"http://{address}", reply_mb=1)) as model:
            await seconds_to_fail(model, "ainvoke")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_compression_nobody_asked_for_is_no_reply(streamed):
    """A few bytes of brotli are gigabytes at once; it is not asked for, and not read."""
    body = json.dumps({"choices": []}).encode()

    def play(peer: socket.socket) -> None:
        take_request(peer)
        peer.sendall(OK + b"Content-Encoding: br\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with hostile(play) as address, build_chat_model(spec_of(f"http://{address}")) as model:
        _, failed = await seconds_to_fail(model, "astream" if streamed else "ainvoke")
    assert failed.attempts[0].failure == "invalid_response"
    assert "(br)" in failed.attempts[0].message
