"""Going on with a reply that broke off: the stitch, the request, and whole chains that break at random places."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback.engine.continuation import INSTRUCTION, OverlapTrimmer, can_continue, continuation_request
from llm_fallback.engine.engine import Answered, StreamBrokeOff
from llm_fallback.engine.transport import Chunk, Fault, PartialReply, Reply, StreamEnd, ToolCallPart, Usage
from llm_fallback.plan.explain import explain
from llm_fallback.plan.plan import Target
from tests.engine.test_execution import HANG, RAW, MemoryExchange, MemoryTransport, Stage, stage
from tests.plans import chain, member
from tests.thinning import examples

WORDS = [f"word{number} " for number in range(12)]
WHOLE = "".join(WORDS)


def joined(delivered: str, *parts: str, exact: bool = False) -> str:
    trimmer = OverlapTrimmer(delivered, exact=exact)
    return "".join([*(trimmer.feed(part) for part in parts), trimmer.flush()])


def test_what_is_said_again_at_the_stitch_is_said_once():
    """From the start, from a word, or from the middle of the cut word on."""
    assert joined("The quick", " brown fox") == " brown fox"
    assert joined("The quick", "The quick brown fox") == " brown fox"
    assert joined("The quick", "quick", " brown fox") == " brown fox"
    assert joined("I say Hel", "Hello") == "lo"


def test_a_repetition_that_is_cut_short_is_one():
    """By a server that began anew and had no more tokens; what repeats some middle may be new text."""
    assert joined("once upon a time", "once upon a") == ""
    assert joined("once upon a time", "once upon a", exact=True) == ""
    assert joined("once upon a time", "once upo") == ""
    assert joined("once upon a time", "once up") == "once up", "so little may come twice"
    assert joined("a: none here, b: ", "none here") == "none here"


def test_what_only_looks_like_a_repetition_is_kept():
    """A start that turns another way, and a short one, are text."""
    assert joined("The quick", "The", " quiet") == "The quiet"
    assert joined("one a", "a b") == "a b"


def test_after_a_real_prefill_only_a_whole_restart_is_trimmed():
    """A server that was handed the beginning goes on from it; one that does not know the handing says it all again."""
    assert joined("ha ha ha", " ha", exact=True) == " ha"
    assert joined("once upon a time", "once upon", " a time there", exact=True) == " there"
    assert joined("The quick", "quick brown", exact=True) == "quick brown"
    assert joined("12345678", "12345678 9", exact=True) == " 9"
    assert joined("1234567", "1234567 8", exact=True) == "1234567 8", "so little may come twice"


@given(st.integers(1, 11), st.integers(0, 11), st.lists(st.integers(1, 9), max_size=20))
def test_however_much_is_repeated_and_in_whatever_pieces_the_whole_is_the_whole(cut, back, sizes):
    """For every cut between words, every number of words said again, and every way to split the stream."""
    delivered, rest = "".join(WORDS[:cut]), "".join(WORDS[max(0, cut - back) :])
    parts, at = [], 0
    for size in sizes:
        parts.append(rest[at : at + size])
        at += size
    assert delivered + joined(delivered, *parts, rest[at:]) == WHOLE


def test_the_request_goes_on_with_prefill_or_an_instruction():
    """What is left of a limit on the length shrinks with what was said; a thought alone begins anew."""
    request = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 10, "extra_body": {"own": 1}}
    told = continuation_request(request, "12345678", None)
    assert [message["role"] for message in told["messages"]] == ["user", "assistant", "user"]
    assert told["max_tokens"] == 8
    handed = continuation_request(request, "12345678", {"message": {"prefix": True}, "extra_body": {"go_on": True}})
    assert handed["messages"][-1] == {"role": "assistant", "content": "12345678", "prefix": True}
    assert handed["extra_body"] == {"own": 1, "go_on": True}
    assert continuation_request(request, "", None) == request
    assert request["messages"] == [{"role": "user", "content": "go"}]


def test_what_is_left_of_a_limit_is_at_least_one_token_and_no_limit_stays_none():
    """Whichever word says it; nobody is asked for none at all."""
    request = {"messages": [{"role": "user", "content": "go"}]}
    for words, left in [
        ({"max_completion_tokens": 10}, {"max_completion_tokens": 8}),
        ({"max_tokens": 10, "max_completion_tokens": 20}, {"max_tokens": 8, "max_completion_tokens": 18}),
        ({"max_tokens": 3}, {"max_tokens": 1}),
        ({"max_tokens": 2}, {"max_tokens": 1}),
        ({"max_tokens": None}, {"max_tokens": None}),
        ({"max_tokens": -1}, {"max_tokens": -1}),  # llama.cpp's word for none.
        ({"max_tokens": "10"}, {"max_tokens": 8}),  # Many servers read it.
        ({"max_tokens": "ten"}, {"max_tokens": "ten"}),
        ({"max_tokens": [10]}, {"max_tokens": [10]}),
        ({}, {}),
    ]:
        for prefill in (None, {"message": {}}):
            told = continuation_request({**request, **words}, "12345678", prefill)
            assert {word: told[word] for word in told if word != "messages"} == left


def test_an_instruction_or_the_prefill_comes_behind_the_text_and_no_empty_body_is_sent():
    """The text as it was delivered, and what to do with it."""
    request = {"messages": [{"role": "user", "content": "go"}]}
    told = continuation_request(request, "12345678", None)["messages"]
    assert told[1:] == [{"role": "assistant", "content": "12345678"}, {"role": "user", "content": INSTRUCTION}]
    assert continuation_request(request, "1", {}) == {
        "messages": [*request["messages"], {"role": "assistant", "content": "1"}]
    }
    assert continuation_request(request, "1", {"extra_body": {"go_on": True}})["extra_body"] == {"go_on": True}


def test_of_several_repetitions_the_longest_counts_and_two_characters_are_none():
    """An overlap begins at a word or at its edge."""
    assert joined("ha ha ha", "ha ha ha, he") == ", he"
    assert joined("say He", "Hello") == "Hello"
    assert joined("say Hel", "Hello") == "lo"
    assert joined("see (now", "now) then") == ") then"
    assert joined("(now", "now) then") == ") then"
    assert joined("see (now", "(now) then") == ") then"
    assert joined("do it-now", "now then") == " then"
    assert joined("", "any text") == "any text"
    assert joined("abcdef", "def") == "def", "in the middle of a word nothing begins"
    assert joined("The quick brown", "quick") == "quick", "some middle is no repetition"


def test_text_is_let_go_as_soon_as_it_is_no_repetition():
    """And nothing is held from then on."""
    trimmer = OverlapTrimmer("The quick", exact=False)
    assert trimmer.feed("The ") == ""
    assert trimmer.feed("slow") == "The slow"
    assert trimmer.feed("The quick") == "The quick"
    assert trimmer.flush() == ""


def test_a_tool_call_the_caller_has_cannot_be_gone_on_with():
    """It may have been made already."""
    assert can_continue(PartialReply(Reply(None, text="some")))
    assert not can_continue(PartialReply(Reply(None, tool_calls=[ToolCallPart(0, "1", "f", "{}")])))


class Speakers(MemoryTransport):
    """Deployments that all know the same text: each goes on from what it is handed, in its own way, and breaks at the
    places it is told to."""

    breaks: Mapping[str, Sequence[tuple[int, Any]]]
    says_again: Mapping[str, int]

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> MemoryExchange:
        before = [name for name, _ in self.asked].count(target.name)
        self.asked.append((target.name, self.clock.now()))
        handed = [message["content"] for message in request["messages"] if message["role"] == "assistant"]
        act = self._act(target.name, before, handed[-1] if handed else "")
        self.played.append(act)
        self.exchanges.append(MemoryExchange(self.clock, act))
        return self.exchanges[-1]

    def _act(self, name: str, before: int, handed: str) -> list[Any]:
        done = len(handed.split())
        said = WORDS[max(0, done - self.says_again[name]) :]
        pieces: list[Any] = [Chunk(dict(RAW), text=word) for word in said]
        if before < len(self.breaks[name]):
            after, how = self.breaks[name][before]
            if after < len(pieces) or how is not None:
                return [*pieces[:after], how]
        return [*pieces, Chunk(dict(RAW), finish="stop"), StreamEnd("stop")]


CALL = ToolCallPart(0, "call_1", "look_up", "{}")


def piece(text: str = "", **said: Any) -> Chunk:
    """A chunk as a server sends it, what it says also in its document."""
    raw = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": said.get("finish")}]}
    return Chunk(raw, text=text, **said)


async def gone_on_with(*pieces: Chunk) -> list[Chunk]:
    """What a caller gets of a chain whose first reply is cut, and whose second goes on with these pieces."""
    plan = chain(member("a"), member("b"), on_stream_break="continue")
    cut = [piece("Let me look up "), Fault("stream_broken", "cut")]
    out = await stage(plan, a=cut, b=[*pieces, StreamEnd("stop")]).call()
    assert isinstance(out.end, Answered)
    return out.pieces


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(
            [piece("Let me look up the weather.", tool_calls=(CALL,), finish="tool_calls")], id="a document as a whole"
        ),
        pytest.param(
            [piece(tool_calls=(CALL,)), piece("Let me look up "), piece("the weather.")], id="a tool call first"
        ),
        pytest.param(
            [piece("Let me look "), piece(tool_calls=(CALL,)), piece("up the weather.")], id="a tool call in its middle"
        ),
    ],
)
async def test_what_is_said_again_beside_a_tool_call_is_said_once(pieces):
    """A tool call of a reply that goes on waits for the end, and so does what comes with it and after it."""
    got = await gone_on_with(*pieces)
    assert "".join(each.text for each in got) == "Let me look up the weather."
    assert [call for each in got for call in each.tool_calls] == [CALL]
    assert all(each.raw["choices"][0]["delta"].get("content", "") == each.text for each in got)


async def test_what_was_held_to_the_end_comes_without_what_came_with_it():
    """Its tool calls, usage and finish have a chunk of their own: with both, LangChain would add them up."""
    usage = Usage(7, 3)
    got = await gone_on_with(piece("up", tool_calls=(CALL,), usage=usage, finish="tool_calls"))
    assert "".join(each.text for each in got) == "Let me look up up"
    assert [call for each in got for call in each.tool_calls] == [CALL]
    assert [each.usage for each in got if each.usage] == [usage]
    assert [each.finish for each in got if each.finish] == ["tool_calls"]
    assert [each.raw["choices"][0]["finish_reason"] for each in got[1:]] == [None, "tool_calls"]


async def test_what_follows_a_tool_call_comes_after_it():
    """Though it waits, in the order in which it was said."""
    got = await gone_on_with(piece(tool_calls=(CALL,)), piece("the weather."), piece(finish="tool_calls"))
    assert [(each.text, each.tool_calls, each.finish) for each in got] == [
        ("Let me look up ", (), None),
        ("", (CALL,), None),
        ("the weather.", (), None),
        ("", (), "tool_calls"),
    ]


async def test_what_was_held_to_the_end_comes_before_the_finish():
    """Whoever reads on up to the finish has all of it."""
    got = await gone_on_with(piece("up"), piece(finish="stop"))
    assert [(each.text, each.finish) for each in got] == [("Let me look up ", None), ("up", None), ("", "stop")]


def whole(raw: dict[str, Any]) -> dict[str, Any]:
    return raw


def delta_of(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["choices"][0]["delta"]


@pytest.mark.parametrize("text", ["Let me look ", "around"], ids=["a text said again", "a new text"])
@pytest.mark.parametrize(
    ("place", "name", "said"),
    [
        pytest.param(delta_of, "provider_specific_fields", {"images": [{"url": "data:"}]}, id="a picture"),
        pytest.param(delta_of, "annotations", [{"type": "url_citation"}], id="a citation"),
        pytest.param(whole, "vertex_ai_grounding_metadata", [{"webSearchQueries": ["weather"]}], id="sources"),
    ],
)
async def test_what_comes_beside_a_text_of_a_reply_that_goes_on_is_told(text, place, name, said):
    """Whether or not the text itself was delivered before."""
    chunk = piece(text)
    place(chunk.raw)[name] = said
    got = await gone_on_with(chunk, piece(finish="stop"))
    assert [place(each.raw)[name] for each in got if name in place(each.raw)] == [said]


async def test_thoughts_of_a_reply_that_goes_on_are_not_told():
    """Nor are the parts in which some servers send them once more."""
    thought = Chunk({"choices": [{"delta": {"content": "", "thinking_blocks": [{}]}}]}, reasoning="Hm.")
    got = await gone_on_with(thought, piece("the weather."), piece(finish="stop"))
    assert [each.text for each in got] == ["Let me look up ", "the weather.", ""]


async def test_probabilities_are_told_of_a_text_that_is_told_as_it_came():
    """What is trimmed has other tokens."""
    trimmed, passed = piece("up the weather"), piece(" of today")
    for each in (trimmed, passed):
        each.raw["provider_specific_fields"] = {"logprobs": {"content": [{"token": "up", "logprob": -0.1}]}}
    got = await gone_on_with(trimmed, passed, piece(finish="stop"))
    told = [(each.text, "provider_specific_fields" in each.raw) for each in got[1:]]
    assert told == [("the weather", False), (" of today", True), ("", False)]


HOWS = st.sampled_from(
    [Fault("stream_broken", "cut"), Fault("server_error", "no"), StreamEnd(None), StreamEnd("abort"), HANG]
)
ONE = st.tuples(st.lists(st.tuples(st.integers(0, 12), HOWS), max_size=3), st.integers(0, 12))


@given(st.lists(ONE, min_size=1, max_size=4), st.integers(0, 2))
@settings(deadline=None, max_examples=examples(300))
def test_wherever_deployments_break_nothing_is_lost_or_said_twice(speakers, retries):
    """What is delivered is always the beginning of the one text, and the whole of it when the call is answered."""
    names = [f"d{number}" for number in range(len(speakers))]
    plan = chain(*map(member, names), retries=retries, on_stream_break="continue")

    async def call() -> tuple[Stage, Any]:
        on = stage(plan)
        transport = Speakers(on.clock, {})
        transport.breaks = {name: breaks for name, (breaks, _) in zip(names, speakers, strict=True)}
        transport.says_again = {name: again for name, (_, again) in zip(names, speakers, strict=True)}
        object.__setattr__(on.engine, "transport", transport)
        on.transport = transport
        return on, await on.call()

    on, out = asyncio.run(call())
    assert WHOLE.startswith(out.text)
    assert len(on.asked) <= explain(plan)["max_requests"]
    assert out.took <= plan.total_s
    on.check_nothing_is_left()
    if isinstance(out.end, Answered):
        assert out.text == WHOLE
    else:
        assert isinstance(out.end, StreamBrokeOff) == bool(out.text)
