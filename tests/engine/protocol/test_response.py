"""One response, from its bytes to chunks, a whole reply or a fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.faults import MOST_CLEANED
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import GROUNDING, LOGPROBS
from llm_fallback.engine.protocol.response import REQUEST_ID_HEADERS, Response, as_stream_fault, request_id_in
from llm_fallback.engine.protocol.sse import Mark
from llm_fallback.engine.transport import NO_PROVENANCE, Chunk, Fault, Provenance, Reply, StreamEnd
from llm_fallback.events import Usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 7}
CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "go", "arguments": "{}"}}


def begun(status: int = 200, *, streamed: bool = True, **headers: str) -> Response:
    response = Response(OpenAIReader(), streamed=streamed)
    response.begin(status, headers)
    return response


def frame(content: str, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n"


def whole(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return json.dumps({"id": "c1", "choices": [choice], "usage": USAGE}).encode()


DONE = b"data: [DONE]\n\n"


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("name", REQUEST_ID_HEADERS)
def test_a_request_has_the_name_that_its_provider_gives_it(name):
    """In whichever header."""
    assert request_id_in({"content-type": "text/plain", name: "r"}) == "r"


def test_of_several_names_of_a_request_the_first_that_is_one_counts():
    """A text of any length is none, and where no header has one there is none."""
    assert request_id_in({"request-id": "second", "x-request-id": "first"}) == "first"
    assert request_id_in({"request-id": "second", "x-request-id": ""}) == "second"
    assert request_id_in({"x-request-id": "x" * 513}) is None
    assert request_id_in({"content-type": "text/plain"}) is None


def test_it_knows_by_which_names_the_provider_knows_it():
    """Of the request and of the reply."""
    response = Response(OpenAIReader(), streamed=False)
    response.begin(200, {"x-request-id": "r1"})
    response.reply(whole(content="hi"))
    assert response.provenance == Provenance("r1", "c1")


def test_only_the_start_of_a_body_is_remembered():
    """Of more characters than a cleaner takes for a whole text, whatever the reads it comes in and however many bytes
    are a character; the reads are handed on as they are."""
    response, enough = begun(500), 4 * (MOST_CLEANED + 1)
    reads = [letter * (2 * enough // 5) for letter in (b"a", b"b", b"c", b"d")]
    for read in reads:
        assert response.remember(read) is read
    assert bytes(response.body) == b"".join(reads)[:enough]


def test_a_read_brings_its_events_and_what_each_says():
    """Those behind the end are nobody's."""
    response = begun()
    came = response.read_events(frame("one ") + frame("", "stop") + DONE + frame("more"))
    assert [(event.document is Mark.DONE, chunk and chunk.text) for event, chunk in came] == [
        (False, "one "),
        (False, ""),
        (True, None),
    ]
    assert (response.is_over, response.saw_done) == (True, True)


def test_a_stream_ends_with_its_last_read():
    """What has no line behind it is read at the end."""
    response = begun()
    assert response.feed(frame("one").rstrip()) == response.feed(b"")
    assert text_of(response.feed(None)) == "one"
    assert (response.is_over, response.saw_done) == (False, False)


def test_a_word_that_is_no_end_is_the_last_that_is_read():
    """The chunk it comes with is delivered."""
    response = begun()
    assert text_of(response.feed(frame("one", "abort") + frame("two"))) == "one"
    assert (response.is_over, response.saw_done) == (True, False)
    assert response.end() == StreamEnd("abort")


@pytest.mark.parametrize(
    ("data", "is_finished"),
    [
        (frame("one"), False),
        (frame("one", "abort"), False),
        (frame("one", "stop"), True),
        (frame("one") + frame("", "stop"), True),
        (frame("one", "stop") + frame("", "stop"), True),
        (frame("one", "stop") + frame(" two", "stop"), False),
        (frame("one", "stop") + frame(" two"), False),
        (frame("", "stop"), False),
        (frame("", "length"), True),
        (frame("one", "stop") + frame(" two", "length"), True),
        (frame("", "content_filter"), True),
    ],
)
def test_a_stop_is_no_end_where_content_follows_it_or_none_has_come(data, is_finished):
    """Some gateways say it with every chunk: a connection that breaks then has cut the reply."""
    response = begun()
    response.feed(data)
    assert response.is_finished is is_finished


METADATA = {"headers": {"x-ratelimit-reset": "7"}}
"""Where OpenRouter says how long to wait."""
ERROR = {"error": {"message": "Overloaded", "code": 503, "metadata": METADATA}}
OVERLOADED = Fault("overloaded", "Overloaded", 503, 7.0)


