"""Anthropic's Messages, as Anthropic sends them and as gateways do who speak like it.

https://docs.claude.com/en/api/messages: a reply is a list of content blocks. A stream begins, fills and closes one
block after the other; what stands beside text, reasoning and tool calls (signatures, citations, what tools on the
server found) is told when its block is whole, under the names litellm gives it, so that a stream that was added up is
what a plain reply is.
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
from llm_fallback.engine.protocol.values import TextJoiner, Unreadable, complete, index, mapping, mappings, text
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
    signature: str = ""
    citations: list[Mapping[str, Any]] = field(default_factory=list)
    call: int | None = None
    """The index of the tool call it is."""
    joiner: TextJoiner = field(default_factory=TextJoiner)

    def whole(self) -> Mapping[str, Any]:
        """The block as a plain reply has it."""
        said = complete("".join(self.parts))
        if self.kind == "text":
            return {**self.begun, "text": said, "citations": self.citations or None}
        if self.kind == "thinking":
            return {**self.begun, "type": self.kind, "thinking": said, "signature": self.signature}
        if self.kind == "compaction":
            return {**self.begun, "content": said}
        return self.begun


class AnthropicReader(ReplyReader):
    """A reply in Anthropic's form."""

    def __init__(self, finish_words: Mapping[str, str] | None = None) -> None:
        super().__init__(finish_words or {})
        self._blocks: dict[int | None, _Block] = {}
        self._call_count = self._server_call_count = 0

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

    def _read_start(self, message: Mapping[str, Any]) -> Chunk | None:
        self.count(anthropic_usage(message.get("usage")))
        if self.began:
            return None  # Some gateways send it twice.
        self.began = True
        self.take_names(message.get("id"))
        # What a program on Anthropic's side called is there at once, and how that ended with it.
        content = mappings(message.get("content"), "content")
        word = message.get("stop_reason")
        return self.chunk(
            _texts(content),
            _thoughts(content),
            self._whole_calls(content),
            None if word is None else self.end_with(word),
            self._fields(content, _said_of_the_end(message, message)),
        )

    def _read_end(self, document: Mapping[str, Any], delta: Mapping[str, Any]) -> Chunk | None:
        self.began = True
        self.count(anthropic_usage(document.get("usage")))
        word = delta.get("stop_reason")
        finish = None if word is None else self.end_with(word)
        return self.chunk(finish=finish, fields=self.fields_once(self._fields((), _said_of_the_end(document, delta))))

    def _begin_block(self, document: Mapping[str, Any]) -> Chunk | None:
        self.began = True
        begun = mapping(document.get("content_block"), "content_block")
        block = _Block(begun, text(begun.get("type"), "the type of a block"))
        self._blocks[index(document.get("index"), "the index of a block")] = block
        if block.kind == "tool_use":
            block.call = self._call_count
            return self.chunk(calls=(self._call(begun, ""),))
        if block.kind == "text":
            block.citations += mappings(begun.get("citations"), "citations")
            return self.chunk(_add(block, begun.get("text")))
        if block.kind == "thinking":
            block.signature = text(begun.get("signature"), "a signature")
            return self.chunk(reasoning=_add(block, begun.get("thinking")))
        if block.kind == "compaction":
            _add(block, begun.get("content"))
        return None

    def _read_delta(self, document: Mapping[str, Any]) -> Chunk | None:
        self.began = True
        position = index(document.get("index"), "the index of a block")
        block = self._blocks.get(position)
        if block is None:
            block = self._blocks[position] = _Block({})
        delta = mapping(document.get("delta"), "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            return self.chunk(_add(block, delta.get("text")))
        if kind == "thinking_delta":
            return self.chunk(reasoning=_add(block, delta.get("thinking")))
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
        block = self._blocks.pop(index(document.get("index"), "the index of a block"), None)
        if block is None:
            return None
        if block.call is not None:
            given = "" if any(block.parts) else _arguments(block.begun)
            return self.chunk(calls=(ToolCallPart(block.call, None, None, given),)) if given else None
        if block.kind == "server_tool_use":
            return self.chunk(fields=self._fields((block.begun,), {}, "".join(block.parts)))
        return self.chunk(fields=self._fields((block.whole(),), {}))

    # A whole reply.

    def read_reply(self, document: Mapping[str, Any]) -> Reply | Fault:
        fault = _fault_in(document)
        if fault is not None:
            return fault
        if document.get("content") is None:
            raise Unreadable("a reply without content")
        content = mappings(document["content"], "content")
        self.take_names(document.get("id"))
        self.count(anthropic_usage(document.get("usage")))
        self.end_with(document.get("stop_reason"))
        fields = self._fields(content, _said_of_the_end(document, document))
        thoughts_first = leading(block.get("type") in _THOUGHTS for block in content if _is_of_a_turn(block))
        return self.reply(
            _texts(content), _thoughts(content), self._whole_calls(content), fields, leading=thoughts_first
        )

    # Blocks.

    def _whole_calls(self, content: Iterable[Mapping[str, Any]]) -> tuple[ToolCallPart, ...]:
        return tuple(self._call(block, _arguments(block)) for block in content if block.get("type") == "tool_use")

    def _call(self, block: Mapping[str, Any], arguments: str) -> ToolCallPart:
        name = text(block.get("name"), "the name of a tool call")
        if not name:
            raise Unreadable("a tool call without a name")
        id_ = text(block.get("id"), "the id of a tool call") or new_call_id()
        self._call_count += 1
        return ToolCallPart(self._call_count - 1, id_, name, arguments)

    def _fields(
        self, content: Sequence[Mapping[str, Any]], told: Mapping[str, Any], arguments: str | None = None
    ) -> Fields:
        """What whole blocks bring beside text, reasoning and tool calls; `told` stands beside the blocks. `arguments`
        are those of a call on the server that came in parts."""
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
                specific.setdefault("server_tool_calls", []).append(self._server_call(block, arguments))
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

    def _server_call(self, block: Mapping[str, Any], arguments: str | None) -> dict[str, Any]:
        name, id_ = text(block.get("name"), "the name of a call"), text(block.get("id"), "the id of a call")
        self._server_call_count += 1
        call = ToolCallPart(self._server_call_count - 1, id_, name, complete(arguments or "") or _arguments(block))
        return tool_call_document(call)


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
    return complete(json.dumps(mapping(block.get("input"), "input"), ensure_ascii=False))


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
