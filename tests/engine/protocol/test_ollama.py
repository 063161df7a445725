"""Ollama's own chat: a message, or the lines of one, come to the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm.llms.ollama.chat.transformation import OllamaChatConfig

from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.transport import FINISHES, Fault, PartialReply, Reply, StreamEnd
from llm_fallback.events import Usage
from tests.engine.protocol.spoken import Spoken, by_litellm, in_parts, read_plain, read_stream, told
from tests.engine.protocol.test_values import anything

OLLAMA = Spoken("ollama", OllamaReader)


def message(**said):
    return {"message": {"role": "assistant", **said}, "done": False}


def end(**told):
    return {"message": {"role": "assistant", "content": ""}, "done": True, **told}


def streamed(*frames):
    chunks, ended = read_stream(OllamaReader, OLLAMA.wire(frames))
    return PartialReply(*chunks), ended


@pytest.mark.parametrize("reply", OLLAMA.replies, ids=lambda reply: reply.name)
def test_what_ollama_says_comes_to_what_it_means(reply):
    """Plain and streamed."""
    assert list(OLLAMA.outcomes(reply)) == [OLLAMA.expected(reply)] * len(reply.ways)


@pytest.mark.parametrize("reply", OLLAMA.streamed, ids=lambda reply: reply.name)
def test_a_stream_that_ends_before_its_finish_is_never_whole(reply):
    """After whichever byte."""
    written = b"".join(OLLAMA.wire(reply.frames)).rstrip()
    for cut in range(len(written)):
        assert not OLLAMA.ends_whole([written[:cut]])


@given(st.sampled_from(OLLAMA.streamed), st.lists(st.integers(0, 2000), max_size=6))
def test_where_reads_begin_and_end_makes_no_difference(reply, cuts):
    """The network cuts where it likes."""
    chunks, ended = read_stream(OllamaReader, in_parts(b"".join(OLLAMA.wire(reply.frames)), cuts))
    came = told(PartialReply(*chunks), ended.finish)
    assert {**came, "usage": {name: came["usage"][name] for name in reply.usage}} == OLLAMA.expected(reply)


@pytest.mark.parametrize("reply", OLLAMA.plain, ids=lambda reply: reply.name)
def test_a_plain_reply_is_what_litellm_makes_of_it(reply):
    """But for the ids of calls that have none: both make them up."""
    ours, theirs = read_plain(OllamaReader, reply.body), by_litellm(OllamaChatConfig(), reply.body)
    assert isinstance(ours, Reply)
    choice = theirs["choices"][0]
    assert ours.text == (choice["message"]["content"] or "")
    assert ours.reasoning == (choice["message"].get("reasoning_content") or "")
    calls = [call["function"] for call in choice["message"]["tool_calls"] or ()]
    assert [(call.name, call.arguments) for call in ours.tool_calls] == [
        (call["name"], call["arguments"]) for call in calls
    ]
    assert ours.finish == choice["finish_reason"]
    assert ours.usage == Usage(theirs["usage"]["prompt_tokens"], theirs["usage"]["completion_tokens"])


@pytest.mark.parametrize("parts", [["<think>hm</think>Oslo"], ["<th", "ink>h", "m</thi", "nk>", "Oslo"]])
def test_thoughts_that_were_left_in_the_text_are_thoughts(parts):
    """Where Ollama does not know that the model thinks; plain and streamed, as litellm reads the plain ones."""
    came, ended = streamed(*(message(content=part) for part in parts), end(done_reason="stop"))
    assert (came.text, came.reasoning, ended) == ("Oslo", "hm", StreamEnd("stop"))
    body = {**message(content="".join(parts)), "done": True, "done_reason": "stop", "eval_count": 1}
    reply = read_plain(OllamaReader, {**body, "prompt_eval_count": 1})
    theirs = by_litellm(OllamaChatConfig(), {**body, "prompt_eval_count": 1})["choices"][0]["message"]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.reasoning) == ("Oslo", "hm") == (theirs["content"], theirs["reasoning_content"])


def test_calls_of_one_name_in_lines_of_their_own_are_so_many_calls():
    """They have neither id nor index, and one of them takes no arguments."""
    calls = [{"function": {"name": "now", "arguments": said}} for said in ({}, {}, {"in": "Oslo"})]
    came, ended = streamed(*(message(content="", tool_calls=[call]) for call in calls), end(done_reason="stop"))
    assert [json.loads(call.arguments) for call in came.tool_calls.values()] == [{}, {}, {"in": "Oslo"}]
    assert len({call.id for call in came.tool_calls.values()}) == 3
    assert ended == StreamEnd("tool_calls")


def test_a_call_in_the_last_line_ends_in_tool_calls():
    """As in a plain reply."""
    call = {"function": {"name": "now", "arguments": {}}}
    said = {"message": {"content": "", "tool_calls": [call]}, "done": True, "done_reason": "stop"}
    _, ended = streamed(said)
    reply = read_plain(OllamaReader, said)
    assert isinstance(reply, Reply)
    assert (ended, reply.finish) == (StreamEnd("tool_calls"), "tool_calls")


def test_an_end_without_a_reason_is_one():
    """Older servers, and those that speak like them, say no more than that it is done."""
    assert streamed(message(content="Oslo"), end())[1] == StreamEnd("stop")
    reply = read_plain(OllamaReader, {**message(content="Oslo"), "done": True})
    assert isinstance(reply, Reply)
    assert reply.finish == "stop"


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_model_that_was_only_loaded_said_nothing(reason):
    """It is no reply, though it is done."""
    assert reason not in FINISHES
    assert streamed(end(done_reason=reason))[1] == StreamEnd(reason)


def test_a_message_that_is_not_done_is_not_whole():
    """Plain, too."""
    reply = read_plain(OllamaReader, message(content="Once"))
    assert isinstance(reply, Reply)
    assert reply.finish is None


def test_an_error_in_a_line_is_the_fault_it_names():
    """https://docs.ollama.com/api/errors: the status was sent before."""
    error = {"error": "an error was encountered while running the model"}
    for frames, failure in (([error], "server_error"), ([message(content="Once"), error], "stream_broken")):
        _, fault = streamed(*frames, end(done_reason="stop"))
        assert isinstance(fault, Fault)
        assert (fault.failure, fault.message) == (failure, error["error"])
    fault = read_plain(OllamaReader, error)
    assert isinstance(fault, Fault)
    assert fault.failure == "server_error"


