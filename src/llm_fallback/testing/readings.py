"""A whole document of OpenAI's in the engine's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm_fallback.exchange import Reply, ToolCallPart
from llm_fallback.faults import Fault
from llm_fallback.readings import text_of, usage_of


def reply_in(body: bytes) -> Reply | Fault:
    """The reply a body with status 200 brings, or what is wrong with it."""
    try:
        document = json.loads(body)
    except ValueError:
        return Fault("invalid_response", "the reply is not JSON", 200)
    choices = document.get("choices") if isinstance(document, dict) else None
    if not choices:
        return Fault("invalid_response", "a reply without choices", 200)
    message = choices[0].get("message") or {}
    return Reply(
        raw=document,
        text=text_of(message.get("content")),
        reasoning=message.get("reasoning_content") or "",
        tool_calls=_tool_calls(message),
        finish=choices[0].get("finish_reason"),
        usage=usage_of(document.get("usage")),
    )


def _tool_calls(message: Mapping[str, Any]) -> tuple[ToolCallPart, ...]:
    return tuple(
        ToolCallPart(call.get("index", place), call.get("id"), function.get("name"), function.get("arguments") or "")
        for place, call in enumerate(message.get("tool_calls") or ())
        for function in (call.get("function") or {},)
    )
