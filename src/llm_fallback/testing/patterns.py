"""A text for a simple regular expression: literals, classes, groups, alternatives, repetition."""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase, digits

_CLASSES = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a"}
_CANDIDATES = ascii_lowercase + digits + ascii_uppercase + "-_ .:/@#"
_REPETITION = re.compile(r"\{(\d+)(?:,\d*)?\}|[*+?]")


def sample(pattern: str) -> str | None:
    """A text the pattern matches; None where it is beyond this module."""
    reader = _Reader(pattern)
    try:
        text = reader.alternatives()
        return text if re.search(pattern, text) else None
    except (ValueError, IndexError, re.error):
        return None


class _Reader:
    """Reads a pattern from left to right and takes the first way through it."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def alternatives(self) -> str:
        """The first of the alternatives up to the end of the pattern or group."""
        first = self._sequence()
        while self._peek() == "|":
            self._at += 1
            self._sequence()
        return first

    def _sequence(self) -> str:
        text = ""
        while self._peek() not in ("", "|", ")"):
            item = self._item()
            text += item * self._count()
        return text

    def _item(self) -> str:
        match self._take():
            case "^" | "$":
                return ""
            case ".":
                return "a"
            case "[":
                return self._class()
            case "(":
                return self._group()
            case "\\":
                return self._escaped()
            case literal:
                return literal

    def _count(self) -> int:
        found = _REPETITION.match(self._pattern, self._at)
        if found is None:
            return 1
        self._at = found.end()
        self._skip("?")
        return int(found[1]) if found[1] is not None else int(found[0] == "+")

    def _escaped(self) -> str:
        letter = self._take()
        return "" if letter in "bBAZz" else _CLASSES.get(letter, letter)

    def _class(self) -> str:
        end = self._at + (self._pattern[self._at] == "^")
        end = self._pattern.index("]", end + 1) if "]" in self._pattern[end + 1 :] else len(self._pattern)
        members = re.compile(f"[{self._pattern[self._at : end]}]")
        self._at = end + 1
        return next(filter(members.fullmatch, _CANDIDATES), "")

    def _group(self) -> str:
        if self._peek() == "?":
            self._at = min(self._pattern.index(mark, self._at) for mark in ":>" if mark in self._pattern[self._at :])
            self._at += 1
        text = self.alternatives()
        self._skip(")")
        return text

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._pattern[self._at - 1]

    def _skip(self, mark: str) -> None:
        self._at += self._peek() == mark
