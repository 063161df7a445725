"""Names and messages of others, as they are shown: nothing in them moves a cursor or breaks an encoding."""

from __future__ import annotations

import re

_HALF_OR_WRITTEN_SO = re.compile(r"[\ud800-\udfff]|\\ud[89a-f]")


def shown(name: str) -> str:
    """A name with escapes for what cannot be printed, and for backslashes, so that two names never look the same."""
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in name)


def told(text: str) -> str:
    """A text of several lines with escapes for what cannot be printed; backslashes stay as they are."""
    if text.isprintable():
        return text
    return "".join(char if char == "\n" or char.isprintable() else _escape(char) for char in text)


def encodable(name: str) -> str:
    """A name as UTF-8 can have it, for metrics: one with half a character is changed, and stays apart from others."""
    return shown(name) if _HALF_OR_WRITTEN_SO.search(name) else name


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
