"""Parts of litellm's replies and chunks in our words."""

from __future__ import annotations

from typing import Any

from llm_fallback.events import Usage
from llm_fallback.exchange import ToolCallPart


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def tool_calls_of(message: Any) -> tuple[ToolCallPart, ...]:
    calls = getattr(message, "tool_calls", None)
    if not calls:
        return ()
    return tuple(
        ToolCallPart(
            index=position if getattr(call, "index", None) is None else call.index,
            id=call.id,
            name=call.function.name,
            arguments=call.function.arguments or "",
        )
        for position, call in enumerate(calls)
    )


def usage_of(usage: Any) -> Usage | None:
    """Usage in our words, from litellm's object or the server's own data.

    Anthropic's cache fields stand beside OpenAI's details; both are read.
    """
    if usage is None or not (_of(usage, "prompt_tokens") or _of(usage, "completion_tokens")):
        return None
    given, made = _of(usage, "prompt_tokens_details"), _of(usage, "completion_tokens_details")
    return Usage(
        input_tokens=_of(usage, "prompt_tokens") or 0,
        output_tokens=_of(usage, "completion_tokens") or 0,
        cached_tokens=_of(given, "cached_tokens") or 0,
        cache_write_tokens=_of(given, "cache_creation_tokens") or _of(usage, "cache_creation_input_tokens") or 0,
        reasoning_tokens=_of(made, "reasoning_tokens") or 0,
        audio_input_tokens=_of(given, "audio_tokens") or 0,
        audio_output_tokens=_of(made, "audio_tokens") or 0,
    )


def _of(source: Any, name: str) -> Any:
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)
