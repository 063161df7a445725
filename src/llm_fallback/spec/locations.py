"""Where things stand: a path inside a spec, and the file and line it was written at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_fallback.errors import Mistake

Path = tuple[str | int, ...]
"""Keys and indices from the top of a spec down to one value."""


def dotted(path: Path) -> str:
    """The path as people read it: `chains.assistant.tiers[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class Place:
    """A file and a 1-based line; either is None where it is not known."""

    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What a source said that has no place in a spec: its path there, and what becomes of it."""

    path: str
    text: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{' '.join(part for part in (place, self.path) if part)}: {self.text}"


class Places:
    """The place of every path of a spec, and what of its sources has none.

    Any two are equal: where something was written does not change what it says, so specs compare by content.
    """

    def __init__(self, known: Mapping[Path, Place] | None = None, notes: Sequence[Note] = ()) -> None:
        self.known: Mapping[Path, Place] = {} if known is None else known
        self.notes = tuple(notes)

    def find(self, path: Path) -> Place:
        """The place of the path, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.known:
                return self.known[path[:length]]
        return Place()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)

    def __hash__(self) -> int:
        return hash(Places)


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake by its path, before its file and line are looked up."""

    path: Path
    text: str
    remedy: str | None = None

    def at(self, places: Places) -> Mistake:
        place = places.find(self.path)
        return Mistake(dotted(self.path), self.text, self.remedy, place.file, place.line)

    def note(self, places: Places) -> Note:
        """The same as a note: nothing is wrong, but something is lost."""
        place = places.find(self.path)
        text = f"{self.text}; {self.remedy}" if self.remedy else self.text
        return Note(dotted(self.path), text, place.file, place.line)


def paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """The path of `data` and of everything inside it."""
    yield path
    for key, value in children(data):
        yield from paths(value, (*path, key))


def children(data: Any) -> Iterator[tuple[str | int, Any]]:
    """Keys and values of a mapping, indices and items of a list, nothing of anything else."""
    if isinstance(data, Mapping):
        yield from data.items()
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes):
        yield from enumerate(data)
