"""Replies in OpenAI's form, and in the forms of those who speak like it: plain and streamed come to the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import GROUNDING
from llm_fallback.engine.protocol.response import Response
from llm_fallback.engine.protocol.tool_calls import documents_of
from llm_fallback.engine.transport import (
    FINISHES,
    REFUSED_FINISH,
    Chunk,
    Fault,
    PartialReply,
    Reply,
    StreamEnd,
    ToolCallPart,
)
from llm_fallback.events import Usage
from tests.engine.protocol.test_values import anything

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def frame(delta: Any, finish: Any = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields}


def streamed(*frames: Any, done: bool = True, **words: Any) -> tuple[PartialReply, StreamEnd | Fault]:
    """What came of a stream of these frames, and how it ended."""
    response = Response(OpenAIReader(**words), streamed=True)
    response.begin(200, {})
    written = [f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n".encode() for one in frames]
    whole = PartialReply()
    for data in [*written, b"data: [DONE]\n\n" if done else b"", None]:
        if not response.is_over:
            for chunk in response.feed(data):
                whole.add(chunk)
    end = response.end()
    while isinstance(end, Chunk):
        whole.add(end)
        end = response.end()
    return whole, end


def plain(message: Any, finish: Any = "stop", **fields: Any) -> Reply | Fault:
    document = {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **fields}
    response = Response(OpenAIReader(), streamed=False)
    response.begin(200, {})
    return response.reply(json.dumps(document).encode())


CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
FORMS: Mapping[str, tuple[Any, str, str]] = {
    "a text": ({"content": "Two hours"}, "Two hours", ""),
    "parts": ({"content": [{"type": "text", "text": "Two "}, {"type": "text", "text": "hours"}]}, "Two hours", ""),
    "parts that are texts": ({"content": ["Two ", "hours"]}, "Two hours", ""),
    "thinking parts": ({"content": [THOUGHT, {"type": "text", "text": "2"}]}, "2", "hm"),
    "a thinking part with a text": ({"content": [{"type": "thinking", "thinking": "hm"}, "2"]}, "2", "hm"),
    "a reference among the parts": ({"content": ["2", {"type": "reference", "reference_ids": [1]}]}, "2", ""),
    "several thinking parts": ({"content": [THOUGHT, "2", THOUGHT]}, "2", "hmhm"),
    "a reasoning part": (
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, "2"]},
        *("2", "hm"),
    ),
    "a thinking part before tags": ({"content": [THOUGHT, "<think>so</think>2"]}, "2", "hmso"),
    "half a tag": ({"content": "<think"}, "<think", ""),
    "tags that stay open": ({"content": "<think>hm"}, "", "hm"),
    "reasoning_content": ({"content": "2", "reasoning_content": "hm"}, "2", "hm"),
    "reasoning": ({"content": "2", "reasoning": "hm"}, "2", "hm"),
    "reasoning is null": ({"content": "2", "reasoning": None, "reasoning_content": "hm"}, "2", "hm"),
    "reasoning_content is null": ({"content": "2", "reasoning": "hm", "reasoning_content": None}, "2", "hm"),
    "reasoning in parts": ({"content": "2", "reasoning_content": [{"type": "text", "text": "hm"}]}, "2", "hm"),
    "reasoning in parts that are texts": ({"content": "2", "reasoning": ["h", "m"]}, "2", "hm"),
    "nothing said with values of another type": (
        {"content": "2", "reasoning": False, "tool_calls": {}, "refusal": 0, "function_call": ""},
        *("2", ""),
    ),
    "only reasoning": ({"content": None, "reasoning_content": "hm"}, "", "hm"),
    "an emoji": ({"content": "ha 😀"}, "ha 😀", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_content_is_read_in_every_form_plain_as_streamed(form):
    """As a text, in parts, with thoughts in it or under either name beside it."""
    message, text, reasoning = FORMS[form]
    reply = plain({"role": "assistant", **message})
    assert isinstance(reply, Reply)
    assert (reply.text, reply.reasoning, reply.finish) == (text, reasoning, "stop")
    whole, end = streamed(frame({"role": "assistant", "content": ""}), frame(message), STOP)
    assert (whole.text, whole.reasoning, end) == (text, reasoning, StreamEnd("stop"))


def test_a_function_call_from_before_there_were_tools_is_a_tool_call():
    """Plain and streamed, whole or in parts; what stands in `tool_calls` is told once."""
    function = {"name": "f", "arguments": '{"a": 1}'}
    reply = plain({"content": None, "function_call": function}, "function_call")
    parts = [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": '{"a": 1}'}}]
    whole, end = streamed(*map(frame, parts), frame({}, "function_call"))
    for call in (*reply.tool_calls, *whole.tool_calls.values()):
        assert (call.name, call.arguments, bool(call.id)) == ("f", '{"a": 1}', True)
    assert (len(reply.tool_calls), len(whole.tool_calls), end) == (1, 1, StreamEnd("tool_calls"))
    assert len(plain({"content": None, "tool_calls": [CALL], "function_call": function}).tool_calls) == 1


@pytest.mark.parametrize("form", ["thinking parts", "reasoning_content", "only reasoning"])
def test_a_thought_is_a_sign_of_life(form):
    """The first token is what the model thinks aloud, too."""
    chunk = OpenAIReader().read_event(frame(FORMS[form][0]))
    assert chunk is not None
    assert chunk.has_content


ODD_DELTAS: Sequence[Any] = [
    *({"content": said} for said in (5, True, {"text": "a"}, [5], [{"type": "text", "text": 5}])),
    *({"reasoning_content": said} for said in (5, {"text": "a"}, [5])),
    *({"tool_calls": said} for said in ("f", {"name": "f"}, [5], [{**CALL, "id": True}], [{**CALL, "index": "x"}])),
    *({"tool_calls": [{**CALL, "function": said}]} for said in ("f", {"name": 5}, {"name": "f", "arguments": 5})),
    *("text", ["text"], 5),
]


@pytest.mark.parametrize("delta", ODD_DELTAS, ids=json.dumps)
def test_a_value_of_another_type_is_no_reply(delta):
    """`invalid_response`; once content came, a broken stream; and nothing raises."""
    whole, end = streamed(frame(delta), STOP)
    assert isinstance(end, Fault)
    assert (end.failure, whole.is_empty) == ("invalid_response", True)
    whole, end = streamed(frame({"content": "Once"}), frame(delta), STOP)
    assert isinstance(end, Fault)
    assert (end.failure, whole.text) == ("stream_broken", "Once")
    assert isinstance(plain(delta), Fault)


TEXT_5 = {"type": "text", "text": 5}
SAID_OF_MESSAGES = {
    "content is a number, not the list it should be": {"content": 5},
    "a part of the content is a number, not the object it should be": {"content": [5]},
    "the text of a part is a number, not the text it should be": {"content": [TEXT_5]},
    "reasoning is a number, not the list it should be": {"reasoning": 5},
    "a part is a number, not the object it should be": {"reasoning": [5]},
    "the text of a part is a number, not the text it should be ": {"reasoning": [TEXT_5]},
    "audio is a number, not the object it should be": {"audio": 5},
    "images is a number, not the list it should be": {"images": 5},
    "annotations is a number, not the list it should be": {"annotations": 5},
    "thinking_blocks is a number, not the list it should be": {"thinking_blocks": 5},
}


@pytest.mark.parametrize("said", SAID_OF_MESSAGES)
def test_a_fault_names_the_field_of_another_type(said):
    """Plain as streamed."""
    _, end = streamed(frame(SAID_OF_MESSAGES[said]))
    reply = plain(SAID_OF_MESSAGES[said])
    assert isinstance(end, Fault)
    assert isinstance(reply, Fault)
    assert end.message == reply.message == said.strip()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"choices": 5}, "choices is a number, not the list it should be"),
        ({"choices": [5]}, "a choice is a number, not the object it should be"),
        ({"choices": [], "x_groq": 5}, "x_groq is a number, not the object it should be"),
        (frame(5), "delta is a number, not the object it should be"),
        ({"choices": [{"delta": {}}, {"delta": 5}]}, "delta is a number, not the object it should be"),
        ({"choices": [{"delta": 5}, {"delta": {}}]}, "delta is a number, not the object it should be"),
        ({"choices": [{"text": "a"}]}, "a choice of a stream without a delta"),
    ],
)
def test_a_fault_names_what_is_wrong_with_an_event(document, said):
    """In words."""
    _, end = streamed(document)
    assert isinstance(end, Fault)
    assert end.message == said


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"choices": 5}, "choices is a number, not the list it should be"),
        ({}, "a reply without choices"),
        ({"choices": [{"message": 5}]}, "message is a number, not the object it should be"),
        ({"choices": [{"message": 5}, {}]}, "message is a number, not the object it should be"),
        ({"choices": [{}, {"message": 5}]}, "message is a number, not the object it should be"),
    ],
)
def test_a_fault_names_what_is_wrong_with_a_reply(document, said):
    """In words."""
    fault = Response(OpenAIReader(), streamed=False).reply(json.dumps(document).encode())
    assert isinstance(fault, Fault)
    assert fault.message == said


@pytest.mark.parametrize(
    "body",
    [
        *("", "null", "[]", "5", '"text"', "<html>", "{", '{"choices": null}', '{"choices": []}', '{"choices": {}}'),
        *('{"choices": [5]}', '{"choices": [{"message": 5}]}', '{"choices": [{"message": {"content": NaN}}]}'),
        '{"a":' * 5_000 + "1" + "}" * 5_000,
    ],
)
def test_a_body_that_is_no_reply_is_invalid(body):
    """Whatever it is instead."""
    response = Response(OpenAIReader(), streamed=False)
    response.begin(200, {})
    fault = response.reply(body.encode())
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


def test_a_byte_order_mark_is_no_part_of_a_reply():
    """Plain as in a stream."""
    response = Response(OpenAIReader(), streamed=False)
    response.begin(200, {})
    reply = response.reply(b'\xef\xbb\xbf{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}')
    assert isinstance(reply, Reply)
    assert reply.text == "hi"


@pytest.mark.parametrize("line", ["data: {half", "oops", '{"choices": []}', "data: 5", 'data: ["a"]', "<html>"])
def test_a_line_that_is_no_event_of_the_protocol_breaks_a_stream(line):
    """Its text would be lost, and the rest passed off as whole."""
    response = Response(OpenAIReader(), streamed=True)
    response.begin(200, {})
    response.feed(b'data: {"choices": [{"index": 0, "delta": {"content": "Once"}}]}\n\n')
    response.feed(line.encode() + b"\n\n")
    response.feed(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n')
    end = response.end()
    assert isinstance(end, Fault)
    assert end.failure == "stream_broken"


def test_a_choice_without_a_delta_breaks_a_stream():
    """Completions of the older kind have a text there, and some servers the whole message."""
    for choice in ({"text": "Two hours"}, {"message": {"content": "Two hours"}}):
        _, end = streamed({"choices": [{"index": 0, **choice}]}, STOP)
        assert isinstance(end, Fault)


USAGE = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
DETAILED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 900}}
NULLS: dict[str, Any] = dict.fromkeys(USAGE)


@pytest.mark.parametrize(
    ("frames", "usage"),
    [
        ([{**STOP, "usage": DETAILED}, {"choices": [], "usage": USAGE}], Usage(1000, 10, 900)),
        ([{**STOP, "usage": USAGE}, {"choices": [], "usage": DETAILED}], Usage(1000, 10, 900)),
        ([{**STOP, "usage": USAGE}, {"choices": [], "usage": NULLS}], Usage(1000, 10)),
        ([{**STOP, "usage": USAGE}, {"choices": [], "usage": dict.fromkeys(USAGE, 0)}], Usage(1000, 10)),
        ([{"choices": [{**STOP["choices"][0], "usage": USAGE}]}], Usage(1000, 10)),
        ([frame({"content": "a"}, usage={**USAGE, "completion_tokens": 1}), {**STOP, "usage": USAGE}], Usage(1000, 10)),
        ([{**STOP, "x_groq": {"id": "1", "usage": USAGE}}], Usage(1000, 10)),
        ([{**STOP, "x_groq": {"id": "1"}}], None),
        ([{**STOP, "usage": {**USAGE, "completion_tokens": -1}}], None),
        ([{**STOP, "usage": "much"}], None),
        ([STOP], None),
    ],
)
def test_of_several_accounts_the_fuller_counts_once(frames, usage):
    """Some servers count in every event, some twice, some in a choice, some with nothing."""
    whole, end = streamed(frame({"content": "Hello"}), *frames)
    assert (whole.usage, end) == (usage, StreamEnd("stop"))


def test_usage_in_the_choice_of_a_whole_reply_is_its_usage():
    """Where it is not beside it, as with Moonshot."""
    document = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "usage": USAGE}]}
    reply = Response(OpenAIReader(), streamed=False).reply(json.dumps(document).encode())
    assert isinstance(reply, Reply)
    assert reply.usage == Usage(1000, 10)


def test_usage_is_told_at_the_end_alone():
    """LangChain adds up what it finds in chunks."""
    reader = OpenAIReader()
    chunk = reader.read_event(frame({"content": "a"}, usage=USAGE))
    assert chunk is not None
    assert (chunk.usage, "usage" in chunk.raw) == (None, False)


def test_of_several_choices_one_is_read():
    """The first that came, whatever stands beside it in a frame."""
    two = [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"}]
    other = [{"index": 1, "delta": {"content": "y"}}]
    whole, end = streamed({"choices": two}, {"choices": other}, frame({"content": "b"}), STOP)
    assert (whole.text, end) == ("ab", StreamEnd("stop"))
    _, end = streamed({"choices": two})
    assert isinstance(end, Fault) or end.finish is None


def test_choices_of_one_index_in_a_frame_are_one():
    """What the second says is not lost."""
    parts = [{"type": "text", "text": "c"}]
    pairs = [
        [{"index": 0, "delta": {"content": "a"}}, {"index": 0, "delta": {"content": "b"}}],
        [{"index": 0, "delta": {"content": parts}}, {"index": 0, "delta": {"content": "d", "tool_calls": [CALL]}}],
        [{"index": 0, "delta": {"content": "ef"}}, {"index": 0, "delta": {"content": parts}}],
        [{"index": 0, "delta": {}}, {"index": 0, "delta": None, "finish_reason": "tool_calls"}],
    ]
    whole, end = streamed(*({"choices": pair} for pair in pairs))
    assert (whole.text, whole.tool_calls[0].name, end) == ("abcdefc", "f", StreamEnd("tool_calls"))


@pytest.mark.parametrize("index", [{}, {"index": 0}])
def test_a_choice_with_the_tool_calls_of_the_one_before_is_no_other_answer(index):
    """Copilot sends Claude's text and tool calls apart; two texts are two answers all the same."""
    text, call = {"content": "Let me see"}, {"content": None, "tool_calls": [CALL]}
    for messages in ((text, call), (call, text)):
        choices = [{**index, "message": message, "finish_reason": "tool_calls"} for message in messages]
        reply = Response(OpenAIReader(), streamed=False).reply(json.dumps({"choices": choices}).encode())
        assert isinstance(reply, Reply)
        assert (reply.text, len(reply.tool_calls), len(reply.raw["choices"])) == ("Let me see", 1, 1)
    both = {**text, "tool_calls": [CALL]}
    for messages in ((text, text), (call, call), (both, text), (text, both), ({"content": ""}, text)):
        two = [{**index, "message": message, "finish_reason": "stop"} for message in messages]
        reply = Response(OpenAIReader(), streamed=False).reply(json.dumps({"choices": two}).encode())
        assert isinstance(reply, Reply)
        assert len(reply.raw["choices"]) == 2


