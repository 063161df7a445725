"""Anthropic's Messages, as Anthropic sends them and as gateways do who speak like it.

https://docs.claude.com/en/api/messages: a reply is a list of content blocks. A stream begins, fills and closes one
block after the other; what stands beside text, reasoning and tool calls (signatures, citations, what tools on the
server found) is told when its block is whole, under the names litellm gives it, so that a stream that was added up is
what a plain reply is. That holds too for blocks filled by turns, begun where another was never closed, or closed by
nothing but the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.reader import Fields, ReplyReader
from llm_fallback.engine.protocol.thinking import leading
from llm_fallback.engine.protocol.tool_calls import new_call_id, tool_call_document
from llm_fallback.engine.protocol.usage import anthropic_usage
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
from llm_fallback.engine.transport import Chunk, Fault, Reply, ToolCallPart

_THOUGHTS = ("thinking", "redacted_thinking")
_SEARCHES = ("web_search_tool_result", "web_fetch_tool_result")
_BESIDE = ("container", "context_management")
"""What is told of a whole reply, beside how it ended."""
_TELLING_REASONS = ("refusal", "pause_turn")
"""Reasons for which OpenAI has no word that says as much."""


@dataclass(slots=True)
class _Block:
    """A content block that was begun, and what came of it."""

    begun: Mapping[str, Any]
    kind: str = ""
    parts: list[str] = field(default_factory=list)
    """Its text, thoughts, summary or arguments, in parts."""
    told: int = 0
    """How many of the parts were told."""
    signature: str = ""
    citations: list[Mapping[str, Any]] = field(default_factory=list)
    call: int | None = None
    """The index of the tool call it is."""
    joiner: ArgumentsJoiner = field(default_factory=ArgumentsJoiner)
    leads: bool = False
    """Whether it was begun before any text or tool call came."""
    is_closed: bool = False

    def untold(self) -> str:
        """What came since it was asked for last."""
        part = "".join(self.parts[self.told :])
        self.told = len(self.parts)
        return part

    def whole(self) -> Mapping[str, Any]:
        """The block as a plain reply has it."""
        said = complete("".join(self.parts))
        if self.kind == "text":
            return {**self.begun, "type": self.kind, "text": said, "citations": self.citations or None}
        if self.kind == "thinking":
            return {**self.begun, "type": self.kind, "thinking": said, "signature": self.signature}
        if self.kind == "compaction":
            return {**self.begun, "content": said}
        return {**self.begun, "input": said} if said and self.kind == "server_tool_use" else self.begun


@dataclass(slots=True)
class _Told:
    """What an event lets be told."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCallPart] = field(default_factory=list)
    whole: list[_Block] = field(default_factory=list)
    """Blocks that are closed."""


