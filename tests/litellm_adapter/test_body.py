"""Bodies of responses: decompressed in pieces, and no more of them read than is wanted."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import httpx
import pytest

from llm_fallback.litellm_adapter.body import LONGEST_ERROR, BodyRefused, bound_body, bound_sync_body

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
    bound_body(response, httpx.AsyncByteStream, most, BodyRefused)
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
    assert max(sizes) <= 16_384


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


@pytest.mark.parametrize("encoding", ["br", "gzip", "deflate"])
async def test_an_error_that_cannot_be_read_is_an_error_without_a_word(encoding):
    """Its status still says what happened."""
    assert await bounded(b"this is not compressed", encoding, status=429).aread() == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_follows_a_compressed_body_is_no_part_of_it(encoding):
    """It is read, so that the connection can be used again, and forgotten."""
    assert await bounded(WAYS[encoding] + b"more" * 10_000, encoding).aread() == TEXT


@pytest.mark.parametrize("sent", [gzip.compress(TEXT) + b"more" * 1_000_000, b"\x1f\x8b\x08\x08" + b"\x01" * 3_000_000])
async def test_what_comes_to_nothing_has_an_end_too(sent):
    """What follows a compressed body, or a name without end in its head."""
    with pytest.raises(BodyRefused, match=r"limits\.reply_mb"):
        await bounded(sent, "gzip").aread()


@pytest.mark.parametrize("ends", [httpx.ReadError("cut"), None])
async def test_of_an_error_that_does_not_end_well_there_is_what_came(ends, monkeypatch):
    """A server that hangs in it, or leaves, has said by its status what happened."""
    monkeypatch.setattr("llm_fallback.litellm_adapter.body.ERROR_TIMEOUT_S", 0.05)

    class Broken(Body):
        async def __aiter__(self):
            yield b"slow down"
            await asyncio.sleep(0 if ends else 60)
            raise ends

    response = httpx.Response(429, stream=Broken(b""))
    bound_body(response, httpx.AsyncByteStream, 10, BodyRefused)
    assert await response.aread() == b"slow down"


class SyncBody(httpx.SyncByteStream):
    def __init__(self, data: bytes, read: int = 1_000) -> None:
        self.reads = [data[at : at + read] for at in range(0, len(data), read)]

    def __iter__(self):
        yield from self.reads


def bounded_sync(data: bytes, encoding: str = "", *, most: int = 2_000_000, status: int = 200, read: int = 1_000):
    headers = {"content-encoding": encoding} if encoding else {}
    response = httpx.Response(status, headers=headers, stream=SyncBody(data, read))
    bound_sync_body(response, httpx.SyncByteStream, most, BodyRefused)
    return response


class TestClientThatWaitsInItsThread:
    """As litellm has for some providers, and for those who hand out logins."""

    @pytest.mark.parametrize("read", [1, 1_000, 10_000_000])
    @pytest.mark.parametrize("encoding", WAYS)
    def test_it_reads_a_body_whole_and_no_longer_one(self, encoding, read):
        """By what it is decompressed."""
        assert bounded_sync(WAYS[encoding], encoding, most=len(TEXT), read=read).read() == TEXT
        with pytest.raises(BodyRefused, match=r"limits\.reply_mb"):
            bounded_sync(WAYS[encoding], encoding, most=len(TEXT) - 1, read=read).read()

    @pytest.mark.parametrize("encoding", WAYS)
    def test_it_reads_the_beginning_of_an_error(self, encoding):
        """Its status says what happened."""
        assert bounded_sync(WAYS[encoding], encoding, status=500, most=10).read() == TEXT[:LONGEST_ERROR]

    def test_it_reads_an_error_no_longer_than_two_seconds(self, monkeypatch):
        """As much as came until then."""
        monkeypatch.setattr("llm_fallback.litellm_adapter.body.ERROR_TIMEOUT_S", -1.0)
        assert bounded_sync(TEXT, status=500, read=10).read() == TEXT[:10]

    @pytest.mark.parametrize("encoding", ["br", "gzip"])
    def test_it_refuses_what_it_cannot_read(self, encoding):
        """What nobody asked for, and what is damaged; of an error there is nothing then."""
        with pytest.raises(BodyRefused, match=r"not asked for|damaged"):
            bounded_sync(b"this is not compressed", encoding).read()
        assert bounded_sync(b"this is not compressed", encoding, status=429).read() == b""
