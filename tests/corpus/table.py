"""Writes the table of what is played for each provider into docs/backends.md: `python -m tests.corpus.table`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.corpus.cases import Reply, System, Way, systems

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
SYSTEMS = "https://github.com/llm-fallback/langchain-llm-fallback/blob/main/tests/corpus/systems"
START, END = "<!-- replies -->\n", "<!-- end of replies -->\n"
COLUMNS: Mapping[str, Callable[[Reply], bool]] = {
    "whole": lambda reply: bool(reply.text) and not reply.tools,
    "tools": lambda reply: bool(reply.tools),
    "reasoning": lambda reply: bool(reply.reasoning),
    "usage": lambda reply: reply.shows == "usage" or any(map(reply.usage.get, ("cache_read", "cache_creation"))),
    "media": lambda reply: reply.shows == "media",
}


def page() -> str:
    """The page, with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return before + START + table() + END + rest.partition(END)[2]


def table() -> str:
    """A row for each file of the corpus that has replies."""
    head = ["file", "asked as", *COLUMNS, "refused", "cut"]
    rows = [_row(system) for system in systems() if system.replies]
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def _row(system: System) -> Iterator[str]:
    yield f"[{system.name}]({SYSTEMS}/{system.name}.yaml)"
    asked = dict.fromkeys(_name(system.asked[by]) for by, _ in system.spoken())
    yield ", ".join(f"`{name}`" for name in asked)
    replies = [reply for reply in system.replies if reply.failure is None]
    for shows in COLUMNS.values():
        yield _ways({way for reply in replies if shows(reply) for way in reply.ways})
    yield _ways({way for answer in _refusals(system) for way in answer.ways})
    yield str(sum(len(reply.unfinished) for reply in replies if "streamed" in reply.ways) or "–")


def _refusals(system: System) -> list[Any]:
    return [answer for answer in (*system.replies, *system.cases) if answer.failure == "content_policy"]


def _name(deployment: Mapping[str, str]) -> str:
    """The backend, else the provider."""
    return deployment.get("backend") or deployment["model"].partition("/")[0]


def _ways(ways: set[Way]) -> str:
    return "both" if len(ways) > 1 else next(iter(ways), "–")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
