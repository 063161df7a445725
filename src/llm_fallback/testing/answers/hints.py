"""Values found in a text for the fields of a schema: numbers, quotations, names, places."""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
_QUOTED = re.compile(r"(?<!\w)['\"“‘「]([^'\"“”‘’「」\n]{1,80})['\"”’」](?!\w)")
_PROPER = r"[A-Z][\w'’-]*(?:,? [A-Z][\w'’-]*)*"
_PLACE = re.compile(rf"\b(?:in|at|near|for|to|from|of) ({_PROPER})")
_NAME = re.compile(rf"\b{_PROPER}")
_SUBJECT = re.compile(r"\babout ([^.?!\n]{1,60})")

_PLACE_FIELDS = {"location", "city", "place", "destination", "town", "country", "address", "region", "where"}
_NAME_FIELDS = {"name", "person", "customer", "author", "user", "who", "title"}
_FREE_TEXT_FIELDS = {
    "query",
    "question",
    "text",
    "input",
    "prompt",
    "message",
    "search",
    "request",
    "task",
    "description",
}
_NOT_A_NAME = {
    "A", "An", "And", "Create", "Extract", "For", "Get", "Give", "He", "Hello", "Hey", "Hi", "How", "I", "It",
    "My", "Person", "Please", "Return", "She", "Tell", "The", "This", "Use", "What", "When", "Where", "Who",
    "Why", "You",
}  # fmt: skip


class TextHints:
    """The values found in one text. A number or a quotation is used once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._numbers = [float(number) for number in _NUMBER.findall(text)]
        self._quoted: list[str] = _QUOTED.findall(text)

    def number(self, fits: Callable[[float], bool]) -> float | None:
        """The next number of the text that fits."""
        for number in self._numbers:
            if fits(number):
                self._numbers.remove(number)
                return number
        return None

    def string(self, field: str, fits: Callable[[str], bool]) -> str | None:
        """A string from the text for a field of this name, if one fits."""
        for candidate in self._strings(set(name_words(field))):
            if candidate and fits(candidate):
                if candidate in self._quoted:
                    self._quoted.remove(candidate)
                return candidate
        return None

    def has_number(self, fits: Callable[[float], bool]) -> bool:
        """Whether a number of the text fits."""
        return any(fits(number) for number in self._numbers)

    def has_string(self, field: str) -> bool:
        """Whether the text has a string for a field of this name."""
        return bool(self._strings(set(name_words(field))))

    def mentioned(self, choices: list[object]) -> object | None:
        """The first of the choices that occurs in the text."""
        lower = self.text.lower()
        return next((choice for choice in choices if isinstance(choice, str) and choice.lower() in lower), None)

    def quotations(self) -> list[str]:
        """The strings in quotation marks that are not used yet."""
        return list(self._quoted)

    def subject(self) -> str:
        """What follows the word "about" in the text; empty if it does not occur."""
        match = _SUBJECT.search(self.text)
        return match[1].strip() if match else ""

    def _strings(self, field: set[str]) -> list[str]:
        if field & _FREE_TEXT_FIELDS:
            return [*self._quoted[:1], self.text]
        candidates = list(self._quoted)
        if field & _PLACE_FIELDS:
            candidates += [*_PLACE.findall(self.text), *self._names()]
        elif field & _NAME_FIELDS:
            candidates += self._names()
        return candidates

    def _names(self) -> list[str]:
        candidates: list[str] = _NAME.findall(self.text)
        return [name for name in map(_without_first_words, candidates) if name]


def name_words(name: str) -> list[str]:
    """The words of an identifier in lower case: `getUserName` and `get_user_name` alike."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


def _without_first_words(name: str) -> str:
    words = name.split(" ")
    while words and words[0].strip(",") in _NOT_A_NAME:
        words.pop(0)
    return " ".join(words)
