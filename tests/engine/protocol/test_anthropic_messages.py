"""Anthropic's Messages come to the same, plain and streamed, and to what litellm makes of the plain ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.utils._merge import merge_dicts
from litellm import ModelResponse
from litellm.llms.anthropic.chat.transformation import AnthropicConfig

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import Chunk, Fault, PartialReply, Reply, StreamEnd
from llm_fallback.events import Usage
from tests.corpus.cases import systems

(ANTHROPIC,) = [one for one in systems() if one.name == "anthropic"]
PLAIN = {one.name: one.body for one in ANTHROPIC.replies if one.body is not None}
STREAMED = {one.name: one.frames for one in ANTHROPIC.replies if one.frames is not None}
BOTH = sorted(PLAIN.keys() & STREAMED.keys())
FIELDS = ("citations", "thinking_blocks", "web_search_results", "tool_results", "stop_reason", "stop_details")


def read(frames: Iterable[Mapping[str, Any]]) -> tuple[AnthropicReader, list[Chunk]]:
    """The reader of a stream, and the chunks it made of it."""
    reader = AnthropicReader()
    return reader, [chunk for frame in frames if (chunk := reader.read_event(frame)) is not None]


def read_plain(body: Mapping[str, Any]) -> Reply:
    reply = AnthropicReader().read_reply(body)
    assert isinstance(reply, Reply)
    return reply


def told(came: PartialReply) -> tuple[Any, ...]:
    calls = [(call.id, call.name, call.arguments.replace(" ", "")) for call in came.tool_calls.values()]
    return came.text, came.reasoning, calls, came.finish


def specific(deltas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands beside the content, added up as LangChain adds chunks up."""
    fields = [delta.get("provider_specific_fields", {}) for delta in deltas]
    return {name: said for name, said in merge_dicts({}, *fields).items() if name in FIELDS}


