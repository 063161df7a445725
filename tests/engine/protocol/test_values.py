"""The border: values of the types a protocol names, or an error that says what came instead."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.values import (
    ArgumentsJoiner,
    TextJoiner,
    Unreadable,
    complete,
    complete_json,
    decode,
    encodable,
    index,
    items,
    mapping,
    mappings,
    text,
    wrong,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(anything)
def test_a_document_is_read_as_it_was_written(document):
    """From bytes and from text."""
    assert decode(json.dumps(document).encode()) == decode(json.dumps(document)) == document


@pytest.mark.parametrize(
    "written",
    [
        *(
            b"",
            b"{",
            b"{'a': 1}",
            b"nothing",
            b'{"a": NaN}',
            b"[1e999]",
            b"[Infinity]",
            b"-Infinity",
            b"\xff\xfe",
            b'"a\nb"',
        ),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 201 + b"]" * 201,
        b"9" * 5_000,
    ],
)
def test_what_is_no_json_is_unreadable(written):
    """Nor is NaN, a number without end, or nesting that would break whoever reads it."""
    with pytest.raises(Unreadable, match=r"^not JSON$|^JSON nested deeper than 200 levels$"):
        decode(written)


@pytest.mark.parametrize(("opening", "end"), [("[", "]"), ('{"a":', "}")])
def test_a_list_or_an_object_within_199_others_is_read_and_within_200_not(opening, end):
    """Its level is its own and those around it."""
    assert decode(opening * 199 + "[]" + end * 199)
    with pytest.raises(Unreadable, match=r"^JSON nested deeper than 200 levels$"):
        decode(opening * 200 + "[]" + end * 200)


@pytest.mark.parametrize("value", [b"0", b"{}", b"[]", b'""'])
def test_a_document_of_values_without_end_is_unreadable(value):
    """A few bytes each on the wire, a hundred times as many in memory."""
    many = 2_000_001
    with pytest.raises(Unreadable, match="more than 2000000 values"):
        decode(b"[" + (value + b",") * many + value + b"]")
    assert len(decode(b"[" + (value + b",") * 1_000 + value + b"]")) == 1_001


@pytest.mark.parametrize("mark", ["[", "{", ","])
@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_text_of_more_marks_than_a_document_has_values_is_unreadable(mark, kind):
    """No model writes one, and to tell its marks from those of values would take as long as to read it."""
    with pytest.raises(Unreadable, match=r"^JSON of more than 2000000 values$"):
        decode(kind(f'"{mark * 2_000_001}"'))
    assert decode(kind(f'"{mark * 2_000_000}"')) == mark * 2_000_000


def test_line_ends_in_a_text_are_read_where_the_reader_is_asked_to():
    """Models write them."""
    assert decode('"a\nb"', strict=False) == "a\nb"


def test_many_brackets_side_by_side_are_no_depth():
    """Nor those inside of a text."""
    assert decode(json.dumps([[[]] * 500, "[" * 500])) == [[[]] * 500, "[" * 500]
    assert decode(b"[" * 200 + b"]" * 200)


def test_what_is_of_its_type_is_itself():
    """A text, an object, a list."""
    assert (text("a", "x"), mapping({"a": 1}, "x"), items([1], "x")) == ("a", {"a": 1}, [1])


def test_nothing_said_is_empty():
    """`null` and a field that is missing are the same."""
    assert (text(None, ""), mapping(None, ""), items(None, ""), mappings(None, ""), index(None, "")) == (
        *("", {}, (), []),
        None,
    )


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (text, 5, "x is a number, not the text it should be"),
        (text, {"text": "a"}, "x is an object, not the text it should be"),
        (mapping, "a", "x is a text, not the object it should be"),
        (items, {}, "x is an object, not the list it should be"),
        (mappings, [1], "x is a number, not the object it should be"),
        (index, "x", "x is a text, not the position it should be"),
        (mappings, {}, "x is an object, not the list it should be"),
        (items, True, "x is a truth value, not the list it should be"),
        (text, 1.5, "x is a number, not the text it should be"),
        (text, [], "x is a list, not the text it should be"),
        (index, 1_000_000, "x is a number, not the position it should be"),
        (index, True, "x is a truth value, not the position it should be"),
        (index, -1, "x is a number, not the position it should be"),
        (index, 10**25, "x is a number, not the position it should be"),
    ],
)
def test_another_type_is_named(read, value, said):
    """In words, without the value: it may be long, or secret."""
    with pytest.raises(Unreadable) as caught:
        read(value, "x")
    assert str(caught.value) == said


def test_what_is_expected_and_missing_is_called_null():
    """As JSON calls it."""
    assert str(wrong(None, "x", "object")) == "x is null, not the object it should be"


@pytest.mark.parametrize("position", [0, 1, 999_999])
def test_a_position_is_a_number_from_0_on(position):
    """Below a million."""
    assert index(position, "x") == position


@given(st.text(), st.data())
def test_a_text_cut_between_the_halves_of_a_character_is_whole_again(whole, data):
    """JSON writes an emoji as two halves, and servers cut between them."""
    halves = whole.encode("utf-16-le", "surrogatepass")
    units = [halves[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(halves), 2)]
    joiner, came = TextJoiner(), ""
    while units:
        count = data.draw(st.integers(0, len(units) if len(units) < 3 else 3))
        came += joiner.join("".join(units[:count]))
        units = units[count:] if count else units
    came += joiner.flush()
    assert came == whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_a_half_is_kept_back_alone_until_the_other_comes():
    """What stands before it is shown at once; after the end another text begins."""
    joiner = TextJoiner()
    assert [joiner.join("a\ud83d"), joiner.join("\ude00b")] == ["a", "😀b"]
    assert [joiner.join("\udbff"), joiner.join("\udfff")] == ["", "\U0010ffff"]
    assert [joiner.join("\ud800"), joiner.flush(), joiner.join("c"), joiner.flush()] == ["", "\ufffd", "c", ""]


def test_no_level_of_a_document_has_half_a_character():
    """Neither in a key nor in a text; what is no text is itself."""
    assert encodable({"a\ud83d": ["\ud83d", {"b": "c"}, 1, None]}) == {"a\ufffd": ["\ufffd", {"b": "c"}, 1, None]}


def test_an_escaped_half_becomes_the_escaped_replacement():
    """What else is escaped stays as it was written."""
    assert complete_json('"\\ud83d \\u00E9 \\n"') == '"\\ufffd \\u00E9 \\n"'


@pytest.mark.parametrize("half", ["\ud83d", "a\ud83db", "\ude00\ud83d"])
def test_half_a_character_is_replaced(half):
    """It could not be encoded again: not printed, not stored, not sent back in a history."""
    joiner = TextJoiner()
    assert "\ufffd" in joiner.join(half) + joiner.flush()
    assert "\ufffd" in complete(half)
    complete(half).encode()


ESCAPED = st.sampled_from(["\\ud83d", "\\uDE00", "\\u00e9", "\\\\", "\\n", "ud83d", "a", "\ud83d", "\ude00", '\\"'])


@given(st.lists(ESCAPED), st.lists(st.integers(0, 60)))
def test_arguments_in_parts_are_those_of_the_whole(said, cuts):
    """Wherever they are cut, and whichever halves of characters are among them, as they are or by their number."""
    whole = json.dumps({"a": 1})[:-1] + ', "b": "' + "".join(said) + '"}'
    joiner, places = ArgumentsJoiner(), sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    joined = "".join([joiner.join(whole[start:end]) for start, end in pairwise(places)])
    assert joined == complete_json(whole)
    json.loads(joined)["b"].encode()
    assert json.loads(joined) == json.loads(complete_json(joined))


@given(st.text(), st.booleans())
def test_arguments_without_halves_are_left_as_they_are(said, is_ascii):
    """Written either way."""
    whole = json.dumps({said: [said]}, ensure_ascii=is_ascii)
    assert complete_json(whole) == whole
