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
from tests.engine.protocol.spoken import read_stream

(ANTHROPIC,) = [one for one in systems() if one.name == "anthropic"]
PLAIN = {one.name: one.body for one in ANTHROPIC.replies if one.body is not None}
STREAMED = {one.name: one.frames for one in ANTHROPIC.replies if one.frames is not None}
BOTH = sorted(PLAIN.keys() & STREAMED.keys())
OF_LITELLM = ("citations", "thinking_blocks", "web_search_results", "tool_results", "stop_reason", "stop_details")
"""What stands beside the content under litellm's names."""


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
    merged: dict[str, Any] = merge_dicts({}, *fields)
    return merged


def known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of it litellm has, too."""
    return {name: said for name, said in fields.items() if name in OF_LITELLM and said is not None}


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
    assert known(specific([message])) == known(expected["provider_specific_fields"])
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
    {"type": "thinking", "thinking": "Hm, Oslo.", "signature": "c2lnWl=="},
    {"type": "redacted_thinking", "data": "EmwK"},
    {"type": "text", "text": "I look it up. "},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "rain"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    {"type": "text", "text": "It rains.", "citations": [{"type": "char_location", "cited_text": "rain"}]},
    {"type": "tool_use", "id": "toolu_1", "name": "go", "input": {"city": "Oslo", "days": [1, 2]}},
    {"type": "tool_use", "id": "toolu_2", "name": "go", "input": {}},
    {"type": "compaction", "content": "Rain was asked for."},
    {"type": "thinking", "thinking": "So it is.", "signature": "bmV1"},
]
END = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}


def starting(place: int, block: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": place, "content_block": block}


def stopping(place: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": place}


def filling(place: int, block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events by which Anthropic streams a block, but for its stop."""
    empty: dict[str, Any] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "compaction": {"content": ""},
    }.get(block["type"], {})
    deltas: list[dict[str, Any]] = []
    if block["type"] == "text":
        deltas += [{"type": "text_delta", "text": word} for word in block["text"].partition(" ")]
        deltas += [{"type": "citations_delta", "citation": said} for said in block.get("citations", ())]
        empty["citations"] = None
    elif block["type"] == "thinking":
        deltas += [{"type": "thinking_delta", "thinking": word} for word in block["thinking"].partition(" ")]
        deltas += [{"type": "signature_delta", "signature": part} for part in block["signature"].partition("W")]
    elif block["type"] == "compaction":
        deltas += [{"type": "compaction_delta", "content": word} for word in block["content"].partition(" ")]
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
@pytest.mark.parametrize(("said", "arguments"), [('{"x": 1}', '{"x": 1}'), ("", "{}"), ({"å": 1}, '{"å": 1}')])
def test_arguments_may_come_as_a_text(kind, said, arguments):
    """Some gateways hand on what another protocol gave them; whatever the language, it is written as it is."""
    block = {"type": kind, "id": "1", "name": "go", "input": said}
    assert_comes_to([starting(0, block), stopping(0)], [block])
    reply = read_plain({"content": [block], "stop_reason": "tool_use"})
    message = reply.raw["choices"][0]["message"]
    (call,) = message.get("tool_calls") or message["provider_specific_fields"]["server_tool_calls"]
    assert call == {"index": 0, "id": "1", "type": "function", "function": {"name": "go", "arguments": arguments}}


def test_calls_of_tools_on_the_server_are_numbered():
    """Beside what they found, and apart from the calls that the caller is to answer."""
    calls = [{"type": "server_tool_use", "id": f"s{place}", "name": "search", "input": {"n": 1}} for place in range(3)]
    fields = read_plain({"content": [*calls, BLOCKS[6]], "stop_reason": "tool_use"}).raw["choices"][0]["message"]
    assert [call["index"] for call in fields["provider_specific_fields"]["server_tool_calls"]] == [0, 1, 2]
    assert [call["index"] for call in fields["tool_calls"]] == [0]
    assert_comes_to([event for place, call in enumerate(calls) for event in filling(place, call)], calls)


