"""YAML with the line of every value; keys that stand twice or are no text are mistakes.

YAML 1.1 as PyYAML reads it, with two differences: dates stay texts (`api_version: 2025-04-01`), and `1e6` is
a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from llm_fallback.errors import Mistake
from llm_fallback.loading.documents import Document, unreadable
from llm_fallback.loading.json_reading import twice
from llm_fallback.spec.marks import Path, Place, dotted

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
    return data, Document(places=dict(_places(node, (), file)), mistakes=mistakes)


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
            place = Place(self._file, _line(key))
            yield from _as_text(key, path, place)
            if key.value in first and key.tag != f"{_TAG}merge":
                yield twice((*path, key.value), place, first[key.value])
            if isinstance(key.value, str):
                first.setdefault(key.value, _line(key))


def _as_text(key: yaml.Node, path: Path, place: Place) -> Iterator[Mistake]:
    """Reads a key that YAML takes for something else as the text it is, and says so."""
    kind = _READ_AS.get(key.tag.removeprefix(_TAG))
    if kind is not None:
        text = f"YAML reads the key {key.value} as {kind}, not as text"
        yield Mistake(dotted((*path, key.value)), text, f'write "{key.value}" with quotes', place.file, place.line)
        key.tag = f"{_TAG}str"


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def _places(node: yaml.Node, path: Path, file: str) -> Iterator[tuple[Path, Place]]:
    yield path, Place(file, _line(node))
    for part, child in _children(node):
        yield from _places(child, (*path, part), file)
    if isinstance(node, yaml.MappingNode):
        yield from (((*path, str(key.value)), Place(file, _line(key))) for key, _ in node.value)


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
