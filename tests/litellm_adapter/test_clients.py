"""Connections live no longer than whoever wants them: the model that opened them, or the loop they belong to."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.litellm_adapter.chat_model import FallbackChatModel
from llm_fallback.litellm_adapter.clients import LoopClient
from llm_fallback.testing import FakeServer
from tests.asking import ask
from tests.end_to_end.hostile_servers import HEADS, JSON, WHOLE, hostile, say
from tests.litellm_adapter.test_direct_and_relayed_alike import answering, heard


@pytest.fixture
def model() -> Iterator[FallbackChatModel]:
    with FakeServer({"a": "fine"}) as server:
        yield build_chat_model(server.spec(backend="vllm"))


async def opened_by(model: FallbackChatModel) -> LoopClient:
    """The client of this loop, with a connection open."""
    await model.ainvoke("hi")
    return model.runtime.engine.transport._clients._clients[asyncio.get_running_loop()]


def test_a_loop_that_stands_still_closes_its_connection_when_it_goes_on(model):
    """A runner's loop runs now and then; a model closed in between is closed there, too."""
    with asyncio.Runner() as runner:
        client = runner.run(opened_by(model))
        model.close()
        runner.run(asyncio.sleep(0.01))
        assert client.http.session.closed


def test_whoever_waits_for_a_close_finds_the_connection_closed(model):
    """Also where it was closed before without waiting."""
    with asyncio.Runner() as runner:
        client = runner.run(opened_by(model))
        model.close()
        runner.run(model.aclose())
        assert client.http.session.closed


@pytest.mark.parametrize("backend", ["vllm", "openai-compatible"])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_first_call_waits_for_no_file_on_the_event_loop(backend, is_streamed, monkeypatch):
    """Servers such as LangGraph's refuse to: the call would end with their objection."""
    build_chat_model(["openai/gpt-4.1"]).close()  # What the first one of a process imports is another matter.
    looked_for: list[str] = []
    stat, opened = os.stat, builtins.open

    def note(path: object) -> None:
        with suppress(RuntimeError):  # In a thread without a loop it holds nobody up.
            asyncio.get_running_loop()
            add(str(path))

    def add(place: str) -> None:
        if "site-packages" not in place or place.endswith(".pem"):
            looked_for.append(place)

    monkeypatch.setattr(os, "stat", lambda path, *words, **more: (note(path), stat(path, *words, **more))[1])
    monkeypatch.setattr(builtins, "open", lambda path, *words, **more: (note(path), opened(path, *words, **more))[1])
    async with FakeServer({"a": "fine"}) as server, build_chat_model(server.spec(backend=backend)) as model:
        await ask(model, "astream" if is_streamed else "ainvoke")
        assert not looked_for


def test_a_model_is_closed_though_one_of_its_loops_is_gone(model):
    """Its connections went with it; those of other loops are closed all the same."""
    gone = asyncio.new_event_loop()
    gone.close()
    model.runtime.engine.transport._clients._clients[gone] = LoopClient.__new__(LoopClient)
    with asyncio.Runner() as runner:
        client = runner.run(opened_by(model))
        model.close()
        runner.run(asyncio.sleep(0.01))
        assert client.http.session.closed


@pytest.mark.parametrize("turns", range(6))
def test_a_loop_that_ends_amid_a_close_ends_it(model, turns):
    """It cancels its tasks first, the closing among them; a connection is left open at no point of that."""

    async def closed_late() -> LoopClient:
        client = await opened_by(model)
        model.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        return client

    assert asyncio.run(closed_late()).http.session.closed


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("backend", ["vllm", "openai-compatible"])
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("text", ["Bj\u00f6rn".encode("latin-1"), "Bj\u00f6rn".encode()])
async def test_a_header_that_is_not_ascii_is_no_broken_connection(text, mode, backend, way):
    """Gateways put names of people and places there, in whichever encoding; the reply is sound."""
    told = b'"content": "hello"}, "finish_reason": "stop"'
    part = b"delta" if mode == "astream" else b"message"
    body = b'{"choices": [{"index": 0, "' + part + b'": {"role": "assistant", ' + told + b"}]}"
    body = b"data: " + body + b"\n\ndata: [DONE]\n\n" if mode == "astream" else body
    with answering(body.decode(), b"x-owner: " + text + b"\r\n") as address, heard(way):
        deployment = {"backend": backend, "model": "m", "api_base": address}
        async with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            assert (await ask(model, mode)).content == "hello"


@pytest.mark.parametrize("streamed", [False, True])
async def test_interim_responses_without_end_are_not_read_until_time_is_up(streamed):
    """A read of them would be ten thousand messages, while nobody else on the event loop has a turn."""
    with hostile(HEADS["100 Continue for ever"]) as address:
        spec = {"deployments": {"a": {"backend": "vllm", "model": "m", "api_base": f"http://{address}"}}}
        chain = {"tiers": ["a"], "timeouts": {"total_s": 60}, "retries": {"max": 0}}
        async with build_chat_model({**spec, "chains": {"c": chain}}) as model:
            with pytest.raises(ChainExhausted, match="responses without end") as failed:
                await ask(model, "astream" if streamed else "ainvoke")
    assert failed.value.failure == "connection"


async def test_an_answer_after_interim_responses_is_an_answer():
    """Some servers say that they are at work."""
    interim = b"HTTP/1.1 102 Processing\r\n\r\n" * 20
    with hostile(say(interim + JSON + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE)) as address:
        spec = {"deployments": {"a": {"backend": "vllm", "model": "m", "api_base": f"http://{address}"}}}
        async with build_chat_model({**spec, "chains": {"c": {"tiers": ["a"]}}}) as model:
            assert (await model.ainvoke("hi")).text == "x"
