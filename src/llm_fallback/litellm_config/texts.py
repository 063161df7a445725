"""Variables in texts: `os.environ/NAME` there, `${NAME}` here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_THEIRS = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


_BEGINS_SOMETHING = re.compile(r"\$(?=[${])")


def ours(value: Any) -> Any:
    """Nested data with LiteLLM's references as ours, and every other `$` kept from being one."""
    match value:
        case str():
            reference = _THEIRS.fullmatch(value)
            return f"${{{reference[1]}}}" if reference else escaped(value)
        case Mapping():
            return {key: ours(item) for key, item in value.items()}
        case list():
            return [ours(item) for item in value]
    return value


def escaped(text: str) -> str:
    """A text that stands for itself."""
    return _BEGINS_SOMETHING.sub("$$", text)


def number(value: Any) -> Any:
    """A number that was written as a text, as LiteLLM takes it; anything else unchanged."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
