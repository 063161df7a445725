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
        id_ = complete(text(call.get("id"), "the id of a tool call"))
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
    _brackets: _Brackets = field(default_factory=lambda: _Brackets())
    _counted: int = 0
    """Parts of the arguments whose brackets were counted."""

    @property
    def has_all_arguments(self) -> bool:
        if self.is_whole or not self.arguments or not self.arguments[-1].endswith("}"):
            return self.is_whole
        for part in self.arguments[self._counted :]:
            self._brackets.count(part)
        self._counted = len(self.arguments)
        return self._brackets.are_closed


class _Brackets:
    """Counts the brackets of a JSON text that comes in parts, each part once: a server that names its call in every
    part would otherwise have the whole of it read for each."""

    __slots__ = ("_depth", "_in_string", "_is_escaped")

    def __init__(self) -> None:
        self._depth, self._in_string, self._is_escaped = 0, False, False

    def count(self, part: str) -> None:
        if self._is_escaped:
            part, self._is_escaped = part[1:], not part
        for mark in _MARKS.findall(part):
            if mark[0] == "\\":
                self._is_escaped = len(mark) == 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in "{[" else -1

    @property
    def are_closed(self) -> bool:
        return self._depth == 0 and not self._in_string


_MARKS = re.compile(r"""\\.?|["{}\[\]]""", re.DOTALL)
"""What tells where a JSON text ends: its brackets, quotes, and what is escaped within them."""


class ToolCallReader:
    """The tool calls of one stream.

    Servers repeat the name or the id in every part, leave out the index or the id, or number parallel calls alike. A
    new id, or a new name once the arguments are complete, begins a new call.
    """

    def __init__(self) -> None:
        self._calls: list[_OpenCall] = []
        self._by_position: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}
        self._last_position = 0

    def read(self, said: object) -> tuple[ToolCallPart, ...]:
        """The parts in a delta's `tool_calls`, as far as their call is known by name."""
        calls = mappings(said, "tool_calls")
        return tuple(part for place, call in enumerate(calls) for part in self._read_part(call, place, len(calls)))

    def end(self) -> None:
        """Raises Unreadable if there were arguments of a call that nobody named."""
        if any(not call.name and "".join(call.arguments) for call in self._calls):
            raise Unreadable("a tool call without a name")

    def _read_part(self, said: Mapping[str, Any], place: int, count: int) -> Iterator[ToolCallPart]:
        function = mapping(said.get("function"), "function")
        id_ = complete(text(said.get("id"), "the id of a tool call"))
        name = complete(text(function.get("name"), "the name of a tool call"))
        position = index(said.get("index"), "the index of a tool call")
        if position is None:
            position = place if count > 1 or not self._calls else self._last_position
        self._last_position = position
        call = self._call_at(position, id_, name)
        arguments = self._add_arguments(call, function.get("arguments"))
        if call.name:
            if arguments:
                yield ToolCallPart(call.index, None, None, arguments)
        elif name:
            call.name = name
            yield ToolCallPart(call.index, call.id, name, "".join(call.arguments))

    def _call_at(self, position: int, id_: str, name: str) -> _OpenCall:
        call = self._by_id.get(id_) or self._by_position.get(position)
        if call is None or _begins_another(call, id_, name):
            call = _OpenCall(len(self._calls), id_, id_ or new_call_id())
            self._calls.append(call)
        self._by_position[position] = call
        if id_:
            self._by_id[id_] = call
        return call

    def _add_arguments(self, call: _OpenCall, said: object) -> str:
        if isinstance(said, dict) and call.arguments:
            raise Unreadable("arguments of a tool call are an object behind a text")
        if call.is_whole and said:
            raise Unreadable("arguments of a tool call are more than an object")
        call.is_whole = isinstance(said, dict)
        part = call.joiner.join(_arguments(said))
        if part:
            call.arguments.append(part)
        return part


def _begins_another(call: _OpenCall, id_: str, name: str) -> bool:
    if not name:
        return bool(id_ and call.given_id and id_ != call.given_id and not call.name)
    if not call.name:
        return bool(id_ and call.given_id and id_ != call.given_id)
    if name != call.name:
        return True
    if id_ and call.given_id and id_ != call.given_id:
        return not call.arguments or call.has_all_arguments
    return not (id_ and id_ == call.given_id) and call.has_all_arguments


def _arguments(said: object) -> str:
    """Arguments as a text. Ollama's own protocol, and servers modelled on it, send the object itself."""
    if isinstance(said, dict):
        return json.dumps(said, ensure_ascii=False)
    return text(said, "the arguments of a tool call")


def documents_of(calls: Sequence[ToolCallPart]) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form."""
    return [tool_call_document(call) for call in calls]
