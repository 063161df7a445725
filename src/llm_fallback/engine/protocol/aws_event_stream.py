"""AWS's binary event stream: messages with headers, a document and checksums, whatever the reads they come in.

botocore takes the messages apart. It comes with litellm's extra for Bedrock, so it is imported when a stream does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from llm_fallback.engine.protocol.sse import Event
from llm_fallback.engine.protocol.values import Unreadable, decode, mapping, text


class MessageParser:
    """The parser of such a stream. An event's document has the event's name as its only key, as AWS documents it; that
    of an exception has `error`, with the name of the exception as its code."""

    def __init__(self) -> None:
        self._buffer: Any = None
        self._flaws: tuple[type[Exception], ...] = (struct.error, LookupError, ValueError)
        self._left = 0
        """Bytes that no message was made of yet."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that a read completes. Raises Unreadable for a message that is damaged, and without botocore."""
        if self._buffer is None:
            self._open()
        self._buffer.add_data(data)
        self._left += len(data)
        while (message := self._next_message()) is not None:
            self._left -= message.prelude.total_length
            yield _event(message.headers, message.payload)

    def end(self) -> Iterator[Event]:
        """Nothing, or Unreadable if the last message was torn: the stream has ended."""
        if self._left:
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
