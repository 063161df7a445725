"""Documents read from YAML, TOML or JSON text, with the line of every value; keys that stand twice are mistakes.

YAML is 1.1 as PyYAML reads it, with two differences: dates stay texts (`api_version: 2025-04-01`), and `1e6` is a
number. A JSON document is read by the standard library; YAML's reader tells its lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from llm_fallback.errors import Location, Mistake
from llm_fallback.spec.locations import Note, Path, dotted


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, the place of every value in it, what was wrong in reading, and what of the source it leaves out."""

    data: dict[str, Any] = field(default_factory=dict, repr=False)
    locations: Mapping[Path, Location] = field(default_factory=dict, repr=False)
    mistakes: tuple[Mistake, ...] = ()
    readable: bool = True
    """False: the data is missing or incomplete, and nothing can be said about what is in it."""
    notes: tuple[Note, ...] = ()


def unreadable(
    problem: str, remedy: str | None = None, *, file: str | None = None, line: int | None = None
) -> Document:
    """A document that could not be read, and why."""
    return Document(mistakes=(Mistake("", problem, remedy, file, line),), readable=False)


_TAG = "tag:yaml.org,2002:"
_READ_AS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null"}
_REMEDIES = (
    ("'\\t'", "indent with spaces"),
    ("mapping values are not allowed", "put quotes around a text with ': ' in it, and check the indentation"),
    ("cannot start any token", "put quotes around a text that begins with a special character"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str, file: str) -> tuple[Any, Document]:
    """The data of a YAML text, and a document with its places and mistakes."""
    try:
        return _read(_Loader(text), file)
    except yaml.YAMLError as error:
        fault = _syntax(error, file)
    except ValueError:
        fault = unreadable("a value does not fit its YAML type", "put quotes around it", file=file)
    return None, fault


def _read(loader: yaml.SafeLoader, file: str) -> tuple[Any, Document]:
    node = loader.get_single_node()
    if node is None:
        return None, unreadable("is empty", "write 'deployments:' and 'chains:'", file=file)
    mistakes = tuple(_Nodes(file).mistakes(node, ()))
    data = loader.construct_document(node)
    return data, Document(locations=dict(_locations(node, (), file)), mistakes=mistakes)


class _Nodes:
    """One walk over the nodes of a file, before merges and anchors are resolved."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._seen: set[int] = set()
        self._open: set[int] = set()

    def mistakes(self, node: yaml.Node, path: Path) -> Iterator[Mistake]:
        if id(node) in self._open:
            raise yaml.composer.ComposerError(None, None, "an anchor contains itself", node.start_mark)
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield from self._of_keys(node, path)
        for part, child in _children(node):
            yield from self.mistakes(child, (*path, part))
        self._open.discard(id(node))

    def _of_keys(self, node: yaml.MappingNode, path: Path) -> Iterator[Mistake]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            location = Location(self._file, _line(key))
            yield from _as_text(key, path, location)
            if key.value in first and key.tag != f"{_TAG}merge":
                yield twice((*path, key.value), location, first[key.value])
            if isinstance(key.value, str):
                first.setdefault(key.value, _line(key))


def _as_text(key: yaml.Node, path: Path, location: Location) -> Iterator[Mistake]:
    """Reads a key that YAML takes for something else as the text it is, and says so."""
    kind = _READ_AS.get(key.tag.removeprefix(_TAG))
    if kind is not None:
        text = f"YAML reads the key {key.value} as {kind}, not as text"
        yield Mistake(
            dotted((*path, key.value)), text, f'write "{key.value}" with quotes', location.file, location.line
        )
        key.tag = f"{_TAG}str"


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def _locations(node: yaml.Node, path: Path, file: str) -> Iterator[tuple[Path, Location]]:
    yield path, Location(file, _line(node))
    for part, child in _children(node):
        yield from _locations(child, (*path, part), file)
    if isinstance(node, yaml.MappingNode):
        yield from (((*path, str(key.value)), Location(file, _line(key))) for key, _ in node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax(error: yaml.YAMLError, file: str) -> Document:
    mark = getattr(error, "problem_mark", None)
    line = None if mark is None else mark.line + 1
    if getattr(error, "context", None) == "expected a single document in the stream":
        return unreadable(
            "has several YAML documents",
            "keep one per file, and load further files as overlays",
            file=file,
            line=line,
        )
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    remedy = next((remedy for sign, remedy in _REMEDIES if sign in problem), None)
    return unreadable(f"is not YAML: {problem}", remedy, file=file, line=line)


_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n')


def read_json(text: str, file: str) -> tuple[Any, Document]:
    """The data of a JSON text, and a document with its places and mistakes."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        return None, unreadable(f"is not JSON: {error.msg}", file=file, line=error.lineno)
    lines = _Lines(text, file)
    lines.read_value(())
    return data, Document(locations=lines.locations, mistakes=tuple(lines.mistakes))


class _Lines:
    """Walks a text that is known to be JSON and notes the line of each key and item."""

    def __init__(self, text: str, file: str) -> None:
        self.locations: dict[Path, Location] = {}
        self.mistakes: list[Mistake] = []
        self._file = file
        self._line = 1
        self._pieces = self._visible(text)

    def read_value(self, path: Path) -> None:
        self._read(next(self._pieces), path)

    def _visible(self, text: str) -> Iterator[str]:
        for found in _PIECE.finditer(text):
            if found[0] == "\n":
                self._line += 1
            else:
                yield found[0]

    def _read(self, piece: str, path: Path) -> None:
        self.locations.setdefault(path, Location(self._file, self._line))
        if piece == "{":
            self._read_object(path)
        elif piece == "[":
            self._read_array(path)

    def _read_object(self, path: Path) -> None:
        first: dict[str, int] = {}
        while (piece := next(self._pieces)) != "}":
            if piece == ",":
                continue
            key = json.loads(piece)
            self._note_key(key, path, first)
            next(self._pieces)  # the colon
            self.read_value((*path, key))

    def _note_key(self, key: str, path: Path, first: dict[str, int]) -> None:
        location = Location(self._file, self._line)
        self.locations[(*path, key)] = location
        if key in first:
            self.mistakes.append(twice((*path, key), location, first[key]))
        first.setdefault(key, self._line)

    def _read_array(self, path: Path) -> None:
        index = 0
        while (piece := next(self._pieces)) != "]":
            if piece != ",":
                self._read(piece, (*path, index))
                index += 1


def twice(path: Path, location: Location, first: int | None) -> Mistake:
    """The mistake of a key that stands twice in one mapping."""
    text = f"{path[-1]!r} stands here a second time, first on line {first}"
    return Mistake(dotted(path), text, "keep one of them", location.file, location.line)
