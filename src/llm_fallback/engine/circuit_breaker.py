"""The circuit breaker of one deployment: its failures decide whether requests may pass.

Three states, in the words of the pattern: *closed*, requests pass and their failures are counted; *open*, none pass
until a time; *half-open*, that time is over and one request, the probe, finds out. A deployment that is warming up is
open for moments only. All times are the caller's: the breaker has no clock, so every state can be reached in a test
without waiting.
"""

from __future__ import annotations

from copy import copy
from typing import Literal, NamedTuple, Self

from llm_fallback.engine.retry import FAILURES
from llm_fallback.engine.sliding_window import SlidingCounter
from llm_fallback.events import Failure
from llm_fallback.plan.cold_start import FIRST_PAUSE_S, WarmUp
from llm_fallback.spec import Breaker

State = Literal["closed", "open", "half_open"]

PERMANENT_FAILURE_S = 300.0
LONGEST_COOLDOWN_S = 300.0
LONGEST_RETRY_AFTER_S = 600.0
_SLICES = 10


class Permit(NamedTuple):
    """Permission for one request, to be handed back with what came of it."""

    kind: Literal["closed", "probe", "forced", "trial"]
    generation: int
    """How often the breaker had opened or closed when it was given; an outcome that is older than that is ignored."""
    at: float = 0.0
    """When it was given."""


