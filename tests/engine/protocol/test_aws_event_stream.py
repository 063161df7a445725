"""AWS's binary event stream, in whatever reads it comes and whatever becomes of its bytes."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.aws_event_stream import MessageParser
from llm_fallback.engine.protocol.sse import Event
from llm_fallback.engine.protocol.values import Unreadable
from tests.corpus.stage import framed
from tests.engine.protocol.spoken import in_parts, work_of

FRAMES = [{"event": "messageStart", "data": {"role": "assistant"}}, {"event": "delta", "data": {"text": "ø"}}]
WRITTEN = b"".join(framed(FRAMES, "aws"))


def events(*reads: bytes) -> list[Event]:
    parser = MessageParser()
    came = [event for data in reads for event in parser.feed(data)]
    return [*came, *parser.end()]


def message(headers: bytes, payload: bytes) -> bytes:
    """A message whose checksums are right, whatever is in it."""
    prelude = struct.pack("!II", len(headers) + len(payload) + 16, len(headers))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return whole + struct.pack("!I", zlib.crc32(whole))


def header(name: str, value: str) -> bytes:
    said = value.encode()
    return bytes([len(name)]) + name.encode() + struct.pack("!BH", 7, len(said)) + said


@given(st.lists(st.integers(0, len(WRITTEN)), max_size=6))
def test_where_reads_begin_and_end_makes_no_difference(cuts):
    """The network cuts where it likes."""
    came = events(*in_parts(WRITTEN, cuts))
    assert [event.document for event in came] == [{"messageStart": {"role": "assistant"}}, {"delta": {"text": "ø"}}]
    assert [event.name for event in came] == [b"messageStart", b"delta"]


@pytest.mark.parametrize("cut", [1, 11, 12, 40, len(WRITTEN) - 1])
def test_a_torn_message_is_unreadable(cut):
    """Once the stream has ended; what came before was told."""
    parser = MessageParser()
    assert all(event.document for event in parser.feed(WRITTEN[:cut]))
    with pytest.raises(Unreadable, match=r"^a message of the stream was torn$"):
        list(parser.end())


DAMAGED = r"^a message of the stream is damaged$"


@given(st.integers(0, len(WRITTEN) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(place, change):
    """By the checksums, wherever it is: nothing of another text is told."""
    damaged = bytearray(WRITTEN)
    damaged[place] ^= change
    parser, came = MessageParser(), []
    with pytest.raises(Unreadable, match=DAMAGED):
        came.extend(parser.feed(bytes(damaged)))
    assert [event.document for event in came] in ([], [{"messageStart": {"role": "assistant"}}])


@pytest.mark.parametrize(
    ("headers", "payload", "error"),
    [
        ({":message-type": "exception", ":exception-type": "aException"}, b'{"message": "No"}', {"message": "No"}),
        ({":message-type": "exception", ":exception-type": "aException"}, b"No", {"message": "No"}),
        ({":message-type": "exception", ":exception-type": "aException"}, b'["No"]', {"message": '["No"]'}),
        ({":message-type": "exception", ":exception-type": "aException"}, b"N\xff", {"message": "N\ufffd"}),
        ({":message-type": "exception", ":exception-type": "aException"}, b"", {"message": ""}),
        ({":message-type": "error", ":error-code": "aException", ":error-message": "No"}, b"", {"message": "No"}),
    ],
)
def test_an_exception_is_an_error_with_its_name_as_the_code(headers, payload, error):
    """Modeled by the service or not, whatever it says."""
    written = message(b"".join(header(*one) for one in headers.items()), payload)
    assert events(written) == [Event({"error": {**error, "code": "aException"}}, b"aException", payload)]


EVENT = header(":message-type", "event") + header(":event-type", "a")
NUMBER = b"\x04" + bytes(4)
"""A header's value that is no text."""


def test_an_event_has_its_name_and_what_was_written():
    """Of one without a document an empty object is read."""
    assert events(message(EVENT, b'{"b": 1}') + message(EVENT, b"")) == [
        Event({"a": {"b": 1}}, b"a", b'{"b": 1}'),
        Event({"a": {}}, b"a", b""),
    ]


