"""Pictures, sounds, videos and files of messages: no deployment is asked with one of them left out.

litellm writes into a request what it has a place for in the provider's protocol, and drops other parts of a message
without a word: a sound for Claude, a picture for DeepSeek. Which ones differs from provider to provider and from one
release to the next, so no table is kept: the request is looked at before it is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm_fallback.litellm_adapter.parts import nested, parts_in

_KINDS = frozenset(
    {
        *("image_url", "input_audio", "audio_url", "video_url", "file", "document"),
        *("image", "audio", "video", "media", "input_image", "input_file"),
    }
)
_ASKING = frozenset({"user", "system", "developer", "tool", "function"})
"""Roles of messages that ask. What a model said before, it may be told without its pictures."""
_FIELDS_ABOUT = frozenset(
    {
        *("type", "format", "mime_type", "media_type", "content_type", "detail", "id"),
        *("filename", "name", "title", "context", "role", "tool_call_id"),
    }
)
"""Fields that say what a message or a part of one is, beside what it holds."""
_SEARCHED = 64
"""Characters from the end of what a part holds by which it is found again."""


class Medium(NamedTuple):
    """A part of a message that is no text."""

    kind: str
    """The part's type."""
    spellings: tuple[bytes, ...]
    """The end of what it holds, as it may stand in a request."""


def media_in(messages: Sequence[Mapping[str, Any]], rewritten: Container[str]) -> tuple[Medium, ...]:
    """What a request has to hold besides texts; kinds that are rewritten cannot be found in it again."""
    for message in messages:
        if type(message.get("content")) is list:
            break
    else:  # Texts alone, as in most calls.
        return ()
    found = (medium for message in messages if message.get("role") in _ASKING for medium in _media_of(message))
    return tuple(medium for medium in found if medium.kind not in rewritten)


def left_out(media: Sequence[Medium], body: bytes) -> tuple[str, ...]:
    """The kinds of those media that a request's body does not hold, unless it is a request for a login."""
    if not holds_messages(body):
        return ()
    missing = {medium.kind for medium in media if not any(spelling in body for spelling in medium.spellings)}
    return tuple(sorted(missing))


def holds_messages(body: bytes) -> bool:
    """Whether it is the body of a request to a model, and not for a login, say."""
    return _MESSAGES.search(body) is not None


_MESSAGES = re.compile(rb'"(messages?|contents|prompt|inputs?|text)"')
"""What some field of every request with messages is called."""


def _media_of(message: Mapping[str, Any]) -> Iterator[Medium]:
    for part in parts_in(message, lambda part: _kind(part) is None):
        kind = _kind(part)
        held = None if kind is None else max(texts_in(part), key=len, default="")
        if kind and held:
            yield Medium(kind, _spellings(held))


def _kind(part: Mapping[str, Any]) -> str | None:
    """The part's type where it is a picture, a sound, a video or a file; a caller may have written anything there."""
    kind = part.get("type")
    return kind if isinstance(kind, str) and kind in _KINDS else None


def texts_in(value: Any) -> Iterator[str]:
    """The texts that a message, or a part of one, holds; in no order."""
    for held in nested(value, _inner):
        if isinstance(held, str):
            yield held


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [item for name, item in value.items() if name not in _FIELDS_ABOUT]
    return value if isinstance(value, list) else ()


def _spellings(held: str) -> tuple[bytes, ...]:
    data = held.partition(";base64,")[2] if held.startswith("data:") else held
    end = (data or held).rstrip("= \n")[-_SEARCHED:]
    return tuple(
        {json.dumps(end, ensure_ascii=ascii_only)[1:-1].encode(errors="replace") for ascii_only in (True, False)}
    )
