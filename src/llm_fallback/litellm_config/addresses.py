"""Whom a row of `model_list` asks: model, backend, address and key."""

from __future__ import annotations

from typing import Any

from llm_fallback.backends import BACKENDS
from llm_fallback.litellm_config import words
from llm_fallback.litellm_config.sections import Draft, Listing, Section
from llm_fallback.litellm_config.texts import ours
from llm_fallback.spec.providers import likely_provider
from llm_fallback.spec.variables import references


def put_address(draft: Draft, params: Section, info: Section, listing: Listing) -> None:
    """Write `backend`, `model` and `api_base`.

    A backend is named where requests go to the same address with it: a backend adds a `/v1` that is missing, and
    what is behind an `openai/` without one may be anything.
    """
    model = _with_provider(ours(params.take("model")), params.take("custom_llm_provider"))
    provider, _, served = model.partition("/")
    address = _address(params)
    if address is None:
        address = words.ADDRESSES.get(provider)
    backend = _backend(provider, info, listing)
    if backend is None or address is None or not _same_address(backend, address):
        backend, served = None, model
    draft.put(("backend",), backend, (*params.path, "model"))
    draft.put(("model",), served, (*params.path, "model"))
    draft.put(("api_base",), address, (*params.path, "api_base"))
    if backend is not None and not references(str(address)) and BACKENDS[backend].base_url(address) != _bare(address):
        listing.add((*params.path, "api_base"), "has no version in it: requests go to /v1 below it")


def put_key(draft: Draft, params: Section, listing: Listing) -> None:
    """Write `api_key`; where LiteLLM would take somebody else's, say that here nobody's is sent."""
    key, origin = params.take("api_key"), (*params.path, "api_key")
    if key in (None, "", words.NO_KEY):
        if key is None and "api_base" in draft.data and str(draft.data["model"]).startswith("openai/"):
            listing.add(params.path, "has no api_key: none is sent, where LiteLLM sends OPENAI_API_KEY")
        return
    draft.put(("api_key",), ours(str(key)), origin)


def _backend(provider: str, info: Section, listing: Listing) -> str | None:
    """The backend a provider of LiteLLM's stands for; `model_info.backend` tells those apart that share one."""
    named = info.take("backend")
    row = BACKENDS.get(str(named))
    if row is not None and row.prefix == f"{provider}/":
        return row.name
    if named is not None:
        listing.add((*info.path, "backend"), f"is no backend that LiteLLM asks by {provider}/")
    return words.BACKENDS.get(provider)


def _with_provider(model: str, provider: Any) -> str:
    if isinstance(provider, str) and not model.startswith(f"{provider}/"):
        return f"{provider}/{model}"
    likely = None if "/" in model else likely_provider(model)
    return f"{likely}/{model}" if likely else model


def _address(params: Section) -> Any:
    base, url = params.take("api_base"), params.take("base_url")
    address = url if base is None else base
    return None if address in (None, "") else ours(address)


def _same_address(backend: str, address: Any) -> bool:
    if not isinstance(address, str):
        return False
    if BACKENDS[backend].prefix != "openai/":
        return True
    return not references(address) and BACKENDS[backend].base_url(address) == _bare(address)


def _bare(address: str) -> str:
    return address.rstrip("/")