@pytest.mark.parametrize(
    "error",
    [
        b"data: " + json.dumps(ERROR).encode(),
        b"data: " + json.dumps([ERROR]).encode(),
        b"event: error\ndata: " + json.dumps(ERROR["error"]).encode(),
        b"event: error\ndata: " + json.dumps(ERROR).encode(),
    ],
)
def test_an_error_within_a_stream_ends_the_reading(error):
    """It is no event that is handed on, and nothing behind it is read."""
    response = begun()
    assert response.read_events(error + b"\n\n" + frame("one") + DONE) == []
    assert (response.is_over, response.saw_done) == (True, False)
    assert response.end() == OVERLOADED


def test_a_line_of_another_event_is_one_whatever_its_name():
    """Only a name of error makes an error of it."""
    response = begun()
    assert text_of(response.feed(b"event: message\n" + frame("one"))) == "one"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"data: 5", "a frame of the stream is no object"),
        (b"data: {half", "a frame of the stream does not parse"),
        (b"oops", "a line that is no event of the stream"),
    ],
)
def test_a_stream_breaks_at_what_cannot_be_read(line, why):
    """In words; what came before is delivered, what follows is not read."""
    response = begun()
    assert text_of(response.feed(frame("one") + line + b"\n\n" + frame("two", "stop"))) == "one"
    assert response.is_over
    assert response.end() == Fault("stream_broken", why, 200)


def test_before_any_content_such_a_reply_is_invalid():
    """Another deployment may be asked."""
    response = begun()
    response.feed(b"data: 5\n\n")
    assert response.end() == Fault("invalid_response", "a frame of the stream is no object", 200)


@pytest.mark.parametrize("body", [b"<html>no</html>\n", b"oops\n", b"[1]\n", b'{"a": 1}\n'])
def test_a_page_is_no_stream(body):
    """It is kept, so that it can be told what it says."""
    response = begun()
    assert response.feed(body) == []
    assert bytes(response.body).strip() == body.strip()
    assert not response.is_over
    fault = response.end()
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


def test_a_stream_of_nothing_known_is_no_stream_of_choices():
    """Nor is a page; where nothing came at all, it was cut."""
    for data in (b"data: {}\n\n", b"<html>\n"):
        response = begun()
        response.feed(data)
        assert response.end() == Fault("invalid_response", "the reply is no stream of choices", 200)
    assert begun().end() == StreamEnd(None)


def test_a_response_of_which_nothing_came_was_cut():
    """Not even how it begins; its provider has no name for it."""
    response = Response(OpenAIReader(), streamed=True)
    assert (response.end(), response.provenance) == (StreamEnd(None), NO_PROVENANCE)


def test_a_document_is_kept_whole_and_a_page_is_not():
    """Its transport bounds a document; a page only has to be told for what it is."""
    enough = 4 * (MOST_CLEANED + 1)
    for beginning, kept in ((b'{"a": [\n', 2 * enough), (b"[\n", 2 * enough), (b"<p>\n", enough)):
        response = begun()
        for line in (beginning, b"1" * enough + b"\n", b"1" * enough + b"\n"):
            response.feed(line)
        assert len(response.body) // enough == kept // enough


def test_a_reply_that_came_whole_in_place_of_a_stream_is_one_chunk():
    """With all that it says, then its usage, then its end."""
    message = {"content": "hi", "reasoning_content": "hm", "tool_calls": [CALL]}
    response = begun()
    assert response.feed(whole(**message)) == response.feed(None)
    chunk, usage, end = response.end(), response.end(), response.end()
    assert isinstance(chunk, Chunk)
    assert (chunk.text, chunk.reasoning, chunk.finish) == ("hi", "hm", "tool_calls")
    assert [(call.id, call.name, call.arguments) for call in chunk.tool_calls] == [("1", "go", "{}")]
    (choice,) = chunk.raw["choices"]
    assert (choice["delta"]["content"], choice["finish_reason"]) == ("hi", "tool_calls")
    assert isinstance(usage, Chunk)
    assert usage.usage == Usage(5, 7)
    assert end == response.end() == StreamEnd("tool_calls")


def test_what_it_was_looked_up_in_and_the_probabilities_of_its_tokens_are_in_the_chunk():
    """As they would be in those of a stream."""
    sources, tokens = [{"webSearchQueries": ["hi"]}], {"content": [{"token": "hi", "logprob": -0.1}]}
    document = json.loads(whole(content="hi")) | {GROUNDING: sources}
    document["choices"][0][LOGPROBS] = tokens
    response = begun()
    response.feed(json.dumps(document).encode())
    response.feed(None)
    chunk = response.end()
    assert isinstance(chunk, Chunk)
    assert chunk.raw[GROUNDING] == sources
    assert chunk.raw["provider_specific_fields"] == {LOGPROBS: tokens}