class CircuitBreaker:
    """The breaker of one deployment. Not thread-safe: its owner holds a lock."""

    def __init__(self, settings: Breaker | None, warm_up: WarmUp | None = None) -> None:
        self._settings = settings
        self.slow_times = None if settings is None else settings.slow_times
        """How many times as long as usual an answer may take; None: as long as it likes."""
        self._warm_up = warm_up
        """For a deployment that may be asleep; None for one that is always up."""
        self._window = SlidingCounter(settings.window_s if settings else 1.0, _SLICES, kinds=2)
        """Requests, and how many of them failed."""
        self._generation = 0
        self._reopens_at: float | None = None
        self._cooldown_s = 0.0
        self._probe_in_flight = self._opened_by_warm_up = False
        self.is_adopted = False
        """Whether it is open by what other processes report, not by what requests from here met."""
        self._suspected = self._trial_in_flight = self._trial_failed = False
        self.openings = 0
        """How often requests from here have opened it when it was closed."""
        self.failure: Failure | None = None
        """Why it is not closed."""
        self.retry_after_given = False
        """Whether the deployment itself said when to come back (Retry-After)."""

    def state(self, now: float) -> State:
        if self._reopens_at is None:
            return "closed"
        return "open" if now < self._reopens_at else "half_open"

    def failures(self, now: float) -> int:
        """Failures counted in the window."""
        return self._window.totals(now)[1]

    @property
    def is_closed(self) -> bool:
        return self._reopens_at is None

    def is_warming_up(self, now: float) -> bool:
        """Whether the deployment refused because it is warming up, and is expected to answer soon."""
        return self._opened_by_warm_up and self._warm_up is not None and self._warm_up.is_warming_up(now)

    def blocked_until(self, now: float) -> float | None:
        """None if a request may pass now, else when one may."""
        if self._reopens_at is None:
            return self._trial_blocked_until(now) if self._suspected else None
        if now < self._reopens_at:
            return self._reopens_at
        # The probe's answer is awaited; should it never come, the next cooldown's end is the latest a caller waits.
        return now + self._cooldown_s if self._probe_in_flight else None

    def acquire(self, now: float) -> Permit:
        """Take permission for one request. In half-open the first is the probe; a request made in spite of an open
        breaker is `forced`, and its success closes the breaker too."""
        if self._reopens_at is None:
            if not self._suspected or self._trial_in_flight:
                return Permit("closed", self._generation, now)
            self._trial_in_flight = True
            return Permit("trial", self._generation, now)
        if now >= self._reopens_at and not self._probe_in_flight:
            self._probe_in_flight = True
            return Permit("probe", self._generation, now)
        return Permit("forced", self._generation, now)

    def succeeded(self, permit: Permit, now: float) -> bool:
        """Count an answer, be it the refusal of this one request; False if it is too old to count."""
        if permit.generation != self._generation:
            return False
        if self._warm_up is not None:
            self._warm_up.on_answered()
        if permit.kind in ("closed", "trial"):
            self._window.add(now, 1)
            if self._suspected:
                self.trust()
        else:
            self._close()
        return True

    def failed(self, permit: Permit, now: float, failure: Failure, retry_after_s: float | None = None) -> bool:
        """Count a failure; True if it opened the breaker. A warm-up opens it once, however often it is retried."""
        if permit.generation != self._generation:
            return False
        if permit.kind == "trial":
            self._trial_in_flight, self._trial_failed, permit = False, True, permit._replace(kind="closed")
        if self._warm_up is not None and FAILURES[failure].may_be_warming_up and permit.kind != "forced":
            pause_s = self._warm_up.on_refused(now)
            if pause_s is not None:
                retry_after_s = None if retry_after_s is None else max(retry_after_s, FIRST_PAUSE_S)
                self._opened_by_warm_up = self._open(now, pause_s, failure, retry_after_s)
                return permit.kind == "closed"
        return self._count(permit, now, failure, retry_after_s)

    def cancelled(self, permit: Permit) -> None:
        """Take a permit back whose request told nothing, because the caller left."""
        if permit.generation != self._generation:
            return
        if permit.kind == "probe":
            self._probe_in_flight = False
        elif permit.kind == "trial":
            self._trial_in_flight = False

    def reset(self) -> None:
        """Close it, and forget what it counted."""
        self._close()

    def open_for(self, now: float, for_s: float) -> None:
        """Open it for so many seconds, whatever it counted; then one probe goes through, as always."""
        cooldown_s = for_s if self._settings is None else self._settings.cooldown_s
        self._open(now, cooldown_s, "overloaded")
        self._reopens_at = now + for_s
        # Its time is as good as one that the deployment named: nobody asks it before.
        self.retry_after_given = True

    def without_probe(self) -> Self:
        """The same breaker, where no request is under way."""
        own = copy(self)
        own._probe_in_flight = own._trial_in_flight = False
        return own

    # What other processes report.

    @property
    def is_open_by_requests(self) -> bool:
        """Whether requests from here have opened it, and none has closed it since; a warm-up is nothing to report."""
        return self._reopens_at is not None and not self.is_adopted and not self._opened_by_warm_up

    @property
    def needs_lease(self) -> bool:
        """Whether its next probe is one for all processes."""
        return self._reopens_at is not None and not self._opened_by_warm_up and not self._probe_in_flight

    @property
    def cooldown_s(self) -> float:
        return self._cooldown_s

    def adopt(self, failure: Failure, reopens_at: float, cooldown_s: float, *, retry_after_given: bool = False) -> bool:
        """Be open by what other processes report, unless requests from here have opened it, or a probe is out; True if
        that opened it."""
        if self._settings is None or self._opened_by_warm_up or self._probe_in_flight:
            return False
        was_closed = self._reopens_at is None
        if was_closed:
            self.trust()
            self._generation += 1
            self.is_adopted = True
        if self.is_adopted:
            self._reopens_at, self._cooldown_s, self.failure = reopens_at, cooldown_s, failure
            self.retry_after_given = retry_after_given
        return was_closed

    def disown(self) -> None:
        """Close, if it was open only by what others reported."""
        if self.is_adopted and not self._probe_in_flight:
            self._close()

    def suspect(self) -> None:
        """While it is closed, let one request at a time pass until one has succeeded; after one that failed, none until
        the next word of the other processes."""
        self._suspected, self._trial_failed = self._settings is not None, False

    def trust(self) -> None:
        """Let requests pass as ever."""
        self._suspected = self._trial_in_flight = self._trial_failed = False

    @property
    def is_suspected(self) -> bool:
        return self._suspected

    def heal(self) -> None:
        """A probe of another process has succeeded: close, and find out by single requests whether the path from here
        is mended, too, where it was requests from here that opened it."""
        if self._reopens_at is None or self._probe_in_flight:
            return
        was_adopted = self.is_adopted
        self._close()
        if not was_adopted:
            self.suspect()

    def _trial_blocked_until(self, now: float) -> float | None:
        assert self._settings is not None
        return now + self._settings.cooldown_s if self._trial_in_flight or self._trial_failed else None

    def _count(self, permit: Permit, now: float, failure: Failure, retry_after_s: float | None) -> bool:
        if self._settings is None:
            if permit.kind == "probe":
                self._close()
            return False
        consequence = FAILURES[failure].breaker
        if consequence == "opens":
            return self._open(now, PERMANENT_FAILURE_S, failure, retry_after_s)
        if consequence == "cools_down" or permit.kind == "probe":
            return self._open(now, self._next_cooldown_s(permit, self._settings), failure, retry_after_s)
        if permit.kind == "forced":
            return False
        self._window.add(now, 1, 1)
        should_open = self._should_open(now, self._settings)
        return should_open and self._open(now, self._settings.cooldown_s, failure, retry_after_s)

    def _should_open(self, now: float, settings: Breaker) -> bool:
        requests, failures = self._window.totals(now)
        return failures >= settings.failures and failures >= settings.failure_ratio * requests

    def _next_cooldown_s(self, permit: Permit, settings: Breaker) -> float:
        if permit.kind == "closed":
            return settings.cooldown_s
        doubled = min(2 * self._cooldown_s, max(LONGEST_COOLDOWN_S, self._cooldown_s))
        # After a warm-up that took too long the last cooldown was a moment.
        return max(doubled if permit.kind == "probe" else self._cooldown_s, settings.cooldown_s)

    def _open(self, now: float, cooldown_s: float, failure: Failure, retry_after_s: float | None = None) -> bool:
        self.retry_after_given = retry_after_s is not None
        pause_s = cooldown_s if retry_after_s is None else min(retry_after_s, LONGEST_RETRY_AFTER_S)
        self.openings += self._reopens_at is None or self.is_adopted
        self._reopens_at = now + pause_s
        self._cooldown_s = cooldown_s
        self._probe_in_flight = self._opened_by_warm_up = self.is_adopted = False
        self.trust()
        self._generation += 1
        self.failure = failure
        return True

    def _close(self) -> None:
        self._reopens_at = None
        self._probe_in_flight = self._opened_by_warm_up = self.is_adopted = False
        self.trust()
        self._generation += 1
        self.failure = None
        self.retry_after_given = False
        self._window.clear()
