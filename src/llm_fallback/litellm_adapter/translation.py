"""litellm as a translator: the request it would send, without sending it.

litellm knows what each server takes: which parameters, under which names, messages in which form, at which address,
with which signature. That is asked of it: it is let go as far as the step in which its HTTP client would send, and the
request is taken there. Sending it and reading the reply need nothing more of it, and cost most of a call's CPU when
litellm does them: docs/decisions/0018-one-road.md.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any

from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

# Since 1.110 `litellm.completion` hands a request that is to be awaited to an executor's thread; this one, which then
# runs there, is what it was before.
from litellm.main import completion
from litellm.utils import CustomStreamWrapper

from llm_fallback.litellm_adapter.clients import client_for, is_tapped
from llm_fallback.litellm_adapter.gemini_requests import needs_litellm, without_signatures
from llm_fallback.litellm_adapter.litellm_requests import asks_for_a_stream, has_other_tools
from llm_fallback.litellm_adapter.protocols import TranslatedRequest, protocol_at
from llm_fallback.litellm_adapter.request import DeploymentRequest, overriding_headers, with_headers
from llm_fallback.litellm_adapter.request_guard import RequestGuard, Taken, guard_clients, guarding

try:
    from litellm.litellm_core_utils.litellm_logging import Logging
except ImportError:  # A private name: without it every request goes through litellm whole.
    Logging = None


class NotTranslated(Exception):
    """litellm did something else than send one request of a protocol that is known here."""


class LeftToLiteLLM(Exception):
    """A request of a kind that only litellm whole can serve, though others to the deployment are translated."""


async def translate(
    wanted: DeploymentRequest, guard: RequestGuard | None = None, handler: AsyncHTTPHandler | None = None
) -> TranslatedRequest:
    """The request litellm would send. `guard` tells what may not be fetched on the way; with a `handler` litellm
    makes no client of its own, for which it would look for files.

    Raises what litellm raises for parameters it refuses, NotEncodable, NotTranslated and LeftToLiteLLM.
    """
    if Logging is None:
        raise NotTranslated("litellm makes a log of its own")
    parameters, provider = wanted.parameters(), wanted.target.litellm_provider
    if provider in ("gemini", "vertex_ai") and needs_litellm(parameters):
        raise LeftToLiteLLM("litellm may send several requests for it, or reshape the reply")
    if "gemini" not in f"{wanted.target.litellm_provider}/{wanted.target.model_identity}/{wanted.target.model}".lower():
        parameters["messages"] = without_signatures(parameters["messages"])
    if handler is not None and is_tapped(wanted.target):
        parameters["client"] = client_for(handler, wanted.target, parameters.get("api_key", ""))
    taken = await _taken(parameters, guard or wanted.guard())
    if taken.method != "POST":
        # Nor may whoever is named in a message, at an address that looks like a model's, answer in the model's place.
        raise LeftToLiteLLM("litellm fetches something first")
    protocol = protocol_at(taken.url.path)
    if protocol is None:
        raise NotTranslated(f"no protocol is known of {taken.url.path}")
    if wanted.streamed and not asks_for_a_stream(taken):
        raise LeftToLiteLLM("litellm makes a stream of a whole reply")
    if has_other_tools(taken.content, parameters):
        raise LeftToLiteLLM("litellm gave tools names of its own")
    headers = with_headers(dict(_headers(taken)), overriding_headers(parameters))
    return TranslatedRequest(str(taken.url), headers, taken.content, protocol)


async def _taken(parameters: Mapping[str, Any], guard: RequestGuard) -> Any:
    """The request, as httpx was about to send it."""
    guard_clients()
    guard.takes = True
    try:
        with guarding(guard):
            answer = completion(**parameters, acompletion=True, litellm_logging_obj=_unread_log())
            if isinstance(answer, Coroutine):
                answer = await answer
            if isinstance(answer, CustomStreamWrapper):  # Of some streams the request is made for the first chunk.
                await anext(answer)
    except Taken as taken:
        return taken.request
    raise NotTranslated("litellm answered without a request")


_THE_CONNECTIONS = frozenset({"host", "content-length", "connection", "accept-encoding", "transfer-encoding"})
"""Headers, in lower case, that belong to the connection."""
_TELEMETRY = "x-stainless-"
"""What OpenAI's library tells of itself, and by which it tells itself what to return."""


def _headers(request: Any) -> list[tuple[str, str]]:
    pairs = [(name.decode("ascii"), text.decode(request.headers.encoding)) for name, text in request.headers.raw]
    return [
        (name, text)
        for name, text in pairs
        if (lowered := name.lower()) not in _THE_CONNECTIONS and not lowered.startswith(_TELEMETRY)
    ]


def _unread_log() -> Any:
    """A log of litellm's for nobody; made here, it spares litellm making one of the whole request."""
    return Logging("", [], False, "acompletion", datetime.now(), "", "")
