"""The parts of a request that an answer depends on: the question, its attachments, the results of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llm_fallback.testing.answers.answer import tokens

Request: TypeAlias = Mapping[str, Any]
Message: TypeAlias = Mapping[str, Any]

_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_ATTACHMENT = 85
_KINDS = {"image_url": "image", "input_audio": "audio", "video_url": "video"}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a tool call."""

    tool: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The last question, and the tool calls after it."""

    question: str
    """Text of the last message from the user."""
    attachments: tuple[str, ...]
    """Kinds of the attachments of that message, as in "image"."""
    called: frozenset[str]
    """Names of the tools called after it."""
    results: tuple[ToolResult, ...]
    """Results of the tools called after it."""
    is_open: bool
    """Whether no message follows the question."""

    @property
    def everything(self) -> str:
        """The question and the results, as one text."""
        return "\n".join([self.question, *(result.text for result in self.results)])


def read(request: Request) -> Prompt:
    """The prompt of a request."""
    messages = [message for message in request.get("messages", ()) if message.get("role") not in _INSTRUCTIONS]
    start = max((position for position, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    question = messages[start] if start >= 0 else {}
    later = messages[start + 1 :]
    names = dict(_calls(later))
    return Prompt(
        question=_text(question),
        attachments=_attachments(question),
        called=frozenset(names.values()),
        results=tuple(_result(message, names) for message in later if message.get("role") == "tool"),
        is_open=bool(question) and not later,
    )


def prompt_tokens(request: Request) -> int:
    """Tokens of the messages and tools of a request, as a fake counts them."""
    messages: Sequence[Message] = request.get("messages", ())
    count = len(tokens(json.dumps(request["tools"], ensure_ascii=False))) if request.get("tools") else 0
    for message in messages:
        calls = json.dumps(message["tool_calls"], ensure_ascii=False) if message.get("tool_calls") else ""
        count += _TOKENS_PER_MESSAGE + len(tokens(_text(message))) + len(tokens(calls))
        count += _TOKENS_PER_ATTACHMENT * len(_attachments(message))
    return count


_INSTRUCTIONS = ("system", "developer")


def _calls(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for message in messages:
        for call in message.get("tool_calls") or ():
            yield str(call.get("id")), str(call.get("function", {}).get("name"))


def _result(message: Message, names: Mapping[str, str]) -> ToolResult:
    name = message.get("name") or names.get(str(message.get("tool_call_id")), "the tool")
    return ToolResult(str(name), _text(message))


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or () if part.get("type") == "text")


def _attachments(message: Message) -> tuple[str, ...]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return ()
    kinds = (str(part.get("type")) for part in content)
    return tuple(_KINDS.get(kind, kind) for kind in kinds if kind != "text")
