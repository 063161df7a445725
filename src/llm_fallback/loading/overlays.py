"""Several documents made one: later ones win, mappings merge, lists replace, null removes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_fallback.loading.documents import Document
from llm_fallback.spec.marks import Path


def overlaid(base: Document, over: Document) -> Document:
    """One document laid over another; each value keeps the place of the document it came from."""
    shared = {path: base.places[path] for path in _shared(base.data, over.data, ()) if path in base.places}
    places = {**base.places, **over.places, **shared}
    return Document(merged(base.data, over.data), places, notes=(*base.notes, *over.notes))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it. A null removes what `base` has; where it has nothing, null stays."""
    result = dict(base)
    for key, value in over.items():
        if value is None and key in result:
            del result[key]
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _shared(base: Any, over: Any, path: Path) -> Iterator[Path]:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        yield path
        for key in base.keys() & over.keys():
            yield from _shared(base[key], over[key], (*path, key))
