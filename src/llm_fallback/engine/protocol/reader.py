"""What readers of every protocol have in common: a reply's content as the engine's chunks and replies.

A reader is one reply: `read_event` takes the documents of its stream, `read_reply` its whole document. What the caller
gets (`raw`) is in OpenAI's form, because that is the form LangChain's integration reads; it holds nothing but values
that were read here, each of the type it must have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llm_fallback.engine.protocol.finishes import openai_finish, read_finish
from llm_fallback.engine.protocol.sse import EventParser, StreamParser
from llm_fallback.engine.protocol.thinking import BLOCKS, SIGNED, ThoughtReader
from llm_fallback.engine.protocol.tool_calls import ToolCallReader, documents_of
from llm_fallback.engine.protocol.usage import fuller, usage_document
from llm_fallback.engine.protocol.values import TextJoiner, complete, encodable, mappings
from llm_fallback.engine.transport import (
    FINISHES,
    FULL_WINDOW,
    REFUSED_FINISH,
    Chunk,
    Fault,
    Reply,
    StreamEnd,
    ToolCallPart,
)
from llm_fallback.events import Usage

Fields = Mapping[str, Any]
"""Further fields of a message or a delta in OpenAI's form, for LangChain's eyes: `annotations`, `thinking_blocks`,
`provider_specific_fields`."""

NO_FIELDS: Fields = {}
GROUNDING = "vertex_ai_grounding_metadata"
"""litellm's name, beside the choices, for what a reply was looked up in; LangChain's integration reads it."""
LOGPROBS = "logprobs"
"""Where the probabilities of a chunk's tokens stand in the chunk's own `provider_specific_fields`."""

_MaybeChunk = TypeVar("_MaybeChunk", Chunk, Chunk | None)
"""Where a chunk is handed over, one comes back."""

_BY_WEIGHT = ("stop", "tool_calls", "length", FULL_WINDOW, REFUSED_FINISH)
"""Finish reasons, those first by which the least is missing. By any that is not among them the reply is not whole."""

_LONGEST_NAME = 512
"""Characters of a server's name for a reply or a request."""

MEDIA = ("audio", "images")
"""Names under which sound and pictures stand in `provider_specific_fields`."""


def is_quotable(name: str) -> bool:
    """Whether a server's name for a reply or a request is one. A longer text is none, and is not cut to one: of a key
    across the cut a part would be left, which nobody knows for one."""
    return 0 < len(name) <= _LONGEST_NAME


