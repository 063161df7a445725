"""Tool calls as servers stream them: in parts of every form, and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.tool_calls import ToolCallReader, documents_of, whole_tool_calls
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import Chunk, PartialReply, ToolCallPart
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
HALVES = [("glob", "{"), ("f", "[")]
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
        # Parts without an index: by their place in the delta, one alone by the last position, or by their id.
        ([[part('{"p":', name="glob"), part('{"q":', name="list")], [part('"a"}'), part('"b"}')]], TWO),
        ([[part('{"p":', name="glob", index=1)], [part('"a"}')]], CALL),
        ([[part('{"p":', name="glob")], [part('"a"}', index=0)]], CALL),
        (
            [
                *([part('{"p":', name="glob", id="1")], [part('{"q":', name="list", id="2")]),
                *([part('"a"}', id="1")], [part('"b"}', id="2")]),
            ],
            TWO,
        ),
        # Another id and another name begin another call though the first has no arguments, or not all of them.
        ([[part("", name="glob", id="1", index=0)], [part("", name="glob", id="2", index=0)]], [("glob", "")] * 2),
        ([[part("{", name="glob", id="1", index=0)], [part("[", name="f", id="2", index=0)]], HALVES),
        # A name in parts, as Gemini's models stream it; once arguments came, or in one delta, it is another's.
        ([[part("", name="gl", id="1", index=0)], [part("", name="ob", index=0)], [part(WHOLE, index=0)]], CALL),
        ([[part(name="gl", index=0)], [part(WHOLE, name="ob", index=0)]], CALL),
        ([[part(name="gl", id="1")], [part(name="ob", id="1")], [part(WHOLE, name="glob", id="1")]], CALL),
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
    ("deltas", "said"),
    [
        ([[part('{"a":1}', id="1", index=0)]], "a tool call without a name"),
        ([[part({}, id="1", index=0)]], "a tool call without a name"),
        ([[part("{}", name=7, index=0)]], "the name of a tool call is a number, not the text it should be"),
        ([[part("{}", name="f", id=True)]], "the id of a tool call is a truth value, not the text it should be"),
        ([[part("{}", name="f", id=7.5)]], "the id of a tool call is a number, not the text it should be"),
        ([[part("{}", name="f", index="x")]], "the index of a tool call is a text, not the position it should be"),
        ([[part(["a"], name="f")]], "the arguments of a tool call is a list, not the text it should be"),
        ([["glob"]], "tool_calls is a text, not the object it should be"),
        ([[{"function": "glob"}]], "function is a text, not the object it should be"),
    ],
)
def test_what_is_no_call_is_unreadable(deltas, said):
    """Arguments of a call that nobody named, and values of another type; streamed and plain."""
    with pytest.raises(Unreadable) as in_parts:
        merged(*deltas)
    with pytest.raises(Unreadable) as whole:
        whole_tool_calls(deltas[0])
    assert str(in_parts.value) == str(whole.value) == said


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["{", {"a": 1}], "arguments of a tool call are an object behind a text"),
        ([{"a": 1}, "}"], "arguments of a tool call are more than an object"),
    ],
)
def test_arguments_that_come_as_an_object_come_alone(parts, said):
    """What stands before or behind it belongs to nothing."""
    first, second = parts
    with pytest.raises(Unreadable) as caught:
        merged([part(first, name="f", index=0)], [part(second, index=0)])
    assert str(caught.value) == said


def test_each_part_is_told_once_and_nothing_where_nothing_came():
    """The id and the name with the first only, as LangChain adds them up."""
    reader = ToolCallReader()
    assert reader.read([part("{", name="f", id="1", index=0)]) == (ToolCallPart(0, "1", "f", "{"),)
    assert reader.read([part("}", id="1", index=0)]) == (ToolCallPart(0, None, None, "}"),)
    assert reader.read([part(id="1", index=0)]) == reader.close() == ()


def test_an_empty_object_that_nothing_followed_is_told_once():
    """At the end."""
    reader = ToolCallReader()
    assert reader.read([part({}, name="f", id="1", index=0)], waits=True) == (ToolCallPart(0, "1", "f", ""),)
    assert reader.close() == (ToolCallPart(0, None, None, "{}"),)
    assert reader.close() == ()


def test_the_same_position_with_another_id_is_another_call():
    """Even where the first was not named yet."""
    calls = merged([part(id="1", index=0)], [part("{}", name="f", id="2", index=0)]).tool_calls
    assert [(call.id, call.name) for call in calls.values()] == [("2", "f")]


def test_calls_are_handed_to_langchain_in_openais_form():
    """A part of one like a whole."""
    assert documents_of([ToolCallPart(1, "7", "f", "{}"), ToolCallPart(1, None, None, "}")]) == [
        {"index": 1, "id": "7", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"index": 1, "id": None, "type": "function", "function": {"name": None, "arguments": "}"}},
    ]


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
        ([{"id": "1", "function": {"name": "f", "arguments": {"a": "ø"}}}], [("f", '{"a": "ø"}')]),
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
