"""Servers that never come to an end, or never begin: a call ends within its time all the same, in bounded memory."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from llm_fallback import ChainExhausted, StreamBroken, build_chat_model
from llm_fallback.testing import FakeServer
from tests.asking import STREAMED, ask
from tests.end_to_end.hostile_servers import (
    BODIES,
    CHUNKED,
    FRAME,
    HANDSHAKES,
    HEADS,
    KEPT,
    STREAM,
    STREAMS,
    Play,
    hostile,
    leave,
    never_accepting,
    reset,
    say,
    take_request,
)
from tests.thinning import combinations

TOTAL_S = 0.3
ATTEMPT_S = 0.15
MARGIN_S = 4.0
"""What a call may take beyond total_s: the promise is 50 ms, the rest is for machines that do much else."""

MODES = ("invoke", "astream", "stream", "ainvoke")
KINDS: dict[str, Play] = {**HEADS, **BODIES, **STREAMS, **KEPT, **HANDSHAKES}
NEVER_ACCEPTING = "a queue that is full"
NAMES = [*KINDS, NEVER_ACCEPTING]
CONTENT = (
    *("content and nothing more", "content and a reset", "content and half a close", "content without a pause"),
    *("content now and then", "content and comments for ever", "a finish and more for ever", "chunks, and no last one"),
    "tool calls without end",
)
"""Of whom a stream delivers something, so that nobody else may answer it; that it broke is told."""


def fast(name: str, mode: str) -> bool:
    """One mode for each: of those that only a stream takes for a beginning, a stream."""
    modes = ("stream", "astream") if name in STREAMS else MODES
    return mode == modes[NAMES.index(name) % len(modes)]


def served(name: str) -> AbstractContextManager[str]:
    """The address of such a server."""
    return never_accepting() if name == NEVER_ACCEPTING else hostile(KINDS[name])


FINISHED = FRAME + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,'
FINISHED += b'"completion_tokens":7,"total_tokens":12}}\n\n'
ENDS: dict[str, Play] = {
    "it stays open": say(STREAM + b"\r\n" + FINISHED),
    "it is reset": say(STREAM + b"\r\n" + FINISHED, then=reset),
    "its last chunk is missing": say(STREAM + CHUNKED + b"%x\r\n%b\r\n" % (len(FINISHED), FINISHED), then=leave),
    "its length is not reached": say(STREAM + b"Content-Length: 9999\r\n\r\n" + FINISHED, then=leave),
}


@pytest.mark.parametrize("limit", ["idle_s", "total_s"])
@pytest.mark.parametrize("policy", ["raise", "hold"])
@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("end", ENDS)
async def test_a_stream_that_said_how_it_ended_is_whole_whatever_becomes_of_its_connection(end, mode, policy, limit):
    """Nothing of the reply is missing, its usage included; nobody else is asked, and no breaker told. Whichever limit
    is over first."""
    with hostile(ENDS[end]) as address:
        spec = spec_of(f"http://{address}")
        spec["chains"]["c"] |= {"timeouts": {limit: 0.3}, "on_stream_break": policy}
        with build_chat_model(spec) as model:
            reply = await ask(model, mode)
            assert model.state()["a"]["failures"] == 0
    assert (reply.text, reply.usage_metadata["total_tokens"]) == ("x ", 12)
    assert [attempt["outcome"] for attempt in reply.response_metadata["llm_fallback"]["attempts"]] == ["succeeded"]


STOPPED = b'data: {"choices":[{"index":0,"delta":{"content":"x "},"finish_reason":"stop"}]}\n\n' * 2
BREAKS: dict[str, Play] = {
    "it is reset": say(STREAM + CHUNKED + b"%x\r\n%b\r\n" % (len(STOPPED), STOPPED), then=reset),
    "its last chunk is missing": say(STREAM + CHUNKED + b"%x\r\n%b\r\n" % (len(STOPPED), STOPPED), then=leave),
    "its length is not reached": say(STREAM + b"Content-Length: 9999\r\n\r\n" + STOPPED, then=leave),
}


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("end", BREAKS)
async def test_a_stream_of_a_gateway_that_says_stop_with_every_chunk_breaks_where_its_connection_does(end, mode):
    """What followed the last word may have been half of the reply."""
    with hostile(BREAKS[end]) as address, build_chat_model(spec_of(f"http://{address}")) as model:
        with pytest.raises(StreamBroken) as broken:
            await ask(model, mode)
    assert broken.value.partial.text == "x x "
    assert "finish_reason" not in broken.value.partial.response_metadata


def spec_of(address: str, **limits: Any) -> dict[str, Any]:
    return {
        "deployments": {"a": {"backend": "vllm", "model": "m", "api_base": address, "limits": limits}},
        "chains": {"c": {"tiers": ["a"], "timeouts": {"total_s": TOTAL_S}, "retries": {"max": 0}}},
    }


def deployment(name: str, address: str) -> dict[str, Any]:
    scheme = "https" if name in HANDSHAKES else "http"
    return {"backend": "vllm", "model": "m", "api_base": f"{scheme}://{address}", "breaker": "off"}


async def outcome_of(name: str, mode: str, *, backup: dict[str, Any] | None = None) -> tuple[str, float]:
    """What a call of such a server comes to, the text or the class of the error, and after how many seconds."""
    prompt = "two hours " * 400_000 if name == "never reads" else "hi"
    with served(name) as address:
        deployments, total_s = {"bad": deployment(name, address)}, TOTAL_S
        if backup is not None:
            deployments["bad"]["timeouts"] = {"attempt_s": ATTEMPT_S}
            deployments["good"], total_s = backup, 20.0
        chain = {"tiers": list(deployments), "timeouts": {"total_s": total_s}, "retries": {"max": 0}}
        with build_chat_model({"deployments": deployments, "chains": {"c": chain}}) as model:
            if name in KEPT:
                assert (await asked(model, mode, "hi")).text.strip() == "x"
            began = time.monotonic()
            try:
                text = (await asked(model, mode, prompt)).text
            except (ChainExhausted, StreamBroken) as error:
                text = type(error).__name__
            return text, time.monotonic() - began


async def asked(model: Any, mode: str, prompt: str) -> Any:
    """As `ask`; sync modes in a thread, so that two calls may be under way."""
    if mode in ("invoke", "stream"):
        return await asyncio.to_thread(lambda: asyncio.run(ask(model, mode, prompt)))
    return await ask(model, mode, prompt)


async def seconds_to_fail(model: Any, mode: str) -> tuple[float, Exception]:
    """Asked a second time, as the first call of a process loads what all need."""
    began = time.monotonic()
    with pytest.raises((ChainExhausted, StreamBroken)) as failed:
        await ask(model, mode)
    return time.monotonic() - began, failed.value


@pytest.fixture(scope="module", autouse=True)
def good() -> Iterator[dict[str, Any]]:
    """A healthy deployment, asked once, as the first call of a process loads what all need."""
    with FakeServer({"good": "backup"}) as server:
        spec = server.spec(backend="vllm")
        with build_chat_model(spec) as model:
            model.invoke("hi")
        yield spec["deployments"]["good"]


@pytest.mark.parametrize(("name", "mode"), combinations(NAMES, MODES, fast=fast))
async def test_a_call_ends_within_its_time(name, mode, good):
    """Whatever the server does: by an error, and where a healthy deployment stands by and nothing was delivered yet, by
    its answer."""
    if name in CONTENT and mode in STREAMED:
        (end, took_s), expected = await outcome_of(name, mode), "StreamBroken"
    else:
        (end, took_s), (backed, _) = await asyncio.gather(outcome_of(name, mode), outcome_of(name, mode, backup=good))
        expected = "ChainExhausted"
        assert backed == "backup"
    assert end == expected
    assert took_s < TOTAL_S + MARGIN_S


async def test_a_name_that_is_never_looked_up_is_left(monkeypatch, good):
    """The look-up goes on in its thread; nobody waits for it."""
    found, look_up = threading.Event(), socket.getaddrinfo

    def hang(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "never.example":
            found.wait(20)
        return look_up("127.0.0.1" if host == "never.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    bad = {"backend": "vllm", "model": "m", "api_base": "http://never.example", "timeouts": {"attempt_s": ATTEMPT_S}}
    chain = {"tiers": ["bad", "good"], "timeouts": {"total_s": 20}}
    with build_chat_model({"deployments": {"bad": bad, "good": good}, "chains": {"c": chain}}) as model:
        try:
            assert [(await ask(model, mode)).text for mode in MODES] == ["backup"] * len(MODES)
        finally:
            found.set()


@pytest.mark.parametrize("name", ["content without a pause", "an error without end", "a gzip bomb"])
async def test_others_go_on_meanwhile(name):
    """The event loop is everybody's: a server that always has more to say does not keep it."""
    with hostile(KINDS[name]) as address, build_chat_model(spec_of(f"http://{address}")) as model:
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
    with hostile(KINDS[name]) as address:
        spec["deployments"]["a"]["api_base"] = f"http://{address}"
        with build_chat_model(spec) as model:
            _, failed = await seconds_to_fail(model, mode)
    [attempt] = failed.attempts
    assert (attempt.failure, attempt.status) == ("invalid_response", 200)
    assert "longer than 0.5 MB (limits.reply_mb)" in attempt.message


