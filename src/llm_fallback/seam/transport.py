"""Deployments asked through litellm: with its translation only, or through it whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from pydantic import SecretStr

from llm_fallback.exchange import Exchange
from llm_fallback.faults import Fault, UpstreamError
from llm_fallback.looks import Page
from llm_fallback.plan import Target
from llm_fallback.scrub import Scrubber
from llm_fallback.seam.asking import Asking, Learnt
from llm_fallback.seam.clients import LoopClient, is_tapped, provider_of
from llm_fallback.seam.direct import DirectExchange
from llm_fallback.seam.looking import headers_for, look
from llm_fallback.seam.quiet import is_of_use_to_itself, warm_up
from llm_fallback.seam.redirects import guard_clients
from llm_fallback.seam.relayed import RelayedExchange
from llm_fallback.seam.translation import TRANSLATED, NotTranslated, Request

logger = logging.getLogger("llm_fallback")

_LITELLMS_OWN = frozenset(
    {
        *("mock_response", "mock_timeout", "mock_tool_calls", "cache", "caching", "prompt_id", "guardrails"),
        *("success_callback", "failure_callback", "input_callback", "litellm_logging_obj", "fallbacks", "no-log"),
    }
)
"""Parameters of a deployment that ask something of litellm itself, which must then see reply and request."""


class LiteLLMTransport:
    """Opens exchanges. Holds one HTTP client per event loop."""

    def __init__(self, scrub: Scrubber) -> None:
        self._scrub = scrub
        self._clients: dict[asyncio.AbstractEventLoop, LoopClient] = {}
        # With a deployment that is no more goes what was learnt of it, its key in a template not least. A reload makes
        # other deployments, also under the same names.
        self._learnt: WeakKeyDictionary[Target, Learnt] = WeakKeyDictionary()
        warm_up()
        guard_clients()

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        if api_key is not None:
            # A key that is a function is not known before it is asked.
            self._scrub.learn(api_key.get_secret_value())
        learnt = self._learnt.get(target)
        if learnt is None:
            learnt = self._learnt.setdefault(target, Learnt())
        asking = Asking(target, request, api_key, learnt)
        translated = self._translated(asking)
        return RelayedExchange(self, asking) if translated is None else DirectExchange(self, asking, translated)

    def _translated(self, asking: Asking) -> Request | None:
        """The request as litellm would send it; None for one that is left to litellm: whatever is unusual, be it a
        parameter to refuse, is done there as litellm does it."""
        learnt = asking.learnt
        if learnt.is_left_to_litellm or not _goes_direct(asking.target):
            return None
        try:
            return learnt.templates.request(asking)
        except NotTranslated as why:
            logger.info("%s is left to litellm: %s", asking.target.name, why)
            learnt.is_left_to_litellm = True
        except Exception:  # noqa: BLE001 - asked whole, litellm says it again, to somebody who listens
            return None
        return None

    async def client(self) -> AsyncHTTPHandler:
        """This loop's HTTP client; its connections cannot be used from another loop."""
        loop = asyncio.get_running_loop()
        own = self._clients.get(loop)
        if own is None:
            own = self._clients[loop] = LoopClient()
            await own.open(lambda: self._forget(loop, own))
        return own.handler

    def _forget(self, loop: asyncio.AbstractEventLoop, client: LoopClient) -> None:
        if self._clients.get(loop) is client:
            del self._clients[loop]

    async def look(self, target: Target, url: str, api_key: SecretStr | None) -> Page | Fault:
        """A page of the deployment's server, asked for with what a request would carry."""
        handler = await self.client()
        return await look(handler.client, url, headers_for(target, api_key), self._scrub)

    def clean(self, error: BaseException, fault: Fault) -> Fault:
        """The fault with its text scrubbed and a cause that carries nothing but that text."""
        return self._caused_by(type(error).__name__, fault)

    def scrubbed(self, fault: Fault) -> Fault:
        """The same for what no library raised, but a server said."""
        return self._caused_by(UpstreamError.__name__, fault)

    def _caused_by(self, kind: str, fault: Fault) -> Fault:
        message = self._scrub(fault.message)
        cause = UpstreamError(kind, message, fault.status)
        return Fault(fault.failure, message, fault.status, fault.retry_after_s, cause)

    def close(self) -> None:
        """Close the connections of every loop: of one that stands still between two runs as soon as it goes on."""
        for loop, client in list(self._clients.items()):
            with suppress(RuntimeError):  # The loop is closed, and its connections died with it.
                loop.call_soon_threadsafe(client.close_soon)

    async def aclose(self) -> None:
        """Like close, and wait for this loop's, also where close was called before."""
        own = self._clients.get(asyncio.get_running_loop())
        if own is not None:
            await own.close()
        self.close()


def _goes_direct(target: Target) -> bool:
    """Whether litellm need not see the reply: nobody asked it to, and its protocol is known here."""
    return (
        is_tapped(target)
        and provider_of(target) in TRANSLATED
        and _LITELLMS_OWN.isdisjoint(target.parameters)
        and not is_of_use_to_itself()
    )
