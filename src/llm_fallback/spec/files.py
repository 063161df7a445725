"""Reads a file, chosen by its suffix, or a Python mapping into a Document of plain data."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, time
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel

from llm_fallback.errors import Location, Mistake, did_you_mean
from llm_fallback.spec.locations import Path, dotted, paths
from llm_fallback.spec.parsers import (
    LONGEST_NUMBER,
    TOO_DEEP,
    TOO_LONG,
    Document,
    excess,
    read_json,
    read_yaml,
    unreadable,
    values_in,
)
from llm_fallback.spec.providers import likely_provider

_LARGEST_BYTES = 1_048_576
"""The size of the largest file that is read; what is larger is no spec."""
_MOST_BITS = LONGEST_NUMBER * 10 // 3
_MOST_NEIGHBOURS = 1_000
_TOML_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def read_mapping(data: Mapping[Any, Any]) -> Document:
    """A Python mapping as a document of plain data."""
    return _document(data, Document(), None)


def read_file(path: FilePath) -> Document:
    """A YAML, TOML or JSON file as a document; its suffix decides which."""
    file = str(path)
    reader = _READERS.get(path.suffix.lower())
    if "\n" in file:
        return unreadable("a source is a path or a mapping, not the text of a spec", "save it as a file")
    if reader is None:
        return unreadable(f"has no suffix of {', '.join(_READERS)}", _other_source(file), file=file)
    try:
        # A pipe or a device may have no end, and a pipe keeps even who only opens it waiting.
        if path.exists() and not (path.is_file() or path.is_dir()):
            return unreadable("is neither a file nor a link to one", "save it as a file", file=file)
        text = _read(path)
    except FileNotFoundError:
        return unreadable("there is no such file", _neighbour(path), file=file)
    except OSError as error:
        return unreadable(f"cannot be read: {error.strerror}", file=file)
    except UnicodeDecodeError:
        return unreadable("is not UTF-8", "save it in UTF-8", file=file)
    except ValueError:
        return unreadable("cannot be the name of a file", file=file)
    if text is None:
        return unreadable(f"is larger than {_LARGEST_BYTES:,} bytes", "a spec is not", file=file)
    if not text.strip():
        return unreadable("is empty", "write deployments and chains", file=file)
    return _document(*reader(text, file), file)


def _read(path: FilePath) -> str | None:
    """The text of a file; None if it is too large."""
    with path.open("rb") as opened:
        content = opened.read(_LARGEST_BYTES + 1)
    return None if len(content) > _LARGEST_BYTES else content.decode("utf-8-sig").replace("\r\n", "\n")


def _read_toml(text: str, file: str) -> tuple[Any, Document]:
    try:
        return tomllib.loads(text), Document()
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
    except (ValueError, RecursionError) as error:
        return None, unreadable(TOO_DEEP if isinstance(error, RecursionError) else TOO_LONG, file=file)
    line = _TOML_LINE.search(problem)
    where = int(line[1]) if line and line[1] else None
    return None, unreadable(f"is not TOML: {_TOML_LINE.sub('', problem)}", file=file, line=where)


_READERS: dict[str, Callable[[str, str], tuple[Any, Document]]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".toml": _read_toml,
    ".json": read_json,
}


def _document(data: Any, read: Document, file: str | None) -> Document:
    if not read.readable:
        return read
    if not isinstance(data, Mapping):
        return unreadable(
            "must be a mapping with deployments and chains", file=file, line=1 if read.locations else None
        )
    if fault := excess(data, values_in):
        return unreadable(fault, file=file)
    mistakes = list(read.mistakes)
    plain = _plain(data, (), file, mistakes)
    locations = read.locations or dict.fromkeys(paths(plain), Location(file))
    return Document(plain, locations, tuple(mistakes))


def _plain(value: Any, path: Path, file: str | None, mistakes: list[Mistake]) -> Any:
    match value:
        case BaseModel():
            return _plain(value.model_dump(), path, file, mistakes)
        case Mapping():
            return {
                _key(key, path, file, mistakes): _plain(item, (*path, str(key)), file, mistakes)
                for key, item in value.items()
            }
        case list() | tuple():
            return [_plain(item, (*path, index), file, mistakes) for index, item in enumerate(value)]
        case int() if value.bit_length() > _MOST_BITS:
            mistakes.append(Mistake(dotted(path), TOO_LONG, file=file))
            return 0
        case date() | time():
            return value.isoformat()
    return value


def _key(key: Any, path: Path, file: str | None, mistakes: list[Mistake]) -> str:
    if not isinstance(key, str):
        text = f"the key {key!r} is not a text"
        mistakes.append(Mistake(dotted((*path, str(key))), text, f"write {str(key)!r}", file))
    return str(key)


def _other_source(file: str) -> str | None:
    """For the name of a model, where a list of models is meant."""
    provider = likely_provider(file)
    if provider is not None and "/" not in file and ":" not in file:
        return f"for a model write it as a list, with its provider: ['{provider}/{file}']"
    return f"for a model write it as a list: [{file!r}]" if re.search(r"^[\w-]+[/:][^/]", file) else None


def _neighbour(path: FilePath) -> str | None:
    folder = path.parent
    return (
        did_you_mean(
            path.name, (entry.name for entry in islice(folder.iterdir(), _MOST_NEIGHBOURS)) if folder.is_dir() else ()
        )
        or None
    )