def test_further_choices_of_a_whole_reply_are_kept_for_langchain():
    """It makes further generations of them."""
    choices = [{"message": {"content": said}, "finish_reason": "stop"} for said in ("a", "b")]
    response = Response(OpenAIReader(), streamed=False)
    reply = response.reply(json.dumps({"choices": choices}).encode())
    assert isinstance(reply, Reply)
    assert (reply.text, [choice["message"]["content"] for choice in reply.raw["choices"]]) == ("a", ["a", "b"])


def test_a_call_in_the_frame_that_says_stop_ends_in_tool_calls():
    """As in a plain reply, and as in a frame before it: agents look at the word."""
    _, end = streamed(frame({"tool_calls": [CALL]}, "stop"))
    reply = plain({"content": None, "tool_calls": [CALL]})
    assert isinstance(reply, Reply)
    assert (end, reply.finish) == (StreamEnd("tool_calls"), "tool_calls")
    assert streamed(frame({"tool_calls": [CALL]}), STOP)[1] == end


def raw_of(*frames: Any) -> list[dict[str, Any]]:
    """The choices that a caller is told of a stream."""
    response = Response(OpenAIReader(), streamed=True)
    response.begin(200, {})
    chunks = [chunk for one in frames for chunk in response.feed(f"data: {json.dumps(one)}\n\n".encode())]
    while isinstance(end := response.end(), Chunk):
        chunks.append(end)
    return [choice for chunk in chunks for choice in chunk.raw["choices"]]


