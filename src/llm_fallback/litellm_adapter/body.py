"""The body of a response, decompressed and bounded, whoever reads it.

A server decides neither how much memory its reply takes nor for how long the event loop stands still for it.

httpx decompresses each read as a whole, however large that becomes. So the body is decompressed here, piece by piece,
below everybody who reads, and what arrives there is a body that was never compressed.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from llm_fallback.engine.protocol.faults import LEAST_ERROR

ENCODINGS = "gzip, deflate"
"""The compressions that are asked for and read. Others make gigabytes of a few bytes at once."""

_INFLATED = ("gzip", "deflate")
_PLAIN = ("", "identity")

LONGEST_ERROR = 256 * 1024
"""Bytes of an error's body that are read; the rest is left, and its status says what happened."""

ERROR_TIMEOUT_S = 2.0
"""How long an error's body is waited for: what happened is known, and another deployment may stand by."""

_PIECE = 16 * 1024
"""Bytes that are made of a compressed body at a time."""
_TURN_AFTER = 16 * 1024
"""Bytes after which everybody else on the event loop, timers above all, gets a turn: a read of what has arrived already
does not wait, and a server that is fast enough would never let go."""

Read = Callable[[], Awaitable[bytes]]
"""Reads what has arrived of a body; no bytes: it is over."""

Refuse = Callable[[str], Exception]
"""Takes note of why a body is not read, and makes the exception for it."""


class BodyRefused(Exception):
    """A body is longer than wanted, or compressed in a way nobody asked for."""


class BoundedBody:
    """A body of at most so many bytes."""

    def __init__(self, read: Read, encoding: str, most: int, refuse: Refuse) -> None:
        self._read, self._encoding, self._most, self._refuse = read, encoding, most, refuse

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left, left_on_the_wire, since = self._most, self._most, 0
        try:
            inflater = None if self._encoding in _PLAIN else _Inflater(self._encoding)
            while data := await self._read():
                # What is compressed can be without end and come to nothing.
                left_on_the_wire -= len(data)
                for piece in (data,) if inflater is None else inflater.pieces(data):
                    if len(piece) > left:
                        yield piece[:left]
                        raise _Flaw(self._too_long)
                    left -= len(piece)
                    yield piece
                    since += len(piece)
                    if since >= _TURN_AFTER:
                        since = 0
                        await asyncio.sleep(0)
                if left_on_the_wire < 0:
                    raise _Flaw(self._too_long)
                since += len(data)
        except _Flaw as flaw:
            raise self._refuse(str(flaw)) from None

    @property
    def _too_long(self) -> str:
        return f"the reply is longer than {self._most / 2**20:g} MB (limits.reply_mb)"


class BoundedError:
    """The beginning of an error's body: as much as came in time and could be read. It never fails, for its status is
    an answer whatever comes of its body."""

    def __init__(self, body: BoundedBody) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        beginning = bytearray()
        with suppress(Exception):
            async with asyncio.timeout(ERROR_TIMEOUT_S):
                async for piece in self._body:
                    beginning += piece
        yield bytes(beginning)


class BoundedSyncBody:
    """A body of at most so many bytes, for a client that waits in its thread."""

    def __init__(self, body: BoundedBody) -> None:
        """Reading `body` must never wait for a loop."""
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        pieces = aiter(self._body)
        while (piece := _without_loop(anext(pieces, None))) is not None:
            yield piece


class BoundedSyncError:
    """What `BoundedError` is, for a client that waits in its thread. A read that waits is not broken off: the attempt's
    deadline leaves the thread to itself."""

    def __init__(self, body: BoundedSyncBody) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        beginning, until = bytearray(), time.monotonic() + ERROR_TIMEOUT_S
        with suppress(Exception):
            for piece in self._body:
                beginning += piece
                if time.monotonic() > until:
                    break
        yield bytes(beginning)


def _without_loop(step: Awaitable[bytes | None]) -> bytes | None:
    """The outcome of a step that waits for nothing; where it gives others a turn, there are none."""
    steps = step.__await__()
    try:
        while True:
            next(steps)
    except StopIteration as end:
        outcome: bytes | None = end.value
        return outcome


class _Flaw(Exception):
    """Why a body is not read on."""


class _Inflater:
    """Takes gzip or deflate apart, no more than a piece at a time. Raises _Flaw for what is neither, or damaged."""

    def __init__(self, encoding: str) -> None:
        if encoding not in _INFLATED:
            raise _Flaw(f"the reply is compressed in a way that was not asked for ({encoding})")
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        self._may_be_raw = encoding == "deflate"

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What a read brings; nothing, once what was compressed is whole, for zlib would keep all that follows."""
        while not self._inflate.eof:
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
                raise _Flaw("the reply is compressed and damaged") from None
        # Some servers leave out the frame that the name deflate promises.
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        return self._next_piece(data)


def bounded(read: Read, status: int, encoding: str, most: int, refuse: Refuse) -> BoundedBody | BoundedError:
    """The bounded body of a response. `encoding` is its `content-encoding`."""
    encoding = encoding.strip().lower()
    if status >= LEAST_ERROR:
        return BoundedError(BoundedBody(read, encoding, LONGEST_ERROR, _Flaw))
    return BoundedBody(read, encoding, most, refuse)


def bound_body(response: Any, byte_stream: type, most: int, refuse: Refuse) -> None:
    """Put a bounded body in place of the own one of a response of httpx's, as a byte stream of the class it takes."""
    encoding = response.headers.pop("content-encoding", "")
    body = bounded(_read_of(response.stream), response.status_code, encoding, most, refuse)
    response.stream = _stream_class(byte_stream)(body, response.stream)


def bound_sync_body(response: Any, byte_stream: type, most: int, refuse: Refuse) -> None:
    """What `bound_body` does, to a response of a client that waits in its thread."""
    encoding = response.headers.pop("content-encoding", "").strip().lower()
    read = _sync_read_of(response.stream)
    body: BoundedSyncBody | BoundedSyncError
    if response.status_code >= LEAST_ERROR:
        body = BoundedSyncError(BoundedSyncBody(BoundedBody(read, encoding, LONGEST_ERROR, _Flaw)))
    else:
        body = BoundedSyncBody(BoundedBody(read, encoding, most, refuse))
    response.stream = _sync_stream_class(byte_stream)(body, response.stream)


def _sync_read_of(stream: Iterable[bytes]) -> Read:
    pieces = iter(stream)

    async def read() -> bytes:
        return next(filter(None, pieces), b"")

    return read


def _read_of(stream: AsyncIterable[bytes]) -> Read:
    """What reads a stream of httpx's."""
    pieces = aiter(stream)

    async def read() -> bytes:
        async for data in pieces:
            if data:
                return data
        return b""

    return read


@cache
def _stream_class(byte_stream: type) -> Any:
    """Bodies as byte streams of that httpx, which looks at the class."""

    class Stream(byte_stream):  # type: ignore[misc]
        def __init__(self, body: BoundedBody | BoundedError, stream: Any) -> None:
            self._body, self._stream = body, stream

        def __aiter__(self) -> AsyncIterator[bytes]:
            return aiter(self._body)

        async def aclose(self) -> None:
            await self._stream.aclose()

    return Stream


@cache
def _sync_stream_class(byte_stream: type) -> Any:
    class Stream(byte_stream):  # type: ignore[misc]
        def __init__(self, body: BoundedSyncBody | BoundedSyncError, stream: Any) -> None:
            self._body, self._stream = body, stream

        def __iter__(self) -> Iterator[bytes]:
            return iter(self._body)

        def close(self) -> None:
            self._stream.close()

    return Stream
