"""The books of a process: what its calls took, cost and came to, in constant memory.

    ledger = Ledger(by=("tenant",))
    model = build_chat_model(spec, listeners=[ledger])
    ledger.snapshot().by["tenant"]["acme"].cost_usd

Snapshots of several processes merge into one.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Any, TypeVar

from llm_fallback.events import Attempt, CallEnded, Event, Record
from llm_fallback.ledger.quantiles import Reading
from llm_fallback.ledger.tally import NO_ATTEMPT, Entry, Summary, Tally, answered, counted, joined, speed

logger = logging.getLogger("llm_fallback")

Key = TypeVar("Key")

OTHER = "…other"
"""Where a dimension's further names are counted once it is full."""
_AT_ONCE = 16
"""Calls that are booked together: some tenths of a millisecond of work."""
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


def keys_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """Keys of metadata; a text is one, and not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


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
    appearance, and counts the rest as "…other". A run is an outermost one of LangChain, as of an agent or a graph, with
    all its calls; the last `runs` are held. Threads may share it. The last calls, about fifteen, are held as they were
    told, with their metadata, until a further call or `snapshot()` books them.

    Raises ValueError for a key that is called like what is counted by anyway.
    """

    def __init__(self, *, by: str | Sequence[str] = (), names: int = 200, runs: int = 200) -> None:
        self._lock = threading.Lock()
        self._keys = keys_of(by)
        taken = [key for key in self._keys if key in DIMENSIONS]
        if taken:
            # Its values would be counted among the chains, say, and a call with both twice.
            raise ValueError(f"by: {taken[0]!r} is counted by anyway; call the key of your metadata something else")
        self._names, self._runs = names, runs
        self._nameless = Tally()
        """Calls of models that are not ours, and of no chain."""
        self._by: dict[str, dict[str, Tally]] = {dimension: {} for dimension in (*DIMENSIONS, *self._keys)}
        self._latest = OrderedDict[str, Tally | Entry]()
        self._unbooked: deque[CallEnded] = deque()

    def __call__(self, event: Event) -> None:
        """Count a call that ended; other events are no news here.

        Some at a time, because code that runs once in a while runs with cold caches: it would cost twice as much.
        """
        if isinstance(event, CallEnded):
            self._unbooked.append(event)
            # Whoever holds the lock may be this very thread, told of a call in the midst of its booking: never wait.
            if len(self._unbooked) >= _AT_ONCE and self._lock.acquire(blocking=False):
                try:
                    booked = self._book_all()
                finally:
                    self._lock.release()
                del booked

    def snapshot(self) -> Snapshot:
        """What was counted so far."""
        with self._lock:
            booked = self._book_all()
            runs = {name: own if isinstance(own, Tally) else _tally_of(own) for name, own in self._latest.items()}
            snapshot = _frozen(self._total(), {**self._by, "run": runs})
        del booked
        return snapshot

    def _book_all(self) -> list[CallEnded]:
        """The calls that were booked, to be let go without the lock: what their metadata held may be the user's last
        reference to it, and its end may tell of another call."""
        events = [self._unbooked.popleft() for _ in range(len(self._unbooked))]
        for event in events:
            try:
                self._book(event)
            except Exception:
                logger.exception("a call of chain %s could not be booked", event.chain)
        return events

    def _book(self, event: CallEnded) -> None:
        attempts = event.record.attempts
        entries, place = [counted(attempt) for attempt in attempts], _answer(attempts)
        pace = None if place is None else speed(attempts[place])
        self._book_call(event, _whole(event, entries, pace))
        for dimension, own in zip(("deployment", "model"), _parts(event.record, entries, place, pace), strict=True):
            self._book_parts(dimension, own)

    def _book_call(self, event: CallEnded, whole: Entry) -> None:
        chain = self._tally("chain", event.chain) if event.chain else self._nameless
        chain.add(whole)
        tags = (tag for tag in map(str, event.tags) if not tag.startswith(_LANGCHAINS_TAGS))
        # A set, because tags of one call may have one tally: that of all other names.
        for tally in {self._tally("tag", tag) for tag in tags}:
            tally.add(whole)
        for key in self._keys:
            if event.metadata.get(key) is not None:
                self._tally(key, str(event.metadata[key])).add(whole)
        run_id = event.run_id if event.root_run_id is None else event.root_run_id
        if run_id is not None:
            self._book_run(run_id, whole)

    def _book_parts(self, dimension: str, parts: Mapping[str, Entry]) -> None:
        """Names that are counted among the others have one call together."""
        own: dict[Tally, Entry] = {}
        for name, part in parts.items():
            if name:
                _add(own, self._tally(dimension, name), part)
        for tally, entry in own.items():
            tally.add(entry)

    def _total(self) -> Tally:
        """The sum of all chains: every call is one chain's, so it need not be counted a second time."""
        total = Tally()
        for own in (self._nameless, *self._by["chain"].values()):
            total.absorb(own.freeze())
        return total

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


def _whole(event: CallEnded, entries: Sequence[Entry], pace: Reading | None) -> Entry:
    """What a call adds to the books of everything that made it."""
    record, entry = event.record, reduce(joined, entries) if entries else NO_ATTEMPT
    if event.failure is not None:
        return entry._replace(unanswered=event.failure)
    return answered(entry, record.fell_back, record.latency_s, record.time_to_first_token_s, pace)


def _parts(
    record: Record, entries: list[Entry], place: int | None, pace: Reading | None
) -> tuple[Mapping[str, Entry], Mapping[str, Entry]]:
    """What it adds to the books of each deployment, and of each model, it asked. `place` is the answer's."""
    if place is not None:
        answer = record.attempts[place]
        first_s = answer.time_to_first_token_s
        entries[place] = answered(entries[place], record.fell_back, answer.latency_s, first_s, pace)
    deployments: dict[str, Entry] = {}
    models: dict[str, Entry] = {}
    for attempt, entry in zip(record.attempts, entries, strict=True):
        _add(deployments, attempt.deployment, entry)
        _add(models, attempt.model, entry)
    return deployments, models


def _add(parts: dict[Key, Entry], key: Key, entry: Entry) -> None:
    parts[key] = joined(parts[key], entry) if key in parts else entry


def _answer(attempts: Sequence[Attempt]) -> int | None:
    """Where the attempt stands that answered."""
    for place in range(len(attempts) - 1, -1, -1):
        if attempts[place].outcome == "succeeded":
            return place
    return None


def _frozen(total: Tally, by: Mapping[str, Mapping[str, Tally]]) -> Snapshot:
    frozen = {
        dimension: MappingProxyType({name: tally.freeze() for name, tally in names.items()})
        for dimension, names in by.items()
    }
    return Snapshot(total.freeze(), MappingProxyType(frozen))