@pytest.mark.parametrize("line", [b"oops", b"[]", b'"text"', b'{"message": 5}', b'{"message": {"content": 5}}'])
def test_a_line_that_is_none_of_ollama_s_breaks_a_stream(line):
    """And is no reply where nothing came before."""
    first, last = OLLAMA.wire([message(content="Once"), end(done_reason="stop")])
    _, fault = read_stream(OllamaReader, [first, line + b"\n", last])
    assert isinstance(fault, Fault)
    assert fault.failure == "stream_broken"
    _, fault = read_stream(OllamaReader, [line + b"\n", last])
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


CALL_OF_5 = {"function": {"name": 5}}
NAME_5 = "the name of a tool call is a number, not the text it should be"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"message": 5}, "message is a number, not the object it should be"),
        (message(content=5), "content is a number, not the text it should be"),
        (message(thinking=5), "thinking is a number, not the text it should be"),
        (message(tool_calls=5), "tool_calls is a number, not the list it should be"),
        (message(tool_calls=[CALL_OF_5]), NAME_5),
    ],
)
def test_a_fault_names_the_field_of_another_type(document, said):
    """Plain as streamed."""
    for fault in (streamed(document)[1], read_plain(OllamaReader, document)):
        assert isinstance(fault, Fault)
        assert (fault.failure, fault.message) == ("invalid_response", said)