@pytest.mark.parametrize("more", [(), (frame({}, "tool_calls"),), (frame({}, "stop", usage={"prompt_tokens": 1}),)])
def test_a_call_behind_the_word_stop_ends_in_tool_calls(more):
    """Agents look at the word."""
    frames = (frame({"content": "Let me see"}, "stop"), frame({"tool_calls": [CALL]}), *more)
    assert streamed(*frames)[1] == StreamEnd("tool_calls")
    assert [choice["finish_reason"] for choice in raw_of(*frames) if choice["finish_reason"]] == ["stop", "tool_calls"]


def test_arguments_that_stay_empty_are_told_at_the_end():
    """They waited for the real ones, which some gateways send behind an empty object."""
    [*_, last] = raw_of(frame({"tool_calls": [CALL]}), frame({}, "tool_calls"))
    assert [call["function"]["arguments"] for call in last["delta"]["tool_calls"]] == ["{}"]
    assert (last["delta"]["content"], last["finish_reason"]) == ("", None)
    whole, end = streamed(frame({"tool_calls": [CALL]}), done=False)
    assert (whole.tool_calls[0].arguments, end) == ("", StreamEnd(None))


def test_a_refusal_in_a_field_of_its_own_is_a_refusal_though_it_says_stop():
    """OpenAI's models decline so where a schema leaves them no words for it; others in a part of the content."""
    _, end = streamed(frame({"refusal": "I can"}), frame({"refusal": "not."}), STOP)
    assert end == StreamEnd(REFUSED_FINISH)
    for message in ({"content": None, "refusal": "I cannot."}, {"content": [{"type": "refusal", "refusal": "No."}]}):
        reply = plain(message)
        assert isinstance(reply, Reply)
        assert reply.finish == REFUSED_FINISH


