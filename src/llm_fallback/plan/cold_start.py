"""The warm-up of a deployment: how long to wait for it, and how often to try it meanwhile.

A server that scaled to zero or is being rolled out refuses connections, or answers 503, until its model is loaded. That
is no outage, so instead of opening its breaker for longer and longer it is tried again soon: after 0.5 s at first, in
the end every 5 s. All times are in seconds of the caller's clock.
"""

from __future__ import annotations

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
_FORGOTTEN_AFTER_S = 600.0
"""After this long a refusal begins a new warm-up: the deployment may have been up and gone to sleep again meanwhile.
No breaker stays open longer."""


class WarmUp:
    """The warm-up of one deployment, from its first refusal to its first answer."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._began_at: float | None = None
        self._refused_at = 0.0
        self._pause_s = FIRST_PAUSE_S

    def is_warming_up(self, now: float) -> bool:
        """Whether it refused a request and its `max_wait_s` is not over yet."""
        return self._began_at is not None and now < self._began_at + self._max_wait_s

    def on_refused(self, now: float) -> float | None:
        """Record a refusal; returns the seconds until the next try, or None if the warm-up has taken too long."""
        if self._began_at is None or now - self._refused_at > _FORGOTTEN_AFTER_S:
            self._began_at, self._pause_s = now, FIRST_PAUSE_S
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._refused_at = now
        return self._pause_s if self.is_warming_up(now) else None

    def on_answered(self) -> None:
        """Record that it is up."""
        self._began_at = None


def warmup_retries_within(seconds: float) -> int:
    """How many times one call may retry a deployment whose warm-up lasts this long."""
    retries, pause, passed = 0, FIRST_PAUSE_S, FIRST_PAUSE_S
    while passed < seconds:
        retries, pause = retries + 1, min(2 * pause, LONGEST_PAUSE_S)
        passed += pause
    return retries
