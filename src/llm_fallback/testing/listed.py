"""litellm's list of models, read from the file it ships: fakes know prices and windows without loading litellm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_FILE = "model_prices_and_context_window_backup.json"


def listed(name: str) -> Mapping[str, Any] | None:
    """The entry of a model; None if there is none."""
    return _entries().get(name)


@cache
def _entries() -> Mapping[str, Any]:
    package = find_spec("litellm")
    if package is None or package.origin is None:
        return {}
    file = Path(package.origin).with_name(_FILE)
    entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return entries
