"""Streams and bodies of every protocol that is read here, spoilt: an answer or a failure, and the same however the
network cuts them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.encoding import read_json, read_json_slowly
from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.aws_event_stream import MessageParser
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.protocol.faults import fault_in_body, fault_of_response
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.ndjson import LineParser
from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.engine.protocol.sse import EventParser, StreamParser
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import Fault, StreamEnd
from llm_fallback.engine.transport import Reply as WholeReply
from tests.corpus.cases import systems
from tests.corpus.stage import framed
from tests.engine.protocol.spoken import in_parts, read_plain, read_stream
from tests.fuzz.spoiling import spoilt_bytes, spoilt_document, tries

READERS: dict[str, tuple[type[ReplyReader], str]] = {
    "openai": (OpenAIReader, "openai"),
    "anthropic": (AnthropicReader, "anthropic"),
    "gemini": (GeminiReader, "gemini"),
    "bedrock": (ConverseReader, "bedrock"),
    "cohere": (CohereReader, "cohere"),
    "ollama": (OllamaReader, "ollama"),
}
CUTS = st.lists(st.integers(0, 900), max_size=5)


@cache
def streams(name: str) -> Sequence[bytes]:
    (system,) = (one for one in systems() if one.name == name)
    found = [b"".join(framed(reply.frames, system.framing)) for reply in system.replies if reply.frames]
    return sorted((whole for whole in found if len(whole) < 4_000), key=len)


@cache
def bodies(name: str) -> Sequence[object]:
    (system,) = (one for one in systems() if one.name == name)
    return [reply.body for reply in system.replies if isinstance(reply.body, dict)]


def all_streams() -> Sequence[bytes]:
    return [whole for name in READERS for whole in streams(READERS[name][1])]


@pytest.mark.parametrize("name", READERS)
@given(data=st.data(), cuts=CUTS)
@tries(200)
def test_a_stream_is_read_or_told_to_be_broken_and_cuts_make_no_difference(name, data, cuts):
    """Whatever was done to it: texts, thoughts and its end are those that it has in one read."""
    reader, system = READERS[name]
    spoilt = data.draw(spoilt_bytes(streams(system)))
    whole, torn = (read_stream(reader, reads) for reads in ([spoilt], in_parts(spoilt, cuts)))
    for chunks, end in (whole, torn):
        assert isinstance(end, StreamEnd | Fault)
        json.dumps([chunk.raw for chunk in chunks], allow_nan=False, ensure_ascii=False).encode()
    assert _told(*whole) == _told(*torn)


def _told(chunks, end):
    calls = "".join(part.arguments or "" for chunk in chunks for part in chunk.tool_calls)
    failure = end.failure if isinstance(end, Fault) else end.finish
    return "".join(c.text for c in chunks), "".join(c.reasoning for c in chunks), calls, failure


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@tries(200)
def test_a_body_is_a_reply_or_a_failure(name, data):
    """Of values that JSON can carry on, in texts that can be written."""
    reader, system = READERS[name]
    document = data.draw(spoilt_document(bodies(system)))
    body = json.dumps(document).encode() if data.draw(st.booleans()) else data.draw(
        spoilt_bytes([json.dumps(one).encode() for one in bodies(system)])
    )  # fmt: skip
    read = read_plain(reader, body)
    assert isinstance(read, WholeReply | Fault)
    if isinstance(read, WholeReply):
        json.dumps(read.raw, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("parser", [EventParser, MessageParser, LineParser])
@given(data=st.data(), cuts=CUTS)
@tries(300)
def test_a_parser_finds_the_same_events_wherever_reads_end(parser, data, cuts):
    """Up to the one that cannot be read."""
    written = data.draw(spoilt_bytes(all_streams()))
    assert _events(parser(), [written]) == _events(parser(), in_parts(written, cuts))


def _events(parser: StreamParser, reads):
    found: list[object] = []
    try:
        for read in reads:
            found += (event.data for event in parser.feed(read))
        found += (event.data for event in parser.end())
    except Unreadable:
        found.append("unreadable")
    return found


ERRORS = [
    *(
        b'{"error": {"message": "Too many tokens", "code": 429, "type": "x"}}',
        b'{"detail": [{"msg": "no", "loc": [1]}]}',
    ),
    *(b'{"error": "boom"}', b'{"errors": [{"message": "no"}]}', b"<html><title>502</title></html>", b"no", b"[]"),
    b'{"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}]}}',
]
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "content-type", "x-request-id"]),
    st.text(max_size=20)
    | st.sampled_from(["7", "-1", "1e999", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "1m30s", "9" * 400]),
)


@given(st.integers(100, 599), spoilt_bytes(ERRORS), HEADERS)
@tries(400)
def test_whatever_a_server_refuses_with_is_a_failure(status, body, headers):
    """With a time to wait that is a number of seconds, if any, and a text that can be written and pickled."""
    fault = fault_of_response(status, headers, body)
    assert isinstance(fault, Fault)
    assert fault.retry_after_s is None or 0 <= fault.retry_after_s < float("inf")
    fault.message.encode()
    assert pickle.loads(pickle.dumps(fault)) == fault


@given(spoilt_document([json.loads(body) for body in ERRORS[:4]]))
@tries(200)
def test_any_document_may_be_looked_at_for_an_error(document):
    """A server may send one with 200."""
    assert fault_in_body(document) is None or isinstance(fault_in_body(document), Fault)


JSON = [json.dumps(body).encode() for name in ("openai", "gemini") for body in bodies(name)]
MORE_JSON = [b"[1e5, 12345678901234567890, -0.0]", b'{"a": "\\ud83d", "b": null}', b'"\\u0000"', b"[NaN]", b"1E400"]


@given(spoilt_bytes([*JSON, *MORE_JSON]))
@tries(300)
def test_json_means_the_same_with_and_without_orjson(written):
    """Values, their types, and what is none."""
    assert _read(read_json, written) == _read(read_json_slowly, written)


def _read(read, written):
    try:
        return repr(read(written))
    except (ValueError, RecursionError):
        return "none"
