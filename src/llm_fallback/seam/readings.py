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
    """litellm's usage in our words. Anthropic's cache fields stand beside OpenAI's details; both are read."""
    if usage is None or not (usage.prompt_tokens or usage.completion_tokens):
        return None
    given, made = getattr(usage, "prompt_tokens_details", None), getattr(usage, "completion_tokens_details", None)
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=getattr(given, "cached_tokens", None) or 0,
        cache_write_tokens=getattr(given, "cache_creation_tokens", None)
        or getattr(usage, "cache_creation_input_tokens", None)
        or 0,
        reasoning_tokens=getattr(made, "reasoning_tokens", None) or 0,
        audio_input_tokens=getattr(given, "audio_tokens", None) or 0,
        audio_output_tokens=getattr(made, "audio_tokens", None) or 0,
    )