@pytest.mark.parametrize("word", ["network_error", "insufficient_system_resource", "a word of tomorrow", 5, True])
def test_a_word_that_is_no_end_ends_the_reading(word):
    """What came in the same frame is delivered, what follows is not read, and nothing passes for whole."""
    whole, end = streamed(frame({"content": "Once"}), frame({"content": " upon"}, word), frame({"content": "x"}), STOP)
    assert (whole.text, end) == ("Once upon", StreamEnd(str(word)))
    assert str(word) not in FINISHES


def test_a_word_of_a_server_s_own_is_an_end_where_its_spec_says_so():
    """Plain and streamed."""
    whole, end = streamed(frame({"content": "Once"}, "end"), finish_words={"end": "stop"})
    assert (whole.text, end) == ("Once", StreamEnd("stop"))


def test_the_empty_arguments_of_a_call_are_told_with_the_usage():
    """They wait for the end."""
    reader = OpenAIReader()
    reader.read_event(frame({"tool_calls": [CALL]}, "tool_calls"))
    told = ToolCallPart(0, None, None, "{}")
    choice = {"delta": {"content": "", "tool_calls": documents_of([told])}, "finish_reason": None}
    assert reader.usage_chunk() == Chunk({"choices": [choice]}, tool_calls=(told,))
    reader = OpenAIReader()
    reader.read_event(frame({"tool_calls": [CALL]}, "tool_calls", usage=USAGE))
    raw = {"choices": [choice], "usage": USAGE}
    assert reader.usage_chunk() == Chunk(raw, tool_calls=(told,), usage=Usage(1000, 10))


