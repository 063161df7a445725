"""A value for a JSON schema: from hints in a text, or invented where the text has none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, TypeAlias

from llm_fallback.testing.answers.hints import TextHints, name_words

Schema: TypeAlias = Mapping[str, Any]
_OPTIONAL_DEPTH = 4
"""Down to this depth optional fields are filled, too."""
_MAX_DEPTH = 24

_FORMATS = {
    "date": "2024-05-17",
    "date-time": "2024-05-17T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "erick@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "12345678-1234-4234-8234-123456789abc",
}

_CLASSES = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a"}
_CANDIDATES = ascii_lowercase + digits + ascii_uppercase + "-_ .:/@#"
_REPETITION = re.compile(r"\{(\d+)(?:,\d*)?\}|[*+?]")


def fill(schema: Schema, hints: TextHints) -> Any:
    """A value that the schema allows. The same text gives the same value."""
    return _Filler(schema, hints).value(schema, "value", 0)


def sample(pattern: str) -> str | None:
    """A text that the pattern matches; None for a pattern this module cannot read."""
    reader = _PatternReader(pattern)
    try:
        text = reader.alternatives()
        return text if re.search(pattern, text) else None
    except (ValueError, IndexError, re.error):
        return None


class _Filler:
    """Fills the fields of one schema, whose references point into `root`."""

    def __init__(self, root: Schema, hints: TextHints) -> None:
        self._root = root
        self._hints = hints

    def value(self, schema: Schema | bool, field: str, depth: int) -> Any:
        """A value for a field at this depth, which decides whether optional fields in it are filled."""
        schema = self._plain(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            mentioned = self._hints.mentioned(schema["enum"])
            return schema["enum"][0] if mentioned is None else mentioned
        match _type_of(schema):
            case "object":
                return self._object(schema, field, depth)
            case "array":
                return self._array(schema, field, depth)
            case "integer" | "number":
                return self._number(schema)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._string(schema, field)

    def _plain(self, schema: Schema | bool, depth: int) -> Schema:
        """The schema without references, unions and intersections."""
        if isinstance(schema, bool) or depth > _MAX_DEPTH:
            return {"type": "null"}
        if "$ref" in schema:
            return self._plain({**self._resolved(schema["$ref"]), **_without(schema, "$ref")}, depth + 1)
        if "allOf" in schema:
            parts = [self._plain(part, depth) for part in schema["allOf"]]
            return self._plain(_merged([_without(schema, "allOf"), *parts]), depth)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                chosen = self._plain(self._option(schema[union], depth), depth)
                return self._plain(_merged([_without(schema, union), chosen]), depth)
        return schema

    def _resolved(self, reference: str) -> Schema:
        schema: Any = self._root
        for step in reference.lstrip("#").strip("/").split("/"):
            schema = schema[step.replace("~1", "/").replace("~0", "~")] if step else schema
        return {"type": "null"} if isinstance(schema, bool) else schema

    def _option(self, options: Sequence[Schema | bool], depth: int) -> Schema | bool:
        schemas = [option for option in options if not isinstance(option, bool)]
        if schemas and depth > _OPTIONAL_DEPTH:
            return min(schemas, key=_weight)
        return next((schema for schema in schemas if schema.get("type") != "null"), options[0])

    def _object(self, schema: Schema, field: str, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        filled: dict[str, Any] = {}
        for name, part in schema.get("properties", {}).items():
            if name in required or self._is_wanted(part, name, depth):
                filled[name] = self.value(part, name, depth + 1)
        for name in required:
            filled.setdefault(name, self._invented(name))
        self._add_more(filled, schema, field, depth)
        return filled

    def _is_wanted(self, schema: Schema | bool, name: str, depth: int) -> bool:
        if isinstance(schema, bool) or depth >= _OPTIONAL_DEPTH:
            return False
        if "default" not in schema:
            return True
        plain = self._plain(schema, depth)
        if "enum" in plain:
            return self._hints.mentioned(plain["enum"]) is not None
        if _type_of(plain) in ("integer", "number"):
            return self._hints.has_number(lambda number: _number_fits(plain, number))
        return _type_of(plain) == "string" and self._hints.has_string(name)

    def _add_more(self, filled: dict[str, Any], schema: Schema, field: str, depth: int) -> None:
        more = schema.get("additionalProperties")
        is_map = isinstance(more, Mapping) and not schema.get("properties") and depth < _OPTIONAL_DEPTH
        least = max(schema.get("minProperties", 0), int(is_map))
        while len(filled) < least:
            part = more if isinstance(more, Mapping) else {"type": "string"}
            filled[f"key{len(filled) + 1}"] = self.value(part, field, depth + 1)

    def _array(self, schema: Schema, field: str, depth: int) -> list[Any]:
        fixed = schema.get("prefixItems", ())
        items = [self.value(part, field, depth + 1) for part in fixed]
        least = max(schema.get("minItems", 0), 0 if fixed or depth >= _OPTIONAL_DEPTH else 1)
        part = schema.get("items", True)
        part = {"type": "string"} if part is True else part
        for _ in range(min(least, schema.get("maxItems", least)) - len(items)):
            items.append(self.value(part, field, depth + 1))
        return self._distinct(items, part, depth) if schema.get("uniqueItems") else items

    def _distinct(self, items: list[Any], schema: Schema, depth: int) -> list[Any]:
        plain = self._plain(schema, depth)
        if "enum" in plain:
            return list(plain["enum"][: len(items)])
        if _type_of(plain) in ("integer", "number"):
            return [items[0] + position * plain.get("multipleOf", 1) for position in range(len(items))]
        if _type_of(plain) == "string":
            return [item if not position else f"{item} {position + 1}" for position, item in enumerate(items)]
        return items[:1]

    def _number(self, schema: Schema) -> int | float:
        hint = self._hints.number(lambda number: _number_fits(schema, number))
        number = _invented_number(schema) if hint is None else hint
        return int(number) if schema.get("type") == "integer" or number == int(number) else number

    def _string(self, schema: Schema, field: str) -> str:
        if "pattern" in schema:
            return self._hints.string(field, lambda text: _string_fits(schema, text)) or (
                sample(schema["pattern"]) or self._invented(field)
            )
        if (form := str(schema.get("format"))) in _FORMATS:
            return _FORMATS[form]
        hint = self._hints.string(field, lambda text: _string_fits(schema, text))
        return _of_length(schema, self._invented(field)) if hint is None else hint

    def _invented(self, field: str) -> str:
        subject = self._hints.subject()
        words = " ".join(name_words(field)) or field
        return f"{words} about {subject}" if subject else f"some {words}"


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if kind:
        return next((one for one in kind if one != "null"), "null")
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    is_number = any(word in schema for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
    return "number" if is_number else "string"


def _weight(schema: Schema) -> int:
    if schema.get("type") == "null":
        return 0
    return 2 if "$ref" in schema or schema.get("type") in ("object", "array") else 1


def _without(schema: Schema, word: str) -> Schema:
    return {key: value for key, value in schema.items() if key != word}


def _merged(parts: Sequence[Schema]) -> Schema:
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = [*merged.get(key, ()), *value]
            else:
                merged[key] = value
    return merged


def _bounds(schema: Schema) -> tuple[float, float]:
    """The least and the greatest value; exclusive bounds are moved inwards."""
    step = schema.get("multipleOf", 1 if schema.get("type") == "integer" else 1e-6)
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    return max(low, above + step), min(high, below - step)


def _number_fits(schema: Schema, number: float) -> bool:
    low, high = _bounds(schema)
    is_whole = schema.get("type") != "integer" or number == int(number)
    return is_whole and low <= number <= high and _is_multiple(number, schema.get("multipleOf"))


def _is_multiple(number: float, of: float | None) -> bool:
    return of is None or math.isclose(number / of, round(number / of), abs_tol=1e-9)


def _invented_number(schema: Schema) -> float:
    low, high = _bounds(schema)
    number = min(max(1.0, low), high)
    step: float | None = schema.get("multipleOf", 1 if schema.get("type") == "integer" else None)
    if step is None:
        return number
    up = math.ceil(number / step) * step
    return up if up <= high else math.floor(high / step) * step


def _string_fits(schema: Schema, text: str) -> bool:
    fits = schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", math.inf)
    return fits and ("pattern" not in schema or re.search(schema["pattern"], text) is not None)


def _of_length(schema: Schema, text: str) -> str:
    padded = text.ljust(schema.get("minLength", 0), ".")
    return padded[: schema.get("maxLength", len(padded))]


class _PatternReader:
    """Reads a pattern from left to right and takes the first of all alternatives."""

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
        repetition = _REPETITION.match(self._pattern, self._at)
        if repetition is None:
            return 1
        self._at = repetition.end()
        self._skip("?")
        return int(repetition[1]) if repetition[1] is not None else int(repetition[0] == "+")

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
