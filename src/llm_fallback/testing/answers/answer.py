"""An answer of a fake, independent of the protocol: text, reasoning, tool calls, tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

_TOKEN = re.compile(r"\s*\S{1,4}|\s+$")
_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of an answer; without an id it is given one when it is sent."""

    name: str
    args: Mapping[str, Any] | str
    """A text is sent as it is."""
    id: str | None = None

    @property
    def arguments(self) -> str:
        """The arguments as text, as they are sent."""
        return self.args if isinstance(self.args, str) else json.dumps(self.args, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a fake to one request."""

    pieces: tuple[str, ...] = ()
    """The text, divided as a stream sends it."""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    usage: Mapping[str, Any] = field(default_factory=dict)
    """In OpenAI's form."""
    model: str | None = None
    """The model that the answer names; None: the one of the request."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


def tokens(text: str) -> list[str]:
    """The text in tokens as a fake counts them: up to four characters of a word, with the space before it."""
    return _TOKEN.findall(text)


def words(text: str) -> tuple[str, ...]:
    """The text in words, each with the space before it; joined they are the text again."""
    return tuple(_WORD.findall(text))


def split_evenly(text: str, count: int) -> tuple[str, ...]:
    """The text in `count` pieces of nearly the same length."""
    cuts = [len(text) * position // count for position in range(count + 1)]
    return tuple(text[start:end] for start, end in pairwise(cuts))


def usage(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0) -> dict[str, Any]:
    """Usage in OpenAI's form; reasoning tokens are part of the completion tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def pieces(text: str | None, chunks: Sequence[str] | int | None) -> tuple[str, ...]:
    """The text divided for a stream: into the chunks given, into that number of pieces, or into words."""
    if isinstance(chunks, int):
        return split_evenly(text or "", chunks)
    if chunks is not None:
        return tuple(chunks)
    return words(text or "")
