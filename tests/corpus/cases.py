"""What real servers said when something went wrong, and the word each should get; one file per system in `systems/`.

A case is `source` (measured here, read in source code, documentation, or a public report), what came over the wire
(`status`, `headers`, and a `body` or the `frames` of a stream) and the `failure` it is. Text is shortened to what
tells one failure from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

Way = Literal["plain", "streamed"]
SYSTEMS = Path(__file__).with_name("systems")


@dataclass(frozen=True)
class Case:
    """One answer of one system."""

    system: str
    name: str
    source: str
    failure: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | str | None = None
    frames: Sequence[Any] | None = None
    """Events of a stream: mappings as JSON, texts as they are."""
    says: int | None = None
    """The status the attempt should name; None: the status of the response."""
    wait_s: float | None = None
    """For how long the deployment should be left alone, if it said so."""
    ways: Sequence[Way] = ("plain", "streamed")
    by: Sequence[str] = ()
    """Through which of the system's `asked` deployments; empty: the first, and those that list it in `also`."""
    after_content: bool = False
    """Whether it comes after a part of the reply was delivered."""
    note: str = ""


@dataclass(frozen=True)
class System:
    """A serving system or provider, and how a spec asks for it."""

    name: str
    asked: Mapping[str, Mapping[str, Any]]
    """Deployments by the way they are asked; `{address}` and `{case}` in them are the case's own."""
    framing: str
    cases: Sequence[Case]
    also: Mapping[str, Sequence[str]]
    """Cases that are worth asking for in another way, too."""

    def runs(self) -> Iterator[tuple[str, Case, Way]]:
        """Every case in every way it can come."""
        for case in self.cases:
            first = next(iter(self.asked))
            others = (by for by, cases in self.also.items() if case.name in cases)
            for by in case.by or (first, *others):
                yield from ((by, case, way) for way in case.ways)


def systems() -> list[System]:
    return [_system(path) for path in sorted(SYSTEMS.glob("*.yaml"))]


def _system(path: Path) -> System:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    cases = [_case(path.stem, name, facts) for name, facts in data["cases"].items()]
    return System(path.stem, data["asked"], data.get("framing", "sse"), cases, data.get("also", {}))


def _case(system: str, name: str, facts: Mapping[str, Any]) -> Case:
    ways = ("streamed",) if "frames" in facts else ("plain", "streamed")
    return Case(system, name, **{"ways": ways, **facts})
