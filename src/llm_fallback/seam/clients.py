"""HTTP clients that litellm uses and we listen to: one per event loop, closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from openai import AsyncOpenAI

from llm_fallback.seam.wire import HOOKS

SOCKET_TIMEOUT_S = 6000.0
"""The engine keeps time; a socket must never give up before it does."""


class LoopClient:
    """An HTTP client that lives no longer than its event loop.

    It is held open by an async generator, because those are what a loop closes on its way out: whoever wraps each
    call in `asyncio.run` leaves no unclosed session behind.
    """

    def __init__(self) -> None:
        self.handler = AsyncHTTPHandler(timeout=SOCKET_TIMEOUT_S, event_hooks=HOOKS)
        self._closing: asyncio.Task[None] | None = None

    async def open(self, forget: Callable[[], object]) -> None:
        self._life = self._live(forget)
        await anext(self._life)

    async def _live(self, forget: Callable[[], object]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            forget()
            await self.handler.close()

    async def close(self) -> None:
        await self._life.aclose()

    def close_soon(self) -> None:
        # A loop keeps only weak references to its tasks.
        self._closing = asyncio.get_running_loop().create_task(self.close())


def client_for(handler: AsyncHTTPHandler, parameters: Mapping[str, Any]) -> AsyncHTTPHandler | AsyncOpenAI:
    """A client whose wire can be listened to, of the kind this provider of litellm's takes."""
    if parameters["model"].startswith("hosted_vllm/"):
        return handler
    return AsyncOpenAI(
        api_key=parameters["api_key"],
        base_url=parameters["api_base"],
        http_client=handler.client,
        max_retries=0,
    )
