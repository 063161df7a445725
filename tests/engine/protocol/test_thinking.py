"""Signed thoughts: kept whole with their origin, and given back to it alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.engine.protocol.thinking import (
    BLOCKS,
    ORIGIN,
    SIGNED,
    ThoughtReader,
    lacks_thoughts,
    with_thoughts_of,
)
from llm_fallback.engine.transport import Reply
from tests.corpus.cases import systems
from tests.engine.protocol.spoken import merge_dicts

ORIGINS = st.sampled_from(["anthropic/claude-sonnet-4-5", "anthropic/claude-opus-4-1", "litellm_proxy/claude", None])
SAID = [
    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="},
    {"type": "redacted_thinking", "data": "EmwKAhgB"},
]
CALL = {"id": "t1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
BLOCK = st.builds(lambda block, origin: {**block, ORIGIN: origin}, st.sampled_from(SAID), ORIGINS)
ASSISTANT = st.builds(
    lambda content, calls, own: {"role": "assistant", "content": content, **calls, **own},
    st.sampled_from(["", "let me see"]),
    st.sampled_from([{}, {"tool_calls": [CALL]}]),
    st.one_of(
        st.just({}),
        st.builds(lambda who: {ORIGIN: who}, ORIGINS),
        st.builds(lambda own: {BLOCKS: own}, st.lists(BLOCK)),
    ),
)
OTHERS = st.sampled_from(
    [
        {"role": "user", "content": "weather?"},
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "system", "content": "Be brief."},
    ]
)
MESSAGES = st.lists(st.one_of(ASSISTANT, OTHERS), max_size=8)


def origins(message: dict[str, Any]) -> set[str | None]:
    return {block[ORIGIN] for block in message.get(BLOCKS, ())}


@given(MESSAGES, ORIGINS)
def test_blocks_go_back_to_their_origin_whole_and_to_nobody_else(messages, origin):
    """As they were said, beside messages that are otherwise what they were; nobody is told of origins."""
    for given_, sent in zip(messages, with_thoughts_of(messages, origin), strict=True):
        is_theirs = origin is not None and origins(given_) == {origin}
        expected = [{name: said for name, said in block.items() if name != ORIGIN} for block in given_.get(BLOCKS, ())]
        assert sent.get(BLOCKS) == (expected if is_theirs else None)
        assert ORIGIN not in sent
        assert (sent["content"] or "", sent.get("tool_calls")) == (given_["content"], given_.get("tool_calls"))


@given(MESSAGES, ORIGINS.filter(bool))
def test_a_turn_that_is_not_refused_begins_with_a_thought(messages, origin):
    """What the user said last, results of tools aside, divides it from what may be without."""
    sent = with_thoughts_of(messages, origin)
    turn: list[Any] = []
    for at, message in enumerate(messages):
        is_beside_a_result = any(earlier["role"] == "tool" for earlier in after_last_assistant(messages[:at]))
        if message["role"] == "user" and not is_beside_a_result:
            turn = []
        elif message["role"] == "assistant":
            turn.append(sent[at])
    if not lacks_thoughts(messages, origin):
        assert not turn or BLOCKS in turn[0]
    elif all(BLOCKS in message for message in turn):
        pytest.fail("a turn with all of its thoughts was refused")


def after_last_assistant(messages: list[Any]) -> list[Any]:
    places = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[places[-1] + 1 :] if places else messages


def test_messages_without_thoughts_are_the_same_object():
    """Nearly every call has such, and pays for no copy."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert with_thoughts_of(messages, "anthropic/claude") is messages


@pytest.mark.parametrize(
    "stored", [7, True, "x", [], ["x"], [{}], [{"type": "thinking", "thinking": "hm", ORIGIN: "a"}]]
)
def test_what_is_no_signed_block_is_never_sent(stored):
    """Whoever wrote it there."""
    (sent,) = with_thoughts_of([{"role": "assistant", "content": "hm", BLOCKS: stored}], "a")
    assert sent == {"role": "assistant", "content": "hm"}


