"""The border: what a server sent, as values of the types its protocol names.

A reader takes nothing from a document but through here. What is of another type raises `Unreadable`, which becomes a
fault of that deployment at one place (`response.py`): behind the border nothing can fail because of a server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_fallback.engine.encoding import read_json

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some servers write before everything else; it is no part of what they say."""

_DEEPEST = 200
"""Levels of nesting. A parser of JSON recurses, and so does everybody who reads what it made."""

_MOST_VALUES = 2_000_000
"""Values in one document. As empty objects they are 200 MB, and the event loop stands still for half a second while
they are made; twenty alternatives for each of ten thousand tokens are fewer."""

_KINDS = {str: "a text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}


class Unreadable(Exception):
    """A server sent something for which its protocol has no place. The text says what."""


def decode(data: bytes | str, *, strict: bool = True) -> Any:
    """A JSON document. Raises Unreadable for what is none, for NaN and Infinity, for nesting and values without end.
    Unless `strict`, texts may hold line ends as they are, which models write."""
    marks = (b"[", b"{", b",") if isinstance(data, bytes) else ("[", "{", ",")
    *brackets, commas = map(data.count, marks)  # type: ignore[arg-type]
    if commas + sum(brackets) > _MOST_VALUES:
        # In a text they are none, but a text with as many is longer than any model writes.
        raise Unreadable(f"JSON of more than {_MOST_VALUES} values")
    try:
        document = read_json(data, strict=strict)
    except (ValueError, RecursionError):
        raise Unreadable("not JSON") from None
    if sum(brackets) > _DEEPEST and _is_deeper(document, _DEEPEST):
        raise Unreadable(f"JSON nested deeper than {_DEEPEST} levels")
    return document


def _is_deeper(document: object, levels: int) -> bool:
    level = [document]
    for _ in range(levels):
        level = [inner for value in level for inner in _inner(value) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inner(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def text(value: object, name: str) -> str:
    """A text; empty where the server says nothing."""
    if value is None:
        return ""
    if type(value) is str:
        return value
    raise wrong(value, name, "text")


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """An object; empty where the server says nothing."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise wrong(value, name, "object")


def items(value: object, name: str) -> Sequence[Any]:
    """A list; empty where the server says nothing."""
    if value is None:
        return ()
    if isinstance(value, list):
        return value
    raise wrong(value, name, "list")


def mappings(value: object, name: str) -> list[Mapping[str, Any]]:
    """A list of objects; empty where the server says nothing."""
    return [mapping(item, name) for item in items(value, name)]


def index(value: object, name: str) -> int | None:
    """A position; None where the server says nothing."""
    if value is None or (type(value) is int and 0 <= value < 1_000_000):
        return value
    raise wrong(value, name, "position")


def wrong(value: object, name: str, expected: str) -> Unreadable:
    """That something is of another type."""
    return Unreadable(f"{name} is {_KINDS.get(type(value), 'null')}, not the {expected} it should be")


class TextJoiner:
    """Texts that come in parts, as they are shown: a character outside the basic plane that was cut in two is joined,
    and half a character that stays alone becomes the replacement character, because it could not be encoded again."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def join(self, part: str) -> str:
        """What can be shown of the next part."""
        if part.isascii() and not self._half:
            return part
        whole = self._half + part
        self._half = whole[-1:] if "\ud800" <= whole[-1:] <= "\udbff" else ""
        return complete(whole[: len(whole) - len(self._half)])

    def flush(self) -> str:
        """What is left at the end."""
        half, self._half = self._half, ""
        return complete(half)


class ArgumentsJoiner(TextJoiner):
    """Arguments of a tool call, joined likewise: JSON may write half a character as its number, and whoever reads that
    has half a character again."""

    __slots__ = ("_escape",)

    def __init__(self) -> None:
        super().__init__()
        self._escape = ""

    def join(self, part: str) -> str:
        """What can be read of the next part."""
        if "\\" not in part and not self._escape:
            return super().join(part)
        whole = self._escape + super().join(part)
        self._escape = next((found[0] for found in _ESCAPES.finditer(whole) if found["open"]), "")
        return complete_json(whole[: len(whole) - len(self._escape)])


def complete_json(written: str) -> str:
    """A JSON text without half characters, escaped or not."""
    written = complete(written)
    return _ESCAPES.sub(_whole_escape, written) if "\\u" in written else written


def _whole_escape(found: re.Match[str]) -> str:
    """The escape, or where it has half a character alone, the replacement character's."""
    written = found[0]
    is_half = found["half"] or (found["open"] and len(written) >= _ESCAPED_LENGTH)
    return "\\ufffd" + written[_ESCAPED_LENGTH:] if is_half else written


_ESCAPED_LENGTH = len("\\ufffd")


_ESCAPES = re.compile(
    r"(?P<open>\\(?:u(?:d(?:[c-f][0-9a-f]?|[89ab](?:[0-9a-f](?:[0-9a-f]"
    r"(?:\\(?:u(?:d(?:[c-f][0-9a-f]?)?)?)?)?)?)?)?)?)?\Z)"
    r"|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}"
    r"|(?P<half>\\ud[89a-f][0-9a-f]{2})"
    r"|\\.",
    re.IGNORECASE | re.DOTALL,
)
"""What a JSON text escapes: the beginning of a character at its end, both halves of one, half of one, or another."""


def encodable(value: Any) -> Any:
    """A document without half characters, at every level."""
    if isinstance(value, dict):
        return {complete(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encodable(item) for item in value]
    return complete(value) if isinstance(value, str) else value


_SURROGATE = re.compile("[\ud800-\udfff]")


def complete(whole: str) -> str:
    """A text without half characters."""
    if _SURROGATE.search(whole) is None:
        return whole
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
