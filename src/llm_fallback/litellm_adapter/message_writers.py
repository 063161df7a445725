"""Messages in the form each protocol has them, written as litellm writes them.

What a translation costs is mostly the finding out of what a message becomes, once more for each message of a chat that
grows. So usual messages are written here, and only of a shape for which litellm wrote the same before: templates.py
compares. Whatever is unusual is no shape, and is left to litellm.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from llm_fallback.engine.protocol.gemini import SIGNATURE_MARK
from llm_fallback.engine.protocol.values import Unreadable, decode

Message: TypeAlias = Mapping[str, Any]
"""A message in OpenAI's form."""
Document: TypeAlias = dict[str, Any]
"""What stands in a request's body."""


class Unusual(Exception):
    """A message of which only litellm knows what becomes of it."""


# Shapes.


class Shape(NamedTuple):
    """What about a message decides how it is translated: all but its texts, names and pictures."""

    role: str
    fields: tuple[str, ...]
    content: Hashable
    calls: Hashable
    has_pictures: bool


def shape_of(message: Message) -> Shape:
    """The shape of a message. Raises Unusual."""
    role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
    shape: Hashable = None
    has_pictures = False
    if isinstance(content, str):
        shape = _result_shape(content) if role == "tool" else _text_shape(content)
    elif isinstance(content, list):
        shape = frozenset([_part_shape(part) for part in content])
        has_pictures = [True for part in content if part["type"] != "text"] != []
    elif content is not None:
        raise Unusual
    if role == "tool":
        _check_id(message.get("tool_call_id"))
    called = None if calls is None else frozenset([_call_shape(call) for call in calls])
    return Shape(role, tuple(message), shape, called, has_pictures)


def _text_shape(text: str) -> Hashable:
    """Blank texts are refused here and there, and spaces at an end taken off."""
    if not text:
        return "empty"
    if text.isspace():
        raise Unusual
    return text[0].isspace(), text[-1].isspace()


def _result_shape(text: str) -> Hashable:
    """Of the result of a tool that is JSON or a picture some protocols make more than a text."""
    if text.startswith("data:"):
        raise Unusual
    start = text[:1]
    if start not in ("{", "["):
        return _text_shape(text)
    try:
        return "object" if isinstance(decode(text), dict) else "list"
    except Unreadable:
        return "bracket"


_DATA = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,[A-Za-z0-9+/=]+")


def _part_shape(part: Any) -> Hashable:
    if not isinstance(part, Mapping):
        raise Unusual
    if part.get("type") == "text" and isinstance(text := part.get("text"), str) and text:
        return ("text", *part.keys(), _text_shape(text))
    picture = part.get("image_url")
    if part.get("type") == "image_url" and isinstance(picture, Mapping):
        url = picture.get("url")
        if isinstance(url, str) and (match := _DATA.fullmatch(url)):
            return ("image_url", *part.keys(), *picture.keys(), match[1])
    raise Unusual


_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def _call_shape(call: Any) -> Hashable:
    function = call.get("function")
    if call.keys() != {"id", "type", "function"} or not isinstance(function, Mapping):
        raise Unusual
    if function.keys() != {"name", "arguments"}:
        raise Unusual
    _check_id(call["id"])
    if not _NAME.fullmatch(function["name"]):
        raise Unusual
    return "arguments" if _arguments(call) else "no arguments"


def _arguments(call: Any) -> dict[str, Any]:
    """Raises Unusual for what is no object."""
    try:
        arguments = decode(call["function"]["arguments"])
    except Unreadable:
        raise Unusual from None
    if not isinstance(arguments, dict):
        raise Unusual
    return arguments


def _check_id(name: Any) -> None:
    if not isinstance(name, str) or not _ID.fullmatch(name) or SIGNATURE_MARK in name:
        raise Unusual


# Writers.


class MessageWriter(ABC):
    """Writes the messages of one protocol."""

    places: tuple[str, ...] = ("messages",)
    """The fields of a body in which messages stand."""

    @abstractmethod
    def write(self, messages: Sequence[Message]) -> Mapping[str, Any]:
        """What stands in `places`, those left out in which nothing does. Raises Unusual."""


class OpenAIWriter(MessageWriter):
    """Messages as they are."""

    def write(self, messages: Sequence[Message]) -> Mapping[str, Any]:
        return {"messages": messages}


_KNOWN = {"role", "content", "tool_calls", "tool_call_id"}


class OllamaWriter(MessageWriter):
    """Ollama's own chat: texts, with pictures beside them, and arguments as objects."""

    def write(self, messages: Sequence[Message]) -> Mapping[str, Any]:
        return {"messages": [self._written(message) for message in messages]}

    def _written(self, message: Message) -> Document:
        if not message.keys() <= _KNOWN:
            raise Unusual
        content = message.get("content")
        written: Document = {"role": message["role"], "content": content, "images": []}
        if isinstance(content, list):
            written["content"] = "".join([part["text"] for part in content if part["type"] == "text"])
            written["images"] = [_picture(part)[1] for part in content if part["type"] != "text"]
        if calls := message.get("tool_calls"):
            written["tool_calls"] = [
                {"id": call["id"], "function": {"name": call["function"]["name"], "arguments": _arguments(call)}}
                for call in calls
            ]
        if "tool_call_id" in message:
            written["tool_call_id"] = message["tool_call_id"]
        return written


