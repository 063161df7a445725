"""What passes between engine and deployment: replies as they grow."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.transport import Chunk, PartialReply, Reply, ToolCallPart
from llm_fallback.events import Usage


class Text(str):
    """A text that cannot be added to another: whoever did that for each chunk would copy the whole reply each time."""

    __slots__ = ()

    def __radd__(self, other: str) -> str:
        raise AssertionError("a reply was copied for a chunk")

    __add__ = __radd__


CHUNKS = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.lists(st.integers(0, 2), max_size=2)))


@given(CHUNKS)
def test_a_partial_reply_is_all_its_chunks_in_their_order(came):
    """Text, reasoning and the arguments of each tool call, whenever it is read."""
    partial, arguments = PartialReply(), {}
    for number, (text, reasoning, calls) in enumerate(came):
        parts = [ToolCallPart(index, None, None, f"{number},") for index in calls]
        partial.add(Chunk(object(), text, reasoning, parts))
        for part in parts:
            arguments[part.index] = arguments.get(part.index, "") + part.arguments
        assert partial.text == "".join(text for text, _, _ in came[: number + 1])
    assert partial.reasoning == "".join(reasoning for _, reasoning, _ in came)
    assert {index: part.arguments for index, part in partial.tool_calls.items()} == arguments
    assert partial.is_empty == (not (partial.text.strip() or partial.reasoning.strip() or arguments))


def test_no_chunk_copies_what_came_before_it():
    """Streams of tens of thousands of chunks cost each chunk the same."""
    partial = PartialReply()
    for _ in range(3):
        partial.add(Chunk(object(), Text("a"), Text("b"), [ToolCallPart(0, "1", None, Text("c"))]))
    assert (partial.text, partial.reasoning, partial.tool_calls[0].arguments) == ("aaa", "bbb", "ccc")
    assert partial.output_characters == len("aaabbbccc")


def test_of_a_tool_call_the_first_id_holds_and_the_name_grows():
    """Servers repeat an id, or leave it out, in later parts; readers tell of a name what is new."""
    parts: list[Any] = [
        ToolCallPart(0, None, "f", ""),
        ToolCallPart(0, "1", None, "{"),
        ToolCallPart(0, "2", "g", "}"),
    ]
    partial = PartialReply(*(Chunk(object(), tool_calls=[part]) for part in parts))
    assert partial.tool_calls == {0: ToolCallPart(0, "1", "fg", "{}")}


def test_the_last_finish_and_usage_that_were_said_hold():
    """What a chunk does not say takes nothing back."""
    partial = PartialReply(
        Chunk(object(), "x", finish="length", usage=Usage(1, 1)), Chunk(object()), Reply(object(), usage=Usage(1, 2))
    )
    assert (partial.finish, partial.usage) == ("length", Usage(1, 2))
