"""Server-sent events: bytes taken apart, whatever the reads they come in.

After https://html.spec.whatwg.org/multipage/server-sent-events.html: a byte order mark, lines that end in CR, LF or
both, data over several lines. Beyond it, data that are a whole JSON document are an event at once: some servers leave
out the empty line behind it, others send it late.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple, Protocol

from llm_fallback.engine.protocol.values import BYTE_ORDER_MARK, Unreadable, decode

_FIELDS = (b":", b"event:", b"id:", b"retry:")
_MOST_LINES = 1_000
"""Lines of data in one event; each is tried, so endless ones would take a time that grows with their square."""


class Mark(Enum):
    """What stands in place of a document."""

    DONE = "[DONE]"
    NO_EVENT = "a line that belongs to no event"
    """It may be a page, or an error without a frame around it."""


class Event(NamedTuple):
    """One event: its data, read and as they came."""

    document: Any
    """A `Mark` where the data are no document."""
    name: bytes
    data: bytes


class StreamParser(Protocol):
    """Takes the bytes of a stream apart into events."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that a read completes. Raises Unreadable for one that cannot be read."""
        ...

    def end(self) -> Iterator[Event]:
        """What the last read left: the stream has ended."""
        ...


class EventParser:
    """The parser of server-sent events."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = b""
        self._data: list[bytes] = []
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that a read completes. Raises Unreadable for one whose data are no JSON."""
        lines = (self._rest + data).splitlines(keepends=True)
        self._rest = b""
        for place, line in enumerate(lines):
            if line[-1:] != b"\n" and place + 1 == len(lines):
                self._rest = line  # Half a line, or the first half of a line's end.
                return
            if line == b"\n" and not (self._data or self._name):
                continue
            event = self._take(line)
            if event is not None:
                yield event

    def end(self) -> Iterator[Event]:
        """What the last read left: the stream has ended."""
        rest, self._rest = self._rest, b""
        event = self._take(rest)
        if event is not None:
            yield event
        self._take(b"\n")

    def _take(self, line: bytes) -> Event | None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.startswith(b"data:"):
            return self._take_data(line[5:].strip())
        if not line.strip():
            if self._data:
                self._data.clear()
                raise Unreadable("a frame of the stream does not parse")
            self._name = b""
        elif not line.startswith(_FIELDS):
            return Event(Mark.NO_EVENT, b"", line)
        elif line.startswith(b"event:"):
            self._name = line[6:].strip()
        return None

    def _take_data(self, data: bytes) -> Event | None:
        if data in (b"[DONE]", b'"[DONE]"'):
            return Event(Mark.DONE, self._name, data)
        if not (data or self._data):
            return None
        self._data.append(data)
        whole = data if len(self._data) == 1 else b"\n".join(self._data)
        try:
            document = decode(whole)
        except Unreadable:
            if len(self._data) > _MOST_LINES:
                raise
            return None  # The rest of it may stand on the next line.
        self._data.clear()
        return Event(document, self._name, whole)
