"""Documents read from YAML or JSON text, with the line of every value; keys that stand twice are mistakes.

YAML is 1.1 as PyYAML reads it, with two differences: dates stay texts (`api_version: 2025-04-01`), and `1e6` is a
number. JSON is parsed by the standard library. Nearly every JSON text is YAML too, so PyYAML tells its lines.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from llm_fallback.errors import Location, Mistake
from llm_fallback.spec.locations import Note, Path, dotted

_TAG = "tag:yaml.org,2002:"
_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null"}
_REMEDIES = (
    ("'\\t'", "indent with spaces"),
    ("mapping values are not allowed", "put quotes around a text with ': ' in it, and check the indentation"),
    ("cannot start any token", "put quotes around a text that begins with a special character"),
)
_ONE_OF_THEM = "keep one of them"

_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_TO_YAML = str.maketrans({"\t": " ", **{char: f"\\u{ord(char):04x}" for char in "\x7f\x85\u2028\u2029"}})
"""Characters that YAML refuses, or takes for the end of a line. In JSON all but the tab stand only in strings."""


@dataclass(frozen=True, slots=True)
class Document:
    """The plain data of one source, the location of every value, and the mistakes found in reading it."""

    data: dict[str, Any] = field(default_factory=dict, repr=False)
    locations: Mapping[Path, Location] = field(default_factory=dict, repr=False)
    mistakes: tuple[Mistake, ...] = ()
    readable: bool = True
    """False: the data is missing or incomplete, so its content is not checked."""
    notes: tuple[Note, ...] = ()
    """What the source contains that has no place in a spec."""


def unreadable(
    problem: str, remedy: str | None = None, *, file: str | None = None, line: int | None = None
) -> Document:
    """A document that could not be read, and why."""
    return Document(mistakes=(Mistake("", problem, remedy, file, line),), readable=False)


def read_yaml(text: str, file: str) -> tuple[Any, Document]:
    """The data of a YAML text, and a document with its locations and mistakes."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, unreadable("is empty", "write 'deployments:' and 'chains:'", file=file)
        mistakes = tuple(_Nodes(file).mistakes(node, ()))
        data = loader.construct_document(node)
        return data, Document(locations=dict(_locations(node, (), file)), mistakes=mistakes)
    except yaml.YAMLError as error:
        fault = _syntax_fault(error, file)
    except ValueError:
        fault = unreadable("a value does not fit its YAML type", "put quotes around it", file=file)
    return None, fault


def read_json(text: str, file: str) -> tuple[Any, Document]:
    """The data of a JSON text, and a document with its locations and mistakes. Rarely its lines cannot be told, as with
    a key of more than 1,024 characters."""
    repeated: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        return None, unreadable(f"is not JSON: {error.msg}", file=file, line=error.lineno)
    node = _composed(text)
    if node is not None:
        mistakes = tuple(_Nodes(file).mistakes(node, ()))
        return data, Document(locations=dict(_locations(node, (), file)), mistakes=mistakes)
    twice = (Mistake(key, "stands twice in one mapping", _ONE_OF_THEM, file) for key in repeated)
    return data, Document(mistakes=tuple(twice))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _composed(text: str) -> yaml.Node | None:
    """The nodes of a JSON text; None where YAML reads it differently."""
    try:
        node = yaml.compose(text.translate(_JSON_TO_YAML), _Loader)
    except yaml.YAMLError:
        return None
    return node if node is not None and _has_same_keys(node) else None


def _has_same_keys(node: yaml.Node) -> bool:
    """Whether YAML reads the keys of a JSON text as JSON does. One whose colon stands on the next line becomes two, of
    which one is null, and an escaped surrogate pair (as of an emoji) stays two characters."""
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    if any(key.tag != f"{_TAG}str" or _SURROGATE.search(key.value) for key in keys):
        return False
    return all(_has_same_keys(child) for _, child in _children(node))


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
            line = _line(key)
            kind = _KINDS.get(key.tag.removeprefix(_TAG))
            if kind is not None:
                text = f"YAML reads the key {key.value} as {kind}, not as text"
                yield Mistake(dotted((*path, key.value)), text, f'write "{key.value}" with quotes', self._file, line)
                key.tag = f"{_TAG}str"
            if key.value in first and key.tag != f"{_TAG}merge":
                text = f"{key.value!r} stands here a second time, first on line {first[key.value]}"
                yield Mistake(dotted((*path, key.value)), text, _ONE_OF_THEM, self._file, line)
            if isinstance(key.value, str):
                first.setdefault(key.value, line)


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


def _syntax_fault(error: yaml.YAMLError, file: str) -> Document:
    mark = getattr(error, "problem_mark", None)
    line = None if mark is None else mark.line + 1
    if getattr(error, "context", None) == "expected a single document in the stream":
        problem, remedy = "has several YAML documents", "keep one per file, and load further files as overlays"
        return unreadable(problem, remedy, file=file, line=line)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    return unreadable(
        f"is not YAML: {problem}",
        next((remedy for sign, remedy in _REMEDIES if sign in problem), None),
        file=file,
        line=line,
    )
