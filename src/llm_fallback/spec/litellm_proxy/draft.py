"""A translation at work: sections that are emptied, drafts that are filled, and a list of what has no place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from llm_fallback.spec.locations import Note, Path, Places, Problem

NO_COUNTERPART = "has no counterpart here"


class Listing:
    """What has no place on the other side."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def add(self, path: Path, text: str) -> None:
        self._problems.append(Problem(path, text))

    def rest(self, section: Section, text: str) -> None:
        """List whatever nobody took from a section, word by word."""
        for word, value in section.left():
            inner = list(value) if isinstance(value, Mapping) and not section.path else []
            paths: list[Path] = [(word, part) for part in inner] or [(*section.path, word)]
            for path in paths:
                self.add(path, text)

    def notes(self, places: Places) -> tuple[Note, ...]:
        """All of it, as it stands in the source."""
        found = [problem.note(places) for problem in self._problems]
        return tuple(sorted(dict.fromkeys(found), key=lambda note: 0 if note.line is None else note.line))


class Section:
    """A mapping of the source. Its words are taken one by one, so that what is left in the end can be listed."""

    def __init__(self, data: Any, path: Path) -> None:
        self.path = path
        self._left: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {}

    def take(self, word: str) -> Any:
        """The value of a word, which is then gone; None if it has none."""
        return self._left.pop(word, None)

    def left(self) -> Iterator[tuple[str, Any]]:
        """What was not taken, without what is null and so says nothing."""
        return ((word, value) for word, value in list(self._left.items()) if value is not None)


def first(*places: tuple[Section, str]) -> Any:
    """The first value there is; the others stay where they are."""
    return next((value for section, word in places if (value := section.take(word)) is not None), None)


class Draft:
    """A part of a spec in the making, which knows where each of its values comes from."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[Path, Path] = {}

    def put(self, path: Path, value: Any, origin: Path) -> None:
        """Write a value at a path; None says nothing and is not written."""
        if value is None:
            return
        *around, word = path
        place: dict[Any, Any] = self.data
        for part in around:
            place = place.setdefault(part, {})
        place[word] = value
        self.origins[path] = origin

    def drop(self, path: Path) -> None:
        """Take a value out again, and what holds nothing without it."""
        *around, word = path
        place: Any = self.data
        for part in around:
            place = place[part]
        del place[word]
        if around and not place:
            self.drop(tuple(around))

    def origin(self, path: Path) -> Path:
        """Where the value at a path comes from; for a section, where its first value does."""
        around = (self.origins[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self.origins)
        within = (origin for known, origin in self.origins.items() if known[: len(path)] == path)
        return next(chain(around, within))
