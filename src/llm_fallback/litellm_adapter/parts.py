"""The parts of messages, at any depth: what is nested without end, or contains itself, is gone through once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


def nested(value: Any, inner: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """A value and all that is in it: what `inner` says of it, of that, and so on. Nothing twice, in no order."""
    pending = [value]
    seen: dict[int, Any] = {}
    """By identity, which is another's once a value is gone: kept, it stays its own."""
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen[id(found)] = found
        yield found
        pending += inner(found)


def parts_in(message: Mapping[str, Any], is_holder: Callable[[Mapping[str, Any]], bool]) -> Iterator[Mapping[str, Any]]:
    """The parts of a message's content, and of the content of those that may hold some: a tool's result has its own."""

    def inner(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        content = part.get("content") if part is message or is_holder(part) else None
        return [each for each in content if isinstance(each, Mapping)] if isinstance(content, list) else []

    return (part for part in nested(message, inner) if part is not message)
