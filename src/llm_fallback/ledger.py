"""The books of a process: what its calls took, cost and came to, in constant memory.

    ledger = Ledger(by=("tenant",))
    model = build_chat_model(spec, listeners=[ledger])
    ledger.snapshot().by["tenant"]["acme"].cost_usd

Snapshots of several processes merge into one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llm_fallback.events import Attempt, CallEnded, Event
from llm_fallback.quantiles import Reading, reading
from llm_fallback.tally import Entry, Summary, Tally, account, speed

OTHER = "…other"
"""Where a dimension's further names are counted once it is full."""
DIMENSIONS = ("chain", "deployment", "model", "tag", "run")
_LANGCHAINS_TAGS = ("seq:step:", "map:key:", "graph:step:", "branch:", "condition:", "retry:", "langsmith:")
"""Beginnings of tags that LangChain and LangGraph put on runs themselves; nobody accounts by them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a ledger held at one moment."""

    total: Summary = field(default_factory=Summary)
    by: Mapping[str, Mapping[str, Summary]] = field(default_factory=lambda: MappingProxyType({}))
    """By dimension and name: `by["deployment"]["claude"]`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable data, from which `from_dict` makes the snapshot again."""
        return {
            "total": self.total.as_dict(),
            "by": {
                dimension: {name: summary.as_dict() for name, summary in sorted(names.items())}
                for dimension, names in self.by.items()
            },
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Snapshot:
        """The snapshot whose `as_dict()` this is."""
        by = {
            dimension: MappingProxyType({name: Summary.from_dict(own) for name, own in names.items()})
            for dimension, names in plain["by"].items()
        }
        return cls(Summary.from_dict(plain["total"]), MappingProxyType(by))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Snapshot.from_dict, (self.as_dict(),)


def merge(*snapshots: Snapshot) -> Snapshot:
    """The books of several ledgers as one; the order does not matter."""
    total, by = Tally(), dict[str, dict[str, Tally]]()
    for snapshot in snapshots:
        total.absorb(snapshot.total)
        for dimension, names in snapshot.by.items():
            own = by.setdefault(dimension, {})
            for name, summary in names.items():
                own.setdefault(name, Tally()).absorb(summary)
    return _frozen(total, by)


class Ledger:
    """A listener that keeps books: in total, and by chain, deployment, model, tag, run and metadata.

    `by` names keys of `config["metadata"]` to count by. Each dimension holds at most `names` names, in order of
    appearance, and counts the rest as "…other"; of runs it holds the last `runs`. Threads may share it.
    """

    def __init__(self, *, by: Sequence[str] = (), names: int = 200, runs: int = 200) -> None:
        self._lock = threading.Lock()
        self._keys = tuple(by)
        self._names, self._runs = names, runs
        self._total = Tally()
        self._by: dict[str, dict[str, Tally]] = {dimension: {} for dimension in (*DIMENSIONS, *self._keys)}
        self._by["run"] = self._latest = OrderedDict[str, Tally]()

    def __call__(self, event: Event) -> None:
        """Count a call that ended; other events are no news here."""
        if isinstance(event, CallEnded):
            whole, parts = _whole(event), tuple(_parts(event))
            with self._lock:
                self._book(event, whole)
                for dimension, name, part in parts:
                    self._tally(dimension, name).add(part)

    def snapshot(self) -> Snapshot:
        """What was counted so far."""
        with self._lock:
            return _frozen(self._total, self._by)

    def _book(self, event: CallEnded, whole: Entry) -> None:
        self._total.add(whole)
        if event.chain:
            self._tally("chain", event.chain).add(whole)
        for tag in set(event.tags):
            if not tag.startswith(_LANGCHAINS_TAGS):
                self._tally("tag", tag).add(whole)
        for key in self._keys:
            if event.metadata.get(key) is not None:
                self._tally(key, str(event.metadata[key])).add(whole)
        if event.run_id is not None:
            self._run(event.run_id).add(whole)

    def _tally(self, dimension: str, name: str) -> Tally:
        tallies = self._by[dimension]
        tally = tallies.get(name)
        if tally is None:
            kept = name if len(tallies) < self._names else OTHER
            tally = tallies.setdefault(kept, Tally())
        return tally

    def _run(self, name: str) -> Tally:
        tally = self._latest.get(name)
        if tally is None:
            tally = self._latest[name] = Tally()
            if len(self._latest) > self._runs:
                self._latest.popitem(last=False)
        else:
            self._latest.move_to_end(name)
        return tally


def _whole(event: CallEnded) -> Entry:
    """What a call adds to the books of everything that made it."""
    record, answered = event.record, event.failure is None
    answer = _answer(record.attempts)
    return Entry(
        *account(record.attempts),
        answered=answered,
        fell_back=record.fell_back and answered,
        unanswered=event.failure,
        latency_s=reading(record.latency_s) if answered else None,
        first_token_s=_maybe(record.time_to_first_token_s) if answered else None,
        tokens_per_s=None if answer is None else speed(answer),
    )


def _parts(event: CallEnded) -> Iterator[tuple[str, str, Entry]]:
    """What a call adds to the books of each deployment and model it asked."""
    attempts = event.record.attempts
    if len(attempts) == 1:
        part = _part(attempts, event)
        yield from (("deployment", attempts[0].deployment, part), ("model", attempts[0].model, part))
        return
    for name in dict.fromkeys(attempt.deployment for attempt in attempts):
        yield "deployment", name, _part([attempt for attempt in attempts if attempt.deployment == name], event)
    for name in dict.fromkeys(attempt.model for attempt in attempts):
        yield "model", name, _part([attempt for attempt in attempts if attempt.model == name], event)


def _part(attempts: Sequence[Attempt], event: CallEnded) -> Entry:
    answer = _answer(attempts)
    return Entry(
        *account(attempts),
        answered=answer is not None,
        fell_back=answer is not None and event.record.fell_back,
        unanswered=None,
        latency_s=None if answer is None else reading(answer.latency_s),
        first_token_s=None if answer is None else _maybe(answer.time_to_first_token_s),
        tokens_per_s=None if answer is None else speed(answer),
    )


def _answer(attempts: Iterable[Attempt]) -> Attempt | None:
    return next((attempt for attempt in attempts if attempt.outcome == "succeeded"), None)


def _maybe(seconds: float | None) -> Reading | None:
    return None if seconds is None else reading(seconds)


def _frozen(total: Tally, by: Mapping[str, Mapping[str, Tally]]) -> Snapshot:
    frozen = {
        dimension: MappingProxyType({name: tally.freeze() for name, tally in names.items()})
        for dimension, names in by.items()
    }
    return Snapshot(total.freeze(), MappingProxyType(frozen))
