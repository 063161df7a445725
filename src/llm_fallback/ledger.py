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
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from llm_fallback.events import Attempt, CallEnded, Event, Record
from llm_fallback.quantiles import Reading
from llm_fallback.tally import Account, Entry, Summary, Tally, account, speed, times

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
        self._latest = OrderedDict[str, Tally | Entry]()

    def __call__(self, event: Event) -> None:
        """Count a call that ended; other events are no news here."""
        if isinstance(event, CallEnded):
            attempts = event.record.attempts
            sums, answer = account(attempts), _answer(attempts)
            pace = None if answer is None else speed(answer)
            whole, parts = _whole(event, sums, pace), _parts(event.record, sums, answer, pace)
            with self._lock:
                self._book(event, whole)
                for dimension, name, part in parts:
                    if name:
                        self._tally(dimension, name).add(part)

    def snapshot(self) -> Snapshot:
        """What was counted so far."""
        with self._lock:
            runs = {name: own if isinstance(own, Tally) else _tally_of(own) for name, own in self._latest.items()}
            return _frozen(self._total, {**self._by, "run": runs})

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
            self._book_run(event.run_id, whole)

    def _tally(self, dimension: str, name: str) -> Tally:
        tallies = self._by[dimension]
        tally = tallies.get(name)
        if tally is None:
            kept = name if len(tallies) < self._names else OTHER
            tally = tallies.setdefault(kept, Tally())
        return tally

    def _book_run(self, name: str, entry: Entry) -> None:
        """Most runs are one call: its entry is kept as it is, which costs less than a tally of its own."""
        latest, known = self._latest, self._latest.get(name)
        if known is None:
            latest[name] = entry
            if len(latest) > self._runs:
                latest.popitem(last=False)
            return
        latest[name] = tally = known if isinstance(known, Tally) else _tally_of(known)
        latest.move_to_end(name)
        tally.add(entry)


def _tally_of(entry: Entry) -> Tally:
    tally = Tally()
    tally.add(entry)
    return tally


def _whole(event: CallEnded, sums: Account, pace: Reading | None) -> Entry:
    """What a call adds to the books of everything that made it."""
    if event.failure is not None:
        return Entry(*sums, False, False, event.failure, ())
    record = event.record
    measured = times(record.latency_s, record.time_to_first_token_s, pace)
    return Entry(*sums, True, record.fell_back, None, measured)


def _part(sums: Account, answer: Attempt | None, pace: Reading | None, fell_back: bool) -> Entry:
    """What a call adds to the books of a deployment or model it asked."""
    if answer is None:
        return Entry(*sums, False, False, None, ())
    measured = times(answer.latency_s, answer.time_to_first_token_s, pace)
    return Entry(*sums, True, fell_back, None, measured)


def _parts(
    record: Record, sums: Account, answer: Attempt | None, pace: Reading | None
) -> Iterable[tuple[str, str, Entry]]:
    if len(record.attempts) != 1:
        return list(_several_parts(record.attempts, answer, pace, record.fell_back))
    only, part = record.attempts[0], _part(sums, answer, pace, record.fell_back)
    return ("deployment", only.deployment, part), ("model", only.model, part)


def _several_parts(
    attempts: Sequence[Attempt], answer: Attempt | None, pace: Reading | None, fell_back: bool
) -> Iterator[tuple[str, str, Entry]]:
    for dimension, name_of in (("deployment", _deployment), ("model", _model)):
        for name in dict.fromkeys(map(name_of, attempts)):
            own = [attempt for attempt in attempts if name_of(attempt) == name]
            own_answer = answer if answer is not None and name_of(answer) == name else None
            yield dimension, name, _part(account(own), own_answer, pace, fell_back)


_deployment, _model = attrgetter("deployment"), attrgetter("model")


def _answer(attempts: Sequence[Attempt]) -> Attempt | None:
    for attempt in reversed(attempts):
        if attempt.outcome == "succeeded":
            return attempt
    return None


def _frozen(total: Tally, by: Mapping[str, Mapping[str, Tally]]) -> Snapshot:
    frozen = {
        dimension: MappingProxyType({name: tally.freeze() for name, tally in names.items()})
        for dimension, names in by.items()
    }
    return Snapshot(total.freeze(), MappingProxyType(frozen))