def test_nothing_that_waits_is_told_of_a_stream_that_ends_in_an_error():
    """Half a reply is no whole one."""
    reader = OpenAIReader()
    reader.read_event(frame({"tool_calls": [CALL]}, "tool_calls"))
    reader.read_event({"error": {"message": "Overloaded"}})
    assert reader.usage_chunk() is None


def test_a_tag_further_on_is_what_the_reply_is_about():
    """Also at the beginning of a part."""
    parts = ("Tags: ", "<think>", "like this", "</think>")
    whole, _ = streamed(*(frame({"content": part}) for part in parts), STOP)
    assert (whole.text, whole.reasoning) == ("".join(parts), "")


def test_a_tag_may_come_in_parts():
    """And so may what stands between two."""
    whole, _ = streamed(*(frame({"content": part}) for part in ("<thi", "nk>h", "m</think>", "2")), STOP)
    assert (whole.text, whole.reasoning) == ("2", "hm")


def test_a_choice_that_says_nothing_is_of_the_protocol():
    """The reply is cut short; it is not some other document."""
    _, end = streamed(frame({}))
    assert end == StreamEnd(None)


def test_the_servers_own_names_are_those_it_gave_first():
    """Plain as streamed."""
    names = {"id": "r1", "system_fingerprint": "f1"}
    in_parts = OpenAIReader()
    in_parts.read_event({"choices": [], **names})
    in_parts.read_event({"choices": [], "id": "r2", "system_fingerprint": "f2"})
    whole = OpenAIReader()
    whole.read_reply({"choices": [{}], **names})
    assert {(reader.reply_id, reader.system_fingerprint) for reader in (in_parts, whole)} == {("r1", "f1")}


