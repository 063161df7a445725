"""A finished journal as a table, CSV or Parquet, in the order of its source.

Columns of the source stay as they are; the facts of a call and its failure are JSON in a text. Nothing is there before
all of it is.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from llm_fallback.chat_model.batch.rows import (
    OURS,
    Fields,
    Row,
    as_cell,
    format_of,
    import_pyarrow,
    parse_line,
    read_rows,
)

_ROWS_AT_ONCE = 1024
_INT64 = range(-(2**63), 2**63)


def write_table(source: Path, journal: Path, target: Path) -> None:
    """Write the journal's rows, which are all of the source's, as the target's suffix says."""
    write = _write_parquet if format_of(target) == "parquet" else _write_csv
    with _replacing(target) as file, journal.open("rb") as lines:
        write(source, _Answers(lines, journal), file)


class _Answers:
    """The rows of a journal by their number, wherever they stand in it."""

    def __init__(self, lines: BinaryIO, path: Path) -> None:
        self._lines, self._path = lines, path
        self._begins = array("Q")
        begin = 0
        for line in lines:
            number: int = parse_line(line, str(path))["row"]
            self._begins.extend([0] * (number + 1 - len(self._begins)))
            self._begins[number] = begin
            begin += len(line)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self._lines.seek(self._begins[number])
        return parse_line(self._lines.readline(), str(self._path))

    def cells(self, number: int) -> dict[str, Any]:
        """What the answer adds to its row, as a table has it."""
        row = self[number]
        ours = {name: row.get(name) for name in OURS}
        return {name: as_cell(value) if value is not None and name != "row" else value for name, value in ours.items()}


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes the target when all of it is written."""
    part = target.with_name(f"{target.name}.new")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def _write_csv(source: Path, answers: _Answers, file: BinaryIO) -> None:
    text = TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    names = [*_columns(source), *OURS]
    writer = csv.writer(text)
    writer.writerow(names)
    for number, (_, fields) in enumerate(read_rows(source)):
        cells = {**fields, **answers.cells(number)}
        writer.writerow([as_cell(cells.get(name)) for name in names])
    text.flush()
    text.detach()


def _columns(source: Path) -> list[str]:
    """Every column of the source, in the order in which they come up."""
    names: dict[str, None] = {}
    for _, fields in read_rows(source):
        names.update(dict.fromkeys(fields))
    return list(names)


def _write_parquet(source: Path, answers: _Answers, file: BinaryIO) -> None:
    pyarrow, parquet = import_pyarrow()
    added = pyarrow.schema([("row", pyarrow.int64()), *((name, pyarrow.string()) for name in OURS[1:])])
    batches = _arrow_batches if format_of(source) == "parquet" else _inferred_batches
    schema, rows = batches(source)
    with parquet.ParquetWriter(file, pyarrow.schema([*schema, *added])) as writer:
        number = 0
        for batch in rows:
            cells = [answers.cells(number + offset) for offset in range(batch.num_rows)]
            ours = pyarrow.RecordBatch.from_pylist(cells, schema=added)
            columns = [*batch.columns, *ours.columns]
            writer.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=pyarrow.schema([*schema, *added])))
            number += batch.num_rows


def _arrow_batches(source: Path) -> tuple[Any, Iterator[Any]]:
    _, parquet = import_pyarrow()
    table = parquet.ParquetFile(source)
    return table.schema_arrow, table.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False)


def _inferred_batches(source: Path) -> tuple[Any, Iterator[Any]]:
    """Of a source without types: a column has one if all of its values have, else it is text."""
    pyarrow, _ = import_pyarrow()
    kinds: dict[str, set[str]] = {}
    for _, fields in read_rows(source):
        for name, value in fields.items():
            kinds.setdefault(name, set()).add(_kind(value))
    types = {
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "text": pyarrow.string(),
    }
    words = {name: _common(found - {"null"}) for name, found in kinds.items()}
    schema = pyarrow.schema([(name, types[word]) for name, word in words.items()])
    texts = frozenset(name for name, word in words.items() if word == "text")

    def rows() -> Iterator[Any]:
        for some in _in_groups(read_rows(source)):
            yield pyarrow.RecordBatch.from_pylist([_in_types(row.fields, texts) for row in some], schema=schema)

    return schema, rows()


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int" if value in _INT64 else "json"
        case float():
            return "float"
        case str():
            return "text"
    return "json"


def _common(kinds: set[str]) -> str:
    """The type that holds all of them."""
    if kinds == {"int", "float"}:
        return "float"
    return next(iter(kinds)) if len(kinds) == 1 and kinds != {"json"} else "text"


def _in_types(fields: Fields, texts: frozenset[str]) -> dict[str, Any]:
    return {name: as_cell(value) if name in texts and value is not None else value for name, value in fields.items()}


def _in_groups(rows: Iterator[Row]) -> Iterator[Sequence[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
