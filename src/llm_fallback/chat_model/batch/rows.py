"""The rows of a file, JSONL, CSV or Parquet, one at a time and as plain JSON data."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping
from datetime import date, time
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal, NamedTuple

from llm_fallback.engine.encoding import read_json, write_json
from llm_fallback.errors import BatchRefused, did_you_mean

Fields = Mapping[str, Any]
Format = Literal["jsonl", "csv", "parquet"]

OURS = ("row", "answer", "llm_fallback", "error")
"""What an answer adds to its row."""

_FORMATS: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_ROWS_AT_ONCE = 256


class Row(NamedTuple):
    """A row of a file."""

    place: str
    """As in `prompts.jsonl:7`."""
    fields: dict[str, Any]


def format_of(path: Path) -> Format:
    """By the file's suffix. Raises BatchRefused for one that is none of ours."""
    suffix = path.suffix.lower()
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    known = ", ".join(_FORMATS)
    hint = did_you_mean(suffix, _FORMATS, f"known are {known}")
    raise BatchRefused(f"{path}: its format is told by its suffix, and {suffix or 'none'!r} tells none; {hint}")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows in the file's order. Raises BatchRefused, with file and line, for what cannot be read as a row."""
    match format_of(path):
        case "jsonl":
            return _read_jsonl(path)
        case "csv":
            return _read_csv(path)
        case "parquet":
            return _read_parquet(path)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                place = f"{path}:{number}"
                yield Row(place, parse_line(text, place))


def parse_line(line: bytes, place: str) -> dict[str, Any]:
    """The JSON object that a line is. Raises BatchRefused if it is none."""
    try:
        value = read_json(line)
    except RecursionError:
        raise BatchRefused(f"{place}: is nested too deep") from None
    except ValueError as error:
        raise BatchRefused(f"{place}: is no JSON ({error}); each line is one object") from None
    if not isinstance(value, dict):
        raise BatchRefused(f'{place}: must be a JSON object, as in {{"prompt": "..."}}, got {type(value).__name__}')
    return value


def _read_csv(path: Path) -> Iterator[Row]:
    # For all of the process, as the module has it: a document in a cell is longer than it allows by itself.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        head: list[str] = []
        for cells in _csv_records(reader, path):
            place = f"{path}:{reader.line_num}"
            if not head:
                head = _csv_head(cells, place)
            elif len(cells) != len(head):
                raise BatchRefused(f"{place}: has {len(cells)} cells where the first line has {len(head)}")
            else:
                yield Row(place, dict(zip(head, cells, strict=True)))


def _csv_records(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        yield from (cells for cells in reader if cells)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BatchRefused(f"{path}:{reader.line_num + 1}: is no CSV in UTF-8 ({error})") from None


def _csv_head(cells: list[str], place: str) -> list[str]:
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise BatchRefused(f"{place}: two columns are called {twice!r}; give each a name of its own")
    return cells


def _read_parquet(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from _parquet_rows(file, path)


def _parquet_rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    pyarrow, parquet = import_pyarrow()
    try:
        table = parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
            for fields in batch.to_pylist():
                yield Row(f"{path}, row {number}", {name: _plain(value) for name, value in fields.items()})
                number += 1
    except pyarrow.ArrowInvalid as error:
        raise BatchRefused(f"{path}: is no Parquet file ({error})") from None


def import_pyarrow() -> tuple[ModuleType | Any, ModuleType | Any]:
    """`pyarrow` and `pyarrow.parquet`. Raises ImportError naming the extra where they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "langchain-llm-fallback[parquet]"') from error
    return pyarrow, pyarrow.parquet


def _plain(value: Any) -> Any:
    """A value of Arrow's as JSON has it: times, decimals and bytes as text, what is no number as null."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode()
        case date() | time():
            return value.isoformat()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
    return str(value)


def checksum(fields: Fields) -> int:
    """What tells the source's part of a row from another's, whichever format it went through; never 0."""
    cells = ((name, as_cell(value)) for name, value in sorted(fields.items()) if name not in OURS)
    text = "\x1e".join(f"{name}\x1f{cell}" for name, cell in cells if cell)
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) or 1


def as_cell(value: Any) -> str:
    """A value as a table has it: texts as they are, nothing for null, all else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # By the standard library always: orjson writes some numbers otherwise, and a checksum must outlive a machine.
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def as_line(row: Fields) -> bytes:
    """A row as a line of JSON, in UTF-8; half a character is written as JSON's escape of it. Raises ValueError for what
    JSON has not, as NaN."""
    try:
        return write_json(row) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row, allow_nan=False).encode() + b"\n"