def test_a_later_step_of_the_same_model_may_do_without_a_thought():
    """Claude thinks once in a turn unless told otherwise; what another model said in it is another matter."""
    first = {"role": "assistant", "content": "", "tool_calls": [CALL], BLOCKS: [{**SAID[0], ORIGIN: "a"}]}
    asked, result = {"role": "user", "content": "?"}, {"role": "tool", "tool_call_id": "t1", "content": "rain"}
    own, other = ({"role": "assistant", "content": "", "tool_calls": [CALL], ORIGIN: who} for who in ("a", "b"))
    assert not lacks_thoughts([asked, first, result, own, result], "a")
    assert lacks_thoughts([asked, first, result, other, result], "a")
    assert lacks_thoughts([asked, own, result], "a")
    assert not lacks_thoughts([asked, own, result, {"role": "assistant", "content": "rain"}, asked], "a")


REDACTED = {"type": "redacted_thinking", "data": "EmwKAhgB"}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (SAID[0], SAID[0]),
        ({**SAID[0], "index": 0}, SAID[0]),
        (REDACTED, REDACTED),
        ({**REDACTED, "signature": "s"}, REDACTED),
        ({"type": "redacted_thinking", "data": ""}, None),
        ({"type": "redacted_thinking", "signature": "s"}, None),
        ({"type": "thinking", "thinking": "hm", "data": "EmwKAhgB"}, None),
        ({"type": "thinking", "signature": "s"}, {"type": "thinking", "thinking": "", "signature": "s"}),
        ({"type": "thinking", "thinking": 7, "signature": "s"}, {"type": "thinking", "thinking": "", "signature": "s"}),
        ({"type": "another", "thinking": "hm", "signature": "s", "data": "EmwKAhgB"}, None),
    ],
)
def test_a_block_has_what_its_protocol_has_for_it(part, block):
    """A thought with its signature, or one that was redacted; all else is none."""
    assert ThoughtReader("a").read([part], lead=True) == ([] if block is None else [{**block, ORIGIN: "a"}])
    (sent,) = with_thoughts_of([{"role": "assistant", "content": "hm", BLOCKS: [{**part, ORIGIN: "a"}]}], "a")
    assert sent.get(BLOCKS) == (None if block is None else [block])


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ({"content": "", "tool_calls": [CALL]}, None),
        ({"content": "hm", "tool_calls": [CALL]}, "hm"),
        ({"content": None, "tool_calls": [CALL]}, None),
        ({"content": "", "tool_calls": []}, ""),
        ({"content": ""}, ""),
    ],
)
def test_a_call_that_was_made_without_a_word_is_sent_back_without_one(said, content):
    """Beside its thoughts: litellm would put words of its own in place of an empty text."""
    (sent,) = with_thoughts_of([{"role": "assistant", **said, BLOCKS: [{**REDACTED, ORIGIN: "a"}]}], "a")
    assert sent == {"role": "assistant", **said, "content": content, BLOCKS: [REDACTED]}
    (sent,) = with_thoughts_of([{"role": "assistant", **said, ORIGIN: "a"}], "a")
    assert sent == {"role": "assistant", **said}


def test_thoughts_of_nobody_go_back_to_nobody():
    """They stood where they cannot be sent back."""
    for origin in ("a", None):
        (sent,) = with_thoughts_of(
            [{"role": "assistant", "content": "hm", BLOCKS: [{**REDACTED, ORIGIN: None}]}], origin
        )
        assert sent == {"role": "assistant", "content": "hm"}


@pytest.mark.parametrize("role", ["tool", "function"])
def test_words_beside_a_result_begin_no_turn(role):
    """Only those of a user who was answered do; a system's begin none."""
    asked, result = {"role": "user", "content": "?"}, {"role": role, "content": "rain"}
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert lacks_thoughts([asked, called, result], "a")
    assert lacks_thoughts([asked, called, result, asked], "a")
    assert lacks_thoughts([asked, called, {"role": "system", "content": "Be brief."}], "a")
    assert not lacks_thoughts([asked, called, asked], "a")
    assert not lacks_thoughts([asked, called, result, called, asked], "a")
    assert not lacks_thoughts([asked, called, {"role": "system", "content": "Be brief."}, asked], "a")