IN_THREADS = ("amazon_nova", "custom", "maritalk", "oobabooga", "petals")
"""Providers that litellm asks by a client that waits in a thread."""


@pytest.mark.parametrize("provider", IN_THREADS)
async def test_a_provider_that_is_asked_in_a_thread_has_the_same_limit(provider):
    """What the thread reads is read for nobody, and would fill the memory."""
    with hostile(KINDS["a gzip bomb"]) as address:
        spec = spec_of(f"http://{address}", reply_mb=0.5)
        spec["deployments"]["a"] |= {"model": f"{provider}/m", "backend": None, "api_key": "k"}
        spec["chains"]["c"]["timeouts"]["total_s"] = 20
        with build_chat_model(spec) as model:
            _, failed = await seconds_to_fail(model, "ainvoke")
    [attempt] = failed.attempts
    assert (attempt.failure, attempt.status) == ("invalid_response", 200)
    assert "longer than 0.5 MB (limits.reply_mb)" in attempt.message


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_of_an_endless_error_the_status_decides_at_once(mode):
    """Its body is left after 256 KB."""
    with hostile(KINDS["an error without end"]) as address:
        spec = spec_of(f"http://{address}")
        spec["chains"]["c"]["timeouts"]["total_s"] = 20
        with build_chat_model(spec) as model:
            took_s, failed = await seconds_to_fail(model, mode)
    assert (failed.attempts[0].failure, failed.attempts[0].status) == ("bad_request", 400)
    assert took_s < 10


async def test_a_bomb_takes_no_memory():
    """A megabyte on the wire that would be a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile(KINDS["a gzip bomb"]) as address:
        with build_chat_model(spec_of(f"http://{address}", reply_mb=1)) as model:
            await seconds_to_fail(model, "ainvoke")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_compression_nobody_asked_for_is_no_reply(streamed):
    """A few bytes of brotli are gigabytes at once; it is not asked for, and not read."""
    body = json.dumps({"choices": []}).encode()

    def play(peer: socket.socket) -> None:
        take_request(peer)
        peer.sendall(STREAM + b"Content-Encoding: br\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with hostile(play) as address, build_chat_model(spec_of(f"http://{address}")) as model:
        _, failed = await seconds_to_fail(model, "astream" if streamed else "ainvoke")
    assert failed.attempts[0].failure == "invalid_response"
    assert "(br)" in failed.attempts[0].message
