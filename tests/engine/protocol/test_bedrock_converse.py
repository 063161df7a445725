"""Bedrock's Converse: a message, or the events of one, come to the same."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm.llms.bedrock.chat.converse_transformation import AmazonConverseConfig

from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import REFUSED_FINISH, Fault, PartialReply, Reply, StreamEnd
from tests.engine.protocol.spoken import (
    Spoken,
    beside_chunks,
    beside_reply,
    by_litellm,
    counts,
    in_parts,
    read_plain,
    read_stream,
    told,
)
from tests.engine.protocol.test_values import anything

BEDROCK = Spoken("bedrock", ConverseReader)
USAGE = {"inputTokens": 22, "outputTokens": 55, "totalTokens": 77}
IN_BAND = [case for case in BEDROCK.system.cases if case.frames is not None and case.failure != "content_policy"]


def event(name, **data):
    return {"event": name, "data": data}


def delta(place, **said):
    return event("contentBlockDelta", contentBlockIndex=place, delta=said)


def stop(reason="end_turn", **data):
    return event("messageStop", stopReason=reason, **data)


METADATA = event("metadata", usage=USAGE, metrics={"latencyMs": 1})


def body(*content, reason="end_turn", usage=USAGE, **fields):
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": reason,
        "usage": usage,
        **fields,
    }


def streamed(*frames):
    return read_stream(ConverseReader, BEDROCK.wire(frames))


def halves(text):
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def frames_of(content, reason="end_turn"):
    """The events by which Bedrock streams these blocks."""
    yield event("messageStart", role="assistant")
    for place, block in enumerate(content):
        yield from block_frames(place, block)
        yield event("contentBlockStop", contentBlockIndex=place)
    yield stop(reason)
    yield METADATA


def block_frames(place, block):
    if "text" in block:
        yield from (delta(place, text=part) for part in halves(block["text"]))
    if "toolUse" in block:
        tool = dict(block["toolUse"])
        arguments = json.dumps(tool.pop("input"))
        yield event("contentBlockStart", contentBlockIndex=place, start={"toolUse": tool})
        yield from (delta(place, toolUse={"input": part}) for part in halves(arguments))
    if "citationsContent" in block:
        cited = block["citationsContent"]
        yield from (delta(place, text=part) for part in halves(cited["content"][0]["text"]))
        yield from (delta(place, citation=citation) for citation in cited["citations"])
    thought = block.get("reasoningContent", {})
    if "reasoningText" in thought:
        said = thought["reasoningText"]
        yield from (delta(place, reasoningContent={"text": part}) for part in halves(said["text"]))
        if "signature" in said:
            yield delta(place, reasoningContent={"signature": said["signature"]})
    if "redactedContent" in thought:
        yield delta(place, reasoningContent={"redactedContent": thought["redactedContent"]})


@pytest.mark.parametrize("reply", BEDROCK.replies, ids=lambda reply: reply.name)
def test_what_bedrock_says_comes_to_what_it_means(reply):
    """Plain and streamed."""
    assert list(BEDROCK.outcomes(reply)) == [BEDROCK.expected(reply)] * len(reply.ways)


@pytest.mark.parametrize("reply", BEDROCK.streamed, ids=lambda reply: reply.name)
def test_a_stream_that_ends_before_its_finish_is_never_whole(reply):
    """After whichever byte."""
    wire = BEDROCK.wire(reply.frames)
    written = b"".join(wire[: reply.unfinished.stop])
    for cut in range(len(written)):
        assert not BEDROCK.ends_whole([written[:cut]])


@given(st.sampled_from(BEDROCK.streamed), st.lists(st.integers(0, 2500), max_size=6))
def test_where_reads_begin_and_end_makes_no_difference(reply, cuts):
    """The network cuts where it likes."""
    chunks, ended = read_stream(ConverseReader, in_parts(b"".join(BEDROCK.wire(reply.frames)), cuts))
    came = told(PartialReply(*chunks), ended.finish)
    if reply.failure is None:
        assert {**came, "usage": {name: came["usage"][name] for name in reply.usage}} == BEDROCK.expected(reply)
    assert ended.finish == (reply.finish or REFUSED_FINISH)


@pytest.mark.parametrize("reply", BEDROCK.plain, ids=lambda reply: reply.name)
def test_a_plain_reply_is_what_litellm_makes_of_it(reply):
    """But for a guess at the tokens of thoughts."""
    assert_alike(reply.body)


def assert_alike(said):
    ours, theirs = read_plain(ConverseReader, said), by_litellm(AmazonConverseConfig(), said)
    assert isinstance(ours, Reply)
    choice = theirs["choices"][0]
    assert ours.text == (choice["message"]["content"] or "")
    assert ours.reasoning == (choice["message"].get("reasoning_content") or "")
    calls = [(call["id"], call["function"]) for call in choice["message"]["tool_calls"] or ()]
    assert [(call.id, call.name, json.loads(call.arguments)) for call in ours.tool_calls] == [
        (id_, function["name"], json.loads(function["arguments"])) for id_, function in calls
    ]
    fields = {name: choice["message"].get(name) for name in ("provider_specific_fields", "thinking_blocks")}
    assert beside_reply(ours) == {name: said for name, said in fields.items() if said}
    assert ours.finish == choice["finish_reason"]
    usage, details = theirs["usage"], theirs["usage"]["prompt_tokens_details"]
    expected = [usage["prompt_tokens"], usage["completion_tokens"], *(details[name] for name in CACHE)]
    if ours.usage is not None:
        assert list(counts(ours.usage).values())[:4] == expected
    else:
        assert not any(expected)


CACHE = ("cached_tokens", "cache_creation_tokens")

texts = st.text(st.characters(codec="ascii"), min_size=1).filter(lambda said: not said.startswith("<"))
signed = st.fixed_dictionaries({"text": texts}, optional={"signature": texts})
thoughts = signed.map(lambda said: {"reasoningText": said}) | texts.map(
    lambda said: {"redactedContent": base64.b64encode(said.encode()).decode()}
)
tools = st.builds(
    lambda id_, name, arguments: {"toolUseId": id_, "name": name, "input": arguments},
    st.uuids().map(str),
    st.from_regex(r"\A[a-z]{1,9}\Z"),
    st.dictionaries(st.text(max_size=3), anything, max_size=2),
)
blocks = st.one_of(
    texts.map(lambda said: {"text": said}),
    thoughts.map(lambda said: {"reasoningContent": said}),
    tools.map(lambda said: {"toolUse": said}),
)
CITED = {"title": "Atlas", "location": {"web": {"url": "https://atlas.example", "domain": "atlas.example"}}}
cited = texts.map(lambda said: {"citationsContent": {"content": [{"text": said}], "citations": [CITED]}})


@given(st.lists(blocks | cited, max_size=4))
def test_a_stream_comes_to_what_the_plain_reply_is(content):
    """Text, thoughts, calls, and what stands beside them once LangChain added it up."""
    reply = read_plain(ConverseReader, body(*content))
    chunks, ended = streamed(*frames_of(content))
    assert isinstance(reply, Reply)
    assert told(PartialReply(*chunks), ended.finish) == told(PartialReply(reply), reply.finish)
    assert PartialReply(*chunks).finish == reply.finish
    assert beside_chunks(chunks) == beside_reply(reply)


@given(st.lists(blocks, max_size=4), st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "content_filtered"]))
def test_any_plain_reply_is_what_litellm_makes_of_it(content, reason):
    """Whatever blocks there are; a tool that was called is the reason for an end, where litellm leaves the word."""
    called = any("toolUse" in block for block in content)
    assert_alike(body(*content, reason="tool_use" if called else reason))


def test_blocks_that_nobody_closed_are_told_at_the_end():
    """A thought is taken back only with its signature."""
    chunks, ended = streamed(
        delta(0, reasoningContent={"text": "hm"}),
        delta(0, reasoningContent={"signature": "c2ln"}),
        delta(1, text="<thinking>what"),
        stop(),
    )
    came = PartialReply(*chunks)
    assert (came.text, came.reasoning, ended) == ("", "hmwhat", StreamEnd("stop"))
    assert beside_chunks(chunks)["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]


def test_a_block_that_another_takes_the_place_of_is_whole():
    """A call begins where a thought was that nobody closed."""
    tools = [{"toolUseId": f"t{number}", "name": "look_up", "input": {"n": number}} for number in (1, 2)]
    thought = {"reasoningContent": {"reasoningText": {"text": "hm ", "signature": "c2ln"}}}
    blocks = [thought, *({"toolUse": tool} for tool in tools)]
    chunks, ended = streamed(
        *(frame for block in blocks for frame in block_frames(0, block)), stop("tool_use"), METADATA
    )
    reply = read_plain(ConverseReader, body(*blocks, reason="tool_use"))
    assert isinstance(reply, Reply)
    assert told(PartialReply(*chunks), ended.finish) == told(PartialReply(reply), reply.finish)
    assert beside_chunks(chunks) == beside_reply(reply)


def test_it_is_told_as_soon_as_the_other_begins():
    """A thought that came before a call is not told behind it, nor as a part of the next thought in that place."""
    signed, again = (list(block_frames(0, {"reasoningContent": {"reasoningText": said}})) for said in SAID_TWICE)
    start = event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "t1", "name": "look_up"}})
    for frames, thoughts in (([*signed, start], SAID_TWICE[:1]), ([*signed, start, *again, stop()], SAID_TWICE)):
        chunks, _ = streamed(*frames)
        assert beside_chunks(chunks)["thinking_blocks"] == [
            {"type": "thinking", "thinking": said["text"], "signature": said["signature"]} for said in thoughts
        ]


SAID_TWICE = [{"text": "hm", "signature": "c2ln"}, {"text": "so", "signature": "bmV1"}]


def test_calls_that_are_filled_by_turns_stay_apart():
    """Each part names its block, and each call keeps the id that Bedrock gave it."""
    starts = [
        event("contentBlockStart", contentBlockIndex=place, start={"toolUse": {"toolUseId": id_, "name": "go"}})
        for place, id_ in enumerate(("t1", "t2"))
    ]
    parts = [delta(place, toolUse={"input": part}) for part in ('{"n"', ": 1}") for place in (0, 1)]
    chunks, _ = streamed(*starts, *parts, stop("tool_use"))
    calls = PartialReply(*chunks).tool_calls.values()
    assert [(call.id, call.name, call.arguments) for call in calls] == [
        ("t1", "go", '{"n": 1}'),
        ("t2", "go", '{"n": 1}'),
    ]


@pytest.mark.parametrize("said", ["<th", "<thinking", "<"])
def test_what_only_begins_like_a_tag_is_text(said):
    """Plain as streamed: nothing is held back for ever."""
    reply = read_plain(ConverseReader, body({"text": said}))
    chunks, _ = streamed(*frames_of([{"text": said}]))
    assert isinstance(reply, Reply)
    assert (reply.text, PartialReply(*chunks).text) == (said, said)


def test_a_cited_text_may_be_of_several_parts():
    """They are one text."""
    quote = {"content": [{"text": "It "}, {"text": "rains"}], "citations": [CITED]}
    reply = read_plain(ConverseReader, body({"text": "So: "}, {"citationsContent": quote}))
    assert isinstance(reply, Reply)
    assert reply.text == "So: It rains"


def test_thoughts_that_were_left_in_the_text_are_thoughts():
    """Nova thinks aloud before it calls a tool; litellm reads the plain ones alike."""
    content = [{"text": "<thinking>I need a tool.</thinking>\nOne moment."}, {"text": " Ready."}]
    chunks, _ = streamed(*frames_of(content))
    reply = read_plain(ConverseReader, body(*content))
    assert isinstance(reply, Reply)
    for came in (PartialReply(*chunks), PartialReply(reply)):
        assert (came.text, came.reasoning) == ("\nOne moment. Ready.", "I need a tool.")
    theirs = by_litellm(AmazonConverseConfig(), body(*content))["choices"][0]["message"]
    assert (reply.text, reply.reasoning) == (theirs["content"], theirs["reasoning_content"])


def test_tools_that_bedrock_runs_itself_are_not_the_caller_s():
    """Plain as streamed: there is nothing to answer."""
    tool = {"toolUseId": "t1", "name": "nova_code_interpreter", "input": {"snippet": "1"}, "type": "server_tool_use"}
    content = [{"toolUse": tool}, {"toolResult": {"toolUseId": "t1", "content": [{"json": {}}]}}, {"text": "1"}]
    reply = read_plain(ConverseReader, body(*content))
    chunks, ended = streamed(*frames_of(content))
    assert isinstance(reply, Reply)
    for came in (PartialReply(*chunks), PartialReply(reply)):
        assert (came.text, came.tool_calls) == ("1", {})
    assert (ended.finish, reply.finish) == ("stop", "stop")


@pytest.mark.parametrize("case", IN_BAND, ids=lambda case: case.name)
def test_what_goes_wrong_within_a_stream_is_the_failure_it_is(case):
    """An exception names it; an end without one is a broken stream."""
    _, ended = streamed(*case.frames)
    if not isinstance(ended, Fault):
        assert (ended, case.failure) == (StreamEnd(None), "stream_broken")
    else:
        assert (ended.failure, ended.status) == (case.failure, case.says)


@pytest.mark.parametrize(
    ("exception", "failure", "status"),
    [
        ("throttlingException", "rate_limited", 429),
        ("modelStreamErrorException", "server_error", 424),
        ("internalServerException", "server_error", 500),
        ("serviceUnavailableException", "overloaded", 503),
        ("validationException", "bad_request", 400),
        ("anExceptionOfTomorrow", "server_error", 500),
    ],
)
def test_an_exception_before_any_content_is_the_fault_it_names(exception, failure, status):
    """With the status it would have come with."""
    _, fault = streamed(event("messageStart", role="assistant"), {"exception": exception, "data": {"message": "Sorry"}})
    assert isinstance(fault, Fault)
    assert (fault.failure, fault.status, fault.message) == (failure, status, "Sorry")


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use", "a word of tomorrow"])
def test_a_reason_that_is_no_end_leaves_the_reply_unfinished(reason):
    """Plain and streamed."""
    _, ended = streamed(delta(0, text="Once"), stop(reason), METADATA)
    reply = read_plain(ConverseReader, body({"text": "Once"}, reason=reason))
    assert isinstance(reply, Reply)
    assert (ended.finish, reply.finish) == (reason, reason)


def test_metadata_may_come_before_the_end():
    """They are counted, and the end is waited for."""
    chunks, ended = streamed(delta(0, text="Oslo"), METADATA, stop())
    assert (counts(PartialReply(*chunks).usage)["input_tokens"], ended) == (22, StreamEnd("stop"))


@pytest.mark.parametrize(
    ("usage", "input_tokens"),
    [
        ({"inputTokens": 2, "outputTokens": 5, "totalTokens": 1329, "cacheReadInputTokens": 1322}, 1324),
        ({"inputTokens": 2, "outputTokens": 5, "cacheReadInputTokens": 1322}, 1324),
        ({"inputTokens": 1324, "outputTokens": 5, "totalTokens": 1329, "cacheReadInputTokens": 1322}, 1324),
        ({"inputTokens": 9, "outputTokens": 5, "totalTokens": 14, "cacheReadInputTokens": 1322}, 1331),
    ],
)
def test_what_was_cached_is_input_once(usage, input_tokens):
    """It stands beside the input, or within it for some models: the total tells."""
    reply = read_plain(ConverseReader, body({"text": "a"}, usage=usage))
    assert isinstance(reply, Reply)
    assert (counts(reply.usage)["input_tokens"], counts(reply.usage)["cache_read"]) == (input_tokens, 1322)


def test_thoughts_are_counted_where_the_model_counts_them():
    """Among its own fields, if the request asks for it; never more than all it said."""
    for said, reasoning in (({"thinking_tokens": 40}, 40), ({"thinking_tokens": 99}, 55), (None, 0)):
        extra = {"additionalModelResponseFields": {"usage": {"output_tokens_details": said}}}
        reply = read_plain(ConverseReader, body({"text": "a"}, **extra))
        chunks, _ = streamed(delta(0, text="a"), stop(**extra), METADATA)
        assert isinstance(reply, Reply)
        for came in (PartialReply(reply), PartialReply(*chunks)):
            assert counts(came.usage)["reasoning"] == reasoning


@pytest.mark.parametrize("said", [{}, {"output": None}, {"output": {}}, {"output": {"message": 5}}, {"choices": []}])
def test_a_body_that_is_no_reply_is_invalid(said):
    """Whatever it is instead."""
    fault = read_plain(ConverseReader, said)
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"


@pytest.mark.parametrize(
    "said",
    [{"text": 5}, {"toolUse": []}, {"toolUse": {"input": {}}}, {"reasoningContent": "hm"}, {"citation": "a"}, "a"],
)
def test_a_value_of_another_type_breaks_a_stream(said):
    """Nothing raises."""
    odd = event("contentBlockDelta", contentBlockIndex=1, delta=said)
    _, fault = streamed(delta(0, text="Once"), odd, stop(), METADATA)
    assert isinstance(fault, Fault)
    assert fault.failure == "stream_broken"


def test_arguments_of_a_call_that_nobody_named_break_a_stream():
    """There is nobody to give them to."""
    _, fault = streamed(delta(0, toolUse={"input": "{}"}), stop("tool_use"), METADATA)
    assert isinstance(fault, Fault)


def invalid(fault):
    assert isinstance(fault, Fault)
    assert fault.failure == "invalid_response"
    return fault.message


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("contentBlockStart", {"contentBlockIndex": "a"}, "contentBlockIndex is a text, not the position it should be"),
        ("contentBlockDelta", {"contentBlockIndex": "a"}, "contentBlockIndex is a text, not the position it should be"),
        ("contentBlockStop", {"contentBlockIndex": "a"}, "contentBlockIndex is a text, not the position it should be"),
        ("contentBlockStart", {"start": 5}, "start is a number, not the object it should be"),
        ("contentBlockStart", {"start": {"toolUse": 5}}, "toolUse is a number, not the object it should be"),
        ("contentBlockDelta", {"delta": 5}, "delta is a number, not the object it should be"),
        ("contentBlockDelta", {"delta": {"text": 5}}, "text is a number, not the text it should be"),
        ("contentBlockDelta", {"delta": {"toolUse": 5}}, "toolUse is a number, not the object it should be"),
        ("contentBlockDelta", {"delta": {"toolUse": {"input": 5}}}, "input is a number, not the text it should be"),
        ("contentBlockDelta", {"delta": {"citation": 5}}, "citation is a number, not the object it should be"),
        *(
            ("contentBlockDelta", {"delta": {"reasoningContent": thought}}, said)
            for thought, said in (
                (5, "reasoningContent is a number, not the object it should be"),
                ({"text": 5}, "text is a number, not the text it should be"),
                ({"signature": 5}, "signature is a number, not the text it should be"),
                ({"redactedContent": 5}, "redactedContent is a number, not the text it should be"),
            )
        ),
    ],
)
def test_a_fault_names_what_is_wrong_with_an_event(name, data, said):
    """In words."""
    assert invalid(streamed(event(name, **data))[1]) == said


def test_an_event_that_is_no_object_is_named():
    """In words."""
    with pytest.raises(Unreadable, match=r"^metadata is a number, not the object it should be$"):
        ConverseReader().read_event({"metadata": 5})


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (5, "content is a number, not the object it should be"),
        ({"text": 5}, "text is a number, not the text it should be"),
        ({"toolUse": 5}, "toolUse is a number, not the object it should be"),
        ({"reasoningContent": 5}, "reasoningContent is a number, not the object it should be"),
        ({"reasoningContent": {"reasoningText": 5}}, "reasoningText is a number, not the object it should be"),
        ({"reasoningContent": {"reasoningText": {"text": 5}}}, "text is a number, not the text it should be"),
        ({"reasoningContent": {"reasoningText": {"signature": 5}}}, "signature is a number, not the text it should be"),
        ({"reasoningContent": {"redactedContent": 5}}, "redactedContent is a number, not the text it should be"),
        ({"citationsContent": 5}, "citationsContent is a number, not the object it should be"),
        ({"citationsContent": {"content": 5}}, "content is a number, not the list it should be"),
        ({"citationsContent": {"content": [5]}}, "content is a number, not the object it should be"),
        ({"citationsContent": {"content": [{"text": 5}]}}, "text is a number, not the text it should be"),
    ],
)
def test_a_fault_names_what_is_wrong_with_a_block(block, said):
    """In words."""
    assert invalid(read_plain(ConverseReader, body(block))) == said


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"output": 5}, "output is a number, not the object it should be"),
        ({"output": {"message": 5}}, "message is a number, not the object it should be"),
        ({"output": {"message": {"content": 5}}}, "content is a number, not the list it should be"),
        ({"output": {}}, "a reply without a message"),
    ],
)
def test_a_fault_names_what_is_wrong_with_a_reply(document, said):
    """In words."""
    assert invalid(read_plain(ConverseReader, document)) == said


def test_a_message_beside_an_error_is_no_reply():
    """Plain as in a stream."""
    said = {**body({"text": "Once"}), "error": {"message": "Overloaded", "code": 503}}
    reader = ConverseReader()
    reader.read_event({"error": said["error"], "messageStart": {}})
    for fault in (read_plain(ConverseReader, said), reader.end()):
        assert isinstance(fault, Fault)
        assert fault.message == "Overloaded"


def test_a_stream_that_says_nothing_yet_is_cut_and_another_is_no_stream():
    """Though its messages are sound."""
    assert streamed(event("messageStart", role="assistant"))[1] == StreamEnd(None)
    assert isinstance(streamed(event("anEventOfTomorrow", text="a"))[1], Fault)


@pytest.mark.parametrize("last", [(stop(), METADATA), (METADATA, stop())])
def test_nothing_is_read_behind_the_end_and_the_account(last):
    """In whichever order they come; whoever writes there means another reply."""
    chunks, ended = streamed(delta(0, text="Oslo"), *last, delta(0, text="Rome"))
    assert (PartialReply(*chunks).text, ended) == ("Oslo", StreamEnd("stop"))
    assert counts(PartialReply(*chunks).usage)["input_tokens"] == 22


def test_a_word_that_is_no_end_ends_the_reading():
    """What the server counts behind it is not waited for."""
    reader = ConverseReader()
    reader.read_event({"messageStop": {"stopReason": "malformed_tool_use"}})
    assert reader.is_over


def test_what_comes_in_parts_is_joined():
    """A signature, what was redacted, and the text that is cited; half a character alone is replaced."""
    thought = {"reasoningText": {"text": "h\ud83dm", "signature": "c2ln"}}
    quote = {"content": [{"text": "It rains"}], "citations": [CITED, {**CITED, "title": "Chart"}]}
    content = [{"reasoningContent": thought}, {"reasoningContent": {"redactedContent": "ZGF0YQ=="}}]
    reply = read_plain(ConverseReader, body(*content, {"citationsContent": quote}))
    chunks, _ = streamed(
        *(delta(0, reasoningContent=part) for part in ({"text": "h\ud83d"}, {"text": "m"})),
        *(delta(0, reasoningContent={"signature": part}) for part in ("c2", "ln")),
        *(delta(1, reasoningContent={"redactedContent": part}) for part in ("ZGF0", "YQ==")),
        *(delta(2, text=part) for part in ("It ", "rains")),
        *(delta(2, citation=citation) for citation in quote["citations"]),
        stop(),
    )
    assert isinstance(reply, Reply)
    assert beside_chunks(chunks) == beside_reply(reply)
    assert beside_reply(reply)["thinking_blocks"] == [
        {"type": "thinking", "thinking": "h\ufffdm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "data"},
    ]
    assert beside_reply(reply)["provider_specific_fields"]["citationsContent"] == [quote]


@pytest.mark.parametrize("inner", ["ZGF0YQ==", "no base64", "é"])
def test_what_was_redacted_is_unwrapped_where_it_was_wrapped(inner):
    """Once, and only where what is within is base64 again."""
    data = base64.b64encode(inner.encode()).decode()
    reply = read_plain(ConverseReader, body({"reasoningContent": {"redactedContent": data}}))
    assert isinstance(reply, Reply)
    (block,) = beside_reply(reply)["thinking_blocks"]
    assert block == {"type": "redacted_thinking", "data": inner if inner == "ZGF0YQ==" else data}


@pytest.mark.parametrize("data", ["no base64", "ZGF0YQ", "ZGF0!YQ=="])
def test_what_is_no_base64_stays_as_it_came(data):
    """Nothing raises."""
    reply = read_plain(ConverseReader, body({"reasoningContent": {"redactedContent": data}}))
    assert isinstance(reply, Reply)
    assert beside_reply(reply)["thinking_blocks"] == [{"type": "redacted_thinking", "data": data}]


def origins(deltas):
    """Who signed each thought, as far as it may be sent back."""
    fields = [delta.get("provider_specific_fields", {}) for delta in deltas]
    return [block["origin"] for told in fields for block in told.get("signed_thinking", ())]


SIGNED = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "c2ln"}}}
UNSIGNED = {"reasoningContent": {"reasoningText": {"text": "so"}}}
REDACTED = {"reasoningContent": {"redactedContent": "ZGF0YQ=="}}
TOOL = {"toolUse": {"toolUseId": "t1", "name": "go", "input": {}}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([SIGNED, REDACTED, {"text": "Oslo"}, SIGNED], ["m", "m", None]),
        ([SIGNED, TOOL, REDACTED], ["m", None]),
        ([{"text": "Oslo"}, REDACTED, SIGNED], [None, None]),
        ([UNSIGNED, SIGNED, {"text": "Oslo"}], ["m"]),
    ],
)
@pytest.mark.parametrize("closes", [True, False])
def test_only_thoughts_before_all_else_go_back_to_who_signed_them(content, expected, closes):
    """Plain as streamed, whether their blocks are closed one by one or by the end."""
    whole, in_parts = ConverseReader(), ConverseReader()
    whole.signer = in_parts.signer = "m"
    reply = whole.read_reply(body(*content))
    frames = [frame for frame in frames_of(content) if closes or frame["event"] != "contentBlockStop"]
    chunks = [in_parts.read_event({frame["event"]: frame["data"]}) for frame in frames]
    assert origins([reply.raw["choices"][0]["message"]]) == expected
    assert origins(chunk.raw["choices"][0]["delta"] for chunk in chunks if chunk) == expected


def test_a_word_of_a_server_s_own_is_an_end_where_its_spec_says_so():
    """Plain and streamed."""
    in_parts, whole = (ConverseReader({"fin": "stop"}) for _ in range(2))
    in_parts.read_event({"messageStop": {"stopReason": "fin"}})
    assert (in_parts.end(), whole.read_reply(body(reason="fin")).finish) == (StreamEnd("stop"), "stop")


NAMES = ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata")
PARTS = ("text", "toolUse", "reasoningContent", "citation", "citationsContent", "toolResult")
parts = st.fixed_dictionaries({}, optional=dict.fromkeys(PARTS, anything))
datas = anything | st.fixed_dictionaries(
    {},
    optional={
        "contentBlockIndex": anything | st.integers(0, 2),
        "delta": anything | parts,
        "start": anything | parts,
        "stopReason": anything | st.sampled_from(["end_turn", "tool_use"]),
        "usage": anything,
        "additionalModelResponseFields": anything,
    },
)
odd_events = st.builds(lambda name, data: {"event": name, "data": data}, st.sampled_from(NAMES), datas) | st.builds(
    lambda name, data: {"exception": name, "data": data}, st.text(max_size=9), anything
)


@given(st.lists(odd_events, max_size=5))
def test_no_event_is_too_odd(frames):
    """They end in a finish or a fault, and what came of them can be encoded."""
    chunks, ended = streamed(*frames)
    assert isinstance(ended, StreamEnd | Fault)
    came = PartialReply(*chunks)
    (came.text + came.reasoning + "".join(call.arguments for call in came.tool_calls.values())).encode()


@given(anything | st.builds(lambda content, usage: body(*content, usage=usage), st.lists(anything | parts), anything))
def test_no_document_is_too_odd(document):
    """It is a reply or a fault."""
    assert isinstance(read_plain(ConverseReader, document), Reply | Fault)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd(written):
    """Nothing but a fault comes of them, or nothing."""
    assert isinstance(read_stream(ConverseReader, [written])[1], StreamEnd | Fault)
