"""A deployment on its way up: for how long it is waited for, and how often it is knocked at meanwhile.

A server that was asleep, or is being rolled out, refuses connections or says 503 until its model is loaded. That is no
outage: it will answer, only nobody says when. So for a time it is asked anew after a moment, first half a second, in
the end every five, instead of being left alone for longer and longer. All times are the caller's.
"""

from __future__ import annotations

from llm_fallback.events import Failure

STARTING: frozenset[Failure] = frozenset({"overloaded", "connection"})
"""What a server fails by while it starts."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
_FORGOTTEN_AFTER_S = 600.0
"""Whoever failed so long ago may have been up and fallen asleep again; a breaker is never open for longer."""


class Start:
    """The start of one deployment, from its first refusal to its first answer."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._began_at: float | None = None
        self._refused_at = 0.0
        self._pause_s = FIRST_PAUSE_S

    def is_under_way(self, now: float) -> bool:
        """Whether it was refused, and has not yet had its time."""
        return self._began_at is not None and now < self._began_at + self._max_wait_s

    def refused(self, now: float) -> float | None:
        """Learn that it is not up; seconds until it may be knocked at again, None if it has had its time."""
        if self._began_at is None or now - self._refused_at > _FORGOTTEN_AFTER_S:
            self._began_at, self._pause_s = now, FIRST_PAUSE_S
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._refused_at = now
        return self._pause_s if self.is_under_way(now) else None

    def answered(self) -> None:
        """Learn that it is up."""
        self._began_at = None


def knocks_within(seconds: float) -> int:
    """How often one call may ask a deployment again that starts for so long."""
    knocks, pause, passed = 0, FIRST_PAUSE_S, FIRST_PAUSE_S
    while passed < seconds:
        knocks, pause = knocks + 1, min(2 * pause, LONGEST_PAUSE_S)
        passed += pause
    return knocks
