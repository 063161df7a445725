"""AWS's binary event stream: messages with headers, a document and checksums, whatever the reads they come in.

botocore takes the messages apart. It comes with litellm's extra for Bedrock, so it is imported when a stream does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from llm_fallback.engine.protocol.sse import Event
from llm_fallback.engine.protocol.values import Unreadable, decode, mapping, text

_PRELUDE_BYTES = 12
"""The lengths of a message and of its headers, and their checksum; the first four bytes are the message's length."""


class MessageParser:
    """The parser of such a stream. An event's document has the event's name as its only key, as AWS documents it; that
    of an exception has `error`, with the name of the exception as its code."""

    def __init__(self) -> None:
        self._buffer: Any = None
        self._flaws: tuple[type[Exception], ...] = (struct.error, LookupError, ValueError)
        self._rest = bytearray()
        self._wanted = _PRELUDE_BYTES
        """How many bytes of the rest are looked at next: a prelude, then what is left of its message. botocore would
        copy an unfinished message with each read, in a time that grows with the square of its length."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that a read completes. Raises Unreadable for a message that is damaged, and without botocore."""
        if self._buffer is None:
            self._open()
        self._rest += data
        while len(self._rest) >= self._wanted:
            part = bytes(self._rest[: self._wanted])
            del self._rest[: self._wanted]
            self._buffer.add_data(part)
            message = self._next_message()
            if message is None:
                self._wanted = max(1, int.from_bytes(part[:4]) - _PRELUDE_BYTES)
                continue
            self._wanted = _PRELUDE_BYTES
            yield _event(message.headers, message.payload)

    def end(self) -> Iterator[Event]:
        """Nothing, or Unreadable if the last message was torn: the stream has ended."""
        if self._rest or self._wanted != _PRELUDE_BYTES:
            raise Unreadable("a message of the stream was torn")
        return iter(())

    def _open(self) -> None:
        try:
            from botocore.eventstream import EventStreamBuffer, ParserError
        except ImportError:
            raise Unreadable("the stream cannot be read without the package botocore") from None
        self._buffer = EventStreamBuffer()
        self._flaws += (ParserError,)

    def _next_message(self) -> Any:
        try:
            return next(self._buffer, None)
        except self._flaws:
            raise Unreadable("a message of the stream is damaged") from None


def _event(headers: Mapping[str, Any], payload: bytes) -> Event:
    kind = text(headers.get(":message-type"), ":message-type")
    if kind == "event":
        name = text(headers.get(":event-type"), ":event-type")
        return Event({name: decode(payload or b"{}")}, name.encode(), payload)
    if kind == "exception":
        name = text(headers.get(":exception-type"), ":exception-type")
        return Event({"error": {**_said(payload), "code": name}}, name.encode(), payload)
    name = text(headers.get(":error-code"), ":error-code")
    said = text(headers.get(":error-message"), ":error-message")
    return Event({"error": {"message": said, "code": name}}, name.encode(), payload)


def _said(payload: bytes) -> Mapping[str, Any]:
    """What an exception says: a document, or a text."""
    try:
        return mapping(decode(payload), "an exception")
    except Unreadable:
        return {"message": payload.decode(errors="replace")}