@pytest.mark.parametrize("document", [{}, {"message": None}, {"done": True}])
def test_a_reply_without_a_message_is_none(document):
    """It says so."""
    fault = read_plain(OllamaReader, document)
    assert isinstance(fault, Fault)
    assert (fault.failure, fault.message) == ("invalid_response", "a reply without a message")


def test_a_message_beside_an_error_is_no_reply():
    """Plain as streamed."""
    said = {**message(content="Once"), "done": True, "error": "the runner has stopped"}
    for fault in (streamed(said)[1], read_plain(OllamaReader, said)):
        assert isinstance(fault, Fault)
        assert (fault.failure, fault.message) == ("server_error", said["error"])


def test_a_stream_that_says_nothing_yet_is_cut_and_another_document_is_no_stream():
    """Whatever lines without a message follow the first."""
    for frames in ([message(content="")], [message(content=""), {"done": False}]):
        assert streamed(*frames)[1] == StreamEnd(None)
    _, fault = streamed({"done": False}, {"model": "m"})
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


def test_nothing_is_read_behind_the_end():
    """Whoever writes there means another reply."""
    came, ended = streamed(message(content="Oslo"), end(), message(content="Rome"))
    assert (came.text, ended) == ("Oslo", StreamEnd("stop"))


def test_several_calls_in_a_line_are_counted_on_in_the_next():
    """None of them takes the place of another."""
    lines = [[{"function": {"name": name, "arguments": {}}} for name in names] for names in ("ab", "cd")]
    came, _ = streamed(*(message(tool_calls=calls) for calls in lines), end())
    assert [(place, call.name) for place, call in came.tool_calls.items()] == list(enumerate("abcd"))


@pytest.mark.parametrize(
    ("said", "text", "reasoning"),
    [
        ({"content": "<th"}, "<th", ""),
        ({"content": "<think>hm"}, "", "hm"),
        ({"thinking": "so ", "content": "<think>hm</think>Oslo"}, "Oslo", "so hm"),
    ],
)
def test_half_a_tag_is_text_and_an_open_one_thought(said, text, reasoning):
    """In the last line of a stream, and in a plain reply."""
    line = {"message": said, "done": True}
    came, reply = streamed(line)[0], read_plain(OllamaReader, line)
    assert isinstance(reply, Reply)
    assert (came.text, came.reasoning) == (reply.text, reply.reasoning) == (text, reasoning)


def test_a_word_of_a_server_s_own_is_an_end_where_its_spec_says_so():
    """Plain and streamed."""
    line = {**message(content="Oslo"), "done": True, "done_reason": "fin"}
    in_parts, whole = (OllamaReader({"fin": "stop"}) for _ in range(2))
    in_parts.read_event(line)
    assert (in_parts.end(), whole.read_reply(line).finish) == (StreamEnd("stop"), "stop")


lines = anything | st.builds(
    dict,
    message=anything
    | st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "thinking", "tool_calls"), anything | st.text())),
    done=anything | st.booleans(),
    done_reason=anything | st.sampled_from(["stop", "load"]),
    error=st.none() | anything,
    eval_count=anything,
)


@given(st.lists(lines, max_size=4))
def test_no_document_is_too_odd(said):
    """It is a reply or a fault, and what came of it can be encoded."""
    chunks, ended = read_stream(OllamaReader, [f"{json.dumps(line)}\n".encode() for line in said])
    assert isinstance(ended, StreamEnd | Fault)
    came = PartialReply(*chunks)
    (came.text + came.reasoning + "".join(call.arguments for call in came.tool_calls.values())).encode()
    for line in said:
        assert isinstance(read_plain(OllamaReader, line), Reply | Fault)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd(written):
    """Nothing but a fault comes of them, or nothing."""
    assert isinstance(read_stream(OllamaReader, [written])[1], StreamEnd | Fault)
    assert isinstance(read_plain(OllamaReader, written), Reply | Fault)
