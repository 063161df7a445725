"""Whether a deployment works: is it there, is it ready, does it serve the model, does it take the key, does it answer?

Health endpoints say 200 while the engine is dead or the model not loaded, and listings name models that do not answer.
So both are only read for what they tell of a failure; whether a deployment works is said by a request for one token. A
ping stands outside of the engine: it asks whatever the breakers and limits say, and tells them nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import SecretStr
from typing_extensions import TypedDict

from llm_fallback.engine.clock import Clock
from llm_fallback.engine.remedies import FailureContext, remedy
from llm_fallback.engine.transport import (
    FINISHES,
    Chunk,
    Exchange,
    Fault,
    RefusedExchange,
    StreamEnd,
    Transport,
    Unsupported,
)
from llm_fallback.events import Failure
from llm_fallback.plan.plan import Target
from llm_fallback.spec.providers import BACKENDS, split_model

TIMEOUT_S = 10.0
_QUESTION = [{"role": "user", "content": "ping"}]
_VERSION_AT_END = re.compile(r"/v\d[^/]*$")
_OPENAI_LIKE = ("openai", "hosted_vllm", "litellm_proxy")
_NO_ANSWER = ("connection", "timeout")


class PingResult(TypedDict):
    """What is known of a deployment after its ping, as plain data. None: not known. Times in seconds."""

    deployment: str
    model: str
    works: bool
    """Whether it answered a request."""
    reachable: bool | None
    ready: bool | None
    """By its own health page, unless it answered."""
    served: bool | None
    """Whether it has the model."""
    key_accepted: bool | None
    """None also where no key is sent."""
    round_trip_s: float | None
    first_token_s: float | None
    failure: Failure | None
    status: int | None
    message: str | None
    remedy: str | None
    serves: list[str]
    """Models the server lists."""


@dataclass(frozen=True, slots=True)
class HttpPage:
    """What a GET brought."""

    status: int
    data: Any = None
    """The body, if it is JSON."""
    took_s: float | None = None


@dataclass(slots=True)
class EndpointChecks:
    """What the server's own pages say."""

    round_trip_s: float | None = None
    """Until the first page came."""
    health: int | None = None
    listing: int | None = None
    serves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of the request for one token."""

    first_token_s: float | None = None
    fault: Fault | None = None


class PingTransport(Transport, Protocol):
    """A transport that can also get a page of a deployment's server."""

    async def get_page(self, target: Target, url: str, api_key: SecretStr | None) -> HttpPage | Fault | None:
        """The page at a URL of the server; None where there is no server."""
        ...


async def pings(
    targets: Sequence[Target],
    keys: Mapping[str, SecretStr | Fault | None],
    transport: PingTransport,
    clock: Clock,
    timeout_s: float,
) -> AsyncGenerator[PingResult, None]:
    """All of them at once, each as soon as it is known. In place of a key stands why there is none."""
    # All are made before any is started: to put a first request together takes longer than to have it answered.
    pingers = [_Pinger(transport, clock, target, keys[target.name], timeout_s) for target in targets]
    under_way = [asyncio.ensure_future(pinger.ping()) for pinger in pingers]
    try:
        for ping in asyncio.as_completed(under_way):
            yield await ping
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class _Pinger:
    """One ping, with its own time limit."""

    def __init__(
        self, transport: PingTransport, clock: Clock, target: Target, key: SecretStr | Fault | None, timeout_s: float
    ) -> None:
        self._transport, self._clock, self._target = transport, clock, target
        self._key = None if isinstance(key, Fault) else key
        self._timeout_s = timeout_s
        self._endpoints = endpoints_of(target)
        self._exchange: Exchange = (
            RefusedExchange(key) if isinstance(key, Fault) else transport.exchange(target, _request(target), key)
        )

    async def ping(self) -> PingResult:
        checks, answer = await asyncio.gather(self.checks(), self.answer())
        return ping_result(self._target, checks, answer, key=self._key)

    def _deadline(self) -> AbstractAsyncContextManager[Any]:
        return self._clock.deadline(self._clock.now() + self._timeout_s)

    async def checks(self) -> EndpointChecks:
        """What the pages say that came in time."""
        checks = EndpointChecks()
        with suppress(TimeoutError):
            async with self._deadline():
                await self._check_endpoints(checks)
        return checks

    async def _check_endpoints(self, checks: EndpointChecks) -> None:
        for url in dict.fromkeys(filter(None, (self._endpoints.health, self._endpoints.models))):
            page = await self._transport.get_page(self._target, url, self._key)
            if page is None or isinstance(page, Fault):
                return
            if checks.round_trip_s is None:
                checks.round_trip_s = page.took_s
            if url == self._endpoints.health:
                checks.health = page.status
            if url == self._endpoints.models:
                checks.listing, checks.serves = page.status, models_in(page.data)

    async def answer(self) -> ProbeResult:
        """What came of the request, in time."""
        try:
            async with self._deadline():
                return await self._first_token(self._clock.now())
        except TimeoutError:
            return ProbeResult(fault=Fault("timeout", f"no answer within {self._timeout_s:g} s"))
        finally:
            await self._exchange.close()

    async def _first_token(self, began: float) -> ProbeResult:
        while True:
            item = await self._exchange.next()
            match item:
                case Chunk() if item.has_content:
                    return ProbeResult(self._clock.now() - began)
                case StreamEnd() if item.finish not in FINISHES:
                    return ProbeResult(fault=Fault("stream_broken", "the stream ended without a finish"))
                case StreamEnd():
                    return ProbeResult()
                case Fault():
                    return ProbeResult(fault=item)
                case Unsupported():
                    return ProbeResult(fault=Fault("bad_request", f"it does not take {', '.join(item.parameters)}"))


