"""Replies as messages: what a judge gets to see."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from pydantic import BaseModel

from llm_fallback import build_chat_model
from llm_fallback.chat_model.conversion import to_message, unreadable_marks
from llm_fallback.engine.transport import PartialReply, Reply, ToolCallPart
from llm_fallback.testing import FakeServer
from llm_fallback.testing import Reply as Says
from tests.asking import MODES, STREAMED, ask

ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.lists(st.integers()))


class Trip(BaseModel):
    """A trip."""

    city: str
    stops: list[str] = []


def called(*parts: ToolCallPart) -> PartialReply:
    return PartialReply(Reply(None, tool_calls=parts))


@given(given=ARGUMENTS, share=st.floats(0, 0.999))
def test_arguments_cut_anywhere_are_no_tool_call(given, share):
    """Whole they are; a part of them is an invalid one, kept as it came."""
    whole = json.dumps(given)
    part = whole[: int(len(whole) * share)]
    assert to_message(called(ToolCallPart(0, "1", "go", whole))).tool_calls[0]["args"] == given
    cut = to_message(called(ToolCallPart(0, "1", "go", part or "{")))
    assert cut.tool_calls == []
    assert cut.invalid_tool_calls[0]["args"] == (part or "{")


def merged(arguments: str, mark: str) -> AIMessageChunk:
    """What LangChain makes of streamed arguments and what follows them."""
    call = {"type": "tool_call_chunk", "index": 0, "id": "1", "name": "go"}
    chunks = [{**call, "args": arguments}, {**call, "id": None, "name": None, "args": mark}]
    first, second = (AIMessageChunk("", tool_call_chunks=[chunk]) for chunk in chunks)  # type: ignore[list-item]
    return first + second


@given(given=ARGUMENTS, share=st.floats(0, 0.999), more=st.sampled_from(["", "\\", '"', "}", "{", '{"a": 1}', "[["]))
def test_langchain_makes_no_tool_call_of_streamed_arguments_cut_anywhere(given, share, more):
    """It completes what breaks off; whole arguments stay as they are."""
    whole = json.dumps(given)
    assert unreadable_marks(called(ToolCallPart(0, "1", "go", whole))) == []
    part = (whole[: int(len(whole) * share)] or "{") + more
    cut = called(ToolCallPart(0, "1", "go", part))
    [mark] = [mark.arguments for mark in unreadable_marks(cut)] or [""]
    message = merged(part, mark)
    assert message.tool_calls == to_message(cut).tool_calls
    assert len(message.invalid_tool_calls) == len(to_message(cut).invalid_tool_calls)


@pytest.mark.parametrize("finish", ["tool_calls", "length"])
@pytest.mark.parametrize("arguments", ['{"city": "Os', '{"city": ["Oslo", ', '{"city": "Oslo"} {"city": "Rome"}', "[1"])
@pytest.mark.parametrize("mode", MODES)
async def test_arguments_that_break_off_call_no_tool_plain_or_streamed(mode, arguments, finish):
    """An agent that streams would delete half of a path."""
    script = Says("", tool_calls=[{"name": "go", "args": arguments, "id": "1"}], finish=finish)
    with FakeServer({"a": script}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        message = await ask(model, mode)
    [invalid] = message.invalid_tool_calls
    assert (message.tool_calls, invalid["name"], invalid["id"]) == ([], "go", "1")
    assert (invalid["args"] or "").startswith(arguments)


@pytest.mark.parametrize("arguments", ["[1]", "3", "null", '"text"', '{"a": 1} and more'])
def test_arguments_that_are_no_object_are_no_tool_call(arguments):
    """A tool cannot be called with them."""
    message = to_message(called(ToolCallPart(0, "1", "go", arguments)))
    assert [call["args"] for call in message.invalid_tool_calls] == [arguments]


def test_no_arguments_are_an_empty_object():
    """As servers say it of a tool that takes none."""
    parts = called(ToolCallPart(1, "2", "b", ""), ToolCallPart(0, "1", "a", "{}"))
    assert [(call["name"], call["args"]) for call in to_message(parts).tool_calls] == [("a", {}), ("b", {})]


@pytest.mark.parametrize("mode", MODES)
async def test_a_schema_filled_to_the_half_is_rejected(mode):
    """The list it was cut in could be closed and would parse; the next deployment is asked instead."""
    half = Says(tool_calls=[{"name": "Trip", "args": '{"city": "Oslo", "stops": ["Hamar"'}], finish="length")
    whole = Says(tool_calls=[{"name": "Trip", "args": {"city": "Oslo", "stops": ["Hamar", "Trondheim"]}}])
    with FakeServer({"a": half, "b": whole}) as server, build_chat_model(server.spec()) as model:
        asked = model.with_structured_output(Trip, method="function_calling")
        if mode in STREAMED:
            trips = list(asked.stream("x")) if mode == "stream" else [trip async for trip in asked.astream("x")]
            trip = trips[-1]
        else:
            trip = await ask(asked, mode)
    assert trip == Trip(city="Oslo", stops=["Hamar", "Trondheim"])