class AnthropicReader(ReplyReader):
    """A reply in Anthropic's form."""

    def __init__(self, finish_words: Mapping[str, str] | None = None) -> None:
        super().__init__(finish_words or {})
        self._blocks: dict[int | None, _Block] = {}
        """Those that were begun, by their index, until they are closed and told."""
        self._call_count = self._server_call_count = 0
        self._of_the_end: dict[str, Any] = {}
        self._is_end_told = False

    # A stream.

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        kind = document.get("type")
        if kind == "content_block_delta":
            return self._read_delta(document)
        if kind == "content_block_start":
            return self._begin_block(document)
        if kind == "content_block_stop":
            return self._close_block(document)
        if kind == "message_start":
            return self._read_start(mapping(document.get("message"), "message"))
        if kind == "message_delta":
            return self._read_end(document, mapping(document.get("delta"), "delta"))
        if kind == "message_stop":
            self.began = self.is_over = True
        else:
            self.fault = _fault_in(document)
        return None

    def _take_usage(self, said: object) -> None:
        """Take an account of the tokens. Before the input is known there is none: what the first event says of the
        output is a placeholder, and would be billed as the whole."""
        if self.usage is not None or (isinstance(said, Mapping) and said.get("input_tokens") is not None):
            self.count(anthropic_usage(said))

    def _read_start(self, message: Mapping[str, Any]) -> Chunk | None:
        self._take_usage(message.get("usage"))
        if self.began:
            return None  # Some gateways send it twice.
        self.began = True
        self.take_names(message.get("id"))
        # What a program on Anthropic's side called is there at once, and how that ended with it.
        content = mappings(message.get("content"), "content")
        return self.chunk(
            _texts(content),
            _thoughts(content),
            self._whole_calls(content),
            self.end_with(message.get("stop_reason")),
            self._fields(content, self._said_of_the_end(message, message)),
            _leading(content),
        )

    def _read_end(self, document: Mapping[str, Any], delta: Mapping[str, Any]) -> Chunk | None:
        self.began = True
        self._take_usage(document.get("usage"))
        word, fields = delta.get("stop_reason"), self._said_of_the_end(document, delta)
        if word is None:
            return None
        for block in self._blocks.values():
            block.is_closed = True
        told = self._tell()
        return self._chunk(told, self.end_with(word), fields)

    def _said_of_the_end(self, document: Mapping[str, Any], ended: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is told of how a reply ended, and of the whole of it; nothing before it has ended, and once. `ended` is
        where its reason stands."""
        self._of_the_end |= _said_of_the_end(document, ended)
        if self._is_end_told or ended.get("stop_reason") is None:
            return {}
        self._is_end_told = True
        return self._of_the_end

    def _begin_block(self, document: Mapping[str, Any]) -> Chunk | None:
        self.began = True
        begun = mapping(document.get("content_block"), "content_block")
        kind = text(begun.get("type"), "the type of a block")
        place = index(document.get("index"), "the index of a block")
        before = self._blocks.get(place)
        if before is not None and kind == "tool_use" and begun.get("id") and before.begun.get("id") == begun["id"]:
            return None  # Said twice.
        told = self._close(place)
        block = self._blocks[place] = _Block(begun, kind, leads=not (self.is_past_thoughts or told.text))
        if kind == "tool_use":
            block.call = self._call_count
            told.calls.append(self._call(begun, ""))
        elif kind == "text":
            block.citations = mappings(begun.get("citations"), "citations")
            _add(block, begun.get("text"))
        elif kind == "thinking":
            block.signature = text(begun.get("signature"), "a signature")
            _add(block, begun.get("thinking"))
        elif kind == "compaction":
            _add(block, begun.get("content"))
        self._tell_of(place, block, told)
        return self._chunk(told)

    def _read_delta(self, document: Mapping[str, Any]) -> Chunk | None:
        self.began = True
        place = index(document.get("index"), "the index of a block")
        block = self._blocks.get(place)
        if block is None:
            block = self._blocks[place] = _Block({})
        delta = mapping(document.get("delta"), "delta")
        kind = delta.get("type")
        if kind in ("text_delta", "thinking_delta"):
            name = "text" if kind == "text_delta" else "thinking"
            part, block.kind = _add(block, delta.get(name)), block.kind or name
            if len(self._blocks) > 1 and self._is_held(place, block):
                return None
            block.told = len(block.parts)
            return self.chunk(part) if name == "text" else self.chunk(reasoning=part)
        if kind == "input_json_delta":
            return self._read_arguments(block, _add(block, delta.get("partial_json")))
        if kind == "signature_delta":
            block.signature += text(delta.get("signature"), "a signature")
        elif kind == "citations_delta":
            block.citations.append(mapping(delta.get("citation"), "a citation"))
        elif kind == "compaction_delta":
            _add(block, delta.get("content"))
        return None

    def _read_arguments(self, block: _Block, part: str) -> Chunk | None:
        if block.call is None:
            if part and not block.kind:
                raise Unreadable("a tool call without a name")
            return None  # Of a tool on the server, told when it is whole.
        part = block.joiner.join(part)
        return self.chunk(calls=(ToolCallPart(block.call, None, None, part),)) if part else None

    def _close_block(self, document: Mapping[str, Any]) -> Chunk | None:
        return self._chunk(self._close(index(document.get("index"), "the index of a block")))

    def _close(self, place: int | None) -> _Told:
        """Close the block of that index, if there is one; what may be told now."""
        block = self._blocks.get(place)
        if block is None:
            return _Told()
        block.is_closed = True
        return self._tell()

    def _tell(self) -> _Told:
        """What may be told of all blocks, in their order; those that are closed are gone after it."""
        told = _Told()
        for place, block in sorted(self._blocks.items(), key=lambda item: -1 if item[0] is None else item[0]):
            self._tell_of(place, block, told)
        return told

    def _tell_of(self, place: int | None, block: _Block, told: _Told) -> None:
        if self._is_held(place, block):
            return
        if block.kind == "text":
            told.text += block.untold()
        elif block.kind == "thinking":
            told.reasoning += block.untold()
        if not block.is_closed:
            return
        del self._blocks[place]
        if block.call is None:
            told.whole.append(block)
        elif not any(block.parts) and (given := _arguments(block.begun)):
            told.calls.append(ToolCallPart(block.call, None, None, given))

    def _is_held(self, place: int | None, block: _Block) -> bool:
        """Whether it has to wait for one of its kind before it that is still open."""
        group = _THOUGHTS if block.kind in _THOUGHTS else (block.kind,)
        return any(
            other.kind in group and not other.is_closed and before is not None and place is not None and before < place
            for before, other in self._blocks.items()
        )

    def _chunk(self, told: _Told, finish: str | None = None, fields: Mapping[str, Any] | None = None) -> Chunk | None:
        thoughts = (block.leads for block in told.whole if block.kind in _THOUGHTS)
        return self.chunk(
            told.text,
            told.reasoning,
            tuple(told.calls),
            finish,
            self._fields([block.whole() for block in told.whole], fields or {}),
            leading(thoughts),
        )

    # A whole reply.

    def read_reply(self, document: Mapping[str, Any]) -> Reply | Fault:
        fault = _fault_in(document)
        if fault is not None:
            return fault
        if document.get("content") is None:
            raise Unreadable("a reply without content")
        content = mappings(document["content"], "content")
        self.take_names(document.get("id"))
        self._take_usage(document.get("usage"))
        self.end_with(document.get("stop_reason"))
        fields = self._fields(content, _said_of_the_end(document, document))
        calls = self._whole_calls(content)
        return self.reply(_texts(content), _thoughts(content), calls, fields, leading=_leading(content))

    # Blocks.

    def _whole_calls(self, content: Iterable[Mapping[str, Any]]) -> tuple[ToolCallPart, ...]:
        return tuple(self._call(block, _arguments(block)) for block in content if block.get("type") == "tool_use")

    def _call(self, block: Mapping[str, Any], arguments: str) -> ToolCallPart:
        name = complete(text(block.get("name"), "the name of a tool call"))
        if not name:
            raise Unreadable("a tool call without a name")
        id_ = complete(text(block.get("id"), "the id of a tool call")) or new_call_id()
        self._call_count += 1
        return ToolCallPart(self._call_count - 1, id_, name, arguments)

    def _fields(self, content: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> Fields:
        """What whole blocks bring beside text, reasoning and tool calls; `told` stands beside the blocks."""
        specific: dict[str, Any] = dict(told)
        for block in content:
            kind = text(block.get("type"), "the type of a block")
            if kind == "text":
                citations = mappings(block.get("citations"), "citations")
                supported = {"supported_text": text(block.get("text"), "text")}
                if citations:
                    specific.setdefault("citations", []).append([{**citation, **supported} for citation in citations])
            elif kind in _THOUGHTS:
                specific.setdefault("thinking_blocks", []).append(block)
            elif kind == "server_tool_use":
                specific.setdefault("server_tool_calls", []).append(self._server_call(block))
            elif kind == "compaction":
                specific.setdefault("compaction_blocks", []).append(block)
            elif kind.endswith("_tool_result"):
                specific.setdefault("web_search_results" if kind in _SEARCHES else "tool_results", []).append(block)
        if not specific:
            return {}
        fields: dict[str, Any] = {"provider_specific_fields": specific}
        if "thinking_blocks" in specific:
            fields["thinking_blocks"] = specific["thinking_blocks"]
        return fields

    def _server_call(self, block: Mapping[str, Any]) -> dict[str, Any]:
        name, id_ = text(block.get("name"), "the name of a call"), text(block.get("id"), "the id of a call")
        self._server_call_count += 1
        return tool_call_document(ToolCallPart(self._server_call_count - 1, id_, name, _arguments(block)))


def _leading(content: Iterable[Mapping[str, Any]]) -> int:
    """How many thoughts stand before all else that is sent back."""
    return leading(block.get("type") in _THOUGHTS for block in content if _is_of_a_turn(block))


def _is_of_a_turn(block: Mapping[str, Any]) -> bool:
    """Whether the block has a place among those that are sent back."""
    return block.get("type") in (*_THOUGHTS, "tool_use") or bool(block.get("text"))


def _add(block: _Block, said: object) -> str:
    """The next part of a block."""
    part = text(said, "a part of a block")
    block.parts.append(part)
    return part


def _texts(content: Iterable[Mapping[str, Any]]) -> str:
    return "".join(text(block.get("text"), "text") for block in content if block.get("type") == "text")


def _thoughts(content: Iterable[Mapping[str, Any]]) -> str:
    return "".join(text(block.get("thinking"), "thinking") for block in content if block.get("type") == "thinking")


def _arguments(block: Mapping[str, Any]) -> str:
    """Those of a call, which some gateways send as a text."""
    said = block.get("input")
    whole = said if isinstance(said, str) else json.dumps(mapping(said, "input"), ensure_ascii=False)
    return complete_json(whole) or "{}"


def _said_of_the_end(document: Mapping[str, Any], ended: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of how a reply ended, and of the whole of it; `ended` is where its reason stands."""
    told = {name: said for name in _BESIDE if (said := document.get(name) or ended.get(name)) is not None}
    reason, details = ended.get("stop_reason"), ended.get("stop_details")
    if details is not None:
        return {**told, "stop_reason": reason, "stop_details": details}
    return {**told, "stop_reason": reason} if reason in _TELLING_REASONS else told


def _fault_in(document: Mapping[str, Any]) -> Fault | None:
    """The fault of an error, which may be the document itself."""
    if document.get("type") == "error" and not document.get("error"):
        document = {"error": document}
    return fault_in_body(document)