def test_a_block_is_told_when_it_is_closed():
    """Not only with the end, which may never come: thoughts, what was found, arguments that came whole."""
    _, chunks = read(event for place, block in enumerate(BLOCKS) for event in (starting(place, block), stopping(place)))
    told = [name for chunk in chunks for name in chunk.raw["choices"][0]["delta"].get("provider_specific_fields", ())]
    assert told == [
        *("thinking_blocks", "thinking_blocks", "server_tool_calls", "web_search_results", "citations"),
        *("compaction_blocks", "thinking_blocks"),
    ]
    assert specific(chunk.raw["choices"][0]["delta"] for chunk in chunks)["compaction_blocks"] == [BLOCKS[8]]
    assert [call.arguments for call in PartialReply(*chunks).tool_calls.values()] == [
        json.dumps(BLOCKS[6]["input"]),
        "{}",
    ]


def test_blocks_that_nobody_began_are_what_their_parts_say():
    """Some gateways leave the start out; with the citations of a text and the signature of a thought."""
    content = [BLOCKS[0], BLOCKS[5]]
    deltas = [event for place, block in enumerate(content) for event in filling(place, block)[1:]]
    assert_comes_to(deltas, content)
    assert_comes_to([*deltas, stopping(0), stopping(1)], content)


def test_blocks_are_told_in_their_order_whenever_they_were_begun():
    """One without an index comes first."""
    thoughts = [{"type": "thinking", "thinking": str(number), "signature": "s"} for number in range(4)]
    unnumbered = {"type": "content_block_start", "content_block": thoughts[0]}
    _, chunks = read([starting(2, thoughts[3]), starting(0, thoughts[1]), unnumbered, starting(1, thoughts[2]), END])
    *_, last = chunks
    assert last.raw["choices"][0]["delta"]["thinking_blocks"] == thoughts


def delta_of(place: int, kind: str, said: str) -> dict[str, Any]:
    name = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}[kind]
    return {"type": "content_block_delta", "index": place, "delta": {"type": kind, name: said}}


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_what_waits_is_told_once_what_was_before_it_is_closed(kind):
    """Whatever else is closed meanwhile; several may have waited, and one may be whole in its start."""
    empty, third = {"type": kind, kind: ""}, {"type": kind, kind: "three "}
    other = {"text": BLOCKS[0], "thinking": BLOCKS[2]}[kind]
    frames = [starting(0, empty), starting(1, empty), delta_of(1, f"{kind}_delta", "two "), starting(2, third)]
    frames += [stopping(1), starting(3, other), stopping(3)]
    ends = [delta_of(0, f"{kind}_delta", "one "), stopping(0)]
    for events, expected in ((frames, ""), ([*frames, *ends], "one two three ")):
        whole = PartialReply(*read(events)[1])
        assert {"text": whole.text, "thinking": whole.reasoning}[kind] == expected


def test_thoughts_wait_for_thoughts_before_them_redacted_or_not():
    """They are sent back in the order in which they were thought."""
    thought, redacted = BLOCKS[:2]
    for first, second in ((thought, redacted), (redacted, thought)):
        _, chunks = read([starting(0, first), starting(1, second), stopping(1), stopping(0)])
        blocks = [block for chunk in chunks for block in chunk.raw["choices"][0]["delta"].get("thinking_blocks", ())]
        assert blocks == [first, second]


def test_a_part_without_anything_in_it_tells_nothing():
    """As the first of each call's arguments is."""
    start = starting(0, {**BLOCKS[6], "input": {}})
    _, chunks = read([start, delta_of(0, "input_json_delta", ""), delta_of(0, "text_delta", "")])
    assert len(chunks) == 1


SIGNED, REDACTED, SAID, CALLED = BLOCKS[0], BLOCKS[1], BLOCKS[2], BLOCKS[6]
SEARCHED = BLOCKS[3:5]


