"""The body of an error, in any of the shapes servers use, taken apart: what it says, its codes, a time it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_CODED = ("code", "type", "status", "error_type", "reason")
_NESTED = ("error", "innererror", "metadata", "details", "detail")
_TELLING = ("flagged_input",)
"""Keys whose presence alone says what happened."""
_AGAIN = re.compile(
    r"""\b(?:re)?try\ (?:again\ )?(?:after|in)\ ((?:\d+(?:\.\d+)?\ ?(?:ms|m(?:in\w*)?|s(?:ec\w*)?|h)(?![a-z])\ ?)+)""",
    re.IGNORECASE | re.VERBOSE,
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[msh])", re.I)
_STATUSES = frozenset(map(str, range(400, 600)))
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Said:
    """What an error says."""

    message: str = ""
    codes: tuple[str, ...] = ()
    """Codes, types and the like, the most telling first."""
    text: str = ""
    """All of it."""
    status: int | None = None
    """A status among the codes."""
    wait_s: float | None = None
    """The seconds it asks to wait, if it names a time."""


def said_by(body: bytes | str) -> Said:
    """What an error body says."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    try:
        data = json.loads(text)
    except ValueError:
        return Said(text, text=text, wait_s=_wait_in(text))
    return said_in(data, text)


def said_in(data: Any, text: str | None = None) -> Said:
    """What a parsed error body, or an error inside of a stream, says."""
    text = json.dumps(data, ensure_ascii=False) if text is None else text
    codes = tuple(dict.fromkeys(str(code) for code in _codes(data)))
    message = _message(data) or text
    named = [float(delay) for delay in re.findall(r'"retryDelay": ?"(\d+(?:\.\d+)?)s"', text)]
    wait_s = max(named, default=None)
    return Said(message, codes, text, _status(codes), _wait_in(message) if wait_s is None else wait_s)


def _codes(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for item in data:
            yield from _codes(item)
    if isinstance(data, Mapping):
        yield from (data[key] for key in _CODED if isinstance(data.get(key), str | int))
        yield from (key for key in _TELLING if key in data)
        for key in _NESTED:
            yield from _codes(data.get(key))


def _message(data: Any) -> str | None:
    """The first text that a person is meant to read."""
    if isinstance(data, str):
        return data
    if not isinstance(data, Mapping):
        return None
    for key in ("error", "message", "detail"):
        found = _message(data.get(key))
        if found:
            return found
    return None


def _status(codes: tuple[str, ...]) -> int | None:
    return next((int(code) for code in codes if code in _STATUSES), None)


def _wait_in(text: str) -> float | None:
    found = _AGAIN.search(text)
    if found is None:
        return None
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _DURATION.findall(found[1]))
