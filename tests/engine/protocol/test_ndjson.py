"""A document on each line, in whatever reads the lines come."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.ndjson import LineParser
from llm_fallback.engine.protocol.sse import Event
from llm_fallback.engine.protocol.values import Unreadable
from tests.engine.protocol.spoken import in_parts, work_of


def documents(*reads: bytes) -> list[Any]:
    parser = LineParser()
    events = [event for data in reads for event in parser.feed(data)]
    return [event.document for event in [*events, *parser.end()]]


WAYS_TO_WRITE_IT = {
    "by the book": b'{"a": 1}\n{"b": "\xc3\xb8"}\n',
    "CR and LF": b'{"a": 1}\r\n{"b": "\xc3\xb8"}\r\n',
    "empty lines between": b'\n{"a": 1}\n\r\n \n{"b": "\xc3\xb8"}\n\n',
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}\n{"b": "\xc3\xb8"}\n',
    "no line break at the end": b'{"a": 1}\n{"b": "\xc3\xb8"}',
}


@given(st.sampled_from(sorted(WAYS_TO_WRITE_IT)), st.lists(st.integers(0, 40), max_size=6))
def test_where_reads_begin_and_end_makes_no_difference(way, cuts):
    """Not even within a character."""
    assert documents(*in_parts(WAYS_TO_WRITE_IT[way], cuts)) == [{"a": 1}, {"b": "ø"}]


def test_a_document_is_there_as_soon_as_its_line_has_ended():
    """A word is not kept back for the next one. It has no name, and what was written is with it."""
    assert list(LineParser().feed(b'{"a": 1}\r\n{"b"')) == [Event({"a": 1}, b"", b'{"a": 1}')]


@pytest.mark.parametrize("reads", [[b"oops\n"], [b'{"a": 1'], [b"<html>\n"], [b'data: {"a": 1}\n'], [b'{"a": NaN}\n']])
def test_a_line_that_is_no_document_is_unreadable(reads):
    """Once it has ended, or the stream."""
    with pytest.raises(Unreadable):
        documents(*reads)


def test_what_came_before_is_not_lost_with_it():
    """The words in the same read were said."""
    came = []
    with pytest.raises(Unreadable):
        for event in LineParser().feed(b'{"a": 1}\noops\n'):
            came.append(event.document)
    assert came == [{"a": 1}]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_no_bytes_are_too_odd(written, cuts):
    """They are documents, or unreadable."""
    with suppress(Unreadable):
        documents(*in_parts(written, cuts))


def test_a_long_line_that_comes_in_many_reads_takes_time_in_proportion():
    """Four times as long is far from sixteen times as much work: its beginning is not copied for every read."""

    def read(size: int) -> None:
        line = b'{"a": "' + b"x" * size + b'"}\n'
        assert len(documents(*(line[at : at + 256] for at in range(0, len(line), 256)))) == 1

    assert work_of(lambda: read(8_000_000)) < 10 * work_of(lambda: read(2_000_000))
