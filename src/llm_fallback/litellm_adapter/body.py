"""The body of a response, decompressed and bounded, whoever reads it.

A server decides neither how much memory its reply takes nor for how long the event loop stands still for it.

httpx decompresses each read as a whole, however large that becomes. So the body is decompressed here, piece by piece,
below everybody who reads, and what arrives there is a body that was never compressed.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from llm_fallback.engine.protocol.faults import LEAST_ERROR

ENCODINGS = "gzip, deflate"
"""The compressions that are asked for and read. Others make gigabytes of a few bytes at once."""

_INFLATED = ("gzip", "deflate")

LONGEST_ERROR = 256 * 1024
"""Bytes of an error's body that are read; the rest is left, and its status says what happened."""

_PIECE = 64 * 1024
_TURN_AFTER = 16 * 1024
"""Bytes after which everybody else on the event loop, timers above all, gets a turn: a read of what has arrived already
does not wait, and a server that is fast enough would never let go."""


class BodyRefused(Exception):
    """A body is longer than wanted, or compressed in a way nobody asked for."""


class BoundedBody:
    """A body of at most so many bytes. The base of a byte stream of whichever httpx reads it."""

    def __init__(self, stream: Any, inflater: _Inflater | None, most: int, refusal: Callable[[], Exception] | None):
        """`refusal` makes the exception for a longer body; without it the body is cut."""
        self._stream, self._inflater, self._most, self._refusal = stream, inflater, most, refusal
        self.aclose = stream.aclose

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left, since = self._most, 0
        async for data in self._stream:
            since += len(data)
            for piece in (data,) if self._inflater is None else self._inflater.pieces(data):
                if len(piece) > left:
                    if self._refusal is not None:
                        raise self._refusal()
                    yield piece[:left]
                    return
                left -= len(piece)
                yield piece
                since += len(piece)
                if since >= _TURN_AFTER:
                    since = 0
                    await asyncio.sleep(0)


class _Inflater:
    """Takes gzip or deflate apart, no more than a piece at a time."""

    def __init__(self, encoding: str, refuse: Callable[[str], Exception]) -> None:
        self._refuse = refuse
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        self._may_be_raw = encoding == "deflate"

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What a read brings. Raises the refusal of what is damaged."""
        while True:
            piece = self._next_piece(data)
            data = self._inflate.unconsumed_tail
            if piece:
                yield piece
            if not data and len(piece) < _PIECE:
                return

    def _next_piece(self, data: bytes) -> bytes:
        may_be_raw, self._may_be_raw = self._may_be_raw, False
        try:
            return self._inflate.decompress(data, _PIECE)
        except zlib.error:
            if not may_be_raw:
                raise self._refuse("the reply is compressed and damaged") from None
        # Some servers leave out the frame that the name deflate promises.
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        return self._next_piece(data)


def bound_body(response: Any, body: type[BoundedBody], most: int, refuse: Callable[[str], Exception]) -> None:
    """Put a bounded body in place of a response's own. `body` is the class its httpx takes; `refuse` takes note of why
    a body is not read, and makes the exception."""
    encoding, inflater = response.headers.get("content-encoding"), None
    if encoding is not None:
        del response.headers["content-encoding"]
        encoding = encoding.strip().lower()
        if encoding in _INFLATED:
            inflater = _Inflater(encoding, refuse)
        elif encoding not in ("", "identity"):
            reason = f"the reply is compressed in a way that was not asked for ({encoding[:40]})"
            response.stream = body(response.stream, None, -1, lambda: refuse(reason))
            return
    if response.status_code >= LEAST_ERROR:
        response.stream = body(response.stream, inflater, LONGEST_ERROR, None)
    else:
        reason = f"the reply is longer than {most / 2**20:g} MB (limits.reply_mb)"
        response.stream = body(response.stream, inflater, most, lambda: refuse(reason))


def body_class(byte_stream: type) -> type[BoundedBody]:
    """The bounded body that is a byte stream of that httpx."""
    return type("BoundedBody", (BoundedBody, byte_stream), {})
