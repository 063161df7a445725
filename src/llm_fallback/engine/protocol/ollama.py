"""Ollama's own chat, `/api/chat`: a whole message, or a line of JSON for each part of it.

https://docs.ollama.com/api/chat. A tool call comes whole, its arguments an object; an error is a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.ndjson import LineParser
from llm_fallback.engine.protocol.reader import NO_FIELDS, ReplyReader
from llm_fallback.engine.protocol.think_tags import ThinkTagParser
from llm_fallback.engine.protocol.tool_calls import whole_tool_calls
from llm_fallback.engine.protocol.usage import ollama_usage
from llm_fallback.engine.protocol.values import Unreadable, mapping, text
from llm_fallback.engine.transport import Chunk, Reply, ToolCallPart


class OllamaReader(ReplyReader):
    """A reply in Ollama's form."""

    stream_parser = LineParser

    def __init__(self, finish_words: Mapping[str, str] = NO_FIELDS) -> None:
        super().__init__(finish_words)
        self._tags = ThinkTagParser()
        self._call_count = 0

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        if document.get("error"):
            self.fault = fault_in_body(document)
            return None
        said = mapping(document.get("message"), "message")
        self.began = self.began or bool(said)
        is_done = document.get("done") is True
        content, thoughts = self._tags.split(text(said.get("content"), "content"), is_last=is_done)
        calls = self._number(whole_tool_calls(said.get("tool_calls")))
        finish = self._read_end(document) if is_done else None
        self.is_over = is_done
        return self.chunk(content, text(said.get("thinking"), "thinking") + thoughts, calls, finish)

    def _number(self, calls: tuple[ToolCallPart, ...]) -> tuple[ToolCallPart, ...]:
        """Calls of a line, counted on from those of the lines before."""
        first = self._call_count
        self._call_count += len(calls)
        return tuple(replace(call, index=first + call.index) for call in calls)

    def _read_end(self, document: Mapping[str, Any]) -> str | None:
        self.count(ollama_usage(document))
        # `done` is the end that is documented; servers that knew no reason yet, and those modelled on them, give none.
        return self.end_with(document.get("done_reason") or "stop")

    def read_reply(self, document: Mapping[str, Any]) -> Reply:
        if document.get("message") is None or document.get("error"):
            raise Unreadable("a reply without a message")
        said = mapping(document["message"], "message")
        content, thoughts = ThinkTagParser().split(text(said.get("content"), "content"), is_last=True)
        if document.get("done") is True:
            self._read_end(document)
        thoughts = text(said.get("thinking"), "thinking") + thoughts
        return self.reply(content, thoughts, whole_tool_calls(said.get("tool_calls")))
