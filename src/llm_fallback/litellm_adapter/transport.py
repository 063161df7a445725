"""Deployments asked through litellm: with its translation only, or through it whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import litellm
from pydantic import SecretStr

from llm_fallback.engine.ping import HttpPage
from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.transport import Exchange, Fault, RefusedExchange, Unsupported
from llm_fallback.litellm_adapter.clients import ClientPool, is_unknown
from llm_fallback.litellm_adapter.direct import DirectExchange, TranslatedExchange
from llm_fallback.litellm_adapter.errors import classes_of, fault_of_transfer
from llm_fallback.litellm_adapter.http_client import HTTPRequest
from llm_fallback.litellm_adapter.links import follows_a_link
from llm_fallback.litellm_adapter.logins import token_provider_of
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.litellm_adapter.quiet import has_side_effects, warm_up
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from llm_fallback.litellm_adapter.request import (
    DeploymentRequest,
    deployment_headers,
    guarded,
    with_headers,
)
from llm_fallback.litellm_adapter.request_guard import RequestGuard, guard_clients
from llm_fallback.litellm_adapter.templates import DeploymentMemory
from llm_fallback.plan.plan import Target
from llm_fallback.plan.provider_credentials import key_variables, missing_key
from llm_fallback.spec.providers import unknown_provider
from llm_fallback.spec.secrets import Redactor, is_secret_name

_WAYS_IN = ("headers", "proxy_auth", "secret_manager_client", "enable_azure_ad_token_refresh")
"""Settings of litellm's module by which requests get a key of which no variable tells."""


class LiteLLMTransport:
    """Opens exchanges. Holds one HTTP client per event loop."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._clean = FaultCleaner(redactor)
        self._clients = ClientPool()
        # With a deployment that is no more goes what was learnt of it, its key in a template not least. A reload makes
        # other deployments, also under the same names.
        self._memories: WeakKeyDictionary[Target, DeploymentMemory] = WeakKeyDictionary()
        warm_up()
        guard_clients()

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        if api_key is not None:
            # A key that is a function is not known before it is asked.
            self._redactor.add(api_key.get_secret_value())
        elif target.uses_provider_credentials and (variables := _missing_key(target)) is not None:
            return RefusedExchange(self._clean(Fault("auth", f"there is no key: set {variables}, or write api_key")))
        if is_unknown(target):
            told = unknown_provider(target.litellm_provider, has_address="api_base" in target.parameters)
            return RefusedExchange(self._clean(Fault("bad_request", told)))
        try:
            return self._prepared(target, request, api_key)
        except RecursionError:
            told = "the request cannot be written as JSON: it is nested too deeply"
            return RefusedExchange(self._clean(Fault("bad_request", told)))

    def _prepared(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        memory = self._memories.get(target)
        if memory is None:
            memory = self._memories.setdefault(target, DeploymentMemory(token_provider=token_provider_of(target)))
        dropped = memory.dropped_for(request)
        wanted = DeploymentRequest(target, request, api_key, dropped, memory.token_provider)
        if follows_a_link(provider_called(target.litellm_provider).is_unfit, wanted.messages):
            return RefusedExchange(Unsupported(("image_url",)))
        if memory.is_left_to_litellm or target.road == "relayed" or has_side_effects() or _looks_for_a_login(wanted):
            return LiteLLMExchange(self._clients, self._clean, wanted)
        known = memory.templates.known(wanted)
        if known is not None:
            return DirectExchange(self._clients, self._clean, wanted, known, memory.templates.login)
        ask_whole = partial(LiteLLMExchange, self._clients, self._clean, wanted)
        return TranslatedExchange(self._clients, self._clean, wanted, memory, ask_whole)

    async def get_page(self, target: Target, url: str, api_key: SecretStr | None) -> HttpPage | Fault:
        """A page of the deployment's server, asked for with what a request would carry."""
        client, guard = await self._clients.client(), RequestGuard(target.most_reply_bytes)
        request = HTTPRequest(url, _login_headers(target, api_key), b"")

        async def get() -> HttpPage:
            began = time.perf_counter()
            response = await client.http.send(
                request, guard, method="GET", ssl_verify=target.parameters.get("ssl_verify")
            )
            text = (await response.whole()).decode(errors="replace")
            return HttpPage(response.status, _data(self._redactor(text)), time.perf_counter() - began)

        def fault_of(error: Exception) -> Fault:
            return self._clean(guard.refused or fault_of_transfer(error, classes_of(error), None), error)

        page: HttpPage | Fault = await guarded(get, fault_of)
        return page

    def close(self) -> None:
        """Close the connections of every loop."""
        self._clients.close()

    async def aclose(self) -> None:
        """Like close, and wait for this loop's."""
        await self._clients.aclose()


def _missing_key(target: Target) -> str | None:
    """The variables of which one has to hold a key; None where there is one, or litellm may know of another way in.

    litellm asks some providers all the same, and fails for others as if their servers had.
    """
    variables = missing_key(target.litellm_provider, target.parameters, os.environ)
    if variables is None or any(map(is_secret_name, deployment_headers(target.parameters))):
        return None
    return None if _litellm_was_told_a_key(target.litellm_provider) else variables


def _litellm_was_told_a_key(provider: str) -> bool:
    """Whether litellm's module has a key, or is set to get one."""
    told = {name for name, value in dict(vars(litellm)).items() if value and name.endswith(("_key", *_WAYS_IN))}
    makers = {name.removesuffix("_key").removesuffix("_api").replace("_", "") for name in told}
    return not told.isdisjoint({"api_key", *_WAYS_IN}) or any(maker in provider.replace("_", "") for maker in makers)


def _looks_for_a_login(request: DeploymentRequest) -> bool:
    """Whether litellm may have to ask somebody for a login to Anthropic before it can translate."""
    found = request.key is not None or not request.target.uses_provider_credentials
    if found or request.target.litellm_provider != "anthropic":
        return False
    return not any(os.environ.get(name) for name in key_variables("anthropic"))


def _login_headers(target: Target, api_key: SecretStr | None) -> dict[str, str]:
    """What a request to the deployment would carry."""
    key = {} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}
    return with_headers(key, deployment_headers(target.parameters))


def _data(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
