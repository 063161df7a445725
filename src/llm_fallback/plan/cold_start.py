"""A deployment that is warming up: for how long it is waited for, and how often it is asked again meanwhile.

A server that was asleep, or is being rolled out, refuses connections or says 503 until its model is loaded. That is no
outage: it will answer, only nobody says when. So for a time it is asked anew after a moment, first half a second, in
the end every five, instead of being left alone for longer and longer. All times are the caller's.
"""

from __future__ import annotations

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
_FORGOTTEN_AFTER_S = 600.0
"""A deployment that refused so long ago may have been up since and fallen asleep again; no breaker is open longer."""


class WarmUp:
    """The warm-up of one deployment, from its first refusal to its first answer."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._began_at: float | None = None
        self._refused_at = 0.0
        self._pause_s = FIRST_PAUSE_S

    def is_warming_up(self, now: float) -> bool:
        """Whether it refused a request and has not yet been waited for as long as it may take."""
        return self._began_at is not None and now < self._began_at + self._max_wait_s

    def on_refused(self, now: float) -> float | None:
        """Note that it is not up yet; seconds until it may be asked again, None if it has taken too long."""
        if self._began_at is None or now - self._refused_at > _FORGOTTEN_AFTER_S:
            self._began_at, self._pause_s = now, FIRST_PAUSE_S
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._refused_at = now
        return self._pause_s if self.is_warming_up(now) else None

    def on_answered(self) -> None:
        """Note that it is up."""
        self._began_at = None


def warmup_retries_within(seconds: float) -> int:
    """How often one call may ask a deployment again that warms up for so long."""
    retries, pause, passed = 0, FIRST_PAUSE_S, FIRST_PAUSE_S
    while passed < seconds:
        retries, pause = retries + 1, min(2 * pause, LONGEST_PAUSE_S)
        passed += pause
    return retries
