"""Reasoning that a server leaves in the text, between the model's own tags: `<think>Let me see</think>Two hours`.

Servers without a parser for it do so. Only at the very beginning of a reply is a tag taken for one: further on it may
be what the reply is about. Plain replies are told apart the same way, and litellm does so too.
"""

from __future__ import annotations

_TAGS = {"<think>": "</think>", "<thinking>": "</thinking>"}


class ThinkTagParser:
    """Tells the reasoning of one reply from its text, in whatever parts it comes."""

    __slots__ = ("_closing", "_held", "_is_done")

    def __init__(self) -> None:
        self._is_done = False
        self._closing = ""
        self._held = ""
        """What may be the beginning of a tag."""

    def split(self, part: str, *, is_last: bool = False) -> tuple[str, str]:
        """Text and reasoning of the next part, and of what was held back if it is the last."""
        if self._is_done:
            return part, ""
        self._held += part
        text, reasoning = self._within() if self._closing or self._opened() else ("", "")
        if is_last or self._is_done:
            rest, self._held = self._held, ""
            return (text, reasoning + rest) if self._closing and not self._is_done else (text + rest, reasoning)
        return text, reasoning

    def _opened(self) -> bool:
        """Whether the reply begins with a tag; while that is open, neither this is true nor `_is_done`."""
        for opening, closing in _TAGS.items():
            if self._held.startswith(opening):
                self._closing, self._held = closing, self._held[len(opening) :]
                return True
        self._is_done = not any(opening.startswith(self._held) for opening in _TAGS)
        return False

    def _within(self) -> tuple[str, str]:
        reasoning, found, text = self._held.partition(self._closing)
        if found:
            self._held, self._is_done = text, True
            return "", reasoning
        kept = next(
            (size for size in range(len(self._closing) - 1, 0, -1) if reasoning.endswith(self._closing[:size])), 0
        )
        self._held = reasoning[len(reasoning) - kept :]
        return "", reasoning[: len(reasoning) - kept]
