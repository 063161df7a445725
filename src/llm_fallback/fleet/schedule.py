"""When a member exchanges: often enough to agree, seldom enough for the store, and patiently while it is gone."""

from __future__ import annotations

from random import Random

INTERVAL_S = 0.25
_MOST_EXCHANGES_PER_S = 64
"""Of all members together: a larger fleet exchanges less often."""
_JITTER = 0.25
_IDLE_INTERVALS = 2
"""News reach an idle process as soon as any other."""
_LEASE_INTERVALS = 6
_PATIENCE_INTERVALS = 1.5
FAILURES = 2
"""Exchanges without an answer, one after another, before the store may count as gone: one answer gets lost, or its
process is paused while it waits."""


class Schedule:
    """The pauses between a member's exchanges."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.failures = 0
        """Exchanges without an answer since the last that had one."""
        self.members = 1

    @property
    def interval_s(self) -> float:
        return max(INTERVAL_S, self.members / _MOST_EXCHANGES_PER_S)

    @property
    def lease_s(self) -> float:
        """How long a lease lasts: some exchanges may be lost."""
        return _LEASE_INTERVALS * self.interval_s

    @property
    def patience_s(self) -> float:
        """How long an answer may take: a lease outlasts some that are lost."""
        return _PATIENCE_INTERVALS * self.interval_s

    def answered(self, members: int) -> None:
        self.failures = 0
        self.members = max(1, members)

    def failed(self) -> None:
        self.failures += 1

    def pause_s(self, *, is_idle: bool = False) -> float:
        """Seconds until the next exchange. Random, so that members neither go in step nor come back all at once."""
        if not self.failures:
            interval_s = (_IDLE_INTERVALS if is_idle else 1) * self.interval_s
            return interval_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        # A store that is back grants nothing for a lease time, in which all have to come and say what they have used.
        longest = min(self.lease_s - self.patience_s, self.interval_s * 2.0 ** min(self.failures, 10))
        return self._rng.uniform(longest / 2, longest)
