"""Streams taken apart into events, however they are written and in whatever reads they come."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.sse import Event, EventParser, Mark
from llm_fallback.engine.protocol.values import Unreadable
from tests.engine.protocol.spoken import work_of


def events(*reads: bytes) -> list[Event]:
    parser = EventParser()
    came = [event for data in reads for event in parser.feed(data)]
    return [*came, *parser.end()]


def documents(*reads: bytes) -> list[Any]:
    return [event.document for event in events(*reads)]


WAYS_TO_WRITE_IT = {
    "by the book": b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
    "without a blank after the colon": b'data:{"a": 1}\n\ndata:{"b": 2}\n\ndata:[DONE]\n\n',
    "CR and LF": b'data: {"a": 1}\r\n\r\ndata: {"b": 2}\r\n\r\ndata: [DONE]\r\n\r\n',
    "bare CR": b'data: {"a": 1}\r\rdata: {"b": 2}\r\rdata: [DONE]\r\r',
    "a byte order mark": b'\xef\xbb\xbfdata: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
    "several lines of data": b'data: {\ndata: "a": 1\ndata: }\n\ndata: {"b":\ndata:\ndata: 2}\n\ndata: [DONE]\n\n',
    "no empty lines between": b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n',
    "no line break at the end": b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]',
    "other fields": b': hi\nevent: x\nid: 7\nretry: 1\ndata: {"a": 1}\n\n:\ndata: {"b": 2}\n\ndata: [DONE]\n',
    "a document that is the end's word": b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: "[DONE]"\n\n',
    "empty data between": b'data: {"a": 1}\n\ndata:\n\ndata: \n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE_IT)
def test_every_way_to_write_a_stream_is_read(way):
    """In one read, and byte by byte."""
    written = WAYS_TO_WRITE_IT[way]
    assert documents(written) == [{"a": 1}, {"b": 2}, Mark.DONE]
    assert documents(*(written[at : at + 1] for at in range(len(written)))) == [{"a": 1}, {"b": 2}, Mark.DONE]


@given(st.sampled_from(sorted(WAYS_TO_WRITE_IT)), st.lists(st.integers(0, 120), max_size=6))
def test_where_reads_begin_and_end_makes_no_difference(way, cuts):
    """The network cuts where it likes."""
    written = WAYS_TO_WRITE_IT[way]
    places = [0, *sorted(min(cut, len(written)) for cut in cuts), len(written)]
    reads = [written[start:end] for start, end in pairwise(places)]
    assert documents(*reads) == [{"a": 1}, {"b": 2}, Mark.DONE]


def test_an_event_is_there_as_soon_as_its_document_is_complete():
    """A server that sends the empty line with the next event would keep every word back otherwise."""
    parser = EventParser()
    assert [event.document for event in parser.feed(b'data: {"a": 1}\n')] == [{"a": 1}]


@pytest.mark.parametrize(
    ("lines", "document"),
    [
        ([b'{"a":', b"1", b"}"], {"a": 1}),
        *(([b"[0", *[b",0"] * (count - 2), b"]"], [0] * (count - 1)) for count in (2, 3, 5, 15, 16, 32, 64)),
    ],
)
def test_nor_does_a_document_of_several_lines_wait(lines, document):
    """Of up to sixteen, and beyond where their number has doubled. What one of them says alone is no document."""
    [event] = EventParser().feed(b"".join(b"data: " + line + b"\n" for line in lines))
    assert event.document == document


@pytest.mark.parametrize("reads", [[b"data: {half\n\n"], [b"data: {half\n", b"data: more\n\n"], [b'data: {"a": 1']])
def test_data_that_are_no_document_are_unreadable(reads):
    """Once their event has ended, or the stream."""
    with pytest.raises(Unreadable, match=r"^a frame of the stream does not parse$"):
        documents(*reads)


def test_what_came_before_is_not_lost_with_it():
    """The words in the same read were said."""
    parser, came = EventParser(), []
    with pytest.raises(Unreadable):
        came.extend(event.document for event in parser.feed(b'data: {"a": 1}\n\n'))
        for event in parser.feed(b'data: {"b": 2}\n\ndata: {half\n\n'):
            came.append(event.document)
    assert came == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("line", [b"<html>", b"Internal Server Error", b'{"error": "no"}', b"datum: 1"])
def test_a_line_that_belongs_to_no_event_is_told(line):
    """A page, an error without a frame around it, a broken frame: whoever reads decides what it means."""
    parser = EventParser()
    assert list(parser.feed(line + b"\n")) == [Event(Mark.NO_EVENT, b"", line + b"\n")]


def test_a_byte_order_mark_stands_only_at_the_beginning():
    """Anywhere else it is part of a line that belongs to no event."""
    assert documents(b'data: {"a": 1}\n\n\xef\xbb\xbfdata: {"b": 2}\n\n') == [{"a": 1}, Mark.NO_EVENT]


def test_the_name_of_an_event_is_that_of_its_own_lines():
    """It ends with the event."""
    written = b'data: {"a": 1}\n\nevent:error\ndata: {"b": 2}\n\ndata: [DONE]\n\nevent: x\ndata:[DONE]\n'
    assert events(written) == [
        Event({"a": 1}, b"", b'{"a": 1}'),
        Event({"b": 2}, b"error", b'{"b": 2}'),
        Event(Mark.DONE, b"", b"[DONE]"),
        Event(Mark.DONE, b"x", b"[DONE]"),
    ]


def test_an_event_of_endless_lines_is_given_up():
    """Each line is tried with those before it."""
    with pytest.raises(Unreadable):
        documents(b"data: [\n" * 5_000)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_are_too_odd(written, size):
    """They are events, lines that belong to none, or unreadable."""
    with suppress(Unreadable):
        documents(*(written[at : at + size] for at in range(0, len(written), size)))


def test_a_long_line_that_comes_in_many_reads_takes_time_in_proportion():
    """Four times as long is far from sixteen times as much work: its beginning is not copied for every read."""

    def read(size: int) -> None:
        line = b'data: {"a": "' + b"x" * size + b'"}\n\n'
        [document] = documents(*(line[at : at + 256] for at in range(0, len(line), 256)))
        assert len(document["a"]) == size

    assert work_of(lambda: read(8_000_000)) < 10 * work_of(lambda: read(2_000_000))


def test_an_event_of_endless_lines_takes_time_in_proportion():
    """A document is not looked for behind each line."""

    def read(lines: int) -> None:
        parser = EventParser()
        assert list(parser.feed(b'data: {"a": [\n' + b"data: 1,\n" * lines)) == []

    assert work_of(lambda: read(80_000)) < 10 * work_of(lambda: read(20_000))


def test_an_event_of_many_lines_is_whole_at_its_empty_line_or_the_streams_end():
    """However many there are."""
    lines = b'data: {"a": [\n' + b"data: 1,\n" * 5000 + b"data: 1]}\n"
    assert documents(lines + b'\ndata: {"b": 2}\n\n') == [{"a": [1] * 5001}, {"b": 2}]
    assert documents(lines) == [{"a": [1] * 5001}]
    assert [(event.name, event.data) for event in events(b"event: x\n" + lines)] == [
        (b"x", lines.replace(b"data: ", b"").strip())
    ]


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_an_end_of_a_line_that_is_torn_is_one(end):
    """Whatever read it comes in."""
    whole = b'data: {"a": 1}' + end + end + b'data: {"b": 2}' + end + end
    assert documents(*(bytes([byte]) for byte in whole)) == [{"a": 1}, {"b": 2}]
