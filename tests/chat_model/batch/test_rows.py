"""Rows of files: what is read, what is refused with its line, and what tells one row from another."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.chat_model.batch.rows import as_cell, as_line, checksum, format_of, parse_line, read_rows
from llm_fallback.errors import BatchRefused


def fields_of(path):
    return [row.fields for row in read_rows(path)]


def refusal(path):
    with pytest.raises(BatchRefused) as refused:
        list(read_rows(path))
    return str(refused.value).removeprefix(f"{path}:")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"id": "1", "prompt": "hi"}\n\n{"id": "2", "prompt": "a\\nb"}'),
        ("a.ndjson", '\ufeff{"id": "1", "prompt": "hi"}\r\n{"id": "2", "prompt": "a\\nb"}\r\n'),
        ("a.csv", 'id,prompt\n1,hi\n\n2,"a\nb"\n'),
        ("A.CSV", '\ufeffid,prompt\r\n1,hi\r\n2,"a\nb"'),
    ],
)
def test_rows_are_the_same_whatever_the_format(tmp_path, name, text):
    """Empty lines, a mark at the beginning, Windows' ends of lines and a missing last one are no matter."""
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert fields_of(path) == [{"id": "1", "prompt": "hi"}, {"id": "2", "prompt": "a\nb"}]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"prompt": "hi"}\n{"prompt": \n', "2: is no JSON"),
        ("a.jsonl", '{"prompt": "hi"}\n"hi"\n', '2: must be a JSON object, as in {"prompt": "..."}, got str'),
        ("a.jsonl", '{"prompt": NaN}', "1: is no JSON (JSON has no NaN); each line is one object"),
        ("a.jsonl", '{"prompt": 1e999}', "1: is no JSON (JSON has no 1e999)"),
        ("a.jsonl", '{"prompt": ' + "[" * 100_000, "1: is nested too deep"),
        ("a.csv", "id,prompt\n1\n", "2: has 1 cells where the first line has 2"),
        ("a.csv", "id,id\n1,2\n", "1: two columns are called 'id'; give each a name of its own"),
        ("a.csv", 'id,prompt\n1,"hi', "is no CSV in UTF-8"),
        ("a.csv", "id,prompt\n1,\udcff\n", "is no CSV in UTF-8"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(tmp_path, name, text, told):
    """So that the line can be mended."""
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert told in refusal(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.json", "'.json' tells none; did you mean '.jsonl'?"),
        ("a", "'none' tells none; known are .jsonl, .ndjson, .csv, .parquet"),
    ],
)
def test_a_suffix_that_tells_no_format_is_refused(tmp_path, name, told):
    """With the nearest."""
    with pytest.raises(BatchRefused) as refused:
        format_of(tmp_path / name)
    assert str(refused.value).endswith(told)


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path):
    """A prompt is a document now and then."""
    path = tmp_path / "a.csv"
    path.write_text("prompt\n" + "x" * 500_000 + "\n")
    assert len(fields_of(path)[0]["prompt"]) == 500_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_line_is_read_as_what_was_written(fields):
    """Half characters, too, which UTF-8 has no bytes for."""
    line = as_line(fields)
    assert line.count(b"\n") == 1
    assert parse_line(line, "") == fields
    assert checksum(parse_line(line, "")) == checksum(fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, [{"a": -math.inf}]])
def test_a_line_with_what_no_reader_of_json_takes_is_not_written(value):
    """Python would write it, and read it again; nobody else would."""
    with pytest.raises(ValueError, match="JSON"):
        as_line({"prompt": "hi", "answer": value})


@given(st.dictionaries(st.sampled_from("abcde"), json_values, max_size=4))
def test_a_row_has_the_same_checksum_after_a_table(fields):
    """Where all is text, and null is an empty cell."""
    in_table = {name: as_cell(fields.get(name)) for name in "abcde"}
    assert checksum(in_table) == checksum(fields)


def test_a_checksum_tells_rows_apart_by_their_own_fields():
    """Not by what the answer adds, nor by the order of columns."""
    row = {"id": 1, "prompt": "hi"}
    assert checksum({"prompt": "hi", "id": 1}) == checksum({**row, "row": 3, "answer": "yes"}) == checksum(row)
    others = [{"id": 2, "prompt": "hi"}, {"id": 1, "prompt": "hi "}, {"id": 1}, {"id": 1, "text": "hi"}, {}]
    assert len({checksum(other) for other in [row, *others]}) == 6


def test_a_number_is_the_same_whole_or_with_a_point():
    """A column of both has one type in a table."""
    assert as_cell(1.0) == as_cell(1) == "1"
    assert as_cell(0.5) == "0.5"


def test_values_of_parquet_are_json_s(tmp_path):
    """Times and decimals are texts, bytes base64, what is no number null."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from datetime import datetime
    from decimal import Decimal

    row = {
        "prompt": "hi",
        "at": datetime(2026, 1, 31, 12),
        "usd": Decimal("1.50"),
        "raw": b"\xff",
        "share": math.nan,
        "tags": ["a", "b"],
        "who": {"name": "Ann"},
    }
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    (fields,) = fields_of(path)
    assert json.loads(as_line(fields)) == {
        "prompt": "hi",
        "at": "2026-01-31T12:00:00",
        "usd": "1.50",
        "raw": "/w==",
        "share": None,
        "tags": ["a", "b"],
        "who": {"name": "Ann"},
    }


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    """Whatever its name says."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_text('{"prompt": "hi"}')
    assert "is no Parquet file" in refusal(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    """It is loaded only where a Parquet file is."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    with pytest.raises(ImportError, match=r"langchain-llm-fallback\[parquet\]"):
        list(read_rows(path))
