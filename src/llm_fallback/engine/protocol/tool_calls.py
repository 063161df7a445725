"""Tool calls, whole or in parts, as LangChain can merge them: one index, one id and one name for each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from llm_fallback.engine.protocol.values import (
    ArgumentsJoiner,
    Unreadable,
    complete,
    complete_json,
    index,
    mapping,
    mappings,
    text,
)
from llm_fallback.engine.transport import ToolCallPart


def new_call_id() -> str:
    """An id for a call whose server gave it none: its answer must name one."""
    return f"call_{uuid4().hex}"


def whole_tool_calls(said: object) -> tuple[ToolCallPart, ...]:
    """The tool calls of a whole message. One without a name and arguments is none."""
    parts: list[ToolCallPart] = []
    for call in mappings(said, "tool_calls"):
        function = mapping(call.get("function"), "function")
        name = complete(text(function.get("name"), "the name of a tool call"))
        arguments = _arguments(function.get("arguments"))
        id_ = _id(call.get("id"))
        index(call.get("index"), "the index of a tool call")  # Refused as in a stream, though here it says nothing.
        if name:
            parts.append(ToolCallPart(len(parts), id_ or new_call_id(), name, complete_json(arguments)))
        elif arguments:
            raise Unreadable("a tool call without a name")
    return tuple(parts)


def tool_call_document(call: ToolCallPart) -> dict[str, Any]:
    """A tool call, or a part of one, in OpenAI's form."""
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


@dataclass(slots=True)
class _OpenCall:
    """A call of which parts came."""

    index: int
    given_id: str
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    joiner: ArgumentsJoiner = field(default_factory=ArgumentsJoiner)
    is_whole: bool = False
    """Whether its arguments came as an object."""
    empty: str = ""
    """An object without anything in it, where nothing else came of the arguments yet."""
    named_in: int = 0
    """The delta that named it last."""
    _brackets: _Brackets = field(default_factory=lambda: _Brackets())
    _counted: int = 0
    """Parts of the arguments whose brackets were counted."""

    @property
    def has_arguments(self) -> bool:
        return bool(self.arguments or self.empty)

    @property
    def has_all_arguments(self) -> bool:
        if self.is_whole or self.empty:
            return True
        for part in self.arguments[self._counted :]:
            self._brackets.count(part)
        self._counted = len(self.arguments)
        return self._brackets.are_closed


class _Brackets:
    """Counts the brackets of a JSON text that comes in parts, each part once: a server that names its call in every
    part would otherwise have the whole of it read for each."""

    __slots__ = ("_came", "_depth", "_in_string")

    def __init__(self) -> None:
        self._depth, self._came, self._in_string = 0, False, False

    def count(self, part: str) -> None:
        """Count those of the next part, which ends with no half of an escape: whoever joins parts keeps it back."""
        for mark in _MARKS.findall(part):
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in "{[" else -1
                self._came = True

    @property
    def are_closed(self) -> bool:
        return self._came and self._depth == 0 and not self._in_string


_MARKS = re.compile(r"""\\.|["{}\[\]]""", re.DOTALL)
"""What tells where a JSON text ends: its brackets, quotes, and what is escaped within them."""


