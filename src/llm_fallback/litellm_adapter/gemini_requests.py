"""Requests to Gemini that litellm does not answer with one request and the server's own reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.engine.protocol.gemini import SIGNATURE_MARK


def needs_litellm(parameters: Mapping[str, Any]) -> bool:
    """Whether litellm has more to do for these parameters of `litellm.completion` than to translate.

    Of what is to be cached Google is asked first. A signature holds only where it was issued, and is left out in a
    second request where it was refused. Whoever speaks of functions, as before there were tools, is answered so.
    """
    if parameters.get("functions"):
        return True
    return any(_is_cached(message) or _is_signed(message) for message in parameters["messages"])


def _is_cached(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return any(isinstance(part, Mapping) and part.get("cache_control") for part in (message, *parts))


def _is_signed(message: Mapping[str, Any]) -> bool:
    return any(SIGNATURE_MARK in str(call.get("id")) for call in message.get("tool_calls") or ())
