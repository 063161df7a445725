"""The reading of what a server sends, beside litellm, which reads it for those who listen there."""

from __future__ import annotations

from typing import Any

from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.transport import Chunk, Fault, StreamEnd
from llm_fallback.litellm_adapter.wire_tap import WireTap


class ReadingBeside:
    """What comes of a stream that litellm pulls. Its methods let through what the HTTP library raises."""

    def __init__(self, wire: WireTap, stream: Any, clean: FaultCleaner, *, is_heard: bool) -> None:
        """`stream` is litellm's; `is_heard`: it is over for those who listen there."""
        self._wire, self._stream, self._clean = wire, stream, clean
        self._is_heard = is_heard

    @property
    def content_came(self) -> bool:
        """Whether something of the reply came, so that a fault is a stream that broke."""
        return self._wire.reader.content_came

    async def next(self) -> Chunk | StreamEnd | Fault:
        """The next chunk of the stream."""
        wire = self._wire
        while not wire.ready:
            if not self._is_heard:
                self._is_heard = await self._is_over_for_litellm()
                continue
            if not wire.is_read:
                await wire.pull()
            if wire.is_read and not wire.ready:
                end = wire.end()
                return self._clean(end) if isinstance(end, Fault) else end
        return wire.ready.popleft()

    async def _is_over_for_litellm(self) -> bool:
        """Have litellm read on."""
        try:
            return await anext(self._stream, None) is None
        except Exception:  # noqa: BLE001 - what litellm cannot read is read here all the same
            return True
