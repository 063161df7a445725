"""AWS's binary event stream: messages with headers, a document and checksums, whatever the reads they come in.

A message is its length, that of its headers, a checksum of both, headers, a payload, and a checksum of it all:
https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from llm_fallback.engine.protocol.sse import Event
from llm_fallback.engine.protocol.values import Unreadable, decode, text

_PRELUDE = struct.Struct("!III")
"""The length of a message, that of its headers, and a checksum of both."""
_CHECKSUM_BYTES = 4
_MOST_BYTES = 24 * 2**20
"""Of a message, as AWS's own clients have it."""


class MessageParser:
    """The parser of such a stream. An event's document has the event's name as its only key, as AWS documents it; that
    of an exception has `error`, with the name of the exception as its code."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._prelude: _Prelude | None = None
        """That of the message of which the rest has not come."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that a read completes. Raises Unreadable for a message that is damaged."""
        self._rest += data
        while len(self._rest) >= _PRELUDE.size:
            prelude = self._prelude = self._prelude or _Prelude.of(self._rest)
            if len(self._rest) < prelude.length:
                return
            message = bytes(self._rest[: prelude.length])
            del self._rest[: prelude.length]
            self._prelude = None
            if crc32(message[:-_CHECKSUM_BYTES]) != int.from_bytes(message[-_CHECKSUM_BYTES:]):
                raise Unreadable(_DAMAGED)
            payload_at = _PRELUDE.size + prelude.headers
            yield _event(_headers(message[_PRELUDE.size : payload_at]), message[payload_at:-_CHECKSUM_BYTES])

    def end(self) -> Iterator[Event]:
        """Nothing, or Unreadable if the last message was torn: the stream has ended."""
        if self._rest:
            raise Unreadable("a message of the stream was torn")
        return iter(())


_DAMAGED = "a message of the stream is damaged"


class _Prelude(NamedTuple):
    """How long a message is, and its headers."""

    length: int
    headers: int

    @classmethod
    def of(cls, beginning: bytearray) -> _Prelude:
        length, headers, checksum = _PRELUDE.unpack_from(beginning)
        if crc32(beginning[:8]) != checksum or not _PRELUDE.size + headers + _CHECKSUM_BYTES <= length <= _MOST_BYTES:
            raise Unreadable(_DAMAGED)
        return cls(length, headers)


_TEXT = 7
_SIZES: Mapping[int, int] = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type: truth values, numbers, a time, a UUID. Bytes and texts bring their length."""
_LENGTH_BYTES = 2


def _headers(data: bytes) -> dict[str, object]:
    """The headers of a message; those that are no texts as their bytes."""
    headers: dict[str, object] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name, kind, at = data[at + 1 : name_end].decode(), data[name_end], name_end + 1
            size = _SIZES.get(kind)
            if size is None:
                size, at = int.from_bytes(data[at : at + _LENGTH_BYTES]), at + _LENGTH_BYTES
            value, at = data[at : at + size], at + size
            if name in headers:
                raise Unreadable(_DAMAGED)
            headers[name] = value.decode() if kind == _TEXT else value
    except (IndexError, UnicodeDecodeError):
        raise Unreadable(_DAMAGED) from None
    if at > len(data):
        raise Unreadable(_DAMAGED)
    return headers


def _event(headers: Mapping[str, object], payload: bytes) -> Event:
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


def _said(payload: bytes) -> Mapping[str, object]:
    """What an exception says: a document, or a text."""
    with suppress(Unreadable):
        document = decode(payload)
        if isinstance(document, dict):
            return document
    return {"message": payload.decode(errors="replace")}
