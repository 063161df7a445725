"""Amazon Bedrock's Converse and ConverseStream.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html: a reply is a list of content blocks.
A stream fills one block after the other; what stands beside text, thoughts and tool calls (signatures, citations) is
told when its block is whole, under the names litellm gives it, so that a stream that was added up is what a plain reply
is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_fallback.engine.protocol.aws_event_stream import MessageParser
from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.reader import NO_FIELDS, Fields, ReplyReader
from llm_fallback.engine.protocol.think_tags import ThinkTagParser
from llm_fallback.engine.protocol.thinking import leading
from llm_fallback.engine.protocol.tool_calls import whole_tool_calls
from llm_fallback.engine.protocol.usage import converse_usage
from llm_fallback.engine.protocol.values import Unreadable, encodable, index, mapping, mappings, text
from llm_fallback.engine.transport import Chunk, Reply, ToolCallPart

_OF_THE_MODEL = "additionalModelResponseFields"


@dataclass(slots=True)
class _Block:
    """A content block of a stream, and what came of it."""

    tags: ThinkTagParser = field(default_factory=ThinkTagParser)
    parts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    signature: str = ""
    redacted: str = ""
    citations: list[Mapping[str, Any]] = field(default_factory=list)
    is_of_the_server: bool = False
    """Whether it is a call of a tool that Bedrock runs itself."""
    leads: bool = False
    """Whether it was begun before any text or tool call came."""

    def beside(self) -> Iterable[Mapping[str, Any]]:
        """What a plain reply has for it, where that says more than text, thoughts or a tool call."""
        if self.thoughts or self.signature:
            thought = {"text": "".join(self.thoughts)}
            signed = {**thought, "signature": self.signature} if self.signature else thought
            yield {"reasoningContent": {"reasoningText": signed}}
        if self.redacted:
            yield {"reasoningContent": {"redactedContent": self.redacted}}
        if self.citations:
            yield {"citationsContent": {"content": [{"text": "".join(self.parts)}], "citations": self.citations}}


class ConverseReader(ReplyReader):
    """A reply in Bedrock's form."""

    stream_parser = MessageParser

    def __init__(self, finish_words: Mapping[str, str] = NO_FIELDS) -> None:
        super().__init__(finish_words)
        self._blocks: dict[int | None, _Block] = {}
        self._of_the_model: object = None
        """Fields of the model's own, told with the end."""
        self._was_counted = False

    # A stream.

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        if document.get("error"):
            self.fault = fault_in_body(document)
            return None
        for name, said in document.items():
            if name in _EVENTS:
                self.began = True
                return _EVENTS[name](self, mapping(said, name))
        return None

    def _begin(self, said: Mapping[str, Any]) -> None:
        """The role, which is the same always."""

    def _begin_block(self, said: Mapping[str, Any]) -> Chunk | None:
        before = self._blocks.pop(_place(said), None)
        block = self._block(said)
        tool = mapping(mapping(said.get("start"), "start").get("toolUse"), "toolUse")
        block.is_of_the_server = _is_of_the_server(tool)
        is_call = bool(tool) and not block.is_of_the_server
        calls = self._part(said, {"name": tool.get("name")}, tool.get("toolUseId")) if is_call else ()
        return self._closed([] if before is None else [before], calls)

    def _read_delta(self, said: Mapping[str, Any]) -> Chunk | None:
        block, delta = self._block(said), mapping(said.get("delta"), "delta")
        if delta.get("toolUse") is not None:
            arguments = text(mapping(delta["toolUse"], "toolUse").get("input"), "input")
            return None if block.is_of_the_server else self.chunk(calls=self._part(said, {"arguments": arguments}))
        if delta.get("reasoningContent") is not None:
            return self._read_thought(block, mapping(delta["reasoningContent"], "reasoningContent"))
        if delta.get("citation") is not None:
            block.citations.append(mapping(delta["citation"], "citation"))
        content, thoughts = block.tags.split(text(delta.get("text"), "text"))
        block.parts.append(content)
        return self.chunk(content, thoughts)

    def _read_thought(self, block: _Block, said: Mapping[str, Any]) -> Chunk | None:
        thought = text(said.get("text"), "text")
        if thought:
            block.thoughts.append(thought)
        block.signature += text(said.get("signature"), "signature")
        block.redacted += text(said.get("redactedContent"), "redactedContent")
        return self.chunk(reasoning=thought)

    def _close_block(self, said: Mapping[str, Any]) -> Chunk | None:
        block = self._blocks.pop(_place(said), None)
        return None if block is None else self._closed([block])

    def _closed(
        self, blocks: Sequence[_Block], calls: Sequence[ToolCallPart] = (), finish: str | None = None
    ) -> Chunk | None:
        """What is told of blocks when they are whole."""
        left = [self._left_of(block) for block in blocks]
        content, thoughts = "".join(said for said, _ in left), "".join(said for _, said in left)
        fields = _fields(beside for block in blocks for beside in block.beside())
        thinking = (block for block in blocks if block.thoughts or block.signature or block.redacted)
        return self.chunk(content, thoughts, calls, finish, fields, leading(block.leads for block in thinking))

    def _left_of(self, block: _Block) -> tuple[str, str]:
        content, thoughts = block.tags.split("", is_last=True)
        block.parts.append(content)
        return content, thoughts

    def _stop(self, said: Mapping[str, Any]) -> Chunk | None:
        self._of_the_model = said.get(_OF_THE_MODEL)
        finish = self.end_with(said.get("stopReason"))
        self.is_over = self.is_over or self._was_counted
        open_blocks, self._blocks = list(self._blocks.values()), {}
        return self._closed(open_blocks, finish=finish)

    def _count(self, said: Mapping[str, Any]) -> None:
        self.count(converse_usage({**said, _OF_THE_MODEL: self._of_the_model}))
        self._was_counted, self.is_over = True, self.finish is not None

    def _block(self, said: Mapping[str, Any]) -> _Block:
        return self._blocks.setdefault(_place(said), _Block(leads=not self.is_past_thoughts))

    def _part(
        self, said: Mapping[str, Any], function: Mapping[str, Any], id_: object = None
    ) -> tuple[ToolCallPart, ...]:
        return self.calls.read([{"index": _place(said), "id": id_, "function": function}])

    # A whole reply.

    def read_reply(self, document: Mapping[str, Any]) -> Reply:
        said = mapping(document.get("output"), "output").get("message")
        if said is None or document.get("error"):
            raise Unreadable("a reply without a message")
        blocks = mappings(mapping(said, "message").get("content"), "content")
        self.count(converse_usage(document))
        self.end_with(document.get("stopReason"))
        told = [_text_and_thoughts(block) for block in blocks]
        return self.reply(
            "".join(content for content, _ in told),
            "".join(thoughts for _, thoughts in told),
            whole_tool_calls([call for block in blocks for call in _calls(block)]),
            _fields(blocks),
            leading=leading("reasoningContent" in block for block in blocks),
        )


