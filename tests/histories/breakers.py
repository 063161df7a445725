"""What breakers have to know, by what was told of attempts: an own small breaker, which failures must open one."""

from __future__ import annotations

import math
from collections import defaultdict

from llm_fallback.engine.circuit_breaker import PERMANENT_FAILURE_S
from llm_fallback.engine.retry import FAILURES as FAILURES_TABLE
from llm_fallback.events import Attempt, AttemptFailed, BreakerOpened, CallEnded, Event, Failure, Record
from tests.histories.calls import Call
from tests.histories.history import History
from tests.histories.servers import Request

_EXACT = 1e-6


def healed_by(event: Event) -> str | None:
    """The deployment that is well, by what is told: it answered, if only that it does not like the request."""
    match event:
        case CallEnded(failure=None, record=Record(deployment=str(name))):
            return name
        case AttemptFailed(attempt=attempt) if FAILURES_TABLE[attempt.failure].breaker == "ignores":  # type: ignore[index]
            return attempt.deployment
    return None


class Breakers:
    """Those of one process."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._outcomes: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        """When each deployment failed (False) or answered."""
        self._changed_at: dict[str, float] = {}
        """When it opened or closed."""
        self._is_open: set[str] = set()
        self._is_reported: set[str] = set()
        """What other processes of the fleet have left alone: their word moves a breaker, nobody here knows when."""
        self._healed_at: dict[str, float] = defaultdict(float)
        """When what had failed before may have been forgotten."""
        self._is_in_doubt: set[str] = set()
        """Which may have closed or not, until they open again: an answer was asked for in the moment they opened."""

    def hear(self, call: Call, event: Event) -> str | None:
        """What is wrong with a breaker, now that this is told."""
        match event:
            case BreakerOpened(deployment=name, source="fleet"):
                self._changed_at[name] = self._history.world.now
                self._is_open.add(name)
            case BreakerOpened(deployment=name, failure=failure, retry_in_s=seconds):
                self._changed_at[name] = self._history.world.now
                self._is_open.add(name)
                self._is_in_doubt.discard(name)
                least_s, most_s = self._open_for_s(call, name, failure)
                if not least_s - _EXACT <= seconds <= most_s + _EXACT:
                    return f"{name} is open for {seconds:g} s by {failure}, not for {least_s:g} s"
            case CallEnded(failure=None, record=Record(deployment=str(name))):
                sent_at = next(request.at for request in reversed(call.requests) if request.deployment == name)
                self._count(name, sent_at, is_ok=True)
            case AttemptFailed(attempt=attempt) if not (attempt.message or "").startswith("total_s"):
                consequence = FAILURES_TABLE[attempt.failure].breaker  # type: ignore[index]
                is_ok = consequence == "ignores"
                counts = self._count(attempt.deployment, call.began + attempt.started_at, is_ok=is_ok)
                if counts and not is_ok and self._has_to_be_open(call, attempt):
                    return f"{attempt.deployment} fails ({attempt.failure}), and its breaker stays closed"
                if counts and consequence in ("opens", "cools_down"):
                    # Of one that may be asked again at once (Retry-After: 0) it is not told.
                    self._is_open.add(attempt.deployment)
        return None

    def opened_elsewhere(self, name: str) -> None:
        self._is_reported.add(name)

    def healed_elsewhere(self, name: str) -> None:
        """Another process of the fleet was answered: that may close it here, and count for more than what failed."""
        self._healed_at[name] = self._history.world.now
        if name in self._is_open:
            self._is_open.discard(name)
            self._changed_at[name] = self._history.world.now

    def _count(self, name: str, sent_at: float, *, is_ok: bool) -> bool:
        """Whether it is counted: what was sent before the breaker opened or closed tells nothing new."""
        changed_at = self._changed_at.get(name, -math.inf)
        if sent_at < changed_at + (-_EXACT if is_ok else _EXACT):
            return False  # Of what was sent at that moment nobody here knows whether it was before.
        if is_ok and name in self._is_open and sent_at < changed_at + _EXACT:
            self._is_in_doubt.add(name)
        if is_ok and name in self._is_open:  # It closes, and begins anew.
            self._outcomes[name].clear()
            self._is_open.discard(name)
            self._changed_at[name] = self._history.world.now
        else:
            self._outcomes[name].append((self._history.world.now, is_ok))
        return True

    def _open_for_s(self, call: Call, name: str, failure: Failure) -> tuple[float, float]:
        """For how many seconds at least and at most a failure opens the breaker."""
        target = call.target(name)
        if target.breaker is None or target.cold_start is not None:
            return 0.0, math.inf
        last = next((request for request in reversed(call.requests) if request.deployment == name), None)
        if last is not None and last.retry_after_s is not None and failure == "rate_limited":
            return last.retry_after_s, last.retry_after_s
        return PERMANENT_FAILURE_S if FAILURES_TABLE[
            failure
        ].breaker == "opens" else target.breaker.cooldown_s, math.inf

    def _has_to_be_open(self, call: Call, attempt: Attempt) -> bool:
        name, target, now = attempt.deployment, call.target(attempt.deployment), self._history.world.now
        if target.breaker is None or target.cold_start is not None or not call.process.is_as_ever(name):
            return False
        if name in self._is_reported or name in self._is_in_doubt:
            return False
        if not call.engine.health[name].breaker.is_closed:
            return False
        if FAILURES_TABLE[attempt.failure].breaker != "counts":  # type: ignore[index]
            return True
        window_s, outcomes = target.breaker.window_s, self._outcomes[name]
        # A window slides by slices.
        since = max(now - 0.8 * window_s, self._healed_at[name])
        failed = [at for at, ok in outcomes if not ok and at > since]
        total = sum(at > now - 1.2 * window_s for at, _ in outcomes) + self._untold(call, name)
        return len(failed) >= target.breaker.failures and len(failed) >= target.breaker.failure_ratio * total

    def _untold(self, call: Call, name: str) -> int:
        """Other requests that have ended: what came of them counts, and is told only when the call has its next step
        or, at its end, has written what it cost."""
        return sum(
            request.deployment == name and not request.is_open and not _is_told(other, request)
            for other in self._history.calls.values()
            if other.process is call.process and other is not call
            for request in other.requests
        )


def _is_told(call: Call, request: Request) -> bool:
    """Whether what came of a request has been told."""
    failed = (event.attempt for event in call.told if isinstance(event, AttemptFailed))
    return call.end is not None or any(
        attempt.deployment == request.deployment and abs(call.began + attempt.started_at - request.at) < _EXACT
        for attempt in failed
    )
