"""What real servers said, one file per system in `systems/`: when something went wrong, and the word it should get
(`cases`); when all went well, and what a caller should get of it (`replies`).

Both name their `source`: measured here, read in source code or a recording, documentation, or a public report. A case
is what came over the wire (`status`, `headers`, and a `body` or the `frames` of a stream) and the `failure` it is. A
reply is its `body`, its `frames` or both, and what they come to. Text is shortened to what tells one from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Way = Literal["plain", "streamed"]
Shows = Literal["whole", "tools", "reasoning", "refused", "usage", "media"]
SYSTEMS = Path(__file__).with_name("systems")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, where PyYAML was built with it, is ten times as fast."""


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

    @property
    def place(self) -> str:
        """Where the stage answers with it."""
        return f"{self.system}/{self.name}"


@dataclass(frozen=True)
class Reply:
    """One reply of one system, and what a caller should get of it, plain and streamed alike."""

    system: str
    name: str
    source: str
    shows: Shows
    body: Mapping[str, Any] | None = None
    """The plain reply."""
    frames: Sequence[Any] | None = None
    """Events of the streamed one: mappings as JSON, texts as they are."""
    done: bool = True
    """Whether server-sent events end with `[DONE]`."""
    text: str = ""
    reasoning: str = ""
    tools: Sequence[Sequence[Any]] = ()
    """The name and the arguments of each tool call."""
    finish: str | None = None
    """In OpenAI's spelling."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Those of LangChain's counts that should be there, its details flattened."""
    failure: str | None = None
    """The failure it is, for one that is no reply."""
    by: Sequence[str] = ()
    """Through which of the system's `asked` deployments; empty: the first."""
    note: str = ""

    @property
    def place(self) -> str:
        """Where the stage answers with it."""
        return f"{self.system}/reply-{self.name}"

    @property
    def ways(self) -> Sequence[Way]:
        """The ways it can come."""
        both: dict[Way, Any] = {"plain": self.body, "streamed": self.frames}
        return [way for way, answer in both.items() if answer is not None]

    @property
    def unfinished(self) -> range:
        """After how many frames its stream can end too early: before the one that tells how the reply ended."""
        finishes = [_tells_the_finish(frame) for frame in self.frames or ()]
        return range(1, 1 + (finishes.index(True) if True in finishes else len(finishes)))


@dataclass(frozen=True)
class System:
    """A serving system or provider, and how a spec asks for it."""

    name: str
    asked: Mapping[str, Mapping[str, Any]]
    """Deployments by the way they are asked; `{address}` and `{case}` in them are the case's own."""
    framing: str
    cases: Sequence[Case]
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Cases that are worth asking for in another way, too."""
    replies: Sequence[Reply] = ()

    def runs(self) -> Iterator[tuple[str, Case, Way]]:
        """Every case in every way it can come."""
        for case in self.cases:
            first = next(iter(self.asked))
            others = (by for by, cases in self.also.items() if case.name in cases)
            for by in case.by or (first, *others):
                yield from ((by, case, way) for way in case.ways)

    def spoken(self) -> Iterator[tuple[str, Reply]]:
        """Every reply, by every deployment that is asked for it."""
        for reply in self.replies:
            yield from ((by, reply) for by in reply.by or (next(iter(self.asked)),))

    def deployment(self, by: str, place: str, url: str) -> dict[str, Any]:
        """A spec's deployment that is asked at a place of a stage."""
        filled: dict[str, Any] = _filled(self.asked[by], {"{address}": f"{url}/{place}", "{case}": place})
        return filled


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item, places) for key, item in value.items()}
    if isinstance(value, str):
        for name, filled in places.items():
            value = value.replace(name, filled)
    return value


@cache
def systems() -> Sequence[System]:
    """All of them, by name."""
    return tuple(_system(path) for path in sorted(SYSTEMS.glob("*.yaml")))


def _system(path: Path) -> System:
    data = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    name, framing = path.stem, data.get("framing", "sse")
    cases = [_case(name, case, facts) for case, facts in data.get("cases", {}).items()]
    always = {"done": data.get("done", framing == "sse")}
    replies = [Reply(name, reply, **{**always, **facts}) for reply, facts in data.get("replies", {}).items()]
    return System(name, data["asked"], framing, cases, data.get("also", {}), replies)


def _case(system: str, name: str, facts: Mapping[str, Any]) -> Case:
    ways = ("streamed",) if "frames" in facts else ("plain", "streamed")
    return Case(system, name, **{"ways": ways, **facts})


def _tells_the_finish(frame: Any) -> bool:
    """Whether it is the event that tells how a reply ended, in the words of whichever protocol."""
    if isinstance(frame, str):
        return False
    return (
        frame.get("type") == "message-end"  # Cohere
        or frame.get("event") == "messageStop"  # Bedrock
        or frame.get("done") is True  # Ollama
        or bool((frame.get("delta") or {}).get("stop_reason"))  # Anthropic
        or any(choice.get("finish_reason") for choice in frame.get("choices") or ())
        or any(candidate.get("finishReason") for candidate in frame.get("candidates") or ())
    )
