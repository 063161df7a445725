"""Which of the offered tools a fake calls, and with which arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_fallback.testing.answers.answer import ToolCall
from llm_fallback.testing.answers.hints import TextHints, name_words
from llm_fallback.testing.answers.prompt import Prompt, Request
from llm_fallback.testing.answers.schema import fill

_SMALL_TALK = frozenset({
    "are", "bye", "evening", "good", "goodbye", "hello", "hey", "hi", "how", "morning", "no", "ok", "okay",
    "please", "thank", "thanks", "there", "yes", "you",
})  # fmt: skip
_STOP_WORDS = frozenset({
    "a", "an", "and", "are", "at", "by", "for", "from", "get", "in", "is", "it", "me", "of", "on", "or",
    "please", "that", "the", "this", "to", "tool", "use", "using", "value", "what", "with", "you",
})  # fmt: skip
_WEIGHT_OF_NAME = 3


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


def tool_calls(request: Request, prompt: Prompt) -> tuple[ToolCall, ...]:
    """The tool calls of the answer; none if the request forbids them, or asks for none of the tools."""
    chosen = _chosen(_offered(request), request, prompt)
    hints = TextHints(prompt.everything)
    return tuple(ToolCall(tool.name, fill({"type": "object", **tool.parameters}, hints)) for tool in chosen)


def _offered(request: Request) -> list[Tool]:
    functions = [tool["function"] for tool in request.get("tools") or () if "function" in tool]
    return [Tool(one["name"], one.get("description") or "", one.get("parameters") or {}) for one in functions]


def _chosen(tools: Sequence[Tool], request: Request, prompt: Prompt) -> Sequence[Tool]:
    choice = request.get("tool_choice") or "auto"
    if not tools or choice == "none":
        return ()
    if isinstance(choice, Mapping):
        return _named(tools, choice)
    if choice == "auto" and (not prompt.is_open or _is_small_talk(prompt.question)):
        return ()
    uncalled = [tool for tool in tools if tool.name not in prompt.called] or tools[-1:]
    matching = _matching(uncalled, prompt.question)
    return matching[:1] if request.get("parallel_tool_calls") is False else matching


def _named(tools: Sequence[Tool], choice: Mapping[str, Any]) -> Sequence[Tool]:
    name = choice.get("function", {}).get("name")
    return [tool for tool in tools if tool.name == name] or tools[:1]


def _matching(tools: Sequence[Tool], question: str) -> list[Tool]:
    """The tools that the question names, in its order; else the one with the most words in common with it."""
    named = [tool for tool in tools if re.search(rf"\b{re.escape(tool.name)}\b", question)]
    if named:
        return sorted(named, key=lambda tool: question.index(tool.name))
    words = _words(question)
    return [max(tools, key=lambda tool: _similarity(tool, words))]


def _similarity(tool: Tool, words: frozenset[str]) -> int:
    name = frozenset(map(_stem, name_words(tool.name))) - _STOP_WORDS
    return _WEIGHT_OF_NAME * len(name & words) + len(_words(tool.description) & words)


def _is_small_talk(question: str) -> bool:
    return all(word in _SMALL_TALK for word in re.findall(r"\w+", question.lower()))


def _words(text: str) -> frozenset[str]:
    return frozenset(map(_stem, re.findall(r"\w+", text.lower()))) - _STOP_WORDS


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word