class TurnWriter(MessageWriter):
    """Messages as turns of two sides, each a list of blocks; what one side says in a row is one turn."""

    system, turns, blocks = "system", "messages", "content"
    """The names of what is written."""
    assistant = "assistant"

    def __init__(self) -> None:
        self.places = (self.system, self.turns)

    def write(self, messages: Sequence[Message]) -> Mapping[str, Any]:
        system: list[Document] = []
        turns: list[Document] = []
        names: dict[str, str] = {}
        before = None
        for message in messages:
            if message["role"] == "system":
                system += self._parts(message)
                continue
            for call in message.get("tool_calls") or ():
                names[call["id"]] = call["function"]["name"]
            role, blocks = self._turn(message, names)
            if turns and turns[-1]["role"] == role and not self._begins_a_turn(before, message["role"]):
                turns[-1][self.blocks] += blocks
            else:
                turns.append({"role": role, self.blocks: blocks})
            before = message["role"]
        return {**self.with_system(system), self.turns: turns}

    def _turn(self, message: Message, names: Mapping[str, str]) -> tuple[str, list[Document]]:
        if not message.keys() <= _KNOWN:
            raise Unusual
        if message["role"] == "tool":
            name = names.get(message["tool_call_id"])
            if name is None or not isinstance(message["content"], str):
                raise Unusual
            return "user", [self.result(message["tool_call_id"], name, message["content"])]
        blocks = self._parts(message)
        if message["role"] == "assistant":
            blocks += [self.call(call) for call in message.get("tool_calls") or ()]
            return self.assistant, blocks
        return "user", blocks

    def _parts(self, message: Message) -> list[Document]:
        return list(self._read_parts(message.get("content")))

    def _read_parts(self, content: Any) -> Iterator[Document]:
        if isinstance(content, str):
            if content or self.writes_empty:
                yield self.text(content)
            return
        for part in content or ():
            yield self.text(part["text"]) if part["type"] == "text" else self.picture(*_picture(part))

    writes_empty = False
    """Whether an empty text is written."""

    def _begins_a_turn(self, before: str | None, role: str) -> bool:
        """Whether a message of the side that spoke before is a turn of its own."""
        return False

    def with_system(self, blocks: list[Document]) -> Document:
        """What the system says, if it says something."""
        return {self.system: blocks} if blocks else {}

    @abstractmethod
    def text(self, text: str) -> Document:
        """A block of text."""

    @abstractmethod
    def picture(self, kind: str, data: str) -> Document:
        """A picture of a media type, its data in base64."""

    @abstractmethod
    def call(self, call: Any) -> Document:
        """A call of a tool. Raises Unusual."""

    @abstractmethod
    def result(self, call_id: str, name: str, text: str) -> Document:
        """What a tool of that name answered to the call of that id. Raises Unusual."""


def _picture(part: Mapping[str, Any]) -> tuple[str, str]:
    match = _DATA.fullmatch(part["image_url"]["url"])
    if match is None or part["image_url"].keys() != {"url"}:
        raise Unusual
    return match[1], part["image_url"]["url"][match.end(1) + len(";base64,") :]


class AnthropicWriter(TurnWriter):
    """Anthropic's Messages."""

    def text(self, text: str) -> Document:
        return {"type": "text", "text": text}

    def picture(self, kind: str, data: str) -> Document:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}

    def call(self, call: Any) -> Document:
        name = call["function"]["name"]
        return {"type": "tool_use", "id": call["id"], "name": name, "input": _arguments(call)}

    def result(self, call_id: str, name: str, text: str) -> Document:
        return {"type": "tool_result", "tool_use_id": call_id, "content": text}


class GeminiWriter(TurnWriter):
    """Gemini's generateContent."""

    system, turns, blocks, assistant, writes_empty = "system_instruction", "contents", "parts", "model", True

    def with_system(self, blocks: list[Document]) -> Document:
        return {"system_instruction": {"parts": blocks}} if blocks else {}

    def _begins_a_turn(self, before: str | None, role: str) -> bool:
        return (before == "tool") != (role == "tool")

    def _turn(self, message: Message, names: Mapping[str, str]) -> tuple[str, list[Document]]:
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        if any(call in calls[:place] for place, call in enumerate(calls)):
            raise Unusual  # litellm takes calls of one name and the same arguments for one.
        return super()._turn(message, names)

    def text(self, text: str) -> Document:
        return {"text": text}

    def picture(self, kind: str, data: str) -> Document:
        return {"inline_data": {"data": data, "mime_type": kind}}

    def call(self, call: Any) -> Document:
        return {"function_call": {"name": call["function"]["name"], "args": _arguments(call)}}

    def result(self, call_id: str, name: str, text: str) -> Document:
        answer: Any = {"content": text}
        if text.startswith("{"):
            try:
                answer = decode(text)
            except Unreadable:
                raise Unusual from None
        return {"function_response": {"name": name, "response": answer}}


class ConverseWriter(TurnWriter):
    """Bedrock's Converse."""

    def text(self, text: str) -> Document:
        return {"text": text}

    def picture(self, kind: str, data: str) -> Document:
        return {"image": {"source": {"bytes": data}, "format": kind.removeprefix("image/")}}

    def call(self, call: Any) -> Document:
        name = call["function"]["name"]
        return {"toolUse": {"input": _arguments(call), "name": name, "toolUseId": call["id"]}}

    def result(self, call_id: str, name: str, text: str) -> Document:
        return {"toolResult": {"content": [{"text": text}], "toolUseId": call_id}}
