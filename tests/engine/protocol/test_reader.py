"""What readers of every protocol have in common: content as chunks and replies in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llm_fallback.engine.protocol.reader import (
    GROUNDING,
    NO_FIELDS,
    ReplyReader,
    has_media,
    is_quotable,
    with_grounding,
    with_logprobs,
)
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import FULL_WINDOW, Chunk, Fault, Reply, StreamEnd, ToolCallPart
from llm_fallback.events import Usage


class Reader(ReplyReader):
    """A reader of no protocol."""

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        raise NotImplementedError

    def read_reply(self, document: Mapping[str, Any]) -> Reply:
        raise NotImplementedError


CALL = ToolCallPart(0, "c1", "go", "{}")
CALL_DOCUMENT = {"index": 0, "id": "c1", "type": "function", "function": {"name": "go", "arguments": "{}"}}
PICTURES = {"provider_specific_fields": {"images": [{"type": "image_url"}]}}


def delta_of(chunk: Chunk | None) -> Mapping[str, Any]:
    assert chunk is not None
    (choice,) = chunk.raw["choices"]
    delta: Mapping[str, Any] = choice["delta"]
    return delta


@pytest.mark.parametrize(
    ("name", "is_one"), [("", False), ("r", True), ("r" * 512, True), ("r" * 513, False)], ids=["", "r", "512", "513"]
)
def test_a_name_is_neither_empty_nor_longer_than_anybody_quotes(name, is_one):
    """Of a request as of a reply."""
    assert is_quotable(name) is is_one
    reader = Reader()
    reader.take_names(name, name)
    assert (reader.reply_id, reader.system_fingerprint) == ((name, name) if is_one else (None, None))


@pytest.mark.parametrize("word", [None, 7, "é", ["r"], "r" * 513])
def test_what_is_no_name_leaves_the_one_that_was_told(word):
    """Each of the two for itself; a later one takes its place."""
    reader = Reader()
    reader.take_names("first", "f1")
    reader.take_names(word, "f2")
    assert (reader.reply_id, reader.system_fingerprint) == ("first", "f2")
    reader.take_names("second", word)
    assert (reader.reply_id, reader.system_fingerprint) == ("second", "f2")
    reader.take_names("third")
    assert (reader.reply_id, reader.system_fingerprint) == ("third", "f2")


def test_a_chunk_is_what_came_in_openai_s_form():
    """Text, reasoning, calls and their end."""
    reader = Reader()
    assert reader.chunk("Once") == Chunk({"choices": [{"delta": {"content": "Once"}, "finish_reason": None}]}, "Once")
    delta = {"content": "", "reasoning_content": "hm"}
    assert reader.chunk(reasoning="hm") == Chunk({"choices": [{"delta": delta, "finish_reason": None}]}, reasoning="hm")
    raw = {"choices": [{"delta": {"content": "", "tool_calls": [CALL_DOCUMENT]}, "finish_reason": "tool_calls"}]}
    assert reader.chunk(calls=(CALL,), finish="tool_calls") == Chunk(raw, tool_calls=(CALL,), finish="tool_calls")
    raw = {"choices": [{"delta": {"content": "", **PICTURES}, "finish_reason": None}]}
    assert reader.chunk(fields=PICTURES) == Chunk(raw, has_media=True)
    assert reader.chunk() is None


def test_other_fields_are_no_media():
    """And no thoughts, whoever signs those."""
    fields = {"annotations": [{"title": "a"}]}
    reader = Reader()
    reader.signer = "m"
    raw = {"choices": [{"delta": {"content": "", **fields}, "finish_reason": None}]}
    assert reader.chunk(fields=fields) == Chunk(raw)
    assert not reader.content_came
    reply = reader.reply(fields=fields)
    assert (reply.has_media, reply.raw["choices"][0]["message"]) == (
        False,
        {"role": "assistant", "content": "", **fields},
    )


def test_a_word_that_only_we_tell_apart_is_told_in_openai_s():
    """LangChain knows no other for a full window."""
    reader = Reader()
    chunk = reader.chunk(finish=reader.end_with("model_context_window_exceeded"))
    for came in (chunk, reader.reply()):
        assert came is not None
        assert (came.finish, came.raw["choices"][0]["finish_reason"]) == ("model_context_window_exceeded", "length")


def test_a_reply_is_what_came_in_openai_s_form():
    """The whole of it, with its usage."""
    reader = Reader()
    reader.count(Usage(5, 7))
    assert reader.end_with("stop") == "stop"
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    message = {"role": "assistant", "content": "Once", "reasoning_content": "hm", **PICTURES}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": []}}
    reply = reader.reply("Once", "hm", (), PICTURES, {"content": []})
    assert reply == Reply({"choices": [choice], "usage": usage}, "Once", "hm", (), "stop", Usage(5, 7), has_media=True)


def test_a_reply_of_a_call_ends_in_one():
    """Agents look at the word; and what is not said is not there."""
    reader = Reader()
    reader.end_with("stop")
    message = {"role": "assistant", "content": "", "tool_calls": [CALL_DOCUMENT]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    assert reader.reply(calls=(CALL,), logprobs="none") == Reply(
        {"choices": [choice], "usage": {}}, tool_calls=(CALL,), finish="tool_calls"
    )


@pytest.mark.parametrize("finish", [None, "length", "content_filter", "abort"])
def test_another_end_of_a_call_is_left_as_it_is(finish):
    """Its arguments may be cut."""
    reader = Reader()
    reader.end_with(finish)
    assert reader.reply(calls=(CALL,)).finish == finish
    told = Reader().chunk(calls=(CALL,), finish=finish)
    assert told is not None
    assert told.finish == finish


def test_half_a_character_is_replaced_wherever_it_stands():
    """In a reply, its fields and its probabilities: nobody could encode it again."""
    half, whole = "a\ud83d", "a\ufffd"
    reply = Reader().reply(half, half, (), {"annotations": [{"title": half}]}, {"content": [half]})
    (choice,) = reply.raw["choices"]
    assert (reply.text, reply.reasoning) == (whole, whole)
    assert choice["message"] == {
        "role": "assistant",
        "content": whole,
        "annotations": [{"title": whole}],
        "reasoning_content": whole,
    }
    assert choice["logprobs"] == {"content": [whole]}
    assert delta_of(Reader().chunk(fields={"annotations": [{"title": half}]})) == {
        "content": "",
        "annotations": [{"title": whole}],
    }


def test_half_a_character_at_the_end_of_a_stream_is_told_with_it():
    """Of the text and of the reasoning, which until then may go on."""
    reader = Reader()
    first, last = reader.chunk("a\ud83d", "b\ud83d"), reader.chunk(finish=reader.end_with("stop"))
    assert first is not None
    assert last is not None
    assert (first.text, first.reasoning) == ("a", "b")
    assert (last.text, last.reasoning) == ("\ufffd", "\ufffd")
    assert delta_of(last) == {"content": "\ufffd", "reasoning_content": "\ufffd"}


def test_a_stream_is_past_its_thoughts_once_a_text_or_a_call_came():
    """Not for thoughts alone."""
    for said, is_past in (({"reasoning": "hm"}, False), ({"text": "a"}, True), ({"calls": (CALL,)}, True)):
        reader = Reader()
        assert not reader.is_past_thoughts
        reader.chunk(**said)
        assert reader.is_past_thoughts is is_past


def test_content_came_once_something_of_the_reply_itself_did():
    """White space alone is none, nor is an end; and it stays."""
    reader = Reader()
    for said, came in (("\n", False), ("", False), ("a", True), ("\n", True)):
        reader.chunk(said, finish="stop" if said == "" else None)
        assert reader.content_came is came


def test_the_word_stop_behind_a_call_is_tool_calls():
    """Whether the call came before or with it."""
    reader = Reader()
    reader.chunk(calls=(CALL,))
    assert reader.end_with("stop") == "tool_calls"
    assert reader.end() == StreamEnd("tool_calls")
    reader = Reader()
    told = reader.chunk(calls=(CALL,), finish=reader.end_with("stop"))
    assert told is not None
    assert told.raw["choices"][0]["finish_reason"] == told.finish == "tool_calls"
    assert reader.end() == StreamEnd("tool_calls")


@pytest.mark.parametrize(
    ("words", "told", "end", "is_over"),
    [
        ([None, ""], [None, None], None, False),
        (["stop", "length"], ["stop", "length"], "length", False),
        (["stop", "tool_calls"], ["stop", "tool_calls"], "tool_calls", False),
        (["length", "stop"], ["length", None], "length", False),
        (["length", "tool_calls"], ["length", None], "length", False),
        (["length", "length"], ["length", None], "length", False),
        (["tool_calls", "length"], ["tool_calls", "length"], "length", False),
        (["stop", "content_filter"], ["stop", "content_filter"], "content_filter", False),
        (["content_filter", "length"], ["content_filter", None], "content_filter", False),
        (["content_filter", FULL_WINDOW], ["content_filter", None], "content_filter", False),
        ([FULL_WINDOW, "length"], [FULL_WINDOW, None], FULL_WINDOW, False),
        (["length", FULL_WINDOW], ["length", FULL_WINDOW], FULL_WINDOW, False),
        (["content_filter", "abort"], ["content_filter", None], "abort", True),
        (["stop", "abort"], ["stop", None], "abort", True),
        (["abort"], [None], "abort", True),
        (["abort", "stop"], [None, None], "abort", False),
        (["fin", "stop"], ["length", None], "length", False),
    ],
)
def test_of_several_ends_the_one_counts_by_which_most_is_missing(words, told, end, is_over):
    """Some gateways say "stop" with every event. What is no news is not told again."""
    reader = Reader({"fin": "length"})
    assert [reader.end_with(word) for word in words] == told
    assert (reader.end(), reader.is_over) == (StreamEnd(end), is_over)


@pytest.mark.parametrize(("word", "end"), [("stop", "content_filter"), (None, None), ("abort", "abort")])
def test_a_refusal_in_a_field_of_its_own_is_the_end_of_what_ended(word, end):
    """Of what was cut it is no end. It is told with the word, though the stream may stay open."""
    reader = Reader()
    reader.refused = True
    assert reader.end_with(word) == ("content_filter" if word == "stop" else None)
    assert reader.end() == StreamEnd(end)
    assert reader.reply("no").finish == end
    assert reader.reply("no").raw["choices"][0]["finish_reason"] == end


def test_a_fault_is_the_end_of_a_stream():
    """And nothing of it is billed here."""
    reader = Reader()
    reader.count(Usage(5, 7))
    reader.finish, reader.fault = "stop", Fault("overloaded", "Overloaded", 503)
    assert reader.end() == reader.fault
    assert reader.usage_chunk() is None


def test_a_call_that_nobody_named_cannot_end():
    """There is nobody to give its arguments to."""
    reader = Reader()
    reader.calls.read([{"index": 0, "function": {"arguments": "{}"}}])
    with pytest.raises(Unreadable, match=r"^a tool call without a name$"):
        reader.end()


def test_the_usage_of_a_stream_is_a_chunk_without_a_choice():
    """The fullest account that came; where none did there is none."""
    reader = Reader()
    assert reader.usage_chunk() is None
    for usage in (Usage(5, 1), Usage(5, 7), None):
        reader.count(usage)
    document = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert reader.usage_chunk() == Chunk({"choices": [], "usage": document}, usage=Usage(5, 7))


def test_what_a_reply_was_looked_up_in_is_told_once():
    """One or several at a time, again and again; what says nothing is not told at all."""
    reader, first, second = Reader(), {"queries": ["a"]}, {"queries": ["b"]}
    assert reader.untold_grounding(first) == [first]
    assert reader.untold_grounding([{}, first, second]) == [second]
    assert reader.untold_grounding([first, second]) == []
    assert reader.untold_grounding(None) == []
    with pytest.raises(Unreadable, match=r"^grounding is a number, not the list it should be$"):
        reader.untold_grounding(7)


EMPTY = {"choices": [{"delta": {"content": ""}, "finish_reason": None}]}


def test_what_it_was_looked_up_in_stands_beside_a_chunk_or_alone():
    """Without half characters."""
    said = [{"queries": ["a\ud83d"]}]
    chunk = Reader().chunk("Once")
    assert with_grounding(None, []) is None
    assert with_grounding(chunk, []) is chunk
    told = [{"queries": ["a\ufffd"]}]
    assert with_grounding(None, said) == Chunk({**EMPTY, GROUNDING: told})
    told_with = with_grounding(chunk, said)
    assert told_with is chunk
    assert chunk is not None
    assert chunk.raw[GROUNDING] == told


@pytest.mark.parametrize("said", [None, 7, {}, {"content": None}, {"content": []}, {"content": 7}])
def test_probabilities_that_are_none_are_not_told(said):
    """Nor is what LangChain could not join."""
    chunk = Reader().chunk("Once")
    assert with_logprobs(chunk, said) is chunk
    assert chunk is not None
    assert chunk.raw == {"choices": [{"delta": {"content": "Once"}, "finish_reason": None}]}
    assert with_logprobs(None, said) is None


def test_probabilities_stand_beside_a_chunk_or_alone():
    """As lists, without half characters."""
    said = {"content": [{"token": "a\ud83d"}], "refusal": None, "odd": 7}
    told = {"provider_specific_fields": {"logprobs": {"content": [{"token": "a\ufffd"}], "refusal": None}}}
    assert with_logprobs(None, said) == Chunk({**EMPTY, **told})
    chunk = Reader().chunk("Once")
    assert with_logprobs(chunk, said) is chunk
    assert chunk is not None
    assert chunk.raw["provider_specific_fields"] == told["provider_specific_fields"]


def test_sound_and_pictures_are_media():
    """Among the provider's fields, and nowhere else."""
    assert has_media(PICTURES)
    assert has_media({"provider_specific_fields": {"audio": {}}})
    assert not has_media({"provider_specific_fields": {"citations": []}, "images": []})
    assert not has_media(NO_FIELDS)