@given(st.text(), st.lists(st.text()))
def test_parts_add_up_to_the_block_that_a_whole_one_is(last, parts):
    """The signature comes with an empty last part, or with the whole text."""
    reader = ThoughtReader("a")
    for part in parts:
        assert reader.read([{"type": "thinking", "thinking": part, "signature": ""}], lead=True) == []
    (block,) = reader.read([{"type": "thinking", "thinking": last, "signature": "s"}], lead=True)
    assert block == {"type": "thinking", "thinking": last or "".join(parts), "signature": "s", ORIGIN: "a"}


def signed_by(reader: type[ReplyReader]) -> ReplyReader:
    one = reader()
    one.signer = "a"
    return one


READERS = {"anthropic": AnthropicReader, "bedrock": ConverseReader, "litellm_proxy": OpenAIReader}
REPLIES = {
    f"{system.name} {one.name}": (READERS[system.name], one)
    for system in systems()
    if system.name in READERS
    for one in system.replies
    if one.failure is None and one.body and one.frames and "signature" in str(one.body)
}


def frames_of(frames: list[Any]) -> list[Any]:
    """Documents, as the parser of a stream hands them on."""
    return [{frame["event"]: frame["data"]} if "event" in frame and "data" in frame else frame for frame in frames]


@pytest.mark.parametrize("name", sorted(REPLIES))
def test_a_reply_tells_who_signed_what_plain_and_streamed(name):
    """Of every provider that signs: whole blocks with their signatures and their origin."""
    kind, said = REPLIES[name]
    plain = signed_by(kind).read_reply(said.body)
    assert isinstance(plain, Reply)
    reader, fields = signed_by(kind), {}
    for frame in frames_of(said.frames):
        chunk = reader.read_event(frame)
        if chunk is not None and chunk.raw["choices"]:
            fields = merge_dicts(fields, chunk.raw["choices"][0]["delta"].get("provider_specific_fields") or {})
    for told in (plain.raw["choices"][0]["message"]["provider_specific_fields"][SIGNED], fields[SIGNED]):
        assert told
        assert all(block[ORIGIN] == "a" and (block.get("signature") or block.get("data")) for block in told)


UNCLOSED = {
    AnthropicReader: [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ],
    ConverseReader: [
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "s"}}}},
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"text": "Hi"}}},
        {"messageStop": {"stopReason": "end_turn"}},
    ],
}


@pytest.mark.parametrize("kind", UNCLOSED)
def test_a_thought_that_nobody_closed_goes_back_to_who_signed_it(kind):
    """It began before the text, though it is whole behind it."""
    reader = signed_by(kind)
    *_, last = [chunk for frame in UNCLOSED[kind] if (chunk := reader.read_event(frame)) is not None]
    (block,) = last.raw["choices"][0]["delta"]["provider_specific_fields"][SIGNED]
    assert block == {"type": "thinking", "thinking": "hm", "signature": "s", ORIGIN: "a"}


INTERLEAVED = [
    {"type": "thinking", "thinking": "one", "signature": "s1"},
    {"type": "text", "text": "Let me look."},
    {"type": "thinking", "thinking": "two", "signature": "s2"},
    {"type": "tool_use", "id": "t1", "name": "look_up", "input": {}},
]


def test_thoughts_between_texts_have_no_place_to_go_back_to():
    """A message holds its thoughts before its text, and moved about they are refused."""
    body = {"type": "message", "role": "assistant", "content": INTERLEAVED, "stop_reason": "tool_use"}
    plain = signed_by(AnthropicReader).read_reply(body)
    assert isinstance(plain, Reply)
    reader, streamed = signed_by(AnthropicReader), []
    for at, block in enumerate(INTERLEAVED):
        begun = {"type": "content_block_start", "index": at, "content_block": block}
        for document in (begun, {"type": "content_block_stop", "index": at}):
            chunk = reader.read_event(document)
            fields = {} if chunk is None else chunk.raw["choices"][0]["delta"].get("provider_specific_fields", {})
            streamed += fields.get(SIGNED, [])
    for told in (streamed, plain.raw["choices"][0]["message"]["provider_specific_fields"][SIGNED]):
        assert [block[ORIGIN] for block in told] == ["a", None]
        message = {"role": "assistant", "content": "Let me look.", BLOCKS: told}
        assert BLOCKS not in with_thoughts_of([message], "a")[0]
