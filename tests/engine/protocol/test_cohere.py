"""Cohere's chat: a message, or the events of one, come to the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm.llms.cohere.chat.v2_transformation import CohereV2ChatConfig

from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.transport import FINISHES, Fault, PartialReply, Reply, StreamEnd
from tests.engine.protocol.spoken import (
    Spoken,
    beside_chunks,
    beside_reply,
    by_litellm,
    in_parts,
    read_plain,
    read_stream,
    told,
)
from tests.engine.protocol.test_values import anything

COHERE = Spoken("cohere", CohereReader)
USAGE = {"billed_units": {"input_tokens": 12, "output_tokens": 7}, "tokens": {"input_tokens": 507, "output_tokens": 10}}


def event(kind, index=None, **message):
    return {"type": kind, **({} if index is None else {"index": index}), "delta": {"message": message}}


def end(reason="COMPLETE", **delta):
    return {"type": "message-end", "delta": {"finish_reason": reason, "usage": USAGE, **delta}}


def streamed(*frames):
    return read_stream(CohereReader, COHERE.wire(frames))


@pytest.mark.parametrize("reply", COHERE.replies, ids=lambda reply: reply.name)
def test_what_cohere_says_comes_to_what_it_means(reply):
    """Plain and streamed."""
    assert list(COHERE.outcomes(reply)) == [COHERE.expected(reply)] * len(reply.ways)


@pytest.mark.parametrize("reply", COHERE.streamed, ids=lambda reply: reply.name)
def test_a_stream_that_ends_before_its_finish_is_never_whole(reply):
    """After whichever byte."""
    written = b"".join(COHERE.wire(reply.frames)).rstrip()
    for cut in range(len(written)):
        assert not COHERE.ends_whole([written[:cut]])


@given(st.sampled_from(COHERE.streamed), st.lists(st.integers(0, 2500), max_size=6))
def test_where_reads_begin_and_end_makes_no_difference(reply, cuts):
    """The network cuts where it likes."""
    chunks, ended = read_stream(CohereReader, in_parts(b"".join(COHERE.wire(reply.frames)), cuts))
    came = told(PartialReply(*chunks), ended.finish)
    assert {**came, "usage": {name: came["usage"][name] for name in reply.usage}} == COHERE.expected(reply)


@pytest.mark.parametrize("reply", COHERE.plain, ids=lambda reply: reply.name)
def test_a_plain_reply_is_what_litellm_makes_of_it(reply):
    """But for thoughts, the plan and what was cached, which it does not read, and for arguments that are null."""
    ours, theirs = read_plain(CohereReader, reply.body), by_litellm(CohereV2ChatConfig(), reply.body)
    assert isinstance(ours, Reply)
    choice = theirs["choices"][0]
    assert ours.text == (choice["message"]["content"] or "")
    calls = [(call["id"], call["function"]) for call in choice["message"]["tool_calls"] or ()]
    assert [(call.id, call.name, call.arguments or "null") for call in ours.tool_calls] == [
        (id_, function["name"], function["arguments"]) for id_, function in calls
    ]
    assert beside_reply(ours).get("annotations") == choice["message"].get("annotations")
    assert ours.finish == choice["finish_reason"]
    assert [ours.raw["usage"][name] for name in ("prompt_tokens", "completion_tokens")] == [
        theirs["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    ]


SOURCES = [
    {"type": "document", "id": "doc:0", "document": {"id": "doc:0", "title": "benefits.txt", "text": "..."}},
    {"type": "tool", "id": "tool:0", "tool_output": {"total": 1}},
    {"type": "document", "id": "doc:1", "document": {"id": "doc:1", "text": "untitled"}},
]
CITATION = {"start": 0, "end": 4, "text": "Oslo", "sources": SOURCES, "type": "TEXT_CONTENT"}


def test_what_stands_beside_the_text_is_the_same_plain_and_streamed():
    """Citations of documents, and the plan before a tool is called."""
    plan = ["I will", " look it up."]
    chunks, _ = streamed(
        *(event("tool-plan-delta", tool_plan=part) for part in plan),
        event("content-start", 0, content={"type": "text", "text": "Oslo"}),
        event("citation-start", 0, citations=CITATION),
        {"type": "citation-end", "index": 0},
        event("citation-start", 1, citations={**CITATION, "start": 5, "end": 9, "sources": SOURCES[:1]}),
        end(),
    )
    citations = [CITATION, {**CITATION, "start": 5, "end": 9, "sources": SOURCES[:1]}]
    message = {"content": [{"type": "text", "text": "Oslo"}], "tool_plan": "".join(plan), "citations": citations}
    reply = read_plain(CohereReader, {"message": message, "finish_reason": "COMPLETE", "usage": USAGE})
    assert isinstance(reply, Reply)
    assert beside_chunks(chunks) == beside_reply(reply)
    assert beside_reply(reply)["provider_specific_fields"] == {"tool_plan": "I will look it up."}
    places = [annotation["url_citation"] for annotation in beside_reply(reply)["annotations"]]
    assert [(place["start_index"], place["title"], place["url"]) for place in places] == [
        (0, "benefits.txt", "source:doc:0"),
        (0, "", "source:doc:1"),
        (5, "benefits.txt", "source:doc:0"),
    ]


@pytest.mark.parametrize("kind", ["PLAN", "THINKING_CONTENT"])
def test_a_citation_of_something_else_is_none_of_the_text(kind):
    """Its places are counted in the plan or in the thoughts."""
    chunks, _ = streamed(event("citation-start", 0, citations={**CITATION, "type": kind}), end())
    assert beside_chunks(chunks) == {}


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT", "USER_CANCEL", "ERROR_LIMIT", "a word of tomorrow", None])
def test_a_reason_that_is_no_end_leaves_the_reply_unfinished(reason):
    """Plain and streamed."""
    text = event("content-delta", 0, content={"text": "Once"})
    _, ended = streamed(text, end(reason, error=None))
    assert ended == StreamEnd(reason)
    reply = read_plain(
        CohereReader, {"message": {"content": [{"type": "text", "text": "Once"}]}, "finish_reason": reason}
    )
    assert isinstance(reply, Reply)
    assert reply.finish == reason
    assert reason not in FINISHES


def test_an_error_told_with_the_end_is_a_fault():
    """`delta.error` says what went wrong during the generation."""
    _, fault = streamed(end("ERROR", error="model is overloaded"))
    assert isinstance(fault, Fault)
    assert fault.message == "model is overloaded"


@pytest.mark.parametrize("beside", [{}, {"id": "1"}])
def test_an_error_with_a_status_of_200_is_the_failure_it_names(beside):
    """In a stream, whether its event is called so or has no name, and in place of a reply."""
    said = {"message": "too many tokens: 9000", **beside}
    written = f"data: {json.dumps(said)}\n\n".encode()
    streams = [read_stream(CohereReader, [name + written])[1] for name in (b"", b"event: error\n")]
    for fault in (*streams, read_plain(CohereReader, said)):
        assert isinstance(fault, Fault)
        assert (fault.failure, fault.message) == ("context_window", said["message"])


@pytest.mark.parametrize(
    "body", [{}, {"message": None}, {"choices": []}, {"message": 5}, {"message": {"content": "a"}}]
)
def test_a_body_that_is_no_reply_is_invalid(body):
    """Whatever it is instead."""
    fault = read_plain(CohereReader, body)
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


def test_events_of_another_protocol_are_no_stream():
    """Though they are objects."""
    _, fault = read_stream(CohereReader, [b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'])
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


def test_an_event_nobody_knows_is_passed_over():
    """`debug` is one that Cohere sends."""
    chunks, ended = streamed(
        {"type": "debug", "prompt": "..."}, event("content-delta", 0, content={"text": "a"}), end()
    )
    assert (PartialReply(*chunks).text, ended) == ("a", StreamEnd("stop"))


@pytest.mark.parametrize(
    "message",
    [{"content": {"text": 5}}, {"content": "a"}, {"content": {"thinking": []}}, "a", {"content": [{"text": "a"}]}],
)
def test_a_value_of_another_type_breaks_a_stream(message):
    """Nothing raises."""
    first = event("content-delta", 0, content={"text": "Once"})
    _, fault = streamed(first, {"type": "content-delta", "delta": {"message": message}}, end())
    assert isinstance(fault, Fault)
    assert fault.failure == "stream_broken"


KINDS = ("content-start", "content-delta", "tool-plan-delta", "tool-call-start", "tool-call-delta", "citation-start")
PARTS = ("content", "tool_plan", "tool_calls", "citations")
messages = st.fixed_dictionaries({}, optional=dict.fromkeys(PARTS, anything))
events = anything | st.one_of(
    st.builds(dict, type=st.sampled_from(KINDS) | anything, index=anything, delta=st.builds(dict, message=messages)),
    st.builds(
        dict, type=st.just("message-end"), delta=anything | st.builds(dict, finish_reason=anything, usage=anything)
    ),
)


@given(st.lists(events, max_size=4), st.booleans())
def test_no_event_is_too_odd(frames, ends):
    """They end in a finish or a fault, and what came of them can be encoded."""
    written = [f"data: {json.dumps(frame)}\n\n".encode() for frame in [*frames, *([end()] if ends else [])]]
    chunks, ended = read_stream(CohereReader, written)
    assert isinstance(ended, StreamEnd | Fault)
    came = PartialReply(*chunks)
    (came.text + came.reasoning + "".join(call.arguments for call in came.tool_calls.values())).encode()


@given(anything | st.builds(dict, message=anything | messages, finish_reason=anything, usage=anything))
def test_no_document_is_too_odd(document):
    """It is a reply or a fault."""
    assert isinstance(read_plain(CohereReader, document), Reply | Fault)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd(written):
    """Nothing but a fault comes of them, or nothing."""
    assert isinstance(read_stream(CohereReader, [written])[1], StreamEnd | Fault)
