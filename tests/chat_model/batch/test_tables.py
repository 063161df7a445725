"""Answers as tables: CSV and Parquet, in the source's order, with the source's own types."""

from __future__ import annotations

import csv
import json

import pytest

from llm_fallback.chat_model.batch.rows import read_rows
from llm_fallback.testing import fake_chat_model

ROWS = [
    {"prompt": "one", "n": 1, "share": 0.5, "ok": True, "mixed": 1, "deep": {"a": [1]}, "big": 2**70},
    {"prompt": "two\nlines", "n": None, "share": 2, "ok": False, "mixed": "x", "more": "late"},
    {"prompt": "é\ud800", "n": 3, "share": 1.5, "ok": None, "mixed": None},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


async def test_a_csv_has_every_column_of_the_source_and_ours_behind(tmp_path, source):
    """Values as text or JSON, nothing for null."""
    target = tmp_path / "b.csv"
    await fake_chat_model({"a": None}).abatch_file(source, target)
    with target.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == [
        *("prompt", "n", "share", "ok", "mixed", "deep", "big", "more"),
        *("row", "answer", "llm_fallback", "error"),
    ]
    assert [row["prompt"] for row in rows[:2]] == ["one", "two\nlines"]
    assert [row["n"] for row in rows] == ["1", "", "3"]
    assert rows[0]["deep"] == '{"a": [1]}'
    assert [row["row"] for row in rows] == ["0", "1", "2"]


async def test_a_parquet_of_a_source_without_types_has_those_its_values_have(tmp_path, source):
    """A column of several kinds is text."""
    parquet = pytest.importorskip("pyarrow.parquet")
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    target = tmp_path / "b.parquet"
    await fake_chat_model({"a": None}).abatch_file(source, target)
    types = {field.name: str(field.type) for field in parquet.read_schema(target)}
    assert types == {
        "prompt": "string",
        "n": "int64",
        "share": "double",
        "ok": "bool",
        **dict.fromkeys(("mixed", "deep", "big", "more", "answer", "llm_fallback", "error"), "string"),
        "row": "int64",
    }
    rows = [row.fields for row in read_rows(target)]
    assert [row["share"] for row in rows] == [0.5, 2.0]
    assert [row["mixed"] for row in rows] == ["1", "x"]
    assert rows[0]["answer"] == "A fake answer to: one"


async def test_a_parquet_of_a_parquet_keeps_its_types(tmp_path):
    """Times stay times; and it is recognised as answered when it is run again."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from datetime import datetime
    from decimal import Decimal

    rows = [
        {"prompt": f"question {number}", "at": datetime(2026, 1, 1, number % 24), "usd": Decimal("1.50")}
        for number in range(3000)
    ]
    source, target = tmp_path / "a.parquet", tmp_path / "b.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), source, row_group_size=700)
    model = fake_chat_model({"a": "fine"})
    result = await model.abatch_file(source, target)
    assert (result["answered"], result["complete"]) == (3000, True)
    written = parquet.read_table(target)
    assert written.schema.field("at").type == pyarrow.timestamp("us")
    assert written.column("at").to_pylist() == [row["at"] for row in rows]
    assert written.column("row").to_pylist() == list(range(3000))
    again = fake_chat_model({"a": None})
    assert (await again.abatch_file(source, target))["complete"]
    assert again.received() == []


async def test_answers_of_a_form_are_json_in_a_table(tmp_path, source):
    """And objects again where failed rows are asked anew from it."""
    schema = {"title": "T", "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    target = tmp_path / "b.csv"
    source.write_text('{"prompt": "1"}\n{"prompt": "2"}\n{"prompt": "3"}\n')
    model = fake_chat_model({"a": ['{"a": 1}', "no", '{"a": 3}']}, max_retries=0)
    assert (await model.abatch_file(source, target, schema=schema, concurrency=1))["failed"] == 1
    model = fake_chat_model({"a": '{"a": 2}'})
    assert (await model.abatch_file(source, target, schema=schema, retry_failed=True))["failed"] == 0
    with target.open(newline="", encoding="utf-8") as lines:
        assert [row["answer"] for row in csv.DictReader(lines)] == ['{"a": 1}', '{"a": 2}', '{"a": 3}']
