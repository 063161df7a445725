"""A source once read, before it is a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_fallback.errors import Mistake
from llm_fallback.spec.marks import Note, Path, Place


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, the place of every value in it, what was wrong in reading, and what of the source it leaves out."""

    data: dict[str, Any] = field(default_factory=dict, repr=False)
    places: Mapping[Path, Place] = field(default_factory=dict, repr=False)
    mistakes: tuple[Mistake, ...] = ()
    readable: bool = True
    """False: the data is missing or incomplete, and nothing can be said about what is in it."""
    notes: tuple[Note, ...] = ()


def unreadable(
    problem: str, remedy: str | None = None, *, file: str | None = None, line: int | None = None
) -> Document:
    """A document that could not be read, and why."""
    return Document(mistakes=(Mistake("", problem, remedy, file, line),), readable=False)