_EVENTS: Mapping[str, Callable[[ConverseReader, Mapping[str, Any]], Chunk | None]] = {
    "messageStart": ConverseReader._begin,
    "contentBlockStart": ConverseReader._begin_block,
    "contentBlockDelta": ConverseReader._read_delta,
    "contentBlockStop": ConverseReader._close_block,
    "messageStop": ConverseReader._stop,
    "metadata": ConverseReader._count,
}


def _place(said: Mapping[str, Any]) -> int | None:
    return index(said.get("contentBlockIndex"), "contentBlockIndex")


def _is_of_the_server(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("type") == "server_tool_use")


def _text_and_thoughts(block: Mapping[str, Any]) -> tuple[str, str]:
    thought = mapping(_thought(block).get("reasoningText"), "reasoningText")
    content, thoughts = ThinkTagParser().split(text(block.get("text"), "text"), is_last=True)
    cited = mappings(mapping(block.get("citationsContent"), "citationsContent").get("content"), "content")
    content += "".join(text(part.get("text"), "text") for part in cited)
    return content, text(thought.get("text"), "text") + thoughts


def _thought(block: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(block.get("reasoningContent"), "reasoningContent")


def _calls(block: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    tool = mapping(block.get("toolUse"), "toolUse")
    if tool and not _is_of_the_server(tool):
        yield {"id": tool.get("toolUseId"), "function": {"name": tool.get("name"), "arguments": tool.get("input")}}


def _fields(blocks: Iterable[Mapping[str, Any]]) -> Fields:
    """What blocks bring beside text, thoughts and tool calls."""
    specific: dict[str, Any] = {}
    thinking: list[dict[str, str]] = []
    for block in blocks:
        thought = _thought(block)
        if thought:
            specific.setdefault("reasoningContentBlocks", []).append(thought)
            thinking += _thinking_blocks(thought)
        cited = mapping(block.get("citationsContent"), "citationsContent")
        if cited:
            specific.setdefault("citationsContent", []).append(cited)
    fields: dict[str, Any] = {"provider_specific_fields": specific} if specific else {}
    if thinking:
        fields["thinking_blocks"] = thinking
    return encodable(fields)  # type: ignore[no-any-return]


def _thinking_blocks(thought: Mapping[str, Any]) -> Iterable[dict[str, str]]:
    """A thought as Anthropic has it: Bedrock takes it back only with its signature, unchanged."""
    said = mapping(thought.get("reasoningText"), "reasoningText")
    if said:
        signature = text(said.get("signature"), "signature")
        block = {"type": "thinking", "thinking": text(said.get("text"), "text")}
        yield {**block, "signature": signature} if signature else block
    redacted = text(thought.get("redactedContent"), "redactedContent")
    if redacted:
        yield {"type": "redacted_thinking", "data": _unwrapped(redacted)}


def _unwrapped(data: str) -> str:
    """Claude's own text: Bedrock, for which it is bytes, wraps it in base64 once more."""
    try:
        inner = base64.b64decode(data, validate=True).decode("ascii")
        base64.b64decode(inner, validate=True)
    except (binascii.Error, ValueError):
        return data
    return inner