def test_what_stands_beside_the_text_is_handed_to_langchain():
    """Plain as streamed: what is known of tokens and sources, signed thoughts, fields of the server's own."""
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    message = {
        "content": "a",
        "annotations": [{"index": 0, "type": "url_citation"}],
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
        "provider_specific_fields": {"of": "its own"},
        "audio": {"id": "a1", "expires_at": 7},
    }
    specific = {"of": "its own", "audio": {"id": "a1"}}
    grounding = {GROUNDING: [{"queries": ["a"]}]}
    choice = {"index": 0, "finish_reason": "length", "logprobs": logprobs}
    chunk = OpenAIReader().read_event({"choices": [{**choice, "delta": message}], **grounding})
    reply = OpenAIReader().read_reply(
        {"choices": [{**choice, "message": message}], "provider_specific_fields": {"b": "\ud83d"}, **grounding}
    )
    assert chunk is not None
    assert chunk.raw["provider_specific_fields"] == {"logprobs": logprobs}
    assert reply.raw["choices"][0]["logprobs"] == logprobs
    assert reply.raw["provider_specific_fields"] == {"b": "\ufffd"}
    for raw in (chunk.raw, reply.raw):
        said = raw["choices"][0].get("delta") or raw["choices"][0]["message"]
        assert (said["annotations"], said["thinking_blocks"]) == (
            [{"type": "url_citation"}],
            message["thinking_blocks"],
        )
        assert said["provider_specific_fields"] == specific
        assert raw[GROUNDING] == grounding[GROUNDING]


SOUND = {"audio": {"id": "a", "data": "UklG", "transcript": "hi"}}
PICTURE = {"images": [{"type": "image_url", "image_url": {"url": "data:,"}}]}


@pytest.mark.parametrize("message", [SOUND, PICTURE])
def test_sound_and_pictures_are_a_reply(message):
    """Though there is no text, and LangChain finds them among the provider's fields."""
    reply = plain({"content": None, **message})
    assert isinstance(reply, Reply)
    assert not PartialReply(reply).is_empty
    whole, _ = streamed(frame(message), STOP)
    assert not whole.is_empty
    assert reply.raw["choices"][0]["message"]["provider_specific_fields"] == message


