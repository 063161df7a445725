"""Tool calls as servers stream them: in parts of every form, and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.tool_calls import ToolCallReader, whole_tool_calls
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import Chunk, PartialReply
from tests.engine.protocol.spoken import work_of


def part(arguments: Any = None, *, name: Any = None, id: Any = None, index: Any = None) -> dict[str, Any]:
    fields = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in fields.items() if value is not None}


def told(*deltas: Sequence[dict[str, Any]]) -> list[tuple[str | None, str]]:
    """Name and arguments of each call, as LangChain merges the parts."""
    calls = merged(*deltas).tool_calls
    return [(call.name, call.arguments) for _, call in sorted(calls.items())]


def merged(*deltas: Sequence[dict[str, Any]]) -> PartialReply:
    reader, whole = ToolCallReader(), PartialReply()
    for delta in deltas:
        whole.add(Chunk({}, tool_calls=reader.read(list(delta), waits=True)))
    whole.add(Chunk({}, tool_calls=reader.close()))
    reader.end()
    return whole


CALL = [("glob", '{"p":"a"}')]
TWO = [*CALL, ("list", '{"q":"b"}')]
TWICE = [*CALL, ("glob", '{"p":"b"}')]
EMPTY = [("glob", "{}")]
WHOLE = '{"p":"a"}'
AGAIN = part('{"p":"b"}', name="glob", index=0)


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        ([[part("", name="glob", id="1", index=0)], [part('{"p":', index=0)], [part('"a"}', index=0)]], CALL),
        ([[part('{"p":', name="glob", id="1", index=0)], [part('"a"}', name="glob", id="1", index=0)]], CALL),
        ([[part('{"p":', name="glob", index=0)], [part('"a"}', name="glob", index=0)]], CALL),
        ([[part('{"p":', name="glob", id="1")], [part('"a"}')]], CALL),
        ([[part('{"p":"a"}', name="glob")]], CALL),
        ([[part(name="glob", id="1", index=3)], [part('{"p":"a"}', index=3)]], CALL),
        ([[part(id="1", index=0)], [part(name="glob", index=0)], [part('{"p":"a"}', index=0)]], CALL),
        ([[part('{"p":', id="1", index=0)], [part('"a"}', name="glob", index=0)]], CALL),
        ([[part(name="glob", id="", index=0)], [part('{"p":"a"}', id="", index=0)]], CALL),
        ([[part({"p": "a"}, name="glob", id="1", index=0)]], [("glob", '{"p": "a"}')]),
        ([[part(name="glob", index=0)], [part({"p": "a"}, index=0)]], [("glob", '{"p": "a"}')]),
        ([[part("", name="glob", id="1", index=0)]], [("glob", "")]),
        ([[part('{"p":"a"}', name="glob", id="1", index=0), part('{"q":"b"}', name="list", id="2", index=1)]], TWO),
        ([[part('{"p":"a"}', name="glob", id="1", index=0)], [part('{"q":"b"}', name="list", id="2", index=0)]], TWO),
        ([[part('{"p":"a"}', name="glob", index=0)], [part('{"q":"b"}', name="list", index=0)]], TWO),
        ([[part('{"p":"a"}', name="glob", index=0)], [part('{"p":"b"}', name="glob", index=0)]], TWICE),
        ([[part('{"p":"a"}', name="glob"), part('{"q":"b"}', name="list")]], TWO),
        ([[part('{"p":"a"}', name="glob", id="1")], [part('{"q":"b"}', name="list", id="2")]], TWO),
        ([[part('{"p":', name="glob", id="1")], [part('"a"}')], [part('{"q":"b"}', name="list", id="2")]], TWO),
        ([[part('{"p":', name="glob")], [part('{"q":"b"}', name="list", index=1)], [part('"a"}', index=0)]], TWO),
        ([[part('{"p":"a"}', name="glob", id="1", index=0)], [part('{"q":"b"}', name="list", id="1", index=0)]], TWO),
        ([[part('{"p":', name="glob", id="1", index=0)], [part('"a"}', id="2", index=0)]], CALL),
        ([[part('{"p":', name="glob", id="1", index=0)], [part('"a"}', name="glob", id="2", index=0)]], CALL),
        # A name in parts, as Gemini's models stream it; once arguments came, or in one delta, it is another's.
        ([[part("", name="gl", id="1", index=0)], [part("", name="ob", index=0)], [part(WHOLE, index=0)]], CALL),
        ([[part(name="gl", index=0)], [part(WHOLE, name="ob", index=0)]], CALL),
        ([[part(name="g", id="1")], [part(name="lo", id="1")], [part(WHOLE, name="b")]], CALL),
        ([[part("", name="f", index=0), part("", name="g", index=0)]], [("f", ""), ("g", "")]),
        # An empty object before the real arguments, as gateways make it of the first event of a call of Claude's.
        ([[part("{}", name="glob", id="1", index=0)], [part('{"p":', index=0)], [part('"a"}', index=0)]], CALL),
        ([[part({}, name="glob", id="1", index=0)], [part(WHOLE, index=0)]], CALL),
        ([[part("{}", name="glob", id="1", index=0)], [part(WHOLE, name="glob", id="1", index=0)]], CALL),
        ([[part("{}", name="glob", id="1", index=0)]], EMPTY),
        ([[part("{}", name="glob", id="1", index=0)], [part("", index=0)]], EMPTY),
        ([[part("{}", id="1", index=0)], [part(name="glob", index=0)]], EMPTY),
        ([[part("{}", name="glob", index=0)], [part("{}", name="glob", index=0)]], EMPTY * 2),
        # The same tool twice, of one index and without ids.
        ([[part("", name="glob", index=0), part("", name="glob", index=0)]], [("glob", "")] * 2),
        ([[part(f"{WHOLE}\n", name="glob", index=0)], [AGAIN]], [("glob", f"{WHOLE}\n"), TWICE[1]]),
        ([[part(WHOLE, name="glob", index=0)], [part(" ", index=0)], [AGAIN]], [("glob", f"{WHOLE} "), TWICE[1]]),
        # Parts of one call in one delta, as vLLM sends them where it drafts tokens ahead.
        ([[part("", name="glob", id="1", index=0)], [part('{"p":', index=0), part('"a"}', index=0)]], CALL),
        ([[part(index=0, id="")]], []),
        ([[]], []),
    ],
)  # fmt: skip
def test_parts_of_every_form_come_to_the_calls_they_are(deltas, calls):
    """A name or an id in every part, late or none, no index, parallel calls of one index, arguments as an object."""
    assert told(*deltas) == calls


def test_a_call_without_an_id_gets_one():
    """Its answer has to name it; the same in all its parts, another for each call."""
    calls = merged([part("{", name="f"), part("{", name="g")], [part("}"), part("}")]).tool_calls
    ids = [call.id for call in calls.values()]
    assert all(ids)
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    "deltas",
    [
        [[part('{"a":1}', id="1", index=0)]],
        [[part("{}", name=7, index=0)]],
        [[part("{}", name="f", id=True)]],
        [[part("{}", name="f", id=7.5)]],
        [[part({}, id="1", index=0)]],
        [[part("{}", name="f", index="x")]],
        [[part(["a"], name="f")]],
        [[part("{", name="f", index=0)], [part({"a": 1}, index=0)]],
        [[part({"a": 1}, name="f", index=0)], [part("}", index=0)]],
        [["glob"]],
    ],
)
def test_what_is_no_call_is_unreadable(deltas):
    """Arguments of a call that nobody named, and values of another type."""
    with pytest.raises(Unreadable):
        merged(*deltas)


def test_a_number_for_an_id_is_its_text():
    """Plain as streamed: gateways in languages with loose types write it so."""
    document = part("{}", name="f", id=7, index=0)
    assert [call.id for call in merged([document]).tool_calls.values()] == ["7"]
    assert [call.id for call in whole_tool_calls([document])] == ["7"]


def test_empty_arguments_are_told_at_once_where_nobody_asks_for_what_waits():
    """Protocols whose arguments have one beginning have nothing to wait for."""
    assert [call.arguments for call in ToolCallReader().read([part("{}", name="f", id="1", index=0)])] == ["{}"]


def test_a_character_that_was_cut_in_two_is_whole_in_the_arguments():
    """Half of it could not be encoded again."""
    assert told([part('{"a": "\ud83d', name="f")], [part('\ude00"}')]) == [("f", '{"a": "😀"}')]


@pytest.mark.parametrize(
    ("said", "calls"),
    [
        ([{"id": "1", "function": {"name": "f", "arguments": "{}"}}], [("f", "{}")]),
        ([{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}], [("f", '{"a": 1}')]),
        ([{"function": {"name": "f"}}], [("f", "")]),
        ([{"id": "1", "function": {"name": "", "arguments": ""}}], []),
        (None, []),
    ],
)
def test_whole_calls_are_read_like_their_parts(said, calls):
    """One without a name and arguments is none."""
    parts = whole_tool_calls(said)
    assert [(call.name, call.arguments) for call in parts] == calls
    assert all(call.id for call in parts)


@given(
    st.lists(
        st.lists(
            st.builds(
                part,
                st.sampled_from([None, "", "{", '{"a": 1}', "}"]),
                name=st.sampled_from([None, "", "f", "g"]),
                id=st.sampled_from([None, "", "1", "2"]),
                index=st.sampled_from([None, 0, 1]),
            ),
            max_size=3,
        ),
        max_size=6,
    )
)
def test_whatever_comes_each_call_has_one_id_and_a_name_before_its_arguments(deltas):
    """LangChain adds names and ids up where they come twice."""
    reader, parts = ToolCallReader(), []
    for delta in deltas:
        parts += reader.read(delta, waits=True)
    parts += reader.close()
    begun: set[int] = set()
    for one in parts:
        assert (one.id is not None) is (one.index not in begun)
        assert one.name or one.index in begun
        begun.add(one.index)


def test_a_call_that_is_named_in_every_part_takes_time_in_proportion():
    """Whether its arguments are whole is known without reading them anew."""

    def read(parts: int) -> None:
        reader = ToolCallReader()
        for _ in range(parts):
            reader.read([part('{"}', name="f", index=0)])

    assert work_of(lambda: read(40_000)) < 10 * work_of(lambda: read(10_000))


@pytest.mark.parametrize("inner", ["}", "{", '\\"}', "\\\\", "\\u007d", "]"])
def test_brackets_in_a_text_close_no_arguments(inner):
    """Nor do escaped quotes end it, wherever the parts are cut."""
    arguments = '{"p": ["' + inner + '"]}'
    for cut in range(len(arguments)):
        parts = [arguments[:cut], arguments[cut:]]
        assert told(*([part(text, name="f", index=0)] for text in (*parts, *parts))) == [("f", arguments)] * 2
