"""Documents read from YAML or JSON text, with the line of every value; keys that stand twice are mistakes.

YAML is 1.1 as PyYAML reads it, with two differences: dates stay texts (`api_version: 2025-04-01`), and `1e6` is a
number. JSON is parsed by the standard library. Nearly every JSON text is YAML too, so PyYAML tells its lines.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import yaml

from llm_fallback.errors import Location, Mistake, Repeated
from llm_fallback.spec.locations import Note, Path, children, dotted

_TAG = "tag:yaml.org,2002:"
_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null"}
_REMEDIES = (
    ("'\\t'", "indent with spaces"),
    ("mapping values are not allowed", "put quotes around a text with ': ' in it, and check the indentation"),
    ("cannot start any token", "put quotes around a text that begins with a special character"),
)
_ONE_OF_THEM = "keep one of them"

DEEPEST, MOST_VALUES, LONGEST_NUMBER = 100, 100_000, 300
"""How deep values may be nested, how many there may be with each reference to an anchor counted as what it stands for,
and how many digits a number may have. No spec comes near; a file beyond them is an attack, or no spec."""
TOO_DEEP = f"is nested more than {DEEPEST} deep"
TOO_MANY = f"has more than {MOST_VALUES:,} values"
TOO_LONG = f"has a number of more than {LONGEST_NUMBER} digits"
_MOST_READ_AGAIN = 65_536
"""Characters of the longest text that is read a second time, slowly, for the better words about its mistake."""

_T = TypeVar("_T")

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
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that the source sets itself: secrets."""


def unreadable(
    problem: str, remedy: str | None = None, *, file: str | None = None, line: int | None = None
) -> Document:
    """A document that could not be read, and why."""
    return Document(mistakes=(Mistake("", problem, remedy, file, line),), readable=False)


def read_yaml(text: str, file: str) -> tuple[Any, Document]:
    """The data of a YAML text, and a document with its locations and mistakes."""
    try:
        node = _composed(text)
        if node is None:
            return None, unreadable("is empty", "write 'deployments:' and 'chains:'", file=file)
        mistakes = tuple(_Nodes(file).mistakes(node, ()))
        if fault := excess(node, lambda inner: (child for _, child in _children(inner))):
            return None, unreadable(fault, file=file)
        data = _Loader("").construct_document(node)
        return data, Document(locations=dict(_locations(node, (), file)), mistakes=mistakes)
    except yaml.YAMLError as error:
        unread = _syntax_fault(error, file)
    except (ValueError, LookupError, AttributeError):
        # What PyYAML lets through for a text that its tag does not fit, as in `!!bool maybe`.
        unread = unreadable("a value does not fit its YAML type", "put quotes around it", file=file)
    return None, unread


def excess(root: _T, inner: Callable[[_T], Iterable[_T]]) -> str | None:
    """What makes nested data too much to be a spec; None if nothing does. What is referred to counts each time."""
    level, count = [root], 1
    for _ in range(DEEPEST):
        level = list(islice(chain.from_iterable(map(inner, level)), MOST_VALUES - count + 1))
        count += len(level)
        if not level or count > MOST_VALUES:
            return TOO_MANY if level else None
    return TOO_DEEP


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
    except (ValueError, RecursionError) as error:
        return None, unreadable(TOO_DEEP if isinstance(error, RecursionError) else TOO_LONG, file=file)
    node = None if excess(data, values_in) else _composed_json(text)
    if node is not None:
        mistakes = tuple(_Nodes(file).mistakes(node, ()))
        return data, Document(locations=dict(_locations(node, (), file)), mistakes=mistakes)
    twice = (Repeated(key, "stands twice in one mapping", _ONE_OF_THEM, file) for key in repeated)
    return data, Document(mistakes=tuple(twice))


def values_in(value: Any) -> Iterator[Any]:
    """The values of a mapping, the items of a list, nothing of anything else."""
    return (inner for _, inner in children(value))


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, TOO_DEEP, self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


if yaml.__with_libyaml__:

    class _FastLoader(yaml.CSafeLoader):
        """Ten times as fast; its words about mistakes are poorer."""

        yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _composed(text: str) -> yaml.Node | None:
    """The nodes of a YAML text; None if it has none. Raises YAMLError."""
    if yaml.__with_libyaml__:
        try:
            return yaml.compose(text, _FastLoader)
        except yaml.YAMLError:
            if len(text) > _MOST_READ_AGAIN:
                raise
    return yaml.compose(text, _Loader)


def _composed_json(text: str) -> yaml.Node | None:
    """The nodes of a JSON text; None where YAML reads it differently."""
    try:
        node = _composed(text.translate(_JSON_TO_YAML))
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
        elif _KINDS.get(node.tag.removeprefix(_TAG)) == "a number" and len(node.value) > LONGEST_NUMBER:
            raise yaml.composer.ComposerError(None, None, TOO_LONG, node.start_mark)
        for part, child in _children(node):
            yield from self.mistakes(child, (*path, part))
        self._open.discard(id(node))

    def _of_keys(self, node: yaml.MappingNode, path: Path) -> Iterator[Mistake]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = _line(key)
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key is no text", key.start_mark)
            kind = _KINDS.get(key.tag.removeprefix(_TAG))
            if kind is not None:
                text = f"YAML reads the key {key.value} as {kind}, not as text"
                yield Mistake(dotted((*path, key.value)), text, f'write "{key.value}" with quotes', self._file, line)
                key.tag = f"{_TAG}str"
            if key.value in first and key.tag != f"{_TAG}merge":
                text = f"{key.value!r} stands here a second time, first on line {first[key.value]}"
                yield Repeated(dotted((*path, key.value)), text, _ONE_OF_THEM, self._file, line)
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
        problem if problem in (TOO_DEEP, TOO_LONG) else f"is not YAML: {problem}",
        next((remedy for sign, remedy in _REMEDIES if sign in problem), None),
        file=file,
        line=line,
    )
