"""Cohere's chat: a message, or the events of one, come to the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm.llms.cohere.chat.v2_transformation import CohereV2ChatConfig

from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.transport import FINISHES, Fault, PartialReply, Reply, StreamEnd
from llm_fallback.events import Usage
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


FIELDS_OF_5 = {
    "message is a number, not the object it should be": 5,
    "tool_plan is a number, not the text it should be": {"tool_plan": 5},
    "the type of a citation is a number, not the text it should be": {"citations": {"type": 5}},
    "the start of a citation is a text, not the position it should be": {"citations": {"start": "a"}},
    "the end of a citation is a text, not the position it should be": {"citations": {"end": "a"}},
    "sources is a number, not the list it should be": {"citations": {"sources": 5}},
    "document is a number, not the object it should be": {
        "citations": {"sources": [{"type": "document", "document": 5}]}
    },
    "title is a number, not the text it should be": {
        "citations": {"sources": [{"type": "document", "document": {"title": 5}}]}
    },
    "url is a number, not the text it should be": {
        "citations": {"sources": [{"type": "document", "document": {}, "url": 5}]}
    },
    "id is a number, not the text it should be": {
        "citations": {"sources": [{"type": "document", "document": {}, "id": 5}]}
    },
    "text is a number, not the text it should be": {"content": {"text": 5}},
    "thinking is a number, not the text it should be": {"content": {"thinking": 5}},
    "content is a number, not the object it should be": {"content": 5},
    "function is a number, not the object it should be": {"tool_calls": {"function": 5}},
    "tool_calls is a number, not the object it should be": {"tool_calls": 5},
    "citations is a number, not the object it should be": {"citations": 5},
}
KIND_OF = {
    "tool_plan": "tool-plan-delta",
    "citations": "citation-start",
    "content": "content-delta",
    "tool_calls": "tool-call-delta",
}


def said_of(fault):
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"
    return fault.message


@pytest.mark.parametrize("said", FIELDS_OF_5)
def test_a_fault_names_the_field_of_another_type(said):
    """Plain as streamed, where each part of a list has an event of its own."""
    message = FIELDS_OF_5[said]
    name = next(iter(message)) if isinstance(message, dict) else "content"
    assert said_of(streamed({"type": KIND_OF[name], "delta": {"message": message}})[1]) == said
    if isinstance(message, dict) and name != "tool_plan":
        message = {name: [message[name]] if isinstance(message[name], dict) else 5}
    whole = said.replace("object", "list") if message == {name: 5} else said
    assert said_of(read_plain(CohereReader, {"message": message})) == whole


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"type": 5}, "the type of an event is a number, not the text it should be"),
        ({"type": "content-delta", "delta": 5}, "delta is a number, not the object it should be"),
    ],
)
def test_a_fault_names_what_is_wrong_with_an_event(frame, said):
    """In words."""
    assert said_of(streamed(frame)[1]) == said


def test_a_reply_without_a_message_says_so():
    """Whatever stands beside it."""
    assert said_of(read_plain(CohereReader, {"id": "1", "finish_reason": "COMPLETE"})) == "a reply without a message"


def test_a_stream_that_says_nothing_yet_is_cut():
    """Whatever follows its first event; it is not some other document."""
    for frames in ([{"type": "message-start"}], [{"type": "message-start"}, {"delta": {}}]):
        assert streamed(*frames)[1] == StreamEnd(None)


def test_nothing_is_read_behind_the_end():
    """Whoever writes there means another reply; the end is told to the caller, too."""
    chunks, ended = streamed(
        *(event("content-delta", 0, content={"text": "Oslo"}), end(), event("content-delta", 0, content={"text": "x"})),
    )
    assert (PartialReply(*chunks).text, ended) == ("Oslo", StreamEnd("stop"))
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk.raw["choices"]]
    assert reasons == [None, "stop"]


def test_thoughts_are_told_plain_and_streamed():
    """Also in the event that begins a part, in several of them, and beside text."""
    parts = [{"text": "Os", "thinking": "h"}, {"text": "lo", "thinking": "m"}, {"type": "text"}]
    kinds = ("content-start", "content-delta", "content-start")
    chunks, _ = streamed(*(event(kind, 0, content=part) for kind, part in zip(kinds, parts, strict=True)), end())
    reply = read_plain(CohereReader, {"message": {"content": parts}})
    for came in (PartialReply(*chunks), reply):
        assert (came.text, came.reasoning) == ("Oslo", "hm")


def test_calls_are_told_apart_by_their_index():
    """Though their parts come by turns, and nothing else tells."""
    starts = [{"id": name, "type": "function", "function": {"name": name, "arguments": ""}} for name in "ab"]
    parts = [[{"function": {"arguments": part}} for part in ('{"x"', ":1}")] for _ in starts]
    frames = [event("tool-call-start", place, tool_calls=call) for place, call in enumerate(starts)]
    frames += [event("tool-call-delta", place, tool_calls=parts[place][turn]) for turn in (0, 1) for place in (0, 1)]
    chunks, ended = streamed(*frames, end("TOOL_CALL"))
    calls = PartialReply(*chunks).tool_calls.values()
    assert [(call.id, call.name, call.arguments) for call in calls] == [("a", "a", '{"x":1}'), ("b", "b", '{"x":1}')]
    assert ended == StreamEnd("tool_calls")


def test_a_call_of_a_tool_that_takes_nothing_has_no_arguments():
    """Cohere writes null; plain as streamed, and the call keeps its name and id."""
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "null"}}
    chunks, _ = streamed(event("tool-call-start", 0, tool_calls=call), end("TOOL_CALL"))
    reply = read_plain(CohereReader, {"message": {"tool_calls": [call]}, "finish_reason": "TOOL_CALL"})
    for told_call in (*PartialReply(*chunks).tool_calls.values(), *reply.tool_calls):
        assert (told_call.id, told_call.name, told_call.arguments) == ("1", "now", "")


def test_what_nobody_said_of_a_citation_is_left_open():
    """Its place is the beginning, and its source unknown; one without a document is none."""
    source = {"type": "document", "document": {}}
    bare = {"sources": [{"type": "document"}, {"type": "tool", "document": {}}, source, {**source, "url": "https://a"}]}
    chunks, _ = streamed(event("citation-start", 0, citations=bare), end())
    places = [{"start_index": 0, "end_index": 0, "title": "", "url": url} for url in ("source:unknown", "https://a")]
    assert beside_chunks(chunks) == {
        "annotations": [{"type": "url_citation", "url_citation": place} for place in places]
    }


def test_half_characters_are_no_part_of_what_stands_beside_the_text():
    """A plan that was cut between them is joined; in a title one alone is replaced."""
    plan = [event("tool-plan-delta", tool_plan=half) for half in ("\ud83d", "\ude00")]
    source = {"type": "document", "document": {"title": "\ud83d"}}
    chunks, _ = streamed(*plan, event("citation-start", 0, citations={"sources": [source]}), end())
    came = beside_chunks(chunks)
    assert came["provider_specific_fields"] == {"tool_plan": "😀"}
    assert came["annotations"][0]["url_citation"]["title"] == "\ufffd"


def test_usage_and_the_name_of_a_reply_are_told_plain_and_streamed():
    """The name is the one in the first event."""
    in_parts, whole = CohereReader(), CohereReader()
    for frame in ({"type": "message-start", "id": "r1"}, {**event("content-start", 0), "id": "x"}, end()):
        in_parts.read_event(frame)
    whole.read_reply({"id": "r1", "message": {}, "usage": USAGE})
    assert [(reader.reply_id, reader.usage) for reader in (in_parts, whole)] == [("r1", Usage(507, 10))] * 2


def test_a_word_of_a_server_s_own_is_an_end_where_its_spec_says_so():
    """Plain and streamed."""
    in_parts, whole = (CohereReader({"fin": "stop"}) for _ in range(2))
    in_parts.read_event(end("fin"))
    assert (in_parts.end(), whole.read_reply({"message": {}, "finish_reason": "fin"}).finish) == (
        StreamEnd("stop"),
        "stop",
    )


def test_an_error_beside_a_message_is_the_failure_it_names():
    """Of the two that are told, `error` is the one that says more."""
    said = {"message": "it failed", "error": {"message": "too many tokens: 9000"}}
    for fault in (streamed(said)[1], read_plain(CohereReader, said)):
        assert isinstance(fault, Fault)
        assert (fault.failure, fault.message) == ("context_window", "too many tokens: 9000")


def test_an_error_without_words_is_quoted_as_it_came():
    """With nothing put around it."""
    said = {"message": "", "error": {"code": 429}}
    fault = read_plain(CohereReader, said)
    assert isinstance(fault, Fault)
    assert (fault.failure, fault.message) == ("rate_limited", json.dumps(said))


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
