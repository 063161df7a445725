"""JSON by orjson and by the standard library alike; which requests can be written, and what is said of the others."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llm_fallback.engine import encoding
from llm_fallback.engine.encoding import (
    read_json,
    read_json_slowly,
    why_not_json,
    write_json,
    write_json_slowly,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


class Form(BaseModel):
    """A form that has a schema."""

    number: int


class Unwritable(BaseModel):
    """A form that has none."""

    function: Callable[[], int]


def circle() -> dict[str, Any]:
    """Something that contains itself."""
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema
    return schema


def well() -> dict[str, Any]:
    """Something deeper than anybody reads."""
    top: dict[str, Any] = {}
    bottom = top
    for _ in range(100_000):
        bottom["a"] = {}
        bottom = bottom["a"]
    return top


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_what_json_holds_is_nothing_to_object_to(request):
    """Every text that has only whole characters, every number that is one."""
    assert why_not_json(request) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a\ud800b", "the lone surrogate '\\ud800' stands for no character"),
        (["\ud83d"], "the lone surrogate '\\ud83d' stands for no character"),
        ({"\ud83d": 1}, "the lone surrogate '\\ud83d' stands for no character"),
        ({1}, "JSON has no set"),
        (b"abc", "JSON has no bytes"),
        (datetime.date(2025, 4, 1), "JSON has no date"),
        ([Form], "JSON has no ModelMetaclass"),
        (float("nan"), "Out of range float values are not JSON compliant"),
        (float("-inf"), "Out of range float values are not JSON compliant"),
        ({(1, 2): 3}, "keys must be str"),
        (circle(), "Circular reference"),
        (well(), "it is nested too deeply"),
    ],
    ids=("text", "list", "key", "set", "bytes", "date", "class", "nan", "infinity", "keys", "circle", "well"),
)
def test_what_json_cannot_hold_is_named(value, why):
    """Wherever it stands in a request."""
    assert why_not_json({"messages": [], "tools": value}).startswith(why)


def test_a_class_as_response_format_is_as_good_as_its_schema():
    """litellm writes it out, if there is one."""
    assert why_not_json({"response_format": Form}) is None
    assert why_not_json({"response_format": Unwritable}).startswith("Cannot generate a JsonSchema")


def test_a_function_is_no_part_of_what_is_sent():
    """It is for whoever sends."""
    assert why_not_json({"logger_fn": print}) is None


def test_metadata_may_hold_anything():
    """No server gets them."""
    assert why_not_json({"metadata": {"at": datetime.date(2025, 4, 1), "half": "\ud83d"}}) is None


def test_an_emoji_of_two_surrogates_in_json_is_one_character_here():
    """Only a half that came without the other is none."""
    assert why_not_json({"content": json.loads('"\\ud83d\\ude00"')}) is None


def called(arguments: str) -> dict[str, Any]:
    """A request after a tool was called with these arguments."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ('{"x": NaN}', "Out of range float values"),
        ('{"x": [-Infinity]}', "Out of range float values"),
        ('{"x": 1e999}', "Out of range float values"),
        ('{"x": "\\ud83d"}', "the lone surrogate"),
    ],
)
def test_arguments_of_a_tool_are_json_inside_of_a_text(arguments, why):
    """Whose protocol has them as an object would get what no parser takes; the call is named, and what to do."""
    told = why_not_json(called(arguments))
    assert told is not None
    assert told.startswith(f"in the arguments of the tool call 'f': {why}")
    assert told.endswith("leave it out, or write null")


@pytest.mark.parametrize(
    "arguments",
    [
        '{"x": "NaN"}',
        '{"x": 1e300}',
        '{"Infinity": 1}',
        '{"x": "\\ud83d\\ude00"}',
        '{"x": NaN',
        "NaN?",
        "",
        "[" * 100_000,
    ],
)
def test_arguments_that_only_look_so_are_nothing_to_object_to(arguments):
    """Nor what is no JSON at all: a model may have written it, and some servers take it."""
    assert why_not_json(called(arguments)) is None


SURROGATES = st.text(st.characters() | st.sampled_from("\ud83d\ude00"), max_size=4)
NUMBERS = st.sampled_from(
    [*(10**18, 10**19, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**40, 0, -0.0, 1.0, 5e-324, 1e308, 0.1)]
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.floats() | SURROGATES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SURROGATES, inner, max_size=3),
    max_leaves=8,
)
SPELLINGS = st.sampled_from(
    [
        *(
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1e999",
            "-0",
            "-0.0",
            "1E5",
            "01",
            "1.",
            ".5",
            "+1",
            "0x1",
            "[1,]",
        ),
        *('"\\ud83d"', '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\u00"', '{"a":1,"a":2}', "{}x", "", " ", "\t[]\n"),
        *("\ufeff{}", '"\x00"', '"\x7f"', "[" * 300 + "]" * 300, "[" * 2000, "9" * 5000, "9" * 19, "nul", "'a'", "//"),
    ]
)


def outcome(work: Callable[[Any], Any], given: Any) -> Any:
    """What a reading or a writing comes to; texts, so that 1, 1.0 and True are three things."""
    try:
        return repr(work(given))
    except (ValueError, RecursionError):
        return "refused"


@given(
    DOCUMENTS.map(lambda value: json.dumps(value, ensure_ascii=False))
    | DOCUMENTS.map(json.dumps)
    | SPELLINGS
    | st.tuples(SPELLINGS, SPELLINGS).map(lambda two: f"[{two[0]}, {two[1]}]")
    | st.text(st.sampled_from('[]{}",:0123456789.eE+-\\uNaInfty '), max_size=20)
)
def test_both_libraries_read_the_same(written):
    """Whole numbers of any length, characters in halves as they are; NaN, Infinity and what else is no JSON refused."""
    assert outcome(read_json, written) == outcome(read_json_slowly, written)
    data = written.encode(errors="surrogatepass")
    assert outcome(read_json, data) == outcome(read_json_slowly, data)


@given(st.binary(max_size=12))
def test_both_libraries_read_the_same_bytes(data):
    """Whatever they are."""
    assert outcome(read_json, b'"' + data + b'"') == outcome(read_json_slowly, b'"' + data + b'"')


class Colour(enum.Enum):
    RED = "red"


class Word(str):
    __slots__ = ()


ODD = st.sampled_from(
    [Colour.RED, UUID(int=1), datetime.datetime(2026, 1, 1), {1, 2}, b"x", (1, 2), Word("w"), object(), Form(number=1)]
)


@given(st.dictionaries(SURROGATES | st.integers(), DOCUMENTS | ODD | st.lists(ODD, max_size=2), max_size=3))
def test_both_libraries_write_the_same(document):
    """One value, whichever wrote it, and nothing by either that the other refuses."""
    fast, slow = (outcome(lambda value, write=write: json.loads(write(value)), document) for write in WRITERS)
    assert fast == slow


WRITERS = (write_json, write_json_slowly)


def test_orjson_is_used_where_it_is_installed(monkeypatch):
    """And not needed."""
    if encoding._orjson is None:
        pytest.skip("it is not, or is hidden")
    asked: list[Any] = []
    monkeypatch.setattr(encoding, "read_json_slowly", lambda data, **_: asked.append(data))
    assert read_json(b'{"a": [1, 2.5, "x"]}') == {"a": [1, 2.5, "x"]}
    assert not asked
    monkeypatch.setattr(encoding, "_orjson", None)
    read_json("{}")
    assert asked == ["{}"]
    assert write_json({"a": 1}) == b'{"a":1}'