@pytest.mark.parametrize("name", BOTH)
def test_a_stream_comes_to_what_the_plain_reply_is(name):
    """Text, reasoning, calls, finish, usage, and what stands beside them once LangChain added it up."""
    reader, chunks = read(STREAMED[name])
    plain = read_plain(PLAIN[name])
    assert told(PartialReply(*chunks)) == told(PartialReply(plain))
    assert reader.usage == plain.usage
    message = plain.raw["choices"][0]["message"]
    assert specific(chunk.raw["choices"][0]["delta"] for chunk in chunks) == specific([message])
    assert reader.end() == StreamEnd(plain.finish)
    assert reader.is_over


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_plain_reply_is_what_litellm_makes_of_it(name):
    """But for what it makes up: a guess at the tokens of reasoning."""
    raw = httpx.Response(200, json=PLAIN[name])
    theirs = AnthropicConfig().transform_parsed_response(raw.json(), raw, ModelResponse()).model_dump()
    reply = read_plain(PLAIN[name])
    message, expected = reply.raw["choices"][0]["message"], theirs["choices"][0]["message"]
    assert reply.text == (expected["content"] or "")
    assert reply.reasoning == (expected.get("reasoning_content") or "")
    assert message.get("thinking_blocks") == expected.get("thinking_blocks")
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in expected["tool_calls"] or ()
    ]
    beside = {name: said for name, said in expected["provider_specific_fields"].items() if said is not None}
    assert specific([message]) == {name: said for name, said in beside.items() if name in FIELDS}
    usage = reply.raw["usage"]
    assert [usage[name] for name in ("prompt_tokens", "completion_tokens")] == [
        theirs["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    ]


@pytest.mark.parametrize("name", sorted(STREAMED))
def test_a_stream_cut_before_its_stop_reason_has_no_finish(name):
    """Wherever it is cut, what came never passes for whole."""
    frames = STREAMED[name]
    end = next(place for place, frame in enumerate(frames) if frame["type"] == "message_delta")
    for cut in range(end + 1):
        assert read(frames[:cut])[0].end() == StreamEnd(None)


def test_a_message_that_stops_without_a_reason_was_cut():
    """Null where the reason should stand: the stream is over, and no reply."""
    reader, _ = read([{"type": "message_delta", "delta": {"stop_reason": None}}, {"type": "message_stop"}])
    assert reader.is_over
    assert reader.end() == StreamEnd(None)


@pytest.mark.parametrize(
    ("kind", "failure"),
    [("overloaded_error", "overloaded"), ("rate_limit_error", "rate_limited"), ("api_error", "server_error")],
)
def test_an_error_with_a_status_of_200_is_the_failure_it_names(kind, failure):
    """In a stream and in place of a reply."""
    error = {"type": "error", "error": {"type": kind, "message": "Sorry"}}
    reader, _ = read([error])
    for fault in (reader.end(), AnthropicReader().read_reply(error)):
        assert isinstance(fault, Fault)
        assert fault.failure == failure


def test_what_a_program_called_stands_in_the_first_event():
    """Programmatic calls come whole, with their reason to stop, and nothing follows."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"id": 1}}
    result = {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {"stdout": "1"}}
    message = {"content": [result, call], "stop_reason": "tool_use", "usage": {"input_tokens": 0, "output_tokens": 0}}
    reader, chunks = read([{"type": "message_start", "message": message}, {"type": "message_stop"}])
    assert told(PartialReply(*chunks)) == ("", "", [("toolu_1", "look_up", '{"id":1}')], "tool_calls")
    assert specific([chunks[0].raw["choices"][0]["delta"]]) == {"tool_results": [result]}
    assert reader.end() == StreamEnd("tool_calls")


def test_arguments_that_come_by_turns_stay_apart():
    """Each part names the block it belongs to."""
    starts = [
        {"type": "content_block_start", "index": place, "content_block": {"type": "tool_use", "id": name, "name": name}}
        for place, name in enumerate("ab")
    ]
    deltas = [
        {"type": "content_block_delta", "index": place, "delta": {"type": "input_json_delta", "partial_json": part}}
        for part in ('{"x"', ":1}")
        for place in (0, 1)
    ]
    _, chunks = read([*starts, *deltas])
    assert [call.arguments for call in PartialReply(*chunks).tool_calls.values()] == ['{"x":1}', '{"x":1}']


BLOCKS = [
    {"type": "thinking", "thinking": "Hm, Oslo.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "EmwK"},
    {"type": "text", "text": "I look it up. "},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "rain"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    {"type": "text", "text": "It rains.", "citations": [{"type": "char_location", "cited_text": "rain"}]},
    {"type": "tool_use", "id": "toolu_1", "name": "go", "input": {"city": "Oslo", "days": [1, 2]}},
    {"type": "tool_use", "id": "toolu_2", "name": "go", "input": {}},
]
END = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}


def starting(place: int, block: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": place, "content_block": block}


def stopping(place: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": place}


def filling(place: int, block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events by which Anthropic streams a block, but for its stop."""
    empty: dict[str, Any] = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}.get(block["type"], {})
    deltas: list[dict[str, Any]] = []
    if block["type"] == "text":
        deltas += [{"type": "text_delta", "text": word} for word in block["text"].partition(" ")]
        deltas += [{"type": "citations_delta", "citation": said} for said in block.get("citations", ())]
        empty["citations"] = None
    elif block["type"] == "thinking":
        deltas += [{"type": "thinking_delta", "thinking": word} for word in block["thinking"].partition(" ")]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif "input" in block:
        empty = {"input": {}}
        said = json.dumps(block["input"]) if block["input"] else ""
        deltas += [{"type": "input_json_delta", "partial_json": part} for part in (said[:9], said[9:])]
    events = ({"type": "content_block_delta", "index": place, "delta": delta} for delta in deltas)
    return [starting(place, {**block, **empty}), *events]


def assert_comes_to(frames: Iterable[Mapping[str, Any]], blocks: Sequence[Mapping[str, Any]]) -> None:
    """It is what the blocks are in a plain reply."""
    reader, chunks = read([*frames, END])
    plain = read_plain({"content": blocks, "stop_reason": "tool_use"})
    assert told(PartialReply(*chunks)) == told(PartialReply(plain))
    assert reader.end() == StreamEnd(plain.finish)
    message = plain.raw["choices"][0]["message"]
    assert specific(chunk.raw["choices"][0]["delta"] for chunk in chunks) == specific([message])


blocks = st.lists(st.sampled_from(BLOCKS), max_size=6, unique_by=id)


@given(blocks, st.data())
def test_blocks_filled_by_turns_come_out_one_after_the_other(content, data):
    """As their indices say, though they are begun in their order alone."""
    waiting = {place: [*filling(place, block), stopping(place)] for place, block in enumerate(content)}
    frames, begun = [], 0
    while waiting:
        place = data.draw(st.sampled_from([place for place in waiting if place <= begun]))
        begun = max(begun, place + 1)
        frames.append(waiting[place].pop(0))
        waiting = {place: events for place, events in waiting.items() if events}
    assert_comes_to(frames, content)


@given(blocks, st.booleans())
def test_blocks_that_are_never_closed_are_whole_all_the_same(content, is_numbered):
    """Closed by the next of their index, which Anthropic itself gave twice beside its searches, or by the end."""
    places = range(len(content)) if is_numbered else [0] * len(content)
    assert_comes_to(
        [event for place, block in zip(places, content, strict=True) for event in filling(place, block)], content
    )


@given(blocks, st.booleans())
def test_blocks_may_come_whole_in_their_start(content, are_closed):
    """As gateways send calls that they got whole; some leave out the stop, too."""
    frames = [starting(place, block) for place, block in enumerate(content)]
    stops = [stopping(place) for place in range(len(content))]
    assert_comes_to([*frames, *stops] if are_closed else frames, content)


def test_a_start_that_comes_twice_is_one_call():
    """Nor are its arguments lost."""
    twice = [starting(0, {**BLOCKS[6], "input": {}})] * 2
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    assert_comes_to([*twice, delta, stopping(0)], [{**BLOCKS[6], "input": {}}])


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use"])
@pytest.mark.parametrize(("said", "arguments"), [('{"x": 1}', '{"x": 1}'), ("", "{}")])
def test_arguments_may_come_as_a_text(kind, said, arguments):
    """Some gateways hand on what another protocol gave them."""
    block = {"type": kind, "id": "1", "name": "go", "input": said}
    assert_comes_to([starting(0, block), stopping(0)], [block])
    reply = read_plain({"content": [block], "stop_reason": "tool_use"})
    assert arguments in str(reply.raw["choices"][0]["message"])


def test_text_waits_only_for_text_before_it():
    """What nothing precedes is told as it comes."""
    thought, text = filling(0, BLOCKS[0]), filling(1, BLOCKS[2])
    _, chunks = read([*thought, *text])
    assert [chunk.text or chunk.reasoning for chunk in chunks] == ["Hm,", " ", "Oslo.", "I", " ", "look it up. "]


SAID_OF_ALL = [
    {"container": {"id": "c1", "expires_at": "noon"}, "context_management": None},
    {"container": {"id": "c1", "expires_at": "noon"}, "context_management": {"applied_edits": [{"type": "clear"}]}},
    {"container": {"id": "c1", "expires_at": "one"}, "context_management": {"applied_edits": []}},
    {"container": "c1", "context_management": [1]},
]


@pytest.mark.parametrize("last", SAID_OF_ALL)
@pytest.mark.parametrize("first", SAID_OF_ALL)
def test_what_is_said_of_all_of_a_reply_is_told_once_and_last(first, last):
    """At the start it is what is known by then."""
    end = {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": {"type": "refusal"}, **last}}
    _, chunks = read([{"type": "message_start", "message": {"content": [], **first}}, end, end])
    fields = [chunk.raw["choices"][0]["delta"].get("provider_specific_fields") for chunk in chunks]
    known = {name: said for name, said in (first | {name: said for name, said in last.items() if said}).items() if said}
    assert [one for one in fields if one] == [{**known, "stop_reason": "refusal", "stop_details": {"type": "refusal"}}]


def test_a_character_cut_in_two_is_joined():
    """JSON may name it by its halves, one in each delta."""
    deltas = [{"type": "text_delta", "text": "\ud83d"}, {"type": "text_delta", "text": "\ude00"}]
    _, chunks = read([{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas])
    assert PartialReply(*chunks).text == "😀"


@pytest.mark.parametrize("tokens", [-1, 1.5, "many", [1], 10**12])
def test_what_is_no_count_leaves_the_usage_unknown(tokens):
    """It is no fault of the reply."""
    usage = {"input_tokens": tokens, "output_tokens": 3}
    assert read_plain({"content": [], "stop_reason": "end_turn", "usage": usage}).usage is None


def test_the_output_of_a_stream_s_first_event_is_no_account_of_it():
    """Where the input is not said there, or nowhere: it is a placeholder, and would be billed as the whole reply."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": None, "output_tokens": 1}}}
    end = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": None}}
    assert read([start, end])[0].usage is None
    told = {**end, "usage": {"input_tokens": 5, "output_tokens": 7}}
    assert read([start, told])[0].usage == Usage(5, 7)


def test_the_fuller_of_two_accounts_wins():
    """What was read from the cache may stand at the start alone."""
    start = {"usage": {"input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 1}}
    end = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 5, "output_tokens": 7}}
    reader, _ = read([{"type": "message_start", "message": start}, end])
    assert reader.usage == Usage(105, 7, 100)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KINDS = ("text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "compaction", "web_search_tool_result")
DELTAS = ("text_delta", "thinking_delta", "signature_delta", "input_json_delta", "citations_delta", "compaction_delta")
names = ("text", "thinking", "signature", "id", "name", "input", "citations", "content", "partial_json", "citation")


def documents(*kinds: str) -> st.SearchStrategy[dict[str, Any]]:
    optional = dict.fromkeys(names, anything)
    return st.fixed_dictionaries({}, optional={"type": st.sampled_from(kinds) | anything, **optional})


messages = st.fixed_dictionaries(
    {},
    optional={
        "content": st.lists(documents(*KINDS), max_size=3) | anything,
        **dict.fromkeys(("stop_reason", "usage", "stop_details", "container", "error", "type"), anything),
    },
)
events = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            [
                *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
                *("message_delta", "message_stop", "ping", "error"),
            ]
        )
        | anything,
        "index": st.integers(0, 1) | anything,
        "message": messages | anything,
        "content_block": documents(*KINDS) | anything,
        "delta": documents(*DELTAS) | messages | anything,
        "usage": anything,
        "error": anything,
    },
)


@given(st.lists(events, max_size=6), messages)
def test_nothing_a_server_sends_is_an_accident(frames, body):
    """It is read, or it is Unreadable."""
    for ask in (lambda: read(frames)[0].end(), lambda: AnthropicReader().read_reply(body)):
        with contextlib.suppress(Unreadable):
            ask()