class ToolCallReader:
    """The tool calls of one stream.

    Servers repeat the name or the id in every part, leave out the index or the id, or number parallel calls alike. A
    new id, or a new name once arguments came, begins a new call; before them a new name goes on with the first.

    Gateways begin Claude's arguments with the empty object of its first event and send the real ones behind it, so an
    empty object may wait until something follows, or for `close`.
    """

    def __init__(self) -> None:
        self._deltas = 0
        self._calls: list[_OpenCall] = []
        self._by_position: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}
        self._last_position = 0

    def read(self, said: object, *, waits: bool = False) -> tuple[ToolCallPart, ...]:
        """The parts in a delta's `tool_calls`, as far as their call is known by name. With `waits` an empty object
        does; at the end `close` tells what is left."""
        calls = mappings(said, "tool_calls")
        self._deltas += 1
        are_several = len(calls) > 1
        return tuple(
            part
            for place, call in enumerate(calls)
            for part in self._read_part(call, place if are_several else self._last_position, waits=waits)
        )

    def close(self) -> tuple[ToolCallPart, ...]:
        """The empty objects that nothing followed."""
        waiting = [call for call in self._calls if call.empty and call.name]
        parts = tuple(ToolCallPart(call.index, None, None, call.empty) for call in waiting)
        for call in waiting:
            call.arguments, call.empty = [call.empty], ""
        return parts

    def end(self) -> None:
        """Raises Unreadable if there were arguments of a call that nobody named."""
        if any(call.has_arguments and not call.name for call in self._calls):
            raise Unreadable("a tool call without a name")

    def _read_part(self, said: Mapping[str, Any], place: int, *, waits: bool) -> Iterator[ToolCallPart]:
        """`place` is its position where it does not say one."""
        function = mapping(said.get("function"), "function")
        id_ = _id(said.get("id"))
        name = complete(text(function.get("name"), "the name of a tool call"))
        position = index(said.get("index"), "the index of a tool call")
        self._last_position = place if position is None else position
        call = self._call_at(self._last_position, id_, name)
        arguments = self._add_arguments(call, function.get("arguments"), waits=waits)
        if name:
            call.named_in = self._deltas
        if not call.name and name:
            call.name = name
            yield ToolCallPart(call.index, call.id, name, "".join(call.arguments))
        elif name not in ("", call.name):
            call.name += name
            yield ToolCallPart(call.index, None, name, arguments)
        elif call.name and arguments:
            yield ToolCallPart(call.index, None, None, arguments)

    def _call_at(self, position: int, id_: str, name: str) -> _OpenCall:
        call = self._by_id.get(id_) or self._by_position.get(position)
        if call is None or _begins_another(call, id_, name, is_same_delta=call.named_in == self._deltas):
            call = _OpenCall(len(self._calls), id_, id_ or new_call_id())
            self._calls.append(call)
        self._by_position[position] = call
        if id_:
            self._by_id[id_] = call
        return call

    def _add_arguments(self, call: _OpenCall, said: object, *, waits: bool) -> str:
        if isinstance(said, dict) and call.arguments:
            raise Unreadable("arguments of a tool call are an object behind a text")
        if call.is_whole and said:
            raise Unreadable("arguments of a tool call are more than an object")
        part = call.joiner.join(_arguments(said))
        if waits and not call.arguments and part.strip() in ("{}", ""):
            call.empty = part.strip() or call.empty
            return ""
        call.empty, call.is_whole = "", call.is_whole or isinstance(said, dict)
        if part:
            call.arguments.append(part)
        return part


def _begins_another(call: _OpenCall, id_: str, name: str, *, is_same_delta: bool) -> bool:
    is_another_id = bool(id_ and call.given_id and id_ != call.given_id)
    if not name or not call.name:
        return is_another_id and not call.name
    if is_another_id:
        return name != call.name or not call.has_arguments or call.has_all_arguments
    if name != call.name:
        return call.has_arguments or is_same_delta
    return not (id_ and id_ == call.given_id) and (call.has_all_arguments or (is_same_delta and not call.has_arguments))


def _id(said: object) -> str:
    """An id. Servers in languages with loose types number their calls."""
    return str(said) if type(said) is int else complete(text(said, "the id of a tool call"))


def _arguments(said: object) -> str:
    """Arguments as a text. Ollama's own protocol, and servers modelled on it, send the object itself."""
    if isinstance(said, dict):
        return json.dumps(said, ensure_ascii=False)
    return text(said, "the arguments of a tool call")


def documents_of(calls: Sequence[ToolCallPart]) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form."""
    return [tool_call_document(call) for call in calls]
