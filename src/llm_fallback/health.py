"""What a built model remembers of its deployments between calls: breakers, limits, speeds.

Shared by every copy of the model and by every thread and event loop that uses it, so whoever reads or writes it
holds `Health.lock`; nothing waits under that lock.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llm_fallback.breaker import COUNTED, LASTING, Breaker, Ticket
from llm_fallback.cold_start import Start
from llm_fallback.events import Failure, SkipReason
from llm_fallback.plan import Target
from llm_fallback.spec import Limits

_MINUTE_S = 60.0
_REMEMBERED_TIMES = 256


@dataclass(frozen=True, slots=True)
class Block:
    """Why a deployment cannot be asked now, and until when."""

    reason: SkipReason
    until: float
    named: bool = False
    """Whether it is known to come back: the deployment said when, or it is starting up."""
    failure: Failure = "rate_limited"
    """What the call has failed by, should nothing else be left."""
    starting: bool = False
    """Whether the deployment is starting up."""


@dataclass(slots=True)
class _Minute:
    """Requests and tokens of the last 60 seconds."""

    requests: deque[float] = field(default_factory=deque)
    spends: deque[tuple[float, int]] = field(default_factory=deque)
    tokens: int = 0

    def add(self, now: float, tokens: int) -> None:
        self.requests.append(now)
        self._spend(now, tokens)

    def settle(self, tokens: int, began: float, now: float) -> None:
        """Count what a request used beyond its estimate when that is known; take back what it did not use where it
        was counted, if it still is."""
        if tokens > 0:
            self._spend(now, tokens)
            return
        for index, (at, counted) in enumerate(self.spends):
            if at == began:
                unused = min(-tokens, counted)
                self.spends[index] = (at, counted - unused)
                self.tokens -= unused
                return

    def _spend(self, now: float, tokens: int) -> None:
        if tokens:
            self.spends.append((now, tokens))
            self.tokens += tokens

    def forget(self, now: float) -> None:
        while self.requests and self.requests[0] <= now - _MINUTE_S:
            self.requests.popleft()
        while self.spends and self.spends[0][0] <= now - _MINUTE_S:
            self.tokens -= self.spends.popleft()[1]

    def free_at(self, now: float, rpm: int | None, tpm: int | None, tokens: int) -> float | None:
        """None if a request of that many tokens may go now, else when one may."""
        self.forget(now)
        waits = [self._requests_free_at(rpm), self._tokens_free_at(tpm, tokens)]
        return max((wait for wait in waits if wait is not None), default=None)

    def _requests_free_at(self, rpm: int | None) -> float | None:
        if rpm is None or len(self.requests) < rpm:
            return None
        return self.requests[len(self.requests) - rpm] + _MINUTE_S

    def _tokens_free_at(self, tpm: int | None, tokens: int) -> float | None:
        # A request larger than the whole limit goes when nothing else counts against it.
        if tpm is None or not self.tokens or self.tokens + tokens <= tpm:
            return None
        over = self.tokens + tokens - tpm
        for at, spent in self.spends:
            over -= spent
            if over <= 0:
                return at + _MINUTE_S
        return self.spends[-1][0] + _MINUTE_S


class _Sliding:
    """How often something happened in the last minute, in slices of five seconds."""

    _SLICE_S = 5.0

    def __init__(self) -> None:
        self._slices: deque[list[float]] = deque()

    def add(self, now: float) -> None:
        start = now - now % self._SLICE_S
        if not self._slices or self._slices[-1][0] != start:
            self._slices.append([start, 0])
        self._slices[-1][1] += 1
        self._forget(now)

    def count(self, now: float) -> int:
        self._forget(now)
        return int(sum(count for _, count in self._slices))

    def _forget(self, now: float) -> None:
        while self._slices and self._slices[0][0] <= now - _MINUTE_S:
            self._slices.popleft()


class _Mean:
    """The mean of the last few values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self._sum = 0.0

    def add(self, value: float) -> None:
        if len(self._values) == _REMEMBERED_TIMES:
            self._sum -= self._values[0]
        self._values.append(value)
        self._sum += value

    @property
    def value(self) -> float | None:
        return self._sum / len(self._values) if self._values else None


