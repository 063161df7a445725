"""httpx and asyncio: what our wire-tap and the life of our clients lean on."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterator

import httpx
import pytest

WORDS = [b"one ", b"two"]


class Words(httpx.AsyncByteStream):
    """A body that notes when it is read and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for word in WORDS:
            self.events.append("read")
            yield word

    async def aclose(self) -> None:
        self.events.append("closed")


class Louder(httpx.AsyncByteStream):
    """Stands in for a body and passes on something else, as our tap may."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self.stream:
            yield data.upper()

    async def aclose(self) -> None:
        await self.stream.aclose()


def client_of(body: httpx.AsyncByteStream, **hooks: list) -> httpx.AsyncClient:
    answer = httpx.MockTransport(lambda request: httpx.Response(200, stream=body))
    return httpx.AsyncClient(transport=answer, event_hooks=hooks)


async def test_a_response_hook_runs_before_the_body_is_read():
    """Our hook must be there first; a body read already could not be listened to."""
    body, seen = Words(), []

    async def on_response(response: httpx.Response) -> None:
        seen.append((response.status_code, list(body.events), response.is_stream_consumed))

    async with client_of(body, response=[on_response]) as client:
        await client.get("http://server/")
    assert seen == [(200, [], False)]


async def test_a_response_hook_may_replace_the_stream():
    """The tap is put in by assigning `response.stream`; the reader gets what it passes, and closing goes through."""
    body = Words()

    async def on_response(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Louder(response.stream)

    async with client_of(body, response=[on_response]) as client:
        assert (await client.get("http://server/")).text == "ONE TWO"
        async with client.stream("GET", "http://server/") as response:
            assert [data async for data in response.aiter_raw()] == [b"ONE ", b"TWO"]
    assert body.events.count("closed") == 2


async def test_a_request_hook_may_take_a_header_off():
    """This is how the key that litellm invents is kept from a server that wants none."""
    received: list[httpx.Request] = []

    async def on_request(request: httpx.Request) -> None:
        request.headers.pop("authorization", None)

    def answer(request: httpx.Request) -> httpx.Response:
        received.append(request)
        return httpx.Response(200)

    hooks = {"request": [on_request]}
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), event_hooks=hooks) as client:
        await client.get("http://server/", headers={"Authorization": "Bearer x"})
    assert "authorization" not in received[0].headers


async def test_hooks_run_in_the_context_of_whoever_sends():
    """The wire of an exchange is found by a ContextVar, so hooks of one client serve many calls at once."""
    current: contextvars.ContextVar[str] = contextvars.ContextVar("current")
    seen: list[str] = []

    async def note(_: httpx.Request | httpx.Response) -> None:
        seen.append(current.get())

    async with client_of(Words(), request=[note], response=[note]) as client:

        async def send(name: str) -> None:
            current.set(name)
            await client.get("http://server/")

        await asyncio.gather(send("first"), send("second"))
    assert sorted(seen) == ["first", "first", "second", "second"]


async def test_closing_a_response_closes_its_stream():
    """`response.aclose()` is how an answer nobody wants any more is hung up."""
    body = Words()
    async with client_of(body) as client:
        response = await client.send(client.build_request("GET", "http://server/"), stream=True)
        await response.aclose()
    assert body.events == ["closed"]


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_both_kinds_of_client_make_a_redirects_request_in_one_method(library):
    """RequestGuard to strangers are kept from in there; clients that made it elsewhere would follow them again."""
    module = pytest.importorskip(library, reason="not every version of OpenAI's library brings an httpx of its own")
    common = module.Client.__base__
    assert common is module.AsyncClient.__base__
    assert "_build_redirect_request" in vars(common)
    for client in (module.Client, module.AsyncClient):
        assert "_build_redirect_request" not in vars(client)
        assert "self._build_redirect_request(request, response)" in inspect.getsource(client._send_handling_redirects)


def test_asyncio_run_closes_async_generators_on_its_way_out():
    """Our HTTP client is held open by one: whoever wraps each call in `asyncio.run` leaves no open session behind."""
    events: list[str] = []

    async def life() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    async def main() -> None:
        held.append(life())
        await anext(held[0])
        events.append("leaving")

    held: list[AsyncIterator[None]] = []
    asyncio.run(main())
    assert events == ["leaving", "closed"]


async def test_a_task_may_be_given_a_context_to_run_in():
    """The portal runs a sync caller's steps under the caller's own context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, "the caller's")

    async def read() -> str:
        return variable.get()

    assert await asyncio.get_running_loop().create_task(read(), context=context) == "the caller's"