@pytest.mark.parametrize(
    ("content", "leading"),
    [
        ([SIGNED, REDACTED, SAID, SIGNED], [True, True, False]),
        ([SIGNED, CALLED, REDACTED], [True, False]),
        ([SAID, REDACTED, SIGNED], [False, False]),
        ([SIGNED, *SEARCHED, REDACTED, CALLED], [True, True]),
        ([SIGNED, {**SAID, "text": ""}, REDACTED], [True, True]),
    ],
)
def test_only_thoughts_before_all_else_go_back_to_who_signed_them(content, leading):
    """Whole, in a first event that is, and in parts, whether each is closed or all are by the end."""
    filled = [filling(place, block) for place, block in enumerate(content)]
    begun = [{"type": "message_start", "message": {"content": content}}]
    for frames in (
        [event for events in filled for event in events],
        [event for place, events in enumerate(filled) for event in (*events, stopping(place))],
        [starting(place, block) for place, block in enumerate(content)],
        begun,
    ):
        reader = AnthropicReader()
        reader.signer = "m"
        chunks = [chunk for frame in (*frames, END) if (chunk := reader.read_event(frame)) is not None]
        assert signers(chunk.raw["choices"][0]["delta"] for chunk in chunks) == leading
    reader = AnthropicReader()
    reader.signer = "m"
    reply = reader.read_reply({"content": content})
    assert isinstance(reply, Reply)
    assert signers([reply.raw["choices"][0]["message"]]) == leading


def signers(deltas: Iterable[Mapping[str, Any]]) -> list[bool]:
    """Of each signed thought, whether it may be sent back."""
    return [block["origin"] == "m" for block in specific(deltas).get("signed_thinking", ())]


def test_a_reply_has_the_name_that_anthropic_gives_it():
    """Plain and streamed."""
    plain = AnthropicReader()
    plain.read_reply({"id": "msg_1", "content": []})
    streamed, _ = read([{"type": "message_start", "message": {"id": "msg_1"}}])
    assert (plain.reply_id, streamed.reply_id) == ("msg_1", "msg_1")


def test_a_start_of_the_message_that_comes_twice_is_one():
    """As some gateways send it, before or behind the first block."""
    start = {"type": "message_start", "message": {"content": [{"type": "text", "text": "Once "}]}}
    more = filling(1, {"type": "text", "text": "more"})
    for frames in ([start, start, *more], [start, *more, start], [*more, start, start], [END, start]):
        _, chunks = read(frames)
        assert PartialReply(*chunks).text == ("Once more" if frames[0] is start else "" if frames[0] is END else "more")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_start"},
        {"type": "content_block_start", "content_block": {"type": "text"}},
        {"type": "content_block_delta", "delta": {"type": "signature_delta"}},
        {"type": "message_delta"},
        {"type": "message_stop"},
    ],
    ids=lambda event: event["type"],
)
def test_one_event_makes_a_stream_of_anthropic_s(event):
    """It was cut; of a stream without any of them the deployment speaks another language."""
    assert read_stream(AnthropicReader, [f"data: {json.dumps(event)}\n\n".encode()])[1] == StreamEnd(None)
    other = {"type": "ping"}
    assert isinstance(read_stream(AnthropicReader, [f"data: {json.dumps(other)}\n\n".encode()])[1], Fault)


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


def test_what_is_said_of_all_of_a_reply_may_stand_beside_its_end():
    """As `context_management` does; the container stands within."""
    end = {**END, "context_management": {"applied_edits": [1]}}
    end["delta"] = {"stop_reason": "end_turn", "container": {"id": "c1"}}
    _, chunks = read([end])
    assert specific(chunk.raw["choices"][0]["delta"] for chunk in chunks) == {
        "container": {"id": "c1"},
        "context_management": {"applied_edits": [1]},
    }


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


OVERLOADED = {"message": "Overloaded", "metadata": {"headers": {"x-ratelimit-reset": "7"}}}


@pytest.mark.parametrize("error", [OVERLOADED, {**OVERLOADED, "error": None}, {"error": OVERLOADED}])
def test_an_error_may_be_the_document_itself(error):
    """In a stream and in place of a reply; a gateway's own words in it are read where they stand."""
    document = {"type": "error", **error}
    for fault in (read([document])[0].end(), AnthropicReader().read_reply(document)):
        assert isinstance(fault, Fault)
        assert (fault.message, fault.retry_after_s) == ("Overloaded", 7.0)


