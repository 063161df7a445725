"""HTTP clients that litellm uses and we listen to: one per event loop, closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import cached_property

import litellm
from aiohttp import ClientResponse, ClientSession, DummyCookieJar
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, VerifyTypes, get_ssl_configuration
from multidict import CIMultiDict, CIMultiDictProxy
from openai import AsyncOpenAI

from llm_fallback.litellm_adapter.connections import bounded_connector
from llm_fallback.litellm_adapter.http_client import HTTPClient
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.litellm_adapter.wire_tap import HOOKS
from llm_fallback.plan.plan import Target
from llm_fallback.spec.providers import KNOWN_PROVIDERS, split_model

SOCKET_TIMEOUT_S = 6000.0
"""The engine keeps time; a socket must never give up before it does."""


class _PlainResponse(ClientResponse):
    """A response whose headers every HTTP library takes: httpx refuses what is not ASCII, and with it the reply."""

    @cached_property
    def headers(self) -> CIMultiDictProxy[str]:
        headers = self._headers
        if "".join(headers.values()).isascii():
            return headers
        plain = [(name, text.encode("ascii", "backslashreplace").decode()) for name, text in headers.items()]
        return CIMultiDictProxy(CIMultiDict(plain))


class LoopClient:
    """An HTTP client that lives no longer than its event loop.

    It is held open by an async generator, because those are what a loop closes on its way out: whoever wraps each
    call in `asyncio.run` leaves no unclosed session behind.
    """

    def __init__(self, verify: VerifyTypes) -> None:
        self._verify = verify
        self.http = HTTPClient(verify)
        self._closing: asyncio.Task[None] | None = None

    @cached_property
    def handler(self) -> AsyncHTTPHandler:
        """For what litellm sends by itself."""
        return AsyncHTTPHandler(
            timeout=SOCKET_TIMEOUT_S, event_hooks=HOOKS, ssl_verify=self._verify, shared_session=self._relayed
        )

    @cached_property
    def _relayed(self) -> ClientSession:
        return ClientSession(connector=bounded_connector(), cookie_jar=DummyCookieJar(), response_class=_PlainResponse)

    async def open(self, forget: Callable[[], object]) -> None:
        """`forget` is called before it closes, so that nobody is handed a client on its way out."""
        self._forget = forget
        self._life = self._live()
        await anext(self._life)

    async def _live(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._forget()
            await self._closed()

    async def close(self) -> None:
        self._forget()
        await self._closed()
        with suppress(RuntimeError):  # The loop is ending its life already.
            await self._life.aclose()

    def close_soon(self) -> None:
        # A loop keeps only weak references to its tasks.
        self._closing_soon = asyncio.get_running_loop().create_task(self.close())

    def _closed(self) -> asyncio.Task[None]:
        """The closing, begun once whoever asks: the owner, or the loop on its way out, which cancels tasks first."""
        if self._closing is None or self._closing.cancelled():
            self._closing = asyncio.get_running_loop().create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        await self.http.close()
        if "handler" in vars(self):
            await self.handler.close()
            await self._relayed.close()


class ClientPool:
    """One HTTP client per event loop: its connections cannot be used from another."""

    def __init__(self) -> None:
        self._clients: dict[asyncio.AbstractEventLoop, LoopClient] = {}
        self._verify: VerifyTypes | None = None

    async def client(self) -> LoopClient:
        """This loop's client."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            if self._verify is None:
                # It looks for files, and no event loop may wait for a disk.
                self._verify = await asyncio.to_thread(get_ssl_configuration)
            client = self._clients.get(loop) or await self._opened(loop, self._verify)
        return client

    async def _opened(self, loop: asyncio.AbstractEventLoop, verify: VerifyTypes) -> LoopClient:
        client = self._clients[loop] = LoopClient(verify)
        await client.open(lambda: self._forget(loop, client))
        return client

    def _forget(self, loop: asyncio.AbstractEventLoop, client: LoopClient) -> None:
        if self._clients.get(loop) is client:
            del self._clients[loop]

    def close(self) -> None:
        """Close the connections of every loop: of one that stands still between two runs as soon as it goes on."""
        for loop, client in list(self._clients.items()):
            with suppress(RuntimeError):  # The loop is closed, and its connections died with it.
                loop.call_soon_threadsafe(client.close_soon)

    async def aclose(self) -> None:
        """Like close, and wait for this loop's, also where close was called before."""
        client = self._clients.get(asyncio.get_running_loop())
        if client is not None:
            await client.close()
        self.close()


def sends_by_httpx(target: Target) -> bool:
    """Whether litellm asks the provider by httpx, so that it is seen when a request goes out."""
    provider = target.litellm_provider
    return provider_called(provider).client != "unseen" and not any(
        handler["provider"] == provider for handler in litellm.custom_provider_map
    )


def is_unknown(target: Target) -> bool:
    """Whether litellm knows nobody by the provider's name, so that nothing can be sent."""
    model, parameters = target.parameters["model"], target.parameters
    if target.litellm_provider in KNOWN_PROVIDERS or model in litellm.model_alias_map:
        return False
    try:
        litellm.get_llm_provider(model, parameters.get("custom_llm_provider"), parameters.get("api_base"))
    except litellm.BadRequestError:
        return True
    return False


def is_tapped(target: Target) -> bool:
    """Whether a deployment's wire can be listened to."""
    provider = provider_called(target.litellm_provider)
    if provider.client == "openai":
        return "api_base" in target.parameters
    return provider.client == "handler" and split_model(target.parameters["model"])[1].startswith(provider.models)


def client_for(handler: AsyncHTTPHandler, target: Target, api_key: str) -> AsyncHTTPHandler | AsyncOpenAI:
    """A client whose wire can be listened to, of the kind this provider of litellm's takes."""
    if provider_called(target.litellm_provider).client != "openai":
        return handler
    base_url = target.parameters["api_base"]
    return AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=handler.client, max_retries=0)
