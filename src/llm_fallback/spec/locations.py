"""Paths inside a spec, and the file and line at which each was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_fallback.errors import Location, Mistake

Path = tuple[str | int, ...]
"""Keys and indices from the top of a spec to one value."""


def dotted(path: Path) -> str:
    """The path as text: `chains.assistant.tiers[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class Note:
    """Something in a source that has no place in a spec: its path there, and what becomes of it."""

    path: str
    text: str
    file: str | None = None
    line: int | None = None
    severity: Literal["note", "warning"] = "note"

    def __str__(self) -> str:
        return f"{Location(self.file, self.line).with_path(self.path)}: {self.text}"


class LocationMap:
    """The location of every path of a spec, and notes on what its sources contained besides.

    Any two compare equal, so that specs compare by content and not by where it was written.
    """

    def __init__(self, known: Mapping[Path, Location] | None = None, notes: Sequence[Note] = ()) -> None:
        self.known: Mapping[Path, Location] = {} if known is None else known
        self.notes = tuple(notes)

    def find(self, path: Path) -> Location:
        """The location of the path, or of the nearest section around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.known:
                return self.known[path[:length]]
        return Location()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocationMap)

    def __hash__(self) -> int:
        return hash(LocationMap)


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake at a path, before its file and line are known."""

    path: Path
    text: str
    remedy: str | None = None

    def at(self, locations: LocationMap) -> Mistake:
        """The mistake, with file and line."""
        location = locations.find(self.path)
        return Mistake(dotted(self.path), self.text, self.remedy, location.file, location.line)

    def note(self, locations: LocationMap) -> Note:
        """The same as a note, for what is lost without being wrong."""
        location = locations.find(self.path)
        text = f"{self.text}; {self.remedy}" if self.remedy else self.text
        return Note(dotted(self.path), text, location.file, location.line)


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