def test_an_object_called_error_is_one():
    """vLLM and SGLang write it so."""
    _, end = streamed({"object": "error", "message": "Overloaded", "code": 503})
    assert isinstance(end, Fault)
    assert (end.failure, end.message) == ("overloaded", "Overloaded")


@pytest.mark.parametrize("error", [{"message": "Overloaded", "code": 503}, "Overloaded", {"message": "boom"}])
def test_an_error_in_a_frame_is_the_fault_it_names(error):
    """By its key, or by the name of its event; an empty one is none."""
    whole, end = streamed(frame({"content": "Once"}), {"error": error})
    assert isinstance(end, Fault)
    assert (end.failure, whole.text) == ("stream_broken", "Once")
    whole, end = streamed({**frame({"content": "Once"}), "error": None}, STOP)
    assert (whole.text, end) == ("Once", StreamEnd("stop"))


def whole_in_place_of_a_stream(document: Any, indent: int | None, size: int = 7) -> tuple[PartialReply, Any]:
    """What came of a body that is no stream, in reads of a few bytes."""
    response, whole = Response(OpenAIReader(), streamed=True), PartialReply()
    response.begin(200, {"content-type": "application/json"})
    body = json.dumps(document, indent=indent).encode()
    for data in [*(body[at : at + size] for at in range(0, len(body), size)), None]:
        for chunk in response.feed(data):
            whole.add(chunk)
    while isinstance(end := response.end(), Chunk):
        whole.add(end)
    return whole, end


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("text", ["Two hours", "word " * 10_000])
def test_a_whole_reply_in_place_of_a_stream_is_the_reply(indent, text):
    """Servers that cannot stream, or not with tools, answer so, on one line or on many."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"index": 0, "message": {"content": text, "tool_calls": [CALL]}, "finish_reason": "stop"}
    whole, end = whole_in_place_of_a_stream({"choices": [choice], "usage": usage}, indent, 1_000)
    assert (whole.text, whole.tool_calls[0].name, whole.usage, end) == (text, "f", Usage(3, 2), StreamEnd("tool_calls"))


@pytest.mark.parametrize(
    ("document", "failure"),
    [
        ({"choices": [{"message": {"content": 5}}]}, "invalid_response"),
        ({"choices": []}, "invalid_response"),
        ({}, "invalid_response"),
        ([{"choices": []}], "invalid_response"),
        ({"error": {"message": "Slow down", "code": 429}}, "rate_limited"),
        ([{"error": {"message": "Slow down", "code": 429}}], "rate_limited"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_in_place_of_a_stream_that_is_no_reply_is_its_fault(document, failure, indent):
    """An error by its own word."""
    _, end = whole_in_place_of_a_stream(document, indent)
    assert isinstance(end, Fault)
    assert end.failure == failure


def test_a_whole_reply_without_a_finish_is_no_whole_one():
    """As in a stream, and as in a plain reply."""
    whole, end = whole_in_place_of_a_stream({"choices": [{"message": {"content": "Two"}}]}, None)
    assert (whole.text, end) == ("Two", StreamEnd(None))


@pytest.mark.parametrize("frames", [[], [frame({"content": "Once"})]])
def test_an_error_within_a_list_is_the_fault_it_names(frames):
    """Google answers so where it was to send a list of chunks."""
    _, end = streamed(*frames, [{"error": {"message": "Resource exhausted", "code": 429}}])
    assert isinstance(end, Fault)
    assert end.failure == ("stream_broken" if frames else "rate_limited")
    reply = Response(OpenAIReader(), streamed=False).reply(b'[{"error": {"message": "Quota", "code": 429}}]')
    assert isinstance(reply, Fault)
    assert (reply.failure, reply.status) == ("rate_limited", 429)


def test_an_event_called_error_is_one_whatever_it_says():
    """Text Generation Inference and LM Studio name it so."""
    response = Response(OpenAIReader(), streamed=True)
    response.begin(200, {})
    response.feed(b'event: error\ndata: {"message": "Overloaded", "code": 503}\n\n')
    end = response.end()
    assert isinstance(end, Fault)
    assert (end.failure, end.message) == ("overloaded", "Overloaded")


frames_of_any_kind = st.one_of(
    anything,
    st.fixed_dictionaries({}, optional=dict.fromkeys(("choices", "usage", "error", "object"), anything)),
    st.builds(frame, anything, anything),
    st.builds(
        frame,
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("content", "reasoning_content", "reasoning", "tool_calls", "refusal", "audio", "images"), anything
            ),
        ),
        st.sampled_from([None, "stop", "length", "abort"]),
    ),
)


@given(st.lists(frames_of_any_kind, max_size=4), st.booleans())
def test_no_frames_are_too_odd(frames, done):
    """They end in a finish or a fault, and what came of them is text that can be encoded."""
    whole, end = streamed(*frames, done=done)
    assert isinstance(end, StreamEnd | Fault)
    json.dumps([whole.text, whole.reasoning, [call.arguments for call in whole.tool_calls.values()]])
    (whole.text + whole.reasoning).encode()


@given(anything | st.builds(dict, choices=st.lists(st.builds(dict, message=anything, finish_reason=anything))))
def test_no_document_is_too_odd(document):
    """It is a reply or a fault."""
    response = Response(OpenAIReader(), streamed=False)
    assert isinstance(response.reply(json.dumps(document).encode()), Reply | Fault)


def test_pictures_and_citations_of_one_index_stay_apart():
    """LangChain merges what bears the same index, and adds their numbers up."""
    told = OpenAIReader().read_event(
        frame({"images": [{"index": 0, "type": "image_url"}], "annotations": [{"index": 0}]})
    )
    assert told is not None
    delta = told.raw["choices"][0]["delta"]
    assert (delta["provider_specific_fields"], delta["annotations"]) == ({"images": [{"type": "image_url"}]}, [{}])


def test_a_refusal_behind_a_finish_is_one_all_the_same():
    """In an event without a word of its own."""
    _, end = streamed(frame({"content": "I"}, "stop"), frame({"refusal": "cannot"}))
    assert end == StreamEnd(REFUSED_FINISH)


def test_nothing_is_kept_back_behind_a_finish():
    """Nobody knows which chunk is the last where each says "stop": half a tag or half a character is told as it is."""
    whole, _ = streamed(frame({"content": "a"}, "stop"), frame({"content": "b\ud83d"}, "stop"))
    assert whole.text == "ab\ufffd"
    whole, _ = streamed(frame({"content": ""}, "stop"), frame({"content": "<think>a</think>b <"}, "stop"))
    assert (whole.text, whole.reasoning) == ("b <", "a")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stop", "stop"], ["stop", None]),
        (["stop", "length"], ["stop", "length"]),
        (["tool_calls", "stop"], ["tool_calls", None]),
        (["length", "stop"], ["length", None]),
    ],
)
def test_stop_gives_way_to_any_other_finish(words, told):
    """Some gateways say it with every chunk."""
    reader = OpenAIReader()
    chunks = [reader.read_event(frame({"content": "a"}, word)) for word in words]
    assert [chunk and chunk.raw["choices"][0]["finish_reason"] for chunk in chunks] == told
    assert reader.end() == StreamEnd(max(words, key="stop".__ne__))


def test_a_frame_without_the_index_of_its_choice_belongs_to_it():
    """Some servers leave it out in the middle, some at the beginning."""
    without = {"choices": [{"delta": {"content": "b"}}]}
    whole, end = streamed(frame({"content": "a"}), without, STOP)
    assert (whole.text, end) == ("ab", StreamEnd("stop"))
    whole, end = streamed(without, frame({"content": "c"}), STOP)
    assert (whole.text, end) == ("bc", StreamEnd("stop"))


def test_thoughts_beside_thoughts_are_all_told():
    """In a field and between tags, plain as streamed."""
    message = {"reasoning_content": "hm", "content": "<think>so</think>yes"}
    reply = plain(message)
    assert isinstance(reply, Reply)
    whole, _ = streamed(frame(message), STOP)
    assert (reply.text, reply.reasoning) == (whole.text, whole.reasoning) == ("yes", "hmso")
