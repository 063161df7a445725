"""The ledger of a process: how many calls there were, how they ended, how long they took and what they cost.

Its memory is constant.

    ledger = Ledger(by=("tenant",))
    model = build_chat_model(spec, listeners=[ledger])
    ledger.snapshot().by["tenant"]["acme"].cost_usd

Snapshots of several processes merge into one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Any

from llm_fallback._forks import fork_safe_lock
from llm_fallback.events import Attempt, CallEnded, Event
from llm_fallback.ledger.quantiles import Sample
from llm_fallback.ledger.tally import CallDelta, Summary, Tally, merged, of_attempt, tokens_per_s, with_answer

logger = logging.getLogger("llm_fallback")

OTHER = "…other"
"""The name under which a dimension's further names are counted once it is full."""
_BATCH = 16
"""Calls that are counted together: some tenths of a millisecond of work."""
DIMENSIONS = ("chain", "deployment", "model", "tag", "run")
_LANGCHAINS_TAGS = ("seq:step:", "map:key:", "graph:step:", "branch:", "condition:", "retry:", "langsmith:")
"""Beginnings of tags that LangChain and LangGraph put on runs themselves; they are not counted by."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a ledger had counted at one moment."""

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
            dimension: MappingProxyType({name: Summary.from_dict(summary) for name, summary in names.items()})
            for dimension, names in plain["by"].items()
        }
        return cls(Summary.from_dict(plain["total"]), MappingProxyType(by))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Snapshot.from_dict, (self.as_dict(),)


def metadata_keys(names: str | Sequence[str], argument: str) -> tuple[str, ...]:
    """Keys of `config["metadata"]`, as `by`, `per` and `metadata` name them: a text is one key; each counts once.

    Raises ValueError, with the argument's name, for what names no keys."""
    keys = [names] if isinstance(names, str) else list(names) if isinstance(names, Collection) else [None]
    if not all(isinstance(key, str) and key for key in keys):
        remedy = f'write {argument}="tenant", or a list of such texts'
        raise ValueError(f'{argument} must name keys of config["metadata"], got {names!r}; {remedy}')
    return tuple(dict.fromkeys(keys))


def merge(*snapshots: Snapshot) -> Snapshot:
    """The snapshots of several ledgers as one; their order makes no difference."""
    total, by = Tally(), dict[str, dict[str, Tally]]()
    for snapshot in snapshots:
        total.absorb(snapshot.total)
        for dimension, names in snapshot.by.items():
            tallies = by.setdefault(dimension, {})
            for name, summary in names.items():
                tallies.setdefault(name, Tally()).absorb(summary)
    return _snapshot(total, by)