EVERYTHING: dict[str, Any] = {
    "content": [
        {"type": "text", "text": "", "citations": [{}]},
        {"type": "thinking", "thinking": ""},
        {"type": "tool_use", "id": "1", "name": "go", "input": {}},
        {"type": "server_tool_use", "id": "1", "name": "go", "input": {}},
    ]
}
NAMED: list[tuple[tuple[Any, ...], str]] = [
    (("content",), "content is a number, not the list"),
    (("content", 0), "content is a number, not the object"),
    (("content", 0, "type"), "the type of a block is a number, not the text"),
    (("content", 0, "text"), "text is a number, not the text"),
    (("content", 0, "citations"), "citations is a number, not the list"),
    (("content", 0, "citations", 0), "citations is a number, not the object"),
    (("content", 1, "thinking"), "thinking is a number, not the text"),
    (("content", 2, "name"), "the name of a tool call is a number, not the text"),
    (("content", 2, "id"), "the id of a tool call is a number, not the text"),
    (("content", 2, "input"), "input is a number, not the object"),
    (("content", 3, "name"), "the name of a call is a number, not the text"),
    (("content", 3, "id"), "the id of a call is a number, not the text"),
    (("content", 3, "input"), "input is a number, not the object"),
]


@pytest.mark.parametrize(("place", "why"), NAMED, ids=[".".join(map(str, place)) for place, _ in NAMED])
def test_what_is_of_another_type_is_named(place, why):
    """Whole, and in the first event of a stream: the words are all that tells what a server sent."""
    document = json.loads(json.dumps(EVERYTHING))
    holder: Any = document
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = 7
    for ask in (
        lambda: AnthropicReader().read_reply(document),
        lambda: AnthropicReader().read_event({"type": "message_start", "message": document}),
    ):
        with pytest.raises(Unreadable) as raised:
            ask()
        assert str(raised.value) == f"{why} it should be"


A_CALL = {"type": "tool_use", "id": "1"}


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"type": "message_start", "message": 7}, "message is a number, not the object it should be"),
        ({"type": "message_delta", "delta": 7}, "delta is a number, not the object it should be"),
        ({"type": "content_block_start", "content_block": 7}, "content_block is a number, not the object it should be"),
        (starting(-1, {}), "the index of a block is a number, not the position it should be"),
        (starting(0, {"type": 7}), "the type of a block is a number, not the text it should be"),
        (starting(0, {"type": "text", "text": 7}), "a part of a block is a number, not the text it should be"),
        (starting(0, {"type": "text", "citations": 7}), "citations is a number, not the list it should be"),
        (starting(0, {"type": "thinking", "thinking": 7}), "a part of a block is a number, not the text it should be"),
        (starting(0, {"type": "thinking", "signature": 7}), "a signature is a number, not the text it should be"),
        (starting(0, A_CALL), "a tool call without a name"),
        (stopping(-1), "the index of a block is a number, not the position it should be"),
        (
            {"type": "content_block_delta", "index": -1},
            "the index of a block is a number, not the position it should be",
        ),
        ({"type": "content_block_delta", "delta": 7}, "delta is a number, not the object it should be"),
        *(
            ({"type": "content_block_delta", "delta": delta}, why)
            for delta, why in (
                ({"type": "text_delta", "text": 7}, "a part of a block is a number, not the text it should be"),
                ({"type": "signature_delta", "signature": 7}, "a signature is a number, not the text it should be"),
                ({"type": "citations_delta", "citation": 7}, "a citation is a number, not the object it should be"),
                (
                    {"type": "compaction_delta", "content": 7},
                    "a part of a block is a number, not the text it should be",
                ),
                ({"type": "input_json_delta", "partial_json": "{}"}, "a tool call without a name"),
            )
        ),
    ],
)
def test_so_it_is_in_a_stream(event, why):
    """Of each event."""
    with pytest.raises(Unreadable) as raised:
        AnthropicReader().read_event(event)
    assert str(raised.value) == why


@pytest.mark.parametrize(
    ("document", "why"), [({}, "a reply without content"), ({"content": [A_CALL]}, "a tool call without a name")]
)
def test_so_is_what_is_missing(document, why):
    """There is nothing to answer with."""
    with pytest.raises(Unreadable) as raised:
        AnthropicReader().read_reply(document)
    assert str(raised.value) == why


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
