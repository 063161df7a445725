"""JSON with the line of every value; a key that stands twice is a mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llm_fallback.errors import Mistake
from llm_fallback.loading.documents import Document, unreadable
from llm_fallback.spec.marks import Path, Place, dotted

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n')


def read_json(text: str, file: str) -> tuple[Any, Document]:
    """The data of a JSON text, and a document with its places and mistakes."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        return None, unreadable(f"is not JSON: {error.msg}", file=file, line=error.lineno)
    lines = _Lines(text, file)
    lines.read_value(())
    return data, Document(places=lines.places, mistakes=tuple(lines.mistakes))


class _Lines:
    """Walks a text that is known to be JSON and notes the line of each key and item."""

    def __init__(self, text: str, file: str) -> None:
        self.places: dict[Path, Place] = {}
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
        self.places.setdefault(path, Place(self._file, self._line))
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
        place = Place(self._file, self._line)
        self.places[(*path, key)] = place
        if key in first:
            self.mistakes.append(twice((*path, key), place, first[key]))
        first.setdefault(key, self._line)

    def _read_array(self, path: Path) -> None:
        index = 0
        while (piece := next(self._pieces)) != "]":
            if piece != ",":
                self._read(piece, (*path, index))
                index += 1


def twice(path: Path, place: Place, first: int | None) -> Mistake:
    """The mistake of a key that stands twice in one mapping."""
    text = f"{path[-1]!r} stands here a second time, first on line {first}"
    return Mistake(dotted(path), text, "keep one of them", place.file, place.line)
