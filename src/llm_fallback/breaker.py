"""May this deployment be asked now?

Three states, in the words of the pattern: *closed*, requests pass and their failures are counted; *open*, none pass
until a time; *half-open*, that time is over and one request, the probe, finds out. A deployment that is starting up
is open for moments only. All times are the caller's: the breaker has no clock, so every state can be reached in a test
without waiting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from llm_fallback.cold_start import FIRST_PAUSE_S, STARTING, Start
from llm_fallback.events import Failure
from llm_fallback.spec import Breaker as Policy

State = Literal["closed", "open", "half_open"]

COUNTED: frozenset[Failure] = frozenset(
    {
        "connection",
        "timeout",
        "first_token_timeout",
        "idle_timeout",
        "server_error",
        "overloaded",
        "invalid_response",
        "empty_response",
        "stream_broken",
    }
)
"""Failures that open a breaker when there are enough of them."""

LASTING: frozenset[Failure] = frozenset({"auth", "quota_exhausted", "not_found"})
"""Failures that no second request mends: the breaker opens at once."""

LASTING_S = 300.0
LONGEST_COOLDOWN_S = 300.0
LONGEST_RETRY_AFTER_S = 600.0
_SLICES = 10


class Ticket(NamedTuple):
    """Leave to make one request, to be handed back with what came of it."""

    kind: Literal["closed", "probe", "forced"]
    era: int
    """Which closed period it was given in; what is learnt after the breaker moved on counts no more."""
    at: float = 0.0
    """When it was given."""


@dataclass(slots=True)
class _Window:
    """Calls and failures of the last `length_s` seconds, in slices, so that memory stays constant."""

    length_s: float
    slices: deque[list[float]] = field(default_factory=deque)

    def add(self, now: float, *, failed: bool) -> None:
        width = self.length_s / _SLICES
        start = now - now % width
        if not self.slices or self.slices[-1][0] != start:
            self.slices.append([start, 0, 0])
        self.slices[-1][1] += 1
        self.slices[-1][2] += failed
        self._forget(now)

    def totals(self, now: float) -> tuple[int, int]:
        self._forget(now)
        return int(sum(piece[1] for piece in self.slices)), int(sum(piece[2] for piece in self.slices))

    def _forget(self, now: float) -> None:
        while self.slices and self.slices[0][0] <= now - self.length_s:
            self.slices.popleft()


class Breaker:
    """The breaker of one deployment. Not thread-safe: its owner holds a lock."""

    def __init__(self, policy: Policy | None, start: Start | None = None) -> None:
        self._policy = policy
        self._start = start
        """For a deployment that may be asleep; None for one that is always up."""
        self._window = _Window(policy.window_s if policy else 1.0)
        self._era = 0
        self._reopens_at: float | None = None
        self._cooldown_s = 0.0
        self._probing = self._knocking = False
        self.failure: Failure | None = None
        """Why it is not closed."""
        self.named = False
        """Whether the deployment itself said when to come back (Retry-After)."""

    def state(self, now: float) -> State:
        if self._reopens_at is None:
            return "closed"
        return "open" if now < self._reopens_at else "half_open"

    def failures(self, now: float) -> int:
        """Failures counted in the window."""
        return self._window.totals(now)[1]

    def is_starting(self, now: float) -> bool:
        """Whether the deployment is on its way up, and expected."""
        return self._knocking and self._start is not None and self._start.is_under_way(now)

    def closed_to(self, now: float) -> float | None:
        """None if a request may pass now, else when one may."""
        if self._reopens_at is None:
            return None
        if now < self._reopens_at:
            return self._reopens_at
        # The probe's answer is awaited; should it never come, the next cooldown's end is the latest a caller waits.
        return now + self._cooldown_s if self._probing else None

    def begin(self, now: float) -> Ticket:
        """Take leave for one request. In half-open the first is the probe; a request asked in spite of an open
        breaker is `forced`, and its success closes the breaker too."""
        if self._reopens_at is None:
            return Ticket("closed", self._era, now)
        if now >= self._reopens_at and not self._probing:
            self._probing = True
            return Ticket("probe", self._era, now)
        return Ticket("forced", self._era, now)

    def succeeded(self, ticket: Ticket, now: float) -> None:
        """The deployment answered, be it with a refusal of this one request."""
        if ticket.era != self._era:
            return
        if self._start is not None:
            self._start.answered()
        if ticket.kind == "closed":
            self._window.add(now, failed=False)
        else:
            self._close()

    def failed(self, ticket: Ticket, now: float, failure: Failure, retry_after_s: float | None = None) -> bool:
        """Count a failure; True if it opened the breaker. A start opens it once, however often it is knocked at."""
        if ticket.era != self._era:
            return False
        if self._start is not None and failure in STARTING and ticket.kind != "forced":
            pause_s = self._start.refused(now)
            if pause_s is not None:
                named = None if retry_after_s is None else max(retry_after_s, FIRST_PAUSE_S)
                self._knocking = self._open(now, pause_s, failure, named)
                return ticket.kind == "closed"
        return self._count(ticket, now, failure, retry_after_s)

    def _count(self, ticket: Ticket, now: float, failure: Failure, retry_after_s: float | None) -> bool:
        if self._policy is None:
            if ticket.kind == "probe":
                self._close()
            return False
        if failure in LASTING:
            return self._open(now, LASTING_S, failure)
        if failure == "rate_limited" or ticket.kind == "probe":
            return self._open(now, self._cooldown_after(ticket), failure, retry_after_s)
        if ticket.kind == "forced":
            return False
        self._window.add(now, failed=True)
        return self._is_too_much(now) and self._open(now, self._policy.cooldown_s, failure, retry_after_s)

    def dropped(self, ticket: Ticket) -> None:
        """The caller left before the request told anything."""
        if ticket.kind == "probe" and ticket.era == self._era:
            self._probing = False

    def _is_too_much(self, now: float) -> bool:
        if self._policy is None:
            return False
        calls, failures = self._window.totals(now)
        return failures >= self._policy.failures and failures >= self._policy.failure_ratio * calls

    def _cooldown_after(self, ticket: Ticket) -> float:
        assert self._policy is not None
        if ticket.kind == "closed":
            return self._policy.cooldown_s
        doubled = min(2 * self._cooldown_s, max(LONGEST_COOLDOWN_S, self._cooldown_s))
        # After a start that took too long the last cooldown was a moment.
        return max(doubled if ticket.kind == "probe" else self._cooldown_s, self._policy.cooldown_s)

    def _open(self, now: float, cooldown_s: float, failure: Failure, retry_after_s: float | None = None) -> bool:
        self.named = retry_after_s is not None
        pause = cooldown_s if retry_after_s is None else min(retry_after_s, LONGEST_RETRY_AFTER_S)
        self._reopens_at = now + pause
        self._cooldown_s = cooldown_s
        self._probing = self._knocking = False
        self._era += 1
        self.failure = failure
        return True

    def _close(self) -> None:
        self._reopens_at = None
        self._probing = self._knocking = False
        self._era += 1
        self.failure = None
        self.named = False
        self._window.slices.clear()
