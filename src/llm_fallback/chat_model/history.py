"""Histories as servers take them: tool calls that nobody could read, where they were answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, ToolMessage

from llm_fallback.engine.protocol.values import Unreadable, decode

_UNREADABLE = "unreadable_arguments"
"""Under this name stands what a model wrote as arguments and nobody could read."""


def with_invalid_calls(messages: Sequence[BaseMessage], written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The written messages with those invalid tool calls put back that a later message answers: servers refuse an
    answer without its call, and a call without its answer."""
    for message in messages:
        if isinstance(message, AIMessage) and message.invalid_tool_calls:
            break
    else:
        return written
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    return [
        _with_calls(document, _documents(message.invalid_tool_calls, answered))
        if isinstance(message, AIMessage)
        else document
        for message, document in zip(messages, written, strict=True)
    ]


def _with_calls(document: dict[str, Any], calls: Iterator[dict[str, Any]]) -> dict[str, Any]:
    known = document.get("tool_calls") or []
    ids = {call.get("id") for call in known}
    added = [call for call in calls if call["id"] not in ids]
    return {**document, "tool_calls": [*known, *added]} if added else document


def _documents(calls: Sequence[InvalidToolCall], answered: set[str]) -> Iterator[dict[str, Any]]:
    for call in calls:
        if call["id"] in answered:
            function = {"name": call["name"] or "unknown", "arguments": as_object(call["args"] or "")}
            yield {"type": "function", "id": call["id"], "function": function}


def as_object(arguments: str) -> str:
    """The arguments as they are if they are a JSON object, else an object that holds them. vLLM, llama.cpp and litellm,
    for Anthropic and Gemini, read those of a history, and refuse the request where they cannot."""
    try:
        read = decode(arguments or "{}")
    except Unreadable:
        read = None
    return arguments or "{}" if isinstance(read, dict) else json.dumps({_UNREADABLE: arguments})
