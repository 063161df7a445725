"""What chunks bring beside text and tool calls, such that LangChain adds it up to what was said.

LangChain joins texts of one name, adds numbers up, merges objects of a list that bear the same index, and raises where
a name changes its type. A server that says something twice means none of it, nor do two that gave a reply together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTENT = frozenset({"role", "content", "reasoning_content", "tool_calls"})
"""What a delta says of the reply itself, in parts that are made to be added up."""

_Place = tuple[str, ...]
"""The names that lead to a value."""
_SPECIFIC = "provider_specific_fields"


class FieldMerger:
    """The fields of one stream."""

    def __init__(self) -> None:
        self._types: dict[_Place, type] = {}
        self._indices: dict[_Place, set[int | str]] = {}

    def mergeable(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk with what adds to those before it: lists grow, texts that come in parts are joined, and all else is
        told once."""
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        content = {name: said for name, said in delta.items() if name in CONTENT}
        beside = {name: said for name, said in delta.items() if name not in CONTENT}
        fields = {name: said for name, said in chunk.items() if name != "choices"}
        delta = {**content, **self._untold(beside, ())}
        return {"choices": [{**choice, "delta": delta}], **self._untold(fields, ("chunk",))}

    def _untold(self, said: Mapping[str, Any], place: _Place) -> dict[str, Any]:
        untold: dict[str, Any] = {}
        for name, value in said.items():
            at = (*place, name)
            is_first = at not in self._types
            if value is None:
                if is_first:
                    untold[name] = None  # LangChain puts whatever comes later in its place.
                continue
            if self._types.setdefault(at, type(value)) is not type(value):
                continue
            if isinstance(value, dict):
                rest = self._untold(value, at)
                if rest or is_first:
                    untold[name] = rest
            elif isinstance(value, list):
                untold[name] = [self._apart(item, at) for item in value]
            elif is_first or (isinstance(value, str) and _comes_in_parts(at)):
                untold[name] = value
        return untold

    def _apart(self, item: Any, at: _Place) -> Any:
        """An item of a list, without an index by which it would be merged with another."""
        index = item.get("index") if isinstance(item, dict) else None
        if not (isinstance(index, int) or (isinstance(index, str) and index.startswith("lc_"))):
            return item
        if index in self._indices.setdefault(at, set()):
            return {name: value for name, value in item.items() if name != "index"}
        self._indices[at].add(index)
        return item


def _comes_in_parts(at: _Place) -> bool:
    """Whether a text there is a part of one: what a server streams under a name of its own, and sound."""
    return at[0] == _SPECIFIC and (len(at) == 2 or at[1:] in (("audio", "data"), ("audio", "transcript")))