def _request(target: Target) -> Mapping[str, Any]:
    known = "max_completion_tokens"
    limit = known if known in target.parameters else "max_tokens"
    return {"messages": _QUESTION, "stream": True, limit: 1}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a server says how it is, and which models it has; None where nobody knows."""

    health: str | None = None
    models: str | None = None


def endpoints_of(target: Target) -> Endpoints:
    """The pages of a deployment's server. Of a provider nothing but its API is known."""
    base = str(target.parameters.get("api_base", "")).rstrip("/")
    provider, _ = split_model(target.parameters["model"])
    if not base or provider not in _OPENAI_LIKE:
        return Endpoints()
    if target.backend is None:
        return Endpoints(models=f"{base}/models")
    backend = BACKENDS[target.backend]
    # An address may have another version than the row's paths.
    return Endpoints(_VERSION_AT_END.sub("", base) + backend.health, base + backend.models.removeprefix("/v1"))


def models_in(data: Any) -> tuple[str, ...]:
    """The names in a listing as OpenAI writes it."""
    rows = data.get("data") if isinstance(data, Mapping) else None
    return tuple(str(row["id"]) for row in rows or () if isinstance(row, Mapping) and "id" in row)


def ping_result(target: Target, checks: EndpointChecks, answer: ProbeResult, *, key: SecretStr | None) -> PingResult:
    """The ping that endpoint checks and probe result add up to."""
    fault = answer.fault
    works = fault is None
    reachable = _reachable(checks, fault)
    return PingResult(
        deployment=target.name,
        model=target.model,
        works=works,
        reachable=reachable,
        ready=True if works else _ready(checks, fault),
        served=True if works else _served(target, checks, fault),
        key_accepted=_key_accepted(target, checks, fault, key),
        round_trip_s=_rounded(checks.round_trip_s),
        first_token_s=_rounded(answer.first_token_s),
        failure=None if fault is None else fault.failure,
        status=None if fault is None else fault.status,
        message=None if fault is None else fault.message,
        remedy=None if fault is None else remedy(FailureContext(target, fault, checks.serves, key, reachable)),
        serves=list(checks.serves),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _reachable(checks: EndpointChecks, fault: Fault | None) -> bool | None:
    if checks.round_trip_s is None and fault is not None and fault.was_not_sent:
        return None
    if checks.round_trip_s is not None or fault is None or fault.failure not in _NO_ANSWER or fault.status is not None:
        return True
    return False if fault.failure == "connection" else None


def _ready(checks: EndpointChecks, fault: Fault | None) -> bool | None:
    if fault is not None and fault.failure == "overloaded":
        return False
    if checks.health is None or 400 <= checks.health < 500:
        return None
    return checks.health < 400


def _served(target: Target, checks: EndpointChecks, fault: Fault | None) -> bool | None:
    if checks.serves:
        return target.model_name in checks.serves
    return False if fault is not None and fault.failure == "not_found" else None


def _key_accepted(target: Target, checks: EndpointChecks, fault: Fault | None, key: SecretStr | None) -> bool | None:
    if fault is not None and fault.was_not_sent:
        return None
    if fault is not None and (fault.failure == "auth" or checks.listing in (401, 403)):
        return False
    if key is None and not target.uses_provider_credentials:
        return None
    return True if fault is None or checks.listing == 200 else None
