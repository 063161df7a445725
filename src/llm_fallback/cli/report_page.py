"""A report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_DATA = '"the data of the report"'


def page(data: dict[str, Any]) -> str:
    """The page; whatever is in the data shows as text and is never run."""
    template = files("llm_fallback.cli").joinpath("report.html").read_text(encoding="utf-8")
    return template.replace(_DATA, json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))