class Allowance:
    """Extra requests that are allowed for the calls of the last minute: a share of them, or a few for small traffic."""

    def __init__(self, calls: _Sliding, *, share: float, floor: int) -> None:
        self._calls, self._share, self._floor = calls, share, floor
        self._spent = _Sliding()

    def allow(self, now: float) -> bool:
        return self._spent.count(now) + 1 <= max(self._floor, self._share * self._calls.count(now))

    def spend(self, now: float) -> None:
        self._spent.add(now)


class DeploymentHealth:
    """Breaker, limits and speeds of one deployment."""

    def __init__(self, breaker: Breaker, limits: Limits | None) -> None:
        self.breaker = breaker
        self.limits = limits
        self.in_flight = 0
        self.hedges_sent = self.hedges_won = self.stitched = 0
        self._minute = _Minute()
        self._first_tokens: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self._replies: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self._lengths, self._durations = _Mean(), _Mean()

    def block(self, now: float, tokens: int = 0) -> Block | None:
        """None if a request of about that many tokens may be sent now."""
        reopens = self.breaker.closed_to(now)
        if reopens is not None:
            failure = self.breaker.failure or "server_error"
            starting = self.breaker.is_starting(now)
            # Once the time it named has come and a probe is out, it has named none.
            named = starting or (self.breaker.named and self.breaker.state(now) == "open")
            return Block("breaker_open", reopens, named, failure, starting)
        free = self._free_at(now, tokens)
        return None if free is None else Block("limit", free)

    def _free_at(self, now: float, tokens: int) -> float | None:
        if self.limits is None:
            return None
        if self.limits.max_parallel is not None and self.in_flight >= self.limits.max_parallel:
            return math.inf  # Nobody knows when; a release wakes those who wait.
        return self._minute.free_at(now, self.limits.rpm, self.limits.tpm, tokens)

    def begin(self, now: float, tokens: int = 0) -> Ticket:
        """Count a request that is about to be sent."""
        self.in_flight += 1
        if self.limits is not None:
            self._minute.add(now, tokens)
        return self.breaker.begin(now)

    def begin_hedge(self, now: float, tokens: int = 0) -> Ticket:
        """Count a request sent because another deployment is slow."""
        self.hedges_sent += 1
        return self.begin(now, tokens)

    def answered(
        self, ticket: Ticket, now: float, first_token_s: float | None = None, reply_s: float | None = None
    ) -> None:
        """Count an answer, with the time to its first token if it was streamed, else to the whole plain reply."""
        self.in_flight -= 1
        self.breaker.succeeded(ticket, now)
        if first_token_s is not None:
            self._first_tokens.append(first_token_s)
        elif reply_s is not None:
            self._replies.append(reply_s)

    def failed(self, ticket: Ticket, now: float, failure: Failure, retry_after_s: float | None) -> bool:
        """Count a failure; True if it opened the breaker. A refusal of this one request counts as an answer."""
        self.in_flight -= 1
        if failure in COUNTED or failure in LASTING or failure == "rate_limited":
            return self.breaker.failed(ticket, now, failure, retry_after_s)
        self.breaker.succeeded(ticket, now)
        return False

    def dropped(self, ticket: Ticket) -> None:
        """The caller left; the deployment is none the worse for it."""
        self.in_flight -= 1
        self.breaker.dropped(ticket)

    def settle(self, ticket: Ticket, tokens: int, now: float) -> None:
        """Count what a request used beyond the estimate it began with (negative: less)."""
        if self.limits is not None:
            self._minute.settle(tokens, ticket.at, now)

    def replied(self, output_tokens: int, seconds: float) -> None:
        """Remember how long a reply was, and how long it kept the deployment busy."""
        self._lengths.add(output_tokens)
        self._durations.add(seconds)

    @property
    def mean_output_tokens(self) -> float | None:
        """Of the last replies; None before the first."""
        return self._lengths.value

    @property
    def mean_seconds(self) -> float | None:
        return self._durations.value

    def first_token_s(self, quantile: float, *, at_least: int = 1) -> float | None:
        """That quantile of the last first-token times, in seconds; None while there are fewer than `at_least`."""
        return _quantile(self._first_tokens, quantile, at_least)

    def reply_s(self, quantile: float, *, at_least: int = 1) -> float | None:
        """The same of plain replies, which have no first token: the time until they were whole."""
        return _quantile(self._replies, quantile, at_least)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Plain data, as `model.state()` shows it."""
        reopens = self.breaker.closed_to(now)
        return {
            "breaker": self.breaker.state(now),
            "retry_in_s": None if reopens is None else round(reopens - now, 3),
            "failures": self.breaker.failures(now),
            "in_flight": self.in_flight,
            "first_token_p50_s": self.first_token_s(0.5),
            "first_token_p95_s": self.first_token_s(0.95),
            "hedges_sent": self.hedges_sent,
            "hedges_won": self.hedges_won,
            "stitched": self.stitched,
        }


def _quantile(times: deque[float], quantile: float, at_least: int) -> float | None:
    if len(times) < at_least:
        return None
    ranked = sorted(times)
    return ranked[max(0, math.ceil(quantile * len(ranked)) - 1)]


class Health:
    """The health of all deployments of a model."""

    def __init__(self, deployments: Iterable[tuple[str, Breaker, Limits | None]]) -> None:
        self.lock = threading.Lock()
        self._of = {name: DeploymentHealth(breaker, limits) for name, breaker, limits in deployments}
        self._waiting: list[Callable[[], object]] = []
        self._calls = _Sliding()
        self.extras = Allowance(self._calls, share=0.2, floor=10)
        """Repeats and hedges together, so that a total outage does not multiply itself."""
        self.hedges = Allowance(self._calls, share=0.1, floor=3)

    def __getitem__(self, deployment: str) -> DeploymentHealth:
        return self._of[deployment]

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def count_call(self, now: float) -> None:
        """Count a call, of which repeats and hedges may be a share."""
        with self.lock:
            self._calls.add(now)

    def when_released(self, wake: Callable[[], object]) -> None:
        """Call `wake` once, from whichever thread, when some request has ended.

        Called with the lock held, so that nothing ends between a decision to wait and the waiting.
        """
        self._waiting.append(wake)

    def never_mind(self, wake: Callable[[], object]) -> None:
        """Whoever waited does so no more."""
        with self.lock, suppress(ValueError):
            self._waiting.remove(wake)

    def released(self) -> None:
        """Tell whoever waits for a free place. Called without the lock."""
        if self._waiting:
            with self.lock:
                waiting = list(self._waiting)
                self._waiting.clear()
            for wake in waiting:
                wake()

    def inherit(self, other: Health, unchanged: Iterable[str]) -> None:
        """Keep what another model's health knows of deployments that stayed as they were; calls that still use the
        other share its lock, and wake those that wait here."""
        self.lock, self._waiting = other.lock, other._waiting
        self._calls, self.extras, self.hedges = other._calls, other.extras, other.hedges
        for name in unchanged:
            self._of[name] = other._of[name]

    def snapshot(self, now: float) -> dict[str, dict[str, Any]]:
        with self.lock:
            return {name: health.snapshot(now) for name, health in self._of.items()}


def health_of(targets: Iterable[Target]) -> Health:
    """The health of deployments of which nothing is known yet."""
    return Health((target.name, _breaker_of(target), target.limits) for target in targets)


def _breaker_of(target: Target) -> Breaker:
    return Breaker(target.breaker, Start(target.cold_start.max_wait_s) if target.cold_start else None)