def test_its_pictures_are_content_too():
    """And as of a stream, a fault behind content is a broken stream."""
    response = begun()
    response.feed(whole(content="", images=[{"type": "image_url", "image_url": {"url": "data:,"}}]))
    response.feed(None)
    chunk = response.end()
    assert isinstance(chunk, Chunk)
    assert chunk.has_media
    assert response.reader.content_came


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"choices": 5}', Fault("invalid_response", "choices is a number, not the list it should be", 200)),
        (json.dumps(ERROR).encode(), OVERLOADED),
        (json.dumps([ERROR]).encode(), OVERLOADED),
        (b"{half", Fault("invalid_response", "not JSON", 200)),
    ],
)
def test_what_came_whole_and_is_no_reply_is_a_fault(body, fault):
    """In words, once and again."""
    response = begun()
    response.feed(body)
    response.feed(None)
    assert response.end() == response.end() == fault


def test_an_error_that_only_its_protocol_knows_for_one_is_one():
    """In place of a stream as in place of a reply."""
    response = Response(AnthropicReader(), streamed=True)
    response.begin(200, {})
    response.feed(b'{"type": "error", "message": "Overloaded", "code": 503}')
    response.feed(None)
    assert response.end() == Fault("overloaded", "Overloaded", 503)


def test_a_document_behind_events_or_with_an_error_s_status_is_no_reply():
    """It is what is left of a stream, or says what went wrong."""
    response = begun()
    response.feed(b"data: {}\n\n" + whole(content="hi") + b"\n")
    fault = response.end()
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"
    response = begun(500)
    response.remember(whole(content="hi"))
    fault = response.end()
    assert isinstance(fault, Fault)
    assert (fault.failure, fault.status) == ("server_error", 500)


def test_an_error_s_status_and_body_say_what_went_wrong():
    """And its headers when to come again."""
    response = begun(429, **{"retry-after": "7"})
    response.remember(b'{"error": {"message": "Slow down"}}')
    assert response.fault() == response.end() == Fault("rate_limited", "Slow down", 429, 7.0)


def test_the_usage_of_a_stream_is_told_once_and_not_of_a_broken_one():
    """Before its end."""
    response = begun()
    response.feed(frame("one", "stop", usage=USAGE) + DONE)
    usage = response.end()
    assert isinstance(usage, Chunk)
    assert usage.usage == Usage(5, 7)
    assert response.end() == response.end() == StreamEnd("stop")
    broken = begun()
    broken.feed(frame("one", usage=USAGE) + b"data: 5\n\n")
    assert isinstance(broken.end(), Fault)


@pytest.mark.parametrize(("content", "failure"), [("one", "stream_broken"), ("", "invalid_response")])
def test_a_call_that_nobody_named_is_known_at_the_end(content, failure):
    """There is nobody to give its arguments to."""
    response = begun()
    call = {"index": 0, "function": {"arguments": "{}"}}
    choice = {"index": 0, "delta": {"content": content, "tool_calls": [call]}, "finish_reason": "length"}
    response.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert response.end() == Fault(failure, "a tool call without a name", 200)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"[1]", Fault("invalid_response", "the reply is no object", 200)),
        (b"{half", Fault("invalid_response", "not JSON", 200)),
        (b"{}", Fault("invalid_response", "a reply without choices", 200)),
        (json.dumps([ERROR]).encode(), OVERLOADED),
        (json.dumps({**ERROR, "choices": 5}).encode(), OVERLOADED),
    ],
)
def test_a_body_that_is_no_reply_is_a_fault(body, fault):
    """With what it says for itself, or in words of ours."""
    assert begun(streamed=False).reply(body) == fault


def test_a_body_may_begin_with_a_byte_order_mark():
    """It is no part of what is said."""
    reply = begun(streamed=False).reply(b"\xef\xbb\xbf" + whole(content="hi"))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish, reply.usage) == ("hi", "stop", Usage(5, 7))


@pytest.mark.parametrize(
    ("failure", "before", "behind"),
    [
        ("overloaded", "overloaded", "stream_broken"),
        ("stream_broken", "invalid_response", "stream_broken"),
        ("content_policy", "content_policy", "content_policy"),
    ],
)
def test_behind_content_every_early_end_of_a_stream_is_the_same(failure, before, behind):
    """But for a refusal; before it, nothing was broken off."""
    fault = Fault(failure, "Sorry", 503)
    assert as_stream_fault(fault, content_came=False) == Fault(before, "Sorry", 503)
    assert as_stream_fault(fault, content_came=True) == Fault(behind, "Sorry", 503)