class ReplyReader(ABC):
    """One reply of one server."""

    stream_parser: Callable[[], StreamParser] = EventParser
    """What takes a stream of this protocol apart."""

    def __init__(self, finish_words: Mapping[str, str] = NO_FIELDS) -> None:
        """`finish_words`: what words of this server's own mean, in OpenAI's spelling."""
        self.finish_words = finish_words
        self.content_came = False
        self.began = False
        """Whether something of this protocol came."""
        self.finish: str | None = None
        self.refused = False
        """Whether the model refuses in a field of its own, as OpenAI's do."""
        self.fault: Fault | None = None
        """What the stream itself says went wrong; nothing behind it is read."""
        self.is_over = False
        """Whether nothing behind is worth reading: the stream's own end, a finish that is none."""
        self.usage: Usage | None = None
        self.reply_id: str | None = None
        """The server's own name of the reply."""
        self.system_fingerprint: str | None = None
        self.calls = ToolCallReader()
        self._text, self._reasoning = TextJoiner(), TextJoiner()
        self._text_came = self._calls_came = False
        self.signer: str | None = None
        """Who signs thoughts here, told with each, for whoever is to send them back. None: nobody is."""
        self._thoughts: ThoughtReader | None = None
        self._grounding: list[Mapping[str, Any]] = []

    @abstractmethod
    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        """The content of an event of a stream; None if it brings none. Raises Unreadable."""

    @abstractmethod
    def read_reply(self, document: Mapping[str, Any]) -> Reply | Fault:
        """A whole reply. Raises Unreadable."""

    def end(self) -> StreamEnd | Fault:
        """What it means that nothing more comes. Raises Unreadable."""
        if self.fault is not None:
            return self.fault
        self.calls.end()
        return StreamEnd(REFUSED_FINISH if self.refused and self.finish in FINISHES else self.finish)

    def usage_chunk(self) -> Chunk | None:
        """The usage of the whole stream, for its end."""
        if self.usage is None or self.fault is not None:
            return None
        return Chunk({"choices": [], "usage": usage_document(self.usage)}, usage=self.usage)

    # For the readers of a protocol.

    @property
    def is_past_thoughts(self) -> bool:
        """Whether a text or a tool call was told: a thought that begins behind it has no place to be sent back in."""
        return self._text_came or self._calls_came

    def take_names(self, reply_id: object, system_fingerprint: object = None) -> None:
        """Take the server's own names of the reply and of what made it; one that nobody would quote is none."""
        if type(reply_id) is str and is_quotable(reply_id) and reply_id.isascii():
            self.reply_id = reply_id
        word = system_fingerprint
        if type(word) is str and is_quotable(word) and word.isascii():
            self.system_fingerprint = word

    def count(self, usage: Usage | None) -> None:
        """Take an account of the tokens; it may come more than once."""
        if usage is not None:
            self.usage = fuller(self.usage, usage)

    def end_with(self, word: object) -> str | None:
        """Take the server's word of how the reply ended: a finish reason, or None if that is no end, or no news.

        Some gateways say "stop" with every event. So of several words the one counts by which most is missing."""
        finish, told = read_finish(word, self.finish_words), self.finish
        if finish is None:
            return None
        if finish == "stop" and self._calls_came:
            finish = "tool_calls"  # Some servers say "stop" where they called a tool; agents look at the word.
        if self.refused and finish in FINISHES:
            finish = REFUSED_FINISH
        self.finish = finish if told is None else max(told, finish, key=_weight)
        self.is_over = finish not in FINISHES
        return None if self.is_over or self.finish == told else finish

    def chunk(
        self,
        text: str = "",
        reasoning: str = "",
        calls: Sequence[ToolCallPart] = (),
        finish: str | None = None,
        fields: Fields = NO_FIELDS,
        leading: int | None = None,
    ) -> Chunk | None:
        """The next chunk; None if there is nothing in it. `leading` of the thoughts in its fields came before all else;
        None: all of them, if nothing else was told before."""
        text = self._text.join(text)
        if reasoning:
            reasoning = self._reasoning.join(reasoning)
        if self.finish in FINISHES:  # Also behind it: nobody knows which is the last.
            text, reasoning = text + self._text.flush(), reasoning + self._reasoning.flush()
        delta: dict[str, Any] = {"content": text}
        if reasoning:
            delta["reasoning_content"] = reasoning
        if fields and BLOCKS in fields:
            at_most = 0 if self.is_past_thoughts else None
            fields = self._with_origin(fields, at_most if leading is None else leading)
        if text:
            self._text_came = True
        if calls:
            self._calls_came = True
            if self.finish == "stop":
                finish = self.finish = "tool_calls"
            delta["tool_calls"] = documents_of(calls)
        elif not (text or reasoning or finish or fields):
            return None
        if fields:
            fields = encodable(fields)
            delta.update(fields)
        raw = {"choices": [{"delta": delta, "finish_reason": finish and openai_finish(finish)}]}
        chunk = Chunk(raw, text, reasoning, calls, finish, None, bool(fields) and has_media(fields))
        if not self.content_came:
            self.content_came = chunk.has_content
        return chunk

    def reply(
        self,
        text: str = "",
        reasoning: str = "",
        calls: Sequence[ToolCallPart] = (),
        fields: Fields = NO_FIELDS,
        logprobs: object = None,
        leading: int | None = None,
    ) -> Reply:
        """A whole reply with the `finish` and the `usage` that were taken before; `leading` of its thoughts came before
        all else. None: it is not known, and they did where nothing but a single text or call is beside them."""
        text, reasoning = text if text.isascii() else complete(text), reasoning and complete(reasoning)
        logprobs = encodable(logprobs) if isinstance(logprobs, dict) else None
        finish = self.finish
        if finish == "stop" and calls:
            finish = "tool_calls"
        fields = encodable(fields) if fields else fields
        if fields and BLOCKS in fields:
            blocks = fields[BLOCKS]
            if leading is None:
                leading = len(blocks) if len(blocks) == 1 or not (text or len(calls) > 1) else 0
            fields = self._with_origin(fields, leading)
        message = message_document(text, reasoning, calls, fields)
        choice = {"index": 0, "message": message, "finish_reason": openai_finish(finish), "logprobs": logprobs}
        raw: dict[str, Any] = {"choices": [choice], "usage": usage_document(self.usage) if self.usage else {}}
        return Reply(raw, text, reasoning, calls, finish, self.usage, bool(fields) and has_media(fields))

    def untold_grounding(self, said: object) -> list[Mapping[str, Any]]:
        """What was not told before of what a reply was looked up in: it may come in event after event, and in the first
        of them with nothing in it."""
        every = mappings([said] if isinstance(said, dict) else said, "grounding")
        untold = [one for one in every if one and one not in self._grounding]
        self._grounding += untold
        return untold

    def _with_origin(self, fields: Fields, leading: int | None) -> Fields:
        """The fields with blocks that know who signed them; `leading` of them came before all else. None: all did."""
        if self.signer is None:
            return fields
        if self._thoughts is None:
            self._thoughts = ThoughtReader(self.signer)
        blocks = fields[BLOCKS]
        leading = len(blocks) if leading is None else leading
        signed = self._thoughts.read(blocks[:leading], lead=True) + self._thoughts.read(blocks[leading:], lead=False)
        if not signed:
            return fields
        return {**fields, "provider_specific_fields": {**fields.get("provider_specific_fields", {}), SIGNED: signed}}


def _weight(finish: str) -> int:
    return _BY_WEIGHT.index(finish) if finish in _BY_WEIGHT else len(_BY_WEIGHT)


def with_grounding(chunk: _MaybeChunk, grounding: Sequence[Mapping[str, Any]]) -> _MaybeChunk:
    """The chunk with what the reply was looked up in, or one that has nothing else."""
    if not grounding:
        return chunk
    chunk = chunk or _empty_chunk()
    chunk.raw[GROUNDING] = encodable(grounding)
    return chunk


def with_logprobs(chunk: _MaybeChunk, said: object) -> _MaybeChunk:
    """The chunk with the probabilities of its tokens, as lists, which LangChain can join to those of other chunks."""
    if not isinstance(said, dict):
        return chunk
    told = {name: value for name, value in said.items() if value is None or isinstance(value, list)}
    if not any(told.values()):
        return chunk
    chunk = chunk or _empty_chunk()
    chunk.raw["provider_specific_fields"] = {LOGPROBS: encodable(told)}
    return chunk


def _empty_chunk() -> Chunk:
    return Chunk({"choices": [{"delta": {"content": ""}, "finish_reason": None}]})


def message_document(text: str, reasoning: str, calls: Sequence[ToolCallPart], fields: Fields) -> dict[str, Any]:
    """A whole message in OpenAI's form."""
    message: dict[str, Any] = {"role": "assistant", "content": text, **fields}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = documents_of(calls)
    return message


def has_media(fields: Fields) -> bool:
    """Whether sound or pictures are among them."""
    return any(name in fields.get("provider_specific_fields", ()) for name in MEDIA)
