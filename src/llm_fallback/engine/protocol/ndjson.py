"""Newline-delimited JSON: a document on each line, whatever the reads they come in."""

from __future__ import annotations

from collections.abc import Iterator

from llm_fallback.engine.protocol.sse import Event, TornLine
from llm_fallback.engine.protocol.values import BYTE_ORDER_MARK, decode


class LineParser:
    """The parser of a stream of lines; empty ones mean nothing."""

    def __init__(self) -> None:
        self._rest = TornLine()

    def feed(self, data: bytes) -> Iterator[Event]:
        """The documents that a read completes. Raises Unreadable for a line that is none."""
        if b"\n" not in data:
            self._rest.add(data)
            return iter(())
        *lines, rest = self._rest.take(data).split(b"\n")
        self._rest.add(rest)
        return _events(lines)

    def end(self) -> Iterator[Event]:
        """The last line, where no line break follows it. Raises Unreadable if it was torn."""
        return _events([self._rest.take()])


def _events(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        said = line.removeprefix(BYTE_ORDER_MARK).strip()
        if said:
            yield Event(decode(said), b"", said)
