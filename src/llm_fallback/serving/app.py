"""The ASGI application: chains as models of an OpenAI-compatible endpoint, and what there is to know about it."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import time
from typing import Any

try:
    import prometheus_client
    from prometheus_client.multiprocess import MultiProcessCollector
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as error:
    raise ImportError(
        'llm_fallback.serving needs starlette and prometheus-client: pip install "langchain-llm-fallback[serve]"'
    ) from error

from llm_fallback._imports import collecting_later
from llm_fallback.chat_model.base import ChainChatModel
from llm_fallback.chat_model.caller import Listener
from llm_fallback.errors import Mistake, SpecError
from llm_fallback.exporters.prometheus import PrometheusExporter
from llm_fallback.serving.caller_keys import CallerKeys, is_from_another_machine
from llm_fallback.serving.chat import ChatEndpoint, send_error
from llm_fallback.serving.errors import ErrorResponse
from llm_fallback.spec import Spec, load_spec
from llm_fallback.spec.overrides import read_spec

logger = logging.getLogger("llm_fallback")

SPEC_VARIABLE = "LLM_FALLBACK_SPEC"
"""Names the files of the spec, `os.pathsep` between them."""

RETRY_S = 1
"""Seconds after which to try again, elsewhere, what came while this process was about to end."""


def create_app(source: Any = None, *, listeners: Sequence[Listener] = ()) -> Starlette:
    """An ASGI application that serves the chains of a spec as models of an OpenAI-compatible endpoint.

    `source` is what `build_chat_model` takes, or a model it made; then that model stays open when the application ends.
    Without one, the variable LLM_FALLBACK_SPEC names the file or files. `listeners` get the events of every call.

    Raises SpecError, with every mistake, and for keys whose variables are not set.
    """
    return ServedChains(source, listeners).app


def files_of_environment(environ: Mapping[str, str]) -> list[str]:
    """The files that LLM_FALLBACK_SPEC names. Raises SpecError where it names none."""
    files = [name for name in environ.get(SPEC_VARIABLE, "").split(os.pathsep) if name]
    if not files:
        raise SpecError([Mistake("", "no spec is named", f"set {SPEC_VARIABLE} to its path")], "environment")
    return files


class ServedChains:
    """A built model, who may ask it, and whether new requests are taken."""

    def __init__(self, source: Any = None, listeners: Sequence[Listener] = ()) -> None:
        self._own = not isinstance(source, ChainChatModel)
        self._metrics = PrometheusExporter()
        if isinstance(source, ChainChatModel):
            self.model, listeners = source, [*source.listeners, *listeners]
        else:
            self.model = _built(load_spec(*files_of_environment(os.environ)) if source is None else read_spec(source))
        self.keys = CallerKeys.of_spec(self.model.runtime.spec, os.environ)
        self.is_draining = False
        self.in_flight = 0
        """Requests that are being answered."""
        self._created = int(time())
        self.app = self._app([self._metrics, *listeners])

    def reload(self, spec: Spec) -> None:
        """Answer by another spec from the next request on. Raises SpecError and changes nothing if it is wrong."""
        keys = CallerKeys.of_spec(spec, os.environ)
        self.model.reload(spec)
        self.keys = keys

    @property
    def longest_call_s(self) -> float:
        """How many seconds a call of any chain may take."""
        return max(chain.total_s for chain in self.model.runtime.plan.chains.values())

    def _app(self, listeners: Sequence[Listener]) -> Starlette:
        chat = ChatEndpoint(self.model.runtime, listeners)
        app = Starlette(
            routes=[
                *self._routes(chat, "/v1"),
                # Clients of a LiteLLM proxy may have its address without a version.
                *self._routes(chat, ""),
                Route("/health", _alive),
                Route("/ready", self._show_readiness),
                Route("/metrics", self._show_metrics),
            ],
            middleware=[Middleware(_AccessMiddleware, chains=self)],
            exception_handlers={HTTPException: _refused, Exception: _failed},
            lifespan=self._lifespan,
        )
        app.state.chains = self
        return app

    def _routes(self, chat: ChatEndpoint, start: str) -> list[Route]:
        """OpenAI's protocol, below a path."""
        return [
            Route(f"{start}/chat/completions", chat, methods=["POST"]),
            Route(f"{start}/models", self._list_models),
            Route(f"{start}/models/{{name:path}}", self._show_model),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the model, unless it was given."""
        if self._own:
            await self.model.aclose()

    async def _list_models(self, request: Request) -> Response:
        rows = [self._row(name) for name in self.model.runtime.plan.chains]
        return JSONResponse({"object": "list", "data": rows})

    async def _show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.model.runtime.plan.chains:
            error = ErrorResponse(404, f"The model {name!r} does not exist", code="model_not_found", param="model")
            return _response(error)
        return JSONResponse(self._row(name))

    def _row(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "llm-fallback"}

    async def _show_readiness(self, request: Request) -> Response:
        """Whether it is worth sending requests here: not while this process is about to end, nor while no deployment of
        any chain may be asked."""
        _, plan, engine = self.model.runtime.state
        now = engine.clock.now()
        with engine.health.lock:
            chains = {
                name: any(engine.health[member.name].breaker.blocked_until(now) is None for member in chain.members)
                for name, chain in plan.chains.items()
            }
        is_ready = not self.is_draining and any(chains.values())
        document = {"ready": is_ready, "draining": self.is_draining, "chains": chains}
        headers = None if is_ready else {"retry-after": str(RETRY_S)}
        return JSONResponse(document, 200 if is_ready else 503, headers)

    async def _show_metrics(self, request: Request) -> Response:
        # Of several processes each counts for itself, into files of which any of them can tell the sums.
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = prometheus_client.CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            metrics = prometheus_client.generate_latest(registry)
        else:
            metrics = self._metrics.metrics()
        return Response(metrics, headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST})


def keep_what_is_loaded() -> None:
    """Have the garbage collector pass over all there is now, in a process that does nothing but serve.

    litellm's modules are some million objects. To look among them for garbage takes half a second, in which nobody is
    answered, once in about a thousand requests.
    """
    gc.collect()
    gc.freeze()


def _built(spec: Spec) -> ChainChatModel:
    with collecting_later():
        # Here, because it loads litellm, and an application over a fake does without.
        from llm_fallback.litellm_adapter.build import build_chat_model
    return build_chat_model(spec)


async def _alive(request: Request) -> Response:
    """That this process answers; whether its chains can is `/ready`."""
    return JSONResponse({"status": "ok"})


class _AccessMiddleware:
    """Lets requests in: with a key where there are keys, from this machine where there are none, and not any more when
    the process is about to end."""

    def __init__(self, app: ASGIApp, chains: ServedChains) -> None:
        self._app, self._chains = app, chains

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            if refusal is _DRAINING:
                await _skip_body(receive)
            await send_error(send, refusal)
            return
        self._chains.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._chains.in_flight -= 1

    def _refusal(self, scope: Scope) -> ErrorResponse | None:
        keys = self._chains.keys
        if keys and not keys.accept(scope["headers"]):
            return _NO_KEY
        if not keys and is_from_another_machine(scope):
            return _FROM_ANOTHER_MACHINE
        return _DRAINING if self._chains.is_draining else None


async def _skip_body(receive: Receive) -> None:
    """Take what a client sends. Its connection is closed then: with some of that unread it would be reset, and what it
    was answered be lost."""
    while (await receive()).get("more_body"):
        pass


_OPEN = frozenset({"/health", "/ready"})
"""What an orchestrator asks without a key."""

_NO_KEY = ErrorResponse(
    401,
    "Incorrect API key provided, or none: send one of the server's keys as 'Authorization: Bearer KEY'.",
    code="invalid_api_key",
    headers={"www-authenticate": "Bearer"},
)
_FROM_ANOTHER_MACHINE = ErrorResponse(
    403,
    "This server has no keys and answers only its own machine; `serve.keys` in its spec names some.",
    code="no_keys",
)
_DRAINING = ErrorResponse(
    503,
    "This server is about to end and takes no new requests; another one will.",
    type="server_error",
    code="shutting_down",
    headers={"retry-after": str(RETRY_S), "connection": "close"},
)


def _response(error: ErrorResponse) -> Response:
    return Response(error.body(), error.status, dict(error.headers), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    """A path or a method that there is not, as OpenAI's clients read it."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    if error.status_code == 404:
        message += "; OpenAI's protocol is answered at /v1/chat/completions and /v1/models"
    return _response(ErrorResponse(error.status_code, message, headers=error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    """A failure of our own, or of a function of the user's. What it was is for the log, not for a caller."""
    return _response(ErrorResponse(500, "The server failed; its log says why.", type="server_error", code="internal"))
