"""A store in Redis (5 and later) or Valkey: one call of a script for each exchange, on the server's clock."""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from typing import Any

from llm_fallback.fleet.messages import (
    News,
    Request,
    Response,
    StoreError,
    decode_news,
    decode_response,
    encode_request,
)
from llm_fallback.fleet.names import FORMAT

try:
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as error:
    raise ImportError('a fleet in Redis needs redis: pip install "langchain-llm-fallback[redis]"') from error

_LISTENS_S = 60.0
_SCRIPT = files("llm_fallback.fleet").joinpath("exchange.lua").read_text(encoding="utf-8")


class RedisStore:
    """A connection for exchanges and one to hear of news, for one event loop. A fleet's keys are in one hash slot."""

    def __init__(self, url: str, fleet: str, timeout_s: float = 1.0) -> None:
        # Waiting and trying again are the exchanger's: a client that retries would do it twice.
        self._client: Any = redis.Redis.from_url(
            url,
            protocol=2,  # Redis 5 does not know the third, which later clients begin with.
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=2,
        )
        self._script = self._client.register_script(_SCRIPT)
        self._pubsub: Any = None
        self._prefix = f"llm-fallback:{{{FORMAT}:{fleet}}}:"

    async def exchange(self, request: Request) -> Response:
        keys = [self._prefix + name for name in ("meta", "members", *(claim.resource for claim in request.claims))]
        try:
            answer = await self._script(keys=keys, args=[encode_request(request)])
        except (RedisError, OSError) as error:
            raise StoreError(f"{type(error).__name__}: {error}") from error
        return decode_response(answer)

    async def news(self) -> News:
        try:
            if self._pubsub is None:
                self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                await self._pubsub.subscribe(self._prefix + "news")
            while (message := await self._pubsub.get_message(timeout=_LISTENS_S)) is None:
                pass
        except (RedisError, OSError) as error:
            await self._forget_pubsub()
            raise StoreError(f"{type(error).__name__}: {error}") from error
        return decode_news(message["data"])

    async def _forget_pubsub(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(RedisError, OSError):
                await pubsub.aclose()

    async def close(self) -> None:
        await self._forget_pubsub()
        await self._client.aclose()
