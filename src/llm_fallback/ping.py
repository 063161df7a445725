"""One look at a deployment: is it there, is it ready, does it serve the model, does it take the key, does it answer?

Health endpoints say 200 while the engine is dead or the model not loaded, and listings name models that do not answer.
So both are only looked at, for what they tell of a failure; whether a deployment works is said by a request for one
token. A ping stands outside of the engine: it asks whatever the breakers and limits say, and tells them nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol

from pydantic import SecretStr

from llm_fallback.exchange import UNFINISHED, End, Piece, Transport, Unsupported
from llm_fallback.faults import Fault
from llm_fallback.looks import Answer, Page, Ping, Sight, judged, models_in, pages_of
from llm_fallback.plan import Target
from llm_fallback.timing import Clock

TIMEOUT_S = 10.0
_QUESTION = [{"role": "user", "content": "ping"}]


class Lookout(Transport, Protocol):
    """A transport that can also look at a page of a deployment's server."""

    async def look(self, target: Target, url: str, api_key: SecretStr | None) -> Page | Fault | None:
        """The page at a URL of the server; None where there is no server."""
        ...


def key_of(target: Target) -> Any:
    """A deployment's key, asked for if it is a function; then it may be awaitable."""
    key = target.api_key
    return key() if callable(key) else key


def secret_of(key: Any) -> SecretStr | None:
    """What `key_of` brought, veiled."""
    return key if key is None or isinstance(key, SecretStr) else SecretStr(str(key))


async def pings(
    targets: Sequence[Target], keys: Mapping[str, SecretStr | None], transport: Lookout, clock: Clock, timeout_s: float
) -> AsyncGenerator[Ping, None]:
    """All of them at once, each as soon as it is known."""
    # All are made before any is started: to put a first request together takes longer than to have it answered.
    watches = [_Watch(transport, clock, target, keys[target.name], timeout_s) for target in targets]
    under_way = [asyncio.ensure_future(watch.ping()) for watch in watches]
    try:
        for ping in asyncio.as_completed(under_way):
            yield await ping
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class _Watch:
    """One deployment, looked at until a moment."""

    def __init__(
        self, transport: Lookout, clock: Clock, target: Target, key: SecretStr | None, timeout_s: float
    ) -> None:
        self._transport, self._clock, self._target, self._key = transport, clock, target, key
        self._timeout_s = timeout_s
        self._pages = pages_of(target)
        self._exchange = transport.exchange(target, _request(target), key)

    async def ping(self) -> Ping:
        sight, answer = await asyncio.gather(self.sight(), self.answer())
        return judged(self._target, sight, answer, key=self._key)

    def _deadline(self) -> AbstractAsyncContextManager[Any]:
        return self._clock.deadline(self._clock.now() + self._timeout_s)

    async def sight(self) -> Sight:
        """What the pages say that came in time."""
        sight = Sight()
        with suppress(TimeoutError):
            async with self._deadline():
                await self._look_around(sight)
        return sight

    async def _look_around(self, sight: Sight) -> None:
        for url in dict.fromkeys(filter(None, (self._pages.health, self._pages.models))):
            page = await self._transport.look(self._target, url, self._key)
            if page is None or isinstance(page, Fault):
                return
            if sight.round_trip_s is None:
                sight.round_trip_s = page.took_s
            if url == self._pages.health:
                sight.health = page.status
            if url == self._pages.models:
                sight.listing, sight.serves = page.status, models_in(page.data)

    async def answer(self) -> Answer:
        """What came of the request, in time."""
        try:
            async with self._deadline():
                return await self._first_token(self._clock.now())
        except TimeoutError:
            return Answer(fault=Fault("timeout", f"no answer within {self._timeout_s:g} s"))
        finally:
            await self._exchange.close()

    async def _first_token(self, began: float) -> Answer:
        while True:
            item = await self._exchange.next()
            match item:
                case Piece() if item.has_content:
                    return Answer(self._clock.now() - began)
                case End() if item.finish in UNFINISHED:
                    return Answer(fault=Fault("stream_broken", "the stream ended without a finish"))
                case End():
                    return Answer()
                case Fault():
                    return Answer(fault=item)
                case Unsupported():
                    return Answer(fault=Fault("bad_request", f"it does not take {', '.join(item.parameters)}"))


def _request(target: Target) -> Mapping[str, Any]:
    known = "max_completion_tokens"
    limit = known if known in target.parameters else "max_tokens"
    return {"messages": _QUESTION, "stream": True, limit: 1}