def thought(word: str) -> dict[str, str]:
    return {"type": "thinking", "thinking": word, "signature": "s"}


def origins(message: Mapping[str, Any]) -> list[str | None]:
    specific = message.get("provider_specific_fields", {})
    return [block["origin"] for block in specific.get("signed_thinking", ())]


def blocks(*words: str) -> dict[str, Any]:
    return {"thinking_blocks": [thought(word) for word in words], "provider_specific_fields": {"a": 1}}


@pytest.mark.parametrize(
    ("said", "leading", "expected"),
    [
        ({"fields": blocks("x")}, None, ["m"]),
        ({"fields": blocks("x", "y")}, None, ["m", "m"]),
        ({"fields": blocks("x"), "text": "a"}, None, ["m"]),
        ({"fields": blocks("x", "y"), "text": "a"}, None, [None, None]),
        ({"fields": blocks("x"), "calls": (CALL,)}, None, ["m"]),
        ({"fields": blocks("x", "y"), "calls": (CALL,)}, None, ["m", "m"]),
        ({"fields": blocks("x", "y"), "calls": (CALL, CALL)}, None, [None, None]),
        ({"fields": blocks("x", "y"), "text": "a"}, 1, ["m", None]),
        ({"fields": blocks("x"), "text": "a"}, 0, [None]),
    ],
)
def test_thoughts_of_a_reply_go_back_as_far_as_they_came_before_all_else(said, leading, expected):
    """Where nobody says how many, those that cannot have come between two others."""
    reader = Reader()
    reader.signer = "m"
    message = reader.reply(**said, leading=leading).raw["choices"][0]["message"]
    assert origins(message) == expected
    assert message["provider_specific_fields"]["a"] == 1
    assert message["thinking_blocks"] == said["fields"]["thinking_blocks"]


