"""Which hosts may be asked for a deployment: those its spec names, or its provider's, and who hands out its login.

litellm asks others besides, while it translates: Ollama's usual address what a model of another server can do, a public
hub how a model wants its prompt; and some providers it asks at their own host, whatever `api_base` says.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import Any

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger

from llm_fallback.litellm_adapter.quiet import callbacks
from llm_fallback.plan.plan import Target
from llm_fallback.spec.secrets import unmask

_ADDRESSES = ("api_base", "aws_bedrock_runtime_endpoint")
"""Parameters of litellm that say where a deployment is, in place of its provider's host."""
_HUBS = frozenset({"huggingface.co", "raw.githubusercontent.com"})
"""Public hosts that litellm asks about models of any provider."""


def may_be_asked(target: Target, login_host: tuple[str, str], url: httpx.URL) -> bool:
    """Whether a request of a deployment may go to this address. `login_host`: a variable that names where litellm asks
    for a login, and the usual address."""
    provider, parameters = target.litellm_provider, target.parameters
    if any(handler["provider"] == provider for handler in litellm.custom_provider_map):
        return True  # Its requests are made by somebody else's code.
    if not any(parameters.get(name) for name in _ADDRESSES):
        return provider == "huggingface" or url.host not in _HUBS
    place = _place(url)
    if place in {_place_in(value) for value in unmask(dict(parameters)).values() if isinstance(value, str)}:
        return True
    variable, usual = login_host
    return place == _place_in(os.environ.get(variable) or usual)


def litellm_asks() -> bool:
    """Whether a request that is about to be sent is litellm's own, and none of a callback's that is registered there:
    callbacks run in the context of the request that they are told of."""
    codes = {code for callback in callbacks() if (code := getattr(callback, "__code__", None)) is not None}
    is_litellms, frame = False, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("litellm.integrations.") or frame.f_code in codes:
            return False
        if isinstance(frame.f_locals.get("self"), CustomLogger):
            return False
        is_litellms = is_litellms or module.startswith(("litellm.", "openai."))
    return is_litellms


@lru_cache(maxsize=1024)
def _place_in(text: str) -> tuple[str, int | None] | None:
    """Host and port of an address; None of any other text."""
    if not text.startswith(("http://", "https://")):
        return None
    try:
        return _place(httpx.URL(text))
    except httpx.InvalidURL:
        return None


def _place(url: Any) -> tuple[str, int | None]:
    return url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
