"""One response, from its bytes to chunks or a whole reply: where what a server sends becomes values, or a fault.

No I/O: the adapter feeds it what comes over the wire, the fakes what their scripts send, so that both come to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llm_fallback.engine.protocol.faults import LEAST_ERROR, MOST_CLEANED, fault_in_body, fault_of_response
from llm_fallback.engine.protocol.reader import GROUNDING, ReplyReader, is_quotable, with_grounding, with_logprobs
from llm_fallback.engine.protocol.sse import Event, Mark
from llm_fallback.engine.protocol.values import BYTE_ORDER_MARK, Unreadable, decode
from llm_fallback.engine.transport import FINISHES, Chunk, Fault, Provenance, Reply, StreamEnd, is_told_whole

_REMEMBERED_BODY = 4 * (MOST_CLEANED + 1)
"""Bytes. Of four for each character a body that is cut has more of them than a cleaner takes for a whole text."""
_OPENING = (b"{", b"[")
"""How a body begins that may be a whole document, and is kept as long as it is: its transport bounds it."""

REQUEST_ID_HEADERS = (
    "x-request-id",  # OpenAI's, and of most others.
    "request-id",  # Anthropic's.
    "x-amzn-requestid",
    "apim-request-id",  # Azure's, where it has no x-request-id.
    "x-ms-request-id",
    "mistral-correlation-id",
    "x-ds-trace-id",  # DeepSeek's.
    "nvcf-reqid",  # NVIDIA's.
    "x-litellm-call-id",
)
"""Headers in which providers tell by what name they know a request; of several the first counts."""


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """The provider's own name of a request; names of headers in lower case, or in a mapping that does not mind."""
    return next((headers[name] for name in REQUEST_ID_HEADERS if name in headers and is_quotable(headers[name])), None)


