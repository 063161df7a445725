"""Bodies of responses: decompressed in pieces, and no more of them read than is wanted."""

from __future__ import annotations

import gzip
import zlib

import httpx
import pytest

from llm_fallback.litellm_adapter.body import LONGEST_ERROR, BodyRefused, body_class, bound_body

TEXT = b"two hours " * 100_000


class Body(httpx.AsyncByteStream):
    def __init__(self, data: bytes, read: int = 1_000) -> None:
        self.reads = [data[at : at + read] for at in range(0, len(data), read)]

    async def __aiter__(self):
        for data in self.reads:
            yield data


def raw(data: bytes) -> bytes:
    press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return press.compress(data) + press.flush()


def bounded(data: bytes, encoding: str = "", *, most: int = 2_000_000, status: int = 200, read: int = 1_000):
    headers = {"content-encoding": encoding} if encoding else {}
    response = httpx.Response(status, headers=headers, stream=Body(data, read))
    bound_body(response, body_class(httpx.AsyncByteStream), most, BodyRefused)
    return response


WAYS = {"": TEXT, "gzip": gzip.compress(TEXT), "deflate": zlib.compress(TEXT)}


@pytest.mark.parametrize("read", [1, 1_000, 10_000_000])
@pytest.mark.parametrize("encoding", WAYS)
async def test_a_body_is_read_whole_in_whatever_reads_it_comes(encoding, read):
    """Compressed or not, it is the same body."""
    assert await bounded(WAYS[encoding], encoding, read=read).aread() == TEXT


async def test_deflate_without_its_frame_is_read_too():
    """Some servers send it so."""
    assert await bounded(raw(TEXT), "deflate").aread() == TEXT


@pytest.mark.parametrize("encoding", WAYS)
async def test_a_body_is_as_long_as_it_is_decompressed(encoding):
    """One byte more than wanted is refused."""
    assert await bounded(WAYS[encoding], encoding, most=len(TEXT)).aread() == TEXT
    with pytest.raises(BodyRefused, match=r"limits\.reply_mb"):
        await bounded(WAYS[encoding], encoding, most=len(TEXT) - 1).aread()


@pytest.mark.parametrize("encoding", WAYS)
async def test_an_error_is_cut(encoding):
    """Its status says what happened."""
    assert await bounded(WAYS[encoding], encoding, status=500, most=10).aread() == TEXT[:LONGEST_ERROR]


async def test_a_bomb_comes_in_pieces():
    """A read of a few bytes never becomes megabytes at once."""
    bomb = gzip.compress(b"0" * 50_000_000)
    sizes = [len(piece) async for piece in bounded(bomb, "gzip", most=60_000_000, read=len(bomb)).aiter_bytes()]
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= 65_536


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_other_compressions_are_refused(encoding):
    """Nobody asked for them."""
    with pytest.raises(BodyRefused, match="not asked for"):
        await bounded(TEXT, encoding).aread()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_damaged_body_is_refused(encoding):
    """It is no reply."""
    with pytest.raises(BodyRefused, match="damaged"):
        await bounded(b"this is not compressed", encoding).aread()