@pytest.mark.parametrize(
    ("headers", "payload", "said"),
    [
        (EVENT, b"no JSON", "^not JSON$"),
        (EVENT + header(":event-type", "b"), b"{}", DAMAGED),
        (EVENT + b"\x01a\x63", b"{}", DAMAGED),
        (EVENT + b"\x01a\x07\xff\xff", b"{}", DAMAGED),
        (EVENT + b"\x01a\x07\x00", b"{}", DAMAGED),
        (EVENT + b"\x01a\x07\x00\x01\xff", b"{}", DAMAGED),
        (EVENT + b"\x01a\x09" + bytes(15), b"{}", DAMAGED),
        (EVENT + b"\x02\xff\xfe\x00", b"{}", DAMAGED),
        (EVENT + b"\x05ab", b"{}", DAMAGED),
        (b"\x0d:message-type" + NUMBER, b"{}", "^:message-type is null, not the text it should be$"),
        (header(":message-type", "event") + b"\x0b:event-type" + NUMBER, b"{}", "^:event-type is "),
        (header(":message-type", "exception") + b"\x0f:exception-type" + NUMBER, b"{}", "^:exception-type is "),
        (header(":message-type", "error") + b"\x0b:error-code" + NUMBER, b"{}", "^:error-code is "),
        (header(":message-type", "error") + b"\x0e:error-message" + NUMBER, b"{}", "^:error-message is "),
    ],
)
def test_a_message_that_means_nothing_is_unreadable(headers, payload, said):
    """Though its checksums are right."""
    with pytest.raises(Unreadable, match=said):
        events(message(headers, payload))


def prelude(length: int, headers: int = 0) -> bytes:
    written = struct.pack("!II", length, headers)
    return written + struct.pack("!I", zlib.crc32(written))


@pytest.mark.parametrize("lengths", [(2**31, 0), (24 * 2**20 + 1, 0), *((length, 0) for length in range(16)), (20, 5)])
def test_lengths_that_no_message_has_are_unreadable_as_soon_as_they_are_told(lengths):
    """Nobody waits for one longer than AWS's own clients take; one shorter than its parts leads nowhere."""
    with pytest.raises(Unreadable, match=DAMAGED):
        list(MessageParser().feed(prelude(*lengths)))


@pytest.mark.parametrize("lengths", [(24 * 2**20, 0), (16, 0), (20, 4)])
def test_for_any_other_the_rest_of_the_message_is_waited(lengths):
    """It may be the longest, or have nothing but headers."""
    assert list(MessageParser().feed(prelude(*lengths))) == []


VALUES = {
    0: st.just(b""),
    1: st.just(b""),
    2: st.binary(min_size=1, max_size=1),
    3: st.binary(min_size=2, max_size=2),
    4: st.binary(min_size=4, max_size=4),
    5: st.binary(min_size=8, max_size=8),
    6: st.binary(max_size=5).map(lambda value: len(value).to_bytes(2) + value),
    7: st.text(max_size=5).map(lambda value: len(value.encode()).to_bytes(2) + value.encode()),
    8: st.binary(min_size=8, max_size=8),
    9: st.binary(min_size=16, max_size=16),
}
"""Values of headers as they are written, by their types."""


@given(st.data())
def test_headers_of_every_type_are_passed_over_as_botocore_does(data):
    """What is looked at are texts; all others have the length that AWS gives them."""
    headers = EVENT
    for number in range(data.draw(st.integers(0, 4))):
        kind = data.draw(st.sampled_from(sorted(VALUES)))
        headers += bytes([2]) + f"h{number}".encode() + bytes([kind]) + data.draw(VALUES[kind])
    written = message(headers, b'{"b": 1}')
    buffer = EventStreamBuffer()
    buffer.add_data(written)
    [theirs] = buffer
    assert theirs.payload == b'{"b": 1}'
    assert [event.document for event in events(written)] == [{"a": {"b": 1}}]


@given(st.binary(max_size=300) | st.builds(message, st.binary(max_size=60), st.binary(max_size=60)))
def test_no_bytes_are_too_odd(written):
    """They are events, or unreadable."""
    with suppress(Unreadable):
        events(written)


def test_a_long_message_that_comes_in_many_reads_takes_time_in_proportion():
    """Nothing is copied for each read."""
    headers = header(":message-type", "event") + header(":event-type", "delta")

    def read(size: int) -> None:
        whole = message(headers, b'{"a": "' + b"x" * size + b'"}')
        assert len(events(*(whole[at : at + 256] for at in range(0, len(whole), 256)))) == 1

    assert work_of(lambda: read(8_000_000)) < 10 * work_of(lambda: read(2_000_000))