@pytest.mark.parametrize(
    ("before", "leading", "expected"),
    [
        ({}, None, ["m", "m"]),
        ({"reasoning": "hm"}, None, ["m", "m"]),
        ({"text": "a"}, None, [None, None]),
        ({"calls": (CALL,)}, None, [None, None]),
        ({"text": "a"}, 1, ["m", None]),
        ({}, 0, [None, None]),
    ],
)
def test_so_do_thoughts_of_a_stream(before, leading, expected):
    """Where nobody says how many, all of them before any text or call, and none behind it."""
    reader = Reader()
    reader.signer = "m"
    reader.chunk(**before)
    assert origins(delta_of(reader.chunk("b", fields=blocks("x", "y"), leading=leading))) == expected


def test_thoughts_of_nobody_are_left_as_they_are():
    """Where nobody signs any, and where none is signed."""
    fields = blocks("x")
    assert delta_of(Reader().chunk(fields=fields)) == {"content": "", **fields}
    reader = Reader()
    reader.signer = "m"
    unsigned = {"thinking_blocks": [{"type": "thinking", "thinking": "x"}]}
    assert delta_of(reader.chunk(fields=unsigned)) == {"content": "", **unsigned}
    signed = {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}
    (told,) = delta_of(reader.chunk(fields=signed))["provider_specific_fields"]["signed_thinking"]
    assert told == {**thought("x"), "origin": "m"}
