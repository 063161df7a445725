"""The tools of a translation: the section being read, the draft being written, the report of what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

from llm_fallback.errors import did_you_mean
from llm_fallback.spec.litellm_proxy.words import NOT_MISSPELT, NOT_OF_A_REQUEST, is_price
from llm_fallback.spec.locations import LocationMap, Note, Path, Problem

NO_COUNTERPART = "has no counterpart here"
_LIKENESS = 0.8
"""Of a key to one that is read here, of 0 to 1, for it to be that one misspelt."""

Severity = Literal["note", "warning"]


class LossReport:
    """Everything that cannot be carried over, as notes for the user."""

    def __init__(self) -> None:
        self._problems: list[tuple[Problem, Severity]] = []

    def add(self, path: Path, text: str, severity: Severity = "note") -> None:
        self._problems.append((Problem(path, text), severity))

    def report_misspelt(self, section: Section, key: str, text: str) -> bool:
        """Warn of a key that is nearly one that is read from its section; False if it is none."""
        meant = section.meant_by(key)
        if meant:
            self.add((*section.path, key), f"{text}; {meant}", "warning")
        return bool(meant)

    def report_unused(self, section: Section, text: str) -> None:
        """Report every key of a section that was not taken."""
        for key, value in section.unused():
            if self.report_misspelt(section, key, "is no word of LiteLLM's"):
                continue
            inner = list(value) if isinstance(value, Mapping) and not section.path else []
            paths: list[Path] = [(key, part) for part in inner] or [(*section.path, key)]
            for path in paths:
                self.add(path, text)

    def notes(self, locations: LocationMap) -> tuple[Note, ...]:
        """The report, in the order of the source's lines."""
        notes = [replace(problem.note(locations), severity=severity) for problem, severity in self._problems]
        return tuple(sorted(dict.fromkeys(notes), key=lambda note: 0 if note.line is None else note.line))


class Section:
    """A mapping of the source. Keys are taken one by one, so that those left over can be reported."""

    def __init__(self, data: Any, path: Path) -> None:
        self.path = path
        self._unused: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {}
        self._asked: dict[str, None] = {}

    def take(self, key: str) -> Any:
        """Remove a key and return its value; None if there is none."""
        self._asked[key] = None
        return self._unused.pop(key, None)

    def meant_by(self, key: str) -> str:
        """`did you mean 'fallbacks'?` for a key that is nearly one that is read; else empty."""
        is_longer = any(key.startswith(f"{known}_") or key.endswith(f"_{known}") for known in self._asked)
        if is_longer or key in NOT_MISSPELT or key in NOT_OF_A_REQUEST or is_price(key):
            return ""
        return did_you_mean(key, self._asked, likeness=_LIKENESS)

    def unused(self) -> Iterator[tuple[str, Any]]:
        """The keys that were not taken, with their values; nulls are skipped."""
        return ((key, value) for key, value in list(self._unused.items()) if value is not None)


def first(*keys: tuple[Section, str]) -> Any:
    """Take the first of these keys that has a value; the rest stay in their sections."""
    return next((value for section, key in keys if (value := section.take(key)) is not None), None)


class Draft:
    """Part of a spec under construction, with the source path of each value."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[Path, Path] = {}

    def put(self, path: Path, value: Any, origin: Path) -> None:
        """Write a value at a path; None is not written."""
        if value is None:
            return
        *around, key = path
        section: dict[Any, Any] = self.data
        for part in around:
            section = section.setdefault(part, {})
        section[key] = value
        self.origins[path] = origin

    def drop(self, path: Path) -> None:
        """Remove a value, and the sections that are empty without it."""
        *around, key = path
        section: Any = self.data
        for part in around:
            section = section[part]
        del section[key]
        if around and not section:
            self.drop(tuple(around))

    def origin(self, path: Path) -> Path:
        """The source path of the value at a path; for a section, that of its first value."""
        around = (self.origins[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self.origins)
        within = (origin for known, origin in self.origins.items() if known[: len(path)] == path)
        return next(chain(around, within))
