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
_FIRST_LINES = 16
"""Lines of data in one event, after each of which a document may be whole. Of more it is looked for when their number
has doubled and at the event's end, as a look after each would take a time that grows with their square."""


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


class TornLine:
    """The beginning of a line of which the end has not come. Its parts are joined once, however many there are."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Keep what has no end of a line in it."""
        self._parts.append(part)

    @property
    def may_be_whole(self) -> bool:
        """Whether it ends in CR, which is the end of a line unless LF follows."""
        return bool(self._parts) and self._parts[-1].endswith(b"\r")

    def take(self, end: bytes = b"") -> bytes:
        """The whole line, with what followed; nothing is kept."""
        if not self._parts:
            return end
        whole = b"".join((*self._parts, end))
        self._parts.clear()
        return whole


class EventParser:
    """The parser of server-sent events."""

    def __init__(self) -> None:
        self._rest = TornLine()
        self._name = b""
        self._data: list[bytes] = []
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that a read completes. Raises Unreadable for one whose data are no JSON."""
        rest = self._rest
        if b"\n" not in data and b"\r" not in data and not rest.may_be_whole:
            rest.add(data)
            return
        lines = rest.take(data).splitlines(keepends=True)
        for place, line in enumerate(lines):
            if line[-1:] != b"\n" and place + 1 == len(lines):
                rest.add(line)  # Half a line, or the first half of a line's end.
                return
            if line == b"\n" and not (self._data or self._name):
                continue
            event = self._take(line)
            if event is not None:
                yield event

    def end(self) -> Iterator[Event]:
        """What the last read left: the stream has ended."""
        for line in (self._rest.take(), b"\n"):
            event = self._take(line)
            if event is not None:
                yield event

    def _take(self, line: bytes) -> Event | None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.startswith(b"data:"):
            return self._take_data(line[5:].strip())
        if not line.strip():
            return self._end_event()
        if not line.startswith(_FIELDS):
            return Event(Mark.NO_EVENT, b"", line)
        if line.startswith(b"event:"):
            self._name = line[6:].strip()
        return None

    def _end_event(self) -> Event | None:
        lines, name, self._name = self._data, self._name, b""
        if not lines:
            return None
        self._data = []
        try:
            whole = b"\n".join(lines)
            return Event(decode(whole), name, whole)
        except Unreadable:
            raise Unreadable("a frame of the stream does not parse") from None

    def _take_data(self, data: bytes) -> Event | None:
        if data in (b"[DONE]", b'"[DONE]"'):
            return Event(Mark.DONE, self._name, data)
        if not (data or self._data):
            return None
        self._data.append(data)
        count = len(self._data)
        if count > _FIRST_LINES and count & (count - 1):
            return None
        whole = data if count == 1 else b"\n".join(self._data)
        try:
            document = decode(whole)
        except Unreadable:
            return None  # The rest of it may stand on the next line.
        self._data.clear()
        return Event(document, self._name, whole)