class Ledger:
    """A listener that counts calls: in total, and by chain, deployment, model, tag, run and metadata.

    `by` names keys of `config["metadata"]` to count by. Each dimension holds at most `names` names, in order of
    appearance, and counts the rest as "…other". A run is an outermost one of LangChain, as of an agent or a graph, with
    all its calls; the last `runs` are held. Threads may share it. About fifteen of the latest calls are kept as events,
    with their metadata, until a further call or `snapshot()` counts them.

    Raises ValueError for what is no key, and for a key that has the name of another dimension.
    """

    def __init__(self, *, by: str | Sequence[str] = (), names: int = 200, runs: int = 200) -> None:
        self._lock = fork_safe_lock()
        self.metadata_keys = metadata_keys(by, "by")
        """The keys of metadata it counts by."""
        taken = [key for key in self.metadata_keys if key in DIMENSIONS]
        if taken:
            # Its values would be counted among the chains, say, and a call with both twice.
            raise ValueError(f"by: {taken[0]!r} is counted by anyway; call the key of your metadata something else")
        self._names, self._runs = names, runs
        self._without_chain = Tally()
        """Calls of models that are not ours."""
        self._by: dict[str, dict[str, Tally]] = {dimension: {} for dimension in (*DIMENSIONS, *self.metadata_keys)}
        self._latest_runs = OrderedDict[str, Tally | CallDelta]()
        self._pending: deque[CallEnded] = deque()

    def __call__(self, event: Event) -> None:
        """Count a call that ended; other events count nothing.

        Calls are counted in batches: code that runs only now and then finds its caches cold, and costs twice as much.
        """
        if isinstance(event, CallEnded):
            self._pending.append(event)
            # This thread itself may hold the lock, if counting one call ended another: so never wait for it.
            if len(self._pending) >= _BATCH and self._lock.acquire(blocking=False):
                try:
                    counted = self._count_pending()
                finally:
                    self._lock.release()
                del counted

    def snapshot(self) -> Snapshot:
        """What was counted so far."""
        with self._lock:
            counted = self._count_pending()
            runs = {
                run_id: latest if isinstance(latest, Tally) else _tally_of(latest)
                for run_id, latest in self._latest_runs.items()
            }
            snapshot = _snapshot(self._total(), {**self._by, "run": runs})
        del counted
        return snapshot

    def _count_pending(self) -> list[CallEnded]:
        """Count the pending calls, and return them to be released without the lock: their metadata may hold the last
        reference to an object of the user's, whose end may report another call."""
        events = [self._pending.popleft() for _ in range(len(self._pending))]
        for event in events:
            try:
                self._count(event)
            except Exception:
                logger.exception("a call of chain %s could not be counted", event.chain)
        return events

    def _count(self, event: CallEnded) -> None:
        record = event.record
        deltas, answered_by = [of_attempt(attempt) for attempt in record.attempts], _answering(record.attempts)
        rate = None if answered_by is None else tokens_per_s(record.attempts[answered_by])
        self._count_call(event, _whole_call(event, deltas, rate))
        if answered_by is not None:
            answer = record.attempts[answered_by]
            times_s = (answer.latency_s, answer.time_to_first_token_s)
            deltas[answered_by] = with_answer(deltas[answered_by], record.fell_back, *times_s, rate)
        self._count_parts("deployment", [attempt.deployment for attempt in record.attempts], deltas)
        self._count_parts("model", [attempt.model for attempt in record.attempts], deltas)

    def _count_call(self, event: CallEnded, whole: CallDelta) -> None:
        chain = self._tally("chain", event.chain) if event.chain else self._without_chain
        chain.add(whole)
        tags = (tag for tag in map(str, event.tags) if not tag.startswith(_LANGCHAINS_TAGS))
        # A set, because several tags of one call may share the tally of all further names.
        for tally in {self._tally("tag", tag) for tag in tags}:
            tally.add(whole)
        for key in self.metadata_keys:
            if event.metadata.get(key) is not None:
                self._tally(key, str(event.metadata[key])).add(whole)
        run_id = event.run_id if event.root_run_id is None else event.root_run_id
        if run_id is not None:
            self._count_run(run_id, whole)

    def _count_parts(self, dimension: str, names: Sequence[str], deltas: Sequence[CallDelta]) -> None:
        """Count one call for each tally that has a part in it, be it with several attempts or under several names."""
        parts: dict[Tally, CallDelta] = {}
        for name, delta in zip(names, deltas, strict=True):
            if name:
                tally = self._tally(dimension, name)
                parts[tally] = merged(parts[tally], delta) if tally in parts else delta
        for tally, part in parts.items():
            tally.add(part)

    def _count_run(self, run_id: str, delta: CallDelta) -> None:
        """Most runs are one call: its delta is kept as it is, which costs less than a tally for each run."""
        latest_runs, known = self._latest_runs, self._latest_runs.get(run_id)
        if known is None:
            latest_runs[run_id] = delta
            if len(latest_runs) > self._runs:
                latest_runs.popitem(last=False)
            return
        latest_runs[run_id] = tally = known if isinstance(known, Tally) else _tally_of(known)
        latest_runs.move_to_end(run_id)
        tally.add(delta)

    def _total(self) -> Tally:
        """The sum of all chains: every call belongs to one, so the total need not be counted as well."""
        total = Tally()
        for tally in (self._without_chain, *self._by["chain"].values()):
            total.absorb(tally.freeze())
        return total

    def _tally(self, dimension: str, name: str) -> Tally:
        tallies = self._by[dimension]
        tally = tallies.get(name)
        if tally is None:
            kept = name if len(tallies) < self._names else OTHER
            tally = tallies.setdefault(kept, Tally())
        return tally


def _tally_of(delta: CallDelta) -> Tally:
    tally = Tally()
    tally.add(delta)
    return tally


def _answering(attempts: Sequence[Attempt]) -> int | None:
    """The index of the attempt that answered."""
    for index in range(len(attempts) - 1, -1, -1):
        if attempts[index].outcome == "succeeded":
            return index
    return None


def _whole_call(event: CallEnded, deltas: Sequence[CallDelta], rate: Sample | None) -> CallDelta:
    """What a call adds to the tallies of its chain, tags, metadata and run."""
    record, delta = event.record, reduce(merged, deltas) if deltas else CallDelta()
    if event.failure is not None:
        return delta._replace(unanswered=event.failure)
    return with_answer(delta, record.fell_back, record.latency_s, record.time_to_first_token_s, rate)


def _snapshot(total: Tally, by: Mapping[str, Mapping[str, Tally]]) -> Snapshot:
    summaries = {
        dimension: MappingProxyType({name: tally.freeze() for name, tally in tallies.items()})
        for dimension, tallies in by.items()
    }
    return Snapshot(total.freeze(), MappingProxyType(summaries))
