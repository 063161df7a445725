"""litellm as a translator: the request it would send, without sending it.

litellm knows what each server takes: which parameters, under which names, messages in which form, at which address.
That is asked of it. Sending the request and reading the reply need nothing more of it, and cost most of a call's CPU
when litellm does them: docs/decisions/0004-translate-send-read.md.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from types import SimpleNamespace
from typing import Any, NoReturn

from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

# Since 1.110 `litellm.completion` hands a request that is to be awaited to an executor's thread; this one, which then
# runs there, is what it was before.
from litellm.main import completion
from litellm.utils import CustomStreamWrapper
from openai import AsyncOpenAI

from llm_fallback.litellm_adapter.clients import TAKES_AN_OPENAI_CLIENT
from llm_fallback.litellm_adapter.families import has_other_tools
from llm_fallback.litellm_adapter.gemini_requests import needs_litellm
from llm_fallback.litellm_adapter.request import overriding_headers, with_headers
from llm_fallback.spec.providers import split_model

try:
    from litellm.litellm_core_utils.litellm_logging import Logging
except ImportError:  # A private name: without it every request goes through litellm whole.
    Logging = None

TRANSLATED = frozenset({"hosted_vllm", "anthropic", "gemini"}) | TAKES_AN_OPENAI_CLIENT
"""litellm's providers that litellm only translates for; of all others it sends the requests, too."""


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """What is to be sent."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    query: Mapping[str, Any] | None = None


class NotTranslated(Exception):
    """litellm did something else than send one request."""


class LeftToLiteLLM(Exception):
    """A request of a kind that only litellm whole can serve, though others to the deployment are translated."""


def translate(parameters: Mapping[str, Any]) -> HTTPRequest:
    """The request litellm would send for these parameters of `litellm.completion`.

    Raises what litellm raises for parameters it refuses, NotTranslated and LeftToLiteLLM.
    """
    if Logging is None:
        raise NotTranslated("litellm makes a log of its own")
    provider, _ = split_model(parameters["model"])
    if provider == "gemini" and needs_litellm(parameters):
        raise LeftToLiteLLM("litellm may send several requests for it, or reshape the reply")
    words = {"client": _client(provider), "acompletion": True, "litellm_logging_obj": _unread_log()}
    sent = _sent_by(completion(**parameters, **words))
    request = sent if isinstance(sent, HTTPRequest) else _addressed(sent, parameters)
    if provider == "anthropic" and has_other_tools(request.body, parameters):
        raise LeftToLiteLLM("litellm gave tools names of its own")
    extra = overriding_headers(parameters)
    return replace(request, headers=with_headers(request.headers, extra)) if extra else request


class _Sent(BaseException):
    """Carries the request out of litellm. No Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def _sent_by(completing: Coroutine[Any, Any, Any] | Any) -> Any:
    if not isinstance(completing, Coroutine):
        raise NotTranslated("litellm answered without a request")
    # Translating waits for nothing, so its coroutine ends in the first step: no event loop is needed.
    try:
        completing.send(None)
    except _Sent as sent:
        return sent.request
    except StopIteration as end:
        if isinstance(end.value, CustomStreamWrapper) and end.value.make_call is not None:
            # Of Gemini's streams the request is made when somebody wants the first chunk.
            return _sent_by(end.value.make_call(client=None))
        raise NotTranslated("litellm answered without a request") from None
    completing.close()
    raise NotTranslated("litellm waits for something before it sends")


class _Handler(AsyncHTTPHandler):  # type: ignore[misc]
    """The HTTP client of providers that litellm asks by itself."""

    def __init__(self) -> None:
        """No client inside: nothing is sent."""

    def __del__(self) -> None:
        """Nor is there one to close."""

    async def post(self, url: str, data: Any = None, headers: Any = None, **rest: Any) -> NoReturn:
        if data is None:
            data = json.dumps(rest["json"], ensure_ascii=False, separators=(",", ":"))
        raise _Sent(HTTPRequest(url, headers, data.encode() if isinstance(data, str) else data))


_TO_ITSELF = "X-Stainless-Raw-Response"
"""A header by which OpenAI's library tells itself what to return."""


async def _create(**words: Any) -> NoReturn:
    raise _Sent(words)


class _Client(AsyncOpenAI):
    """The client of providers that litellm asks through OpenAI's library, whose own work is left out."""

    chat: Any = SimpleNamespace(completions=SimpleNamespace(with_raw_response=SimpleNamespace(create=_create)))

    async def post(self, path: str, *, body: Any = None, options: Any = None, **rest: Any) -> NoReturn:
        """What litellm calls since 1.110, with what `create` would have made of its words."""
        headers = options.get("headers") or {}
        await _create(
            **body,
            extra_headers={name: text for name, text in headers.items() if name != _TO_ITSELF},
            extra_query=options.get("params"),
            extra_body=options.get("extra_json"),
        )


@cache
def _client(provider: str) -> _Handler | _Client:
    """Made when first wanted: OpenAI's library loads what it would send with."""
    if provider in TAKES_AN_OPENAI_CLIENT:
        return _Client(api_key="none", base_url="http://localhost")
    return _Handler()


def _addressed(words: dict[str, Any], parameters: Mapping[str, Any]) -> HTTPRequest:
    """The request of a call to OpenAI's library, whose `extra_...` words go where their names say."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {parameters['api_key']}"}
    if parameters.get("organization"):
        headers["OpenAI-Organization"] = parameters["organization"]
    headers |= words.pop("extra_headers", None) or {}
    extra, query = words.pop("extra_body", None) or {}, words.pop("extra_query", None)
    words.pop("timeout", None)
    body = json.dumps({**words, **extra}, ensure_ascii=False, separators=(",", ":")).encode()
    return HTTPRequest(f"{parameters['api_base'].rstrip('/')}/chat/completions", headers, body, query)


def _unread_log() -> Any:
    """A log of litellm's for nobody; made here, it spares litellm making one of the whole request."""
    return Logging("", [], False, "acompletion", datetime.now(), "", "")
