"""How long callers waited after their server was killed: the table a run ends with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.servers.callers import Caller

HEADS = ("system", "signal", "plain", "held", "continued", "raised")


@dataclass(frozen=True)
class Wait:
    """One caller's, from the signal on."""

    system: str
    signal: str
    promise: str
    """What the caller was promised: one of the heads."""
    seconds: float
    by_the_killed: bool
    """Whether the killed server answered after all."""

    @classmethod
    def of(cls, caller: Caller, system: str, signal: str, killed_at: float) -> Wait:
        by_the_killed = caller.error is None and caller.facts["attempts"][0]["failure"] is None
        return cls(system, signal, _promise(caller), caller.relieved_at - killed_at, by_the_killed)

    def __str__(self) -> str:
        return f"{self.seconds:.2f}{' (its own)' if self.by_the_killed else ''}"


def _promise(caller: Caller) -> str:
    if not caller.manner.is_streamed:
        return "plain"
    return {"hold": "held", "continue": "continued", "raise": "raised"}[caller.manner.on_stream_break]


def table(waits: Iterable[Wait]) -> Iterator[str]:
    """Lines of Markdown: of the callers of a kind, sync and async, the one who waited longest."""
    yield _row(*HEADS)
    yield _row(*["---"] * len(HEADS))
    for (system, signal), ours in groupby(waits, lambda wait: (wait.system, wait.signal)):
        longest: dict[str, Wait] = {}
        for wait in sorted(ours, key=lambda wait: wait.seconds):
            longest[wait.promise] = wait
        yield _row(system, signal, *(longest.get(promise, "") for promise in HEADS[2:]))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
