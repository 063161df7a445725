"""What Gemini's signatures ask of requests: those to Gemini that litellm does not answer with one request and the
server's own reply, and those to others, which know nothing of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_fallback.engine.protocol.gemini import SIGNATURE_MARK, is_signed


def needs_litellm(parameters: Mapping[str, Any]) -> bool:
    """Whether litellm has more to do for these parameters of `litellm.completion` than to translate.

    Of what is to be cached Google is asked first. A signature holds only where it was issued, and is left out in a
    second request where it was refused. Whoever speaks of functions, as before there were tools, is answered so.
    """
    if parameters.get("functions"):
        return True
    return any(_is_cached(message) or is_signed(message) for message in parameters["messages"])


def _is_cached(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return any(isinstance(part, Mapping) and part.get("cache_control") for part in (message, *parts))


def without_signatures(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for others than Gemini, whose signatures stand in the ids of tool calls and are longer than others
    take an id to be. litellm takes them off in a step that is left out here."""
    return [_without_signature(message) for message in messages]


def _without_signature(message: dict[str, Any]) -> dict[str, Any]:
    calls, answered = message.get("tool_calls"), message.get("tool_call_id")
    if calls and is_signed(message):
        message = {**message, "tool_calls": [{**call, "id": _bare(call.get("id"))} for call in calls]}
    return message if answered is None else {**message, "tool_call_id": _bare(answered)}


def _bare(name: Any) -> Any:
    return name.partition(SIGNATURE_MARK)[0] if isinstance(name, str) else name
