"""Cohere's chat, version 2.

https://docs.cohere.com/v2/reference/chat: a message of parts, or events that begin, fill and end each of them. The plan
a model makes before it calls tools is told beside the message, as `tool_plan`; citations become annotations, under the
names litellm gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.reader import NO_FIELDS, Fields, ReplyReader
from llm_fallback.engine.protocol.tool_calls import whole_tool_calls
from llm_fallback.engine.protocol.usage import cohere_usage
from llm_fallback.engine.protocol.values import TextJoiner, Unreadable, encodable, index, mapping, mappings, text
from llm_fallback.engine.transport import Chunk, Fault, Reply

_OF_THE_TEXT = "TEXT_CONTENT"
"""What most citations are about; others are about the plan or the thoughts, and count characters there."""


class CohereReader(ReplyReader):
    """A reply in Cohere's form."""

    def __init__(self, finish_words: Mapping[str, str] = NO_FIELDS) -> None:
        super().__init__(finish_words)
        self._plan = TextJoiner()

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        kind = text(document.get("type"), "the type of an event")
        self.fault = _fault_in(document)
        if self.fault is not None:
            return None
        self.began = self.began or bool(kind)
        if kind == "message-start":
            self.take_names(document.get("id"))
        delta = mapping(document.get("delta"), "delta")
        if kind == "message-end":
            return self._read_end(delta)
        message = mapping(delta.get("message"), "message")
        if kind in ("content-start", "content-delta"):
            part = mapping(message.get("content"), "content")
            return self.chunk(text(part.get("text"), "text"), text(part.get("thinking"), "thinking"))
        if kind in ("tool-call-start", "tool-call-delta"):
            call = _call(mapping(message.get("tool_calls"), "tool_calls"))
            return self.chunk(calls=self.calls.read([{**call, "index": document.get("index")}]))
        if kind == "tool-plan-delta":
            return self.chunk(fields=_fields(self._plan.join(text(message.get("tool_plan"), "tool_plan")), ()))
        if kind == "citation-start":
            return self.chunk(fields=_fields("", [mapping(message.get("citations"), "citations")]))
        return None

    def _read_end(self, delta: Mapping[str, Any]) -> Chunk | None:
        self.count(cohere_usage(delta.get("usage")))
        finish = self.end_with(delta.get("finish_reason"))
        self.is_over = True
        if finish is None:
            self.fault = fault_in_body(delta)
        return self.chunk(finish=finish)

    def read_reply(self, document: Mapping[str, Any]) -> Reply | Fault:
        message = document.get("message")
        fault = _fault_in(document)
        if fault is not None:
            return fault
        if message is None:
            raise Unreadable("a reply without a message")
        message = mapping(message, "message")
        parts = mappings(message.get("content"), "content")
        self.take_names(document.get("id"))
        self.count(cohere_usage(document.get("usage")))
        self.end_with(document.get("finish_reason"))
        return self.reply(
            "".join(text(part.get("text"), "text") for part in parts),
            "".join(text(part.get("thinking"), "thinking") for part in parts),
            whole_tool_calls([_call(call) for call in mappings(message.get("tool_calls"), "tool_calls")]),
            _fields(text(message.get("tool_plan"), "tool_plan"), mappings(message.get("citations"), "citations")),
        )


def _fault_in(document: Mapping[str, Any]) -> Fault | None:
    """The fault of what Cohere sends in place of a reply: an object whose message is a text."""
    if isinstance(document.get("message"), str) and not document.get("error"):
        document = {"error": document}
    return fault_in_body(document)


def _call(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call, or a part of one. A tool that takes nothing is called with `null`, where OpenAI's form has none."""
    function = mapping(said.get("function"), "function")
    return {**said, "function": {**function, "arguments": ""}} if function.get("arguments") == "null" else said


def _fields(plan: str, citations: Iterable[Mapping[str, Any]]) -> Fields:
    """What stands beside text, thoughts and tool calls."""
    fields: dict[str, Any] = {}
    annotations = [annotation for citation in citations for annotation in _annotations(citation)]
    if annotations:
        fields["annotations"] = annotations
    if plan:
        fields["provider_specific_fields"] = {"tool_plan": plan}
    return encodable(fields)  # type: ignore[no-any-return]


def _annotations(citation: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A citation in OpenAI's form, once for each document; what a tool said is no document."""
    if text(citation.get("type"), "the type of a citation") not in ("", _OF_THE_TEXT):
        return
    start, end = (index(citation.get(name), f"the {name} of a citation") or 0 for name in ("start", "end"))
    for source in mappings(citation.get("sources"), "sources"):
        if source.get("type") != "document" or source.get("document") is None:
            continue
        title = text(mapping(source["document"], "document").get("title"), "title")
        url = text(source.get("url"), "url") or f"source:{text(source.get('id'), 'id') or 'unknown'}"
        place = {"start_index": start, "end_index": end, "title": title, "url": url}
        yield {"type": "url_citation", "url_citation": place}