class Response:
    """What came of one response."""

    def __init__(self, reader: ReplyReader, *, streamed: bool) -> None:
        self.reader, self.streamed = reader, streamed
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        """Names in lower case, or a mapping that does not mind."""
        self.body = bytearray()
        """The start of an error's body, or of what should have been a stream and is none."""
        self.saw_done = False
        self.is_over = False
        """Whether nothing behind is worth reading."""
        self._events = reader.stream_parser()
        self._flaw: Fault | None = None
        self._events_came = self._usage_told = False
        self._goes_on = False
        """Whether content came behind a word of how the reply ended."""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take note of how it begins."""
        self.status, self.headers = status, headers

    @property
    def provenance(self) -> Provenance:
        """By which names the provider knows it, as far as it told them."""
        reader = self.reader
        return Provenance(request_id_in(self.headers), reader.reply_id, reader.system_fingerprint)

    @property
    def is_error(self) -> bool:
        """Whether its status is an error's."""
        return self.status is not None and self.status >= LEAST_ERROR

    @property
    def is_whole(self) -> bool:
        """Whether the server said that nothing follows, so that its connection is worth keeping."""
        return self.saw_done or (self.reader.is_over and self.reader.finish in FINISHES)

    @property
    def is_finished(self) -> bool:
        """Whether the server said how its reply ended, and that it is whole, however its connection ends."""
        reader = self.reader
        return is_told_whole(reader.finish, is_empty=not reader.content_came, goes_on=self._goes_on)

    def remember(self, data: bytes) -> bytes:
        """Keep the start of a body; the data as they are."""
        self.body += data[: _REMEMBERED_BODY - len(self.body)]
        return data

    # A stream.

    def feed(self, data: bytes | None) -> list[Chunk]:
        """The chunks that a read completes; None: that the end completes."""
        return [chunk for _, chunk in self.read_events(data) if chunk is not None]

    def read_events(self, data: bytes | None) -> list[tuple[Event, Chunk | None]]:
        """The events of a read, as far as they are sound, and what each brings; None: of the end."""
        came: list[tuple[Event, Chunk | None]] = []
        reader = self.reader
        try:
            for event in self._events.end() if data is None else self._events.feed(data):
                document = event.document
                if type(document) is Mark:
                    self._take_mark(event)
                    if self.is_over:
                        came.append((event, None))
                        break
                    continue
                self._events_came = True
                if type(document) is not dict:
                    reader.fault = fault_in_body(document)
                    if reader.fault is None:
                        raise Unreadable("a frame of the stream is no object")
                    self.is_over = True
                    break
                if event.name == b"error" and "error" not in document:
                    document = {"error": document}
                had_ended = reader.finish is not None
                chunk = reader.read_event(document)
                if had_ended and chunk is not None and chunk.has_content:
                    self._goes_on = True
                if reader.fault is not None:
                    self.is_over = True
                    break
                came.append((event, chunk))
                if reader.is_over:
                    self.is_over = True
                    break
        except Unreadable as flaw:
            self._flaw, self.is_over = Fault("stream_broken", str(flaw), self.status), True
        return came

    def _take_mark(self, event: Event) -> None:
        if event.document is Mark.DONE:
            self.saw_done = self.is_over = True
        elif self.reader.content_came:
            raise Unreadable("a line that is no event of the stream")
        elif (self.body or event.data).startswith(_OPENING):
            self.body += event.data
        else:
            self.remember(event.data)

    def end(self) -> Chunk | StreamEnd | Fault:
        """What it means that nothing more comes: first the reply that came whole, then the usage, where they are."""
        return self.take_whole() or self._end_after_whole()

    def take_whole(self) -> Chunk | None:
        """The whole reply that a server sent in place of a stream, once; None where it sent none."""
        if not self.body.startswith(b"{") or self._events_came or self.is_error or self._error_with_200() is not None:
            return None
        try:
            reply = self.reader.read_reply(decode(bytes(self.body)))
        except Unreadable as flaw:
            self._flaw = Fault("invalid_response", str(flaw), self.status)
            return None
        finally:
            self.body.clear()
        if isinstance(reply, Fault):
            self._flaw = reply
            return None
        chunk = _as_chunk(reply)
        self.reader.finish, self.reader.content_came = reply.finish, chunk.has_content
        return chunk

    def _end_after_whole(self) -> Chunk | StreamEnd | Fault:
        usage = None if self._usage_told or self._flaw else self.reader.usage_chunk()
        self._usage_told = True
        return self._end_after_usage() if usage is None else usage

    def _end_after_usage(self) -> StreamEnd | Fault:
        reader, fault = self.reader, self.fault()
        if fault is None and reader.finish is None and not reader.content_came and self._is_no_stream:
            fault = Fault("invalid_response", "the reply is no stream of choices", self.status)
        if fault is None:
            try:
                end = reader.end()
            except Unreadable as flaw:
                end = Fault("stream_broken", str(flaw), self.status)
            fault = end if isinstance(end, Fault) else None
        return end if fault is None else as_stream_fault(fault, content_came=reader.content_came)

    @property
    def _is_no_stream(self) -> bool:
        """Whether something came, and nothing of the protocol."""
        return bool(self.body.strip()) or (self._events_came and not self.reader.began)

    def fault(self) -> Fault | None:
        """What the response itself says went wrong; None if it says nothing of the kind."""
        if self.is_error:
            assert self.status is not None
            return fault_of_response(self.status, self.headers, bytes(self.body))
        return self._flaw or self.reader.fault or self._error_with_200()

    def _error_with_200(self) -> Fault | None:
        try:
            return fault_in_body(decode(bytes(self.body))) if self.body else None
        except Unreadable:
            return None

    # A whole reply.

    def reply(self, body: bytes) -> Reply | Fault:
        """The reply a body brings, or what is wrong with it."""
        document = None
        try:
            document = decode(body.removeprefix(BYTE_ORDER_MARK))
            if not isinstance(document, dict):
                raise Unreadable("the reply is no object")
            return self.reader.read_reply(document)
        except Unreadable as flaw:
            return fault_in_body(document) or Fault("invalid_response", str(flaw), self.status)


def _as_chunk(reply: Reply) -> Chunk:
    """A whole reply as the only chunk of a stream."""
    choice = reply.raw["choices"][0]
    raw = {"choices": [{"delta": choice["message"], "finish_reason": choice["finish_reason"]}]}
    chunk = Chunk(raw, reply.text, reply.reasoning, reply.tool_calls, reply.finish, None, reply.has_media)
    return with_logprobs(with_grounding(chunk, reply.raw.get(GROUNDING) or ()), choice["logprobs"])


def as_stream_fault(fault: Fault, *, content_came: bool) -> Fault:
    """What the fault of a stream is to the caller: after the first content, every early end is the same."""
    if content_came and fault.failure != "content_policy":
        return replace(fault, failure="stream_broken")
    if fault.failure == "stream_broken":
        return replace(fault, failure="invalid_response")
    return fault
