"""What a built model knows of its deployments: who may be asked now, how fast they are, how many repeats are left.

Shared by every copy of the model and by every thread and event loop that uses it, so whoever reads or writes it
holds `Health.lock`; nothing waits under that lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import Self
from weakref import WeakKeyDictionary

from typing_extensions import TypedDict

from llm_fallback._forks import after_fork_in_child, fork_safe_lock
from llm_fallback.engine.affinity import Conversations
from llm_fallback.engine.circuit_breaker import CircuitBreaker, Permit, State
from llm_fallback.engine.concurrency import ConcurrencyLimit
from llm_fallback.engine.load import SLOW_S, Pace, TierLoad
from llm_fallback.engine.retry import FAILURES, RetryBudget, recent_count
from llm_fallback.engine.shared import SharedDeployment
from llm_fallback.engine.sliding_window import RateWindow, RunningMean, SlidingCounter
from llm_fallback.events import Failure, SkipReason
from llm_fallback.plan.cold_start import WarmUp
from llm_fallback.plan.plan import RETRY_FLOOR, RETRY_SHARE, Target, Tier
from llm_fallback.spec import Limits

_REMEMBERED_TIMES = 256
_JUDGED_S, _JUDGED_SLICES = 60.0, 6


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a deployment cannot be asked now, and until when."""

    reason: SkipReason
    until: float
    return_known: bool = False
    """Whether it is known to come back: it named a time by Retry-After, or it is warming up."""
    failure: Failure = "rate_limited"
    """The failure a call reports if it ends because of this."""
    warming_up: bool = False
    is_limited: bool = False
    """Whether its breaker is open and one of its limits keeps requests away, too."""
    last_request: tuple[float, int] = (-math.inf, 0)
    """When it was last asked, minus infinity for never, and how often in all: the order in which calls go round."""

    @property
    def needs_a_person(self) -> bool:
        """Whether it is open by a wrong key, an empty account or a wrong model, which no waiting mends."""
        return self.reason == "breaker_open" and FAILURES[self.failure].breaker == "opens"


class DeploymentState(TypedDict):
    """What is known of a deployment now, as `model.state()` tells it. Times in seconds."""

    breaker: State
    retry_in_s: float | None
    """Until it may be asked again; None if it may be now."""
    failures: int
    """Within the breaker's window."""
    in_flight: int
    """Requests under way."""
    max_parallel: int | None
    """The most there may be, as declared or found; None where nobody limits it."""
    first_token_p50_s: float | None
    """Of the last 256 answers; None while there are too few."""
    first_token_p95_s: float | None
    first_token_s: float | None
    """To the first token of a stream: a moving mean, by which members of a tier are compared."""
    output_token_s: float | None
    """For each output token of a plain reply, likewise."""
    slow_share: float | None
    """Of the last minute's answers, how many were slow; None while nobody asks."""
    hedges_sent: int
    hedges_won: int
    stitched: int
    """Replies of others that it continued."""


class DeploymentHealth:
    """Breaker, limits and speeds of one deployment."""

    def __init__(self, breaker: CircuitBreaker, limits: Limits | None) -> None:
        self.breaker = breaker
        self.limits = limits
        self.in_flight = 0
        self._finders, self._always_finds = 0, limits is not None and limits.max_parallel == "auto"
        self.concurrency = ConcurrencyLimit() if self._always_finds else None
        """Finds how many requests may be under way; None where that is declared, or nobody limits it."""
        self._last_request = (-math.inf, 0)
        self.hedges_sent = self.hedges_won = self.stitched = 0
        self.rate = RateWindow()
        self.shared: SharedDeployment | None = None
        """Where other processes ask the deployment, too: what they share."""
        self._first_tokens: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self._replies: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self.streams, self.replies = Pace(), Pace()
        """To the first token of those that are streamed, per output token of those that are not."""
        self._judged = SlidingCounter(_JUDGED_S, _JUDGED_SLICES, kinds=2)
        """Answers, and how many of them were slow."""
        self._output_tokens, self._durations = RunningMean(_REMEMBERED_TIMES), RunningMean(_REMEMBERED_TIMES)

    def unavailable(self, now: float, tokens: int = 0) -> Unavailable | None:
        """None if a request of about that many tokens may be sent now."""
        free = self._free_at(now, tokens)
        reopens = self.breaker.blocked_until(now)
        if reopens is not None:
            failure = self.breaker.failure or "server_error"
            warming_up = self.breaker.is_warming_up(now)
            # Once the time it named has come and a probe is in flight, it has named none.
            named = self.breaker.retry_after_given and self.breaker.state(now) == "open"
            return Unavailable(
                "breaker_open", reopens, warming_up or named, failure, warming_up, free is not None, self._last_request
            )
        if self.shared is not None and self.breaker.failure is not None:
            probes_at = self.shared.probe_blocked_until(now)
            if probes_at is not None:
                return Unavailable(
                    "breaker_open",
                    probes_at,
                    failure=self.breaker.failure,
                    is_limited=free is not None,
                    last_request=self._last_request,
                )
        return None if free is None else Unavailable("limit", free)

    def _free_at(self, now: float, tokens: int) -> float | None:
        if self.in_flight >= self.max_parallel:
            return math.inf  # Nobody knows when; whoever ends a request notifies those who wait.
        if self.concurrency is not None and now < self.concurrency.paused_until:
            return self.concurrency.paused_until
        if self.limits is None:
            return None
        if self.shared is not None:
            return self.shared.free_at(now, tokens)
        return self.rate.free_at(now, self.limits.rpm, self.limits.tpm, tokens)

    @property
    def max_parallel(self) -> float:
        """How many requests may be under way: as declared or found; infinite where nobody limits it."""
        if self.concurrency is not None:
            return self.concurrency.limit
        declared = None if self.limits is None else self.limits.max_parallel
        return declared if isinstance(declared, int) else math.inf

    def begin_finding(self) -> None:
        """Find how many requests may be under way, unless that is declared, until `end_finding`."""
        self._finders += 1
        if self.concurrency is None and math.isinf(self.max_parallel):
            self.concurrency = ConcurrencyLimit()

    def end_finding(self) -> None:
        self._finders -= 1
        if not self._finders and not self._always_finds:
            self.concurrency = None

    def begin(self, now: float, tokens: int = 0) -> Permit:
        """Count a request that is about to be sent."""
        self.in_flight += 1
        self._last_request = (now, self._last_request[1] + 1)
        if self.limits is not None:
            self.rate.add(now, tokens)
        permit = self.breaker.acquire(now)
        if self.shared is not None:
            self.shared.began(permit, tokens)
        return permit

    def succeeded(
        self,
        permit: Permit,
        now: float,
        first_token_s: float | None = None,
        reply_s: float | None = None,
        *,
        output_tokens: int = 1,
        tier: TierLoad | None = None,
    ) -> bool:
        """Count an answer, with the time to its first token if it was streamed, else to the whole plain reply. Among
        the members of a `tier` it may be slow, which is a failure to the breaker: True if that opened it."""
        if self.concurrency is not None:
            self.concurrency.answered(now, permit.at, self.in_flight, max(output_tokens, 1))
        self.in_flight -= 1
        too_slow = False
        if first_token_s is not None:
            self._first_tokens.append(first_token_s)
            too_slow = tier is not None and self._is_too_slow(permit, tier, first_token_s, first_token_s, now, True)
            self.streams.add(first_token_s, now)
        elif reply_s is not None:
            self._replies.append(reply_s)
            # To say only "yes" takes longer per token than to say much, and is no slower for it.
            seconds = reply_s / max(output_tokens, self._output_tokens.value or 1)
            too_slow = tier is not None and self._is_too_slow(permit, tier, seconds, reply_s, now, False)
            self.replies.add(seconds, now)
        if too_slow:
            return self._record_failure(permit, now, "timeout", None)
        self._record_success(permit, now)
        return False

    def _is_too_slow(
        self, permit: Permit, tier: TierLoad, seconds: float, whole_s: float, now: float, streamed: bool
    ) -> bool:
        """Whether an answer of that pace counts as a failure. A tier that got slow as a whole loses nobody by it."""
        if self.breaker.slow_times is None:
            return False
        pace = self.streams if streamed else self.replies
        usual_s = tier.usual_s(pace, now, streamed=streamed)
        is_slow = whole_s > SLOW_S and usual_s is not None and seconds > self.breaker.slow_times * usual_s
        self._judged.add(now, 1, is_slow)
        if not is_slow:
            pace.usual.append(seconds)
        return is_slow and (permit.kind != "closed" or tier.may_lose_one())

    def failed(self, permit: Permit, now: float, failure: Failure, retry_after_s: float | None) -> bool:
        """Count a failure; True if it opened the breaker. A refusal of this one request counts as an answer."""
        if self.concurrency is not None and FAILURES[failure].is_congestion:
            self.concurrency.refused(now, permit.at, self.in_flight)
            if failure == "rate_limited" and retry_after_s is None:
                self.cancelled(permit)  # Fewer at once is all it asks for.
                return False
        self.in_flight -= 1
        if FAILURES[failure].breaker == "ignores":
            self._record_success(permit, now)
            return False
        return self._record_failure(permit, now, failure, retry_after_s)

    def _record_success(self, permit: Permit, now: float) -> None:
        counts = self.breaker.succeeded(permit, now)
        if counts and self.shared is not None:
            self.shared.succeeded(permit)

    def _record_failure(self, permit: Permit, now: float, failure: Failure, retry_after_s: float | None) -> bool:
        opened = self.breaker.failed(permit, now, failure, retry_after_s)
        if self.shared is not None:
            self.shared.failed(permit)
        return opened

    def cancelled(self, permit: Permit) -> None:
        """Count a request whose caller left; the deployment is none the worse for it."""
        self.in_flight -= 1
        self.breaker.cancelled(permit)

    def withdraw(self, permit: Permit, tokens: int) -> None:
        """Take back a request that was counted by `begin` and not sent after all."""
        self.cancelled(permit)
        if self.limits is not None:
            self.rate.remove(permit.at, tokens)
            if self.shared is not None:
                self.shared.withdrawn(tokens)

    def restart(self, permit: Permit, tokens: int, now: float) -> Permit:
        """Count a request that `begin` has counted from now on, and return its permit as of now: it could not be sent
        before."""
        if self.limits is not None:
            self.rate.remove(permit.at, tokens)
            self.rate.add(now, tokens)
        return permit._replace(at=now)

    def correct_tokens(self, permit: Permit, tokens: int, now: float) -> None:
        """Count what a request used beyond the estimate it began with (negative: less)."""
        if self.limits is not None:
            self.rate.correct(tokens, permit.at, now)

    def record_usage(self, output_tokens: int, seconds: float) -> None:
        """Remember how long a reply was, and how long it kept the deployment busy."""
        self._output_tokens.add(output_tokens)
        self._durations.add(seconds)

    def without_requests(self) -> Self:
        """The same knowledge, where no request is under way."""
        own = copy(self)
        own.breaker, own.in_flight = self.breaker.without_probe(), 0
        return own

    @property
    def mean_output_tokens(self) -> float | None:
        """Of the last replies; None before the first."""
        return self._output_tokens.value

    @property
    def mean_seconds(self) -> float | None:
        """How long the last replies kept the deployment busy; None before the first."""
        return self._durations.value

    def first_token_s(self, quantile: float, *, at_least: int = 1) -> float | None:
        """That quantile of the last first-token times, in seconds; None while there are fewer than `at_least`."""
        return _quantile(self._first_tokens, quantile, at_least)

    def reply_s(self, quantile: float, *, at_least: int = 1) -> float | None:
        """The same of plain replies, which have no first token: the time until they were whole."""
        return _quantile(self._replies, quantile, at_least)

    @property
    def is_closed(self) -> bool:
        """Whether its breaker lets every request pass."""
        return self.breaker.is_closed

    def slow_share(self, now: float) -> float | None:
        """Of the answers of the last minute, how many were slow; None if none was judged."""
        judged, slow = self._judged.totals(now)
        return slow / judged if judged else None

    def snapshot(self, now: float) -> DeploymentState:
        """Plain data, as `model.state()` shows it."""
        reopens = self.breaker.blocked_until(now)
        return {
            "breaker": self.breaker.state(now),
            "retry_in_s": None if reopens is None else round(reopens - now, 3),
            "failures": self.breaker.failures(now),
            "in_flight": self.in_flight,
            "max_parallel": None if math.isinf(self.max_parallel) else int(self.max_parallel),
            "first_token_p50_s": self.first_token_s(0.5),
            "first_token_p95_s": self.first_token_s(0.95),
            "first_token_s": self.streams.mean_s,
            "output_token_s": self.replies.mean_s,
            "slow_share": self.slow_share(now),
            "hedges_sent": self.hedges_sent,
            "hedges_won": self.hedges_won,
            "stitched": self.stitched,
        }


def _quantile(times: deque[float], quantile: float, at_least: int) -> float | None:
    """Exact, over the few last times. (`ledger.quantiles` is for any number of them, and merges; it is off by 1 %.)"""
    if len(times) < at_least:
        return None
    ranked = sorted(times)
    return ranked[max(0, math.ceil(quantile * len(ranked)) - 1)]


class Health:
    """The health of all deployments of a model."""

    def __init__(self, deployments: Mapping[str, DeploymentHealth]) -> None:
        self.lock = fork_safe_lock()
        self._of = dict(deployments)
        self._waiters: list[Callable[[], object]] = []
        self._calls = recent_count()
        self.retry_budget = RetryBudget(self._calls, share=RETRY_SHARE, floor=RETRY_FLOOR)
        """For repeats and hedges together."""
        self.hedge_budget = RetryBudget(self._calls, share=0.1, floor=3)
        self.conversations = Conversations()
        self.adopted: set[str] = set()
        """Deployments whose breakers have opened by what other processes report, which no call has told yet."""
        self._tiers: WeakKeyDictionary[Tier, TierLoad] = WeakKeyDictionary()
        after_fork_in_child(self, Health._begin_child)

    def _begin_child(self) -> None:
        """Keep what is known, but nothing under way: the parent's requests end there, and told here they would tell
        what is not of this process."""
        self._waiters = []
        self.adopted = set()
        self._of = {name: deployment.without_requests() for name, deployment in self._of.items()}
        self._tiers = WeakKeyDictionary()

    @classmethod
    def of_targets(cls, targets: Iterable[Target]) -> Self:
        """Of deployments of which nothing is known yet."""
        return cls({target.name: DeploymentHealth(_breaker(target), target.limits) for target in targets})

    def __getitem__(self, deployment: str) -> DeploymentHealth:
        return self._of[deployment]

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    @contextmanager
    def finding_limits(self, deployments: Iterable[str]) -> Iterator[None]:
        """Inside, the deployments that declare no `max_parallel` have one that is found, for whoever calls them."""
        with self.lock:
            found = [self._of[name] for name in deployments if name in self._of]
            for deployment in found:
                deployment.begin_finding()
        try:
            yield
        finally:
            with self.lock:
                for deployment in found:
                    deployment.end_finding()
            self.notify_waiters()

    def tier_load(self, tier: Tier) -> TierLoad:
        """Its members beside each other. Called with the lock held, and good for as long as it is."""
        load = self._tiers.get(tier)
        if load is None:
            load = self._tiers[tier] = TierLoad(tier, self._of)
        return load

    def count_call(self, now: float) -> None:
        """Count a call, of which repeats and hedges may be a share."""
        with self.lock:
            self._calls.add(now, 1)

    def count_hedge(self, deployment: DeploymentHealth, now: float) -> None:
        """Count a request sent because another deployment is slow. Called with the lock held."""
        self.hedge_budget.spend(now)
        self.retry_budget.spend(now)
        deployment.hedges_sent += 1

    def take_back_hedge(self, deployment: DeploymentHealth, then: float) -> None:
        """Take back one that was counted then, and was not sent after all. Called with the lock held."""
        self.hedge_budget.take_back(then)
        self.retry_budget.take_back(then)
        deployment.hedges_sent -= 1

    def add_waiter(self, wake: Callable[[], object]) -> None:
        """Call `wake` once, from whichever thread, when some request has ended.

        Called with the lock held, so that nothing ends between a decision to wait and the waiting.
        """
        self._waiters.append(wake)

    def remove_waiter(self, wake: Callable[[], object]) -> None:
        """Forget a waiter, notified or not."""
        with self.lock, suppress(ValueError):
            self._waiters.remove(wake)

    def notify_waiters(self) -> None:
        """Wake those who wait for some request to end. Called without the lock."""
        if self._waiters:
            with self.lock:
                waiters = list(self._waiters)
                self._waiters.clear()
            for wake in waiters:
                wake()

    def take_adopted(self, deployments: Container[str], now: float) -> list[tuple[str, Failure, float]]:
        """Those of these deployments whose breakers have opened by what other processes report, each once: its name,
        why, and for how many seconds more."""
        with self.lock:
            taken = sorted(name for name in self.adopted if name in deployments)
            self.adopted.difference_update(taken)
            breakers = [(name, self._of[name].breaker) for name in taken if name in self._of]
            return [
                (name, breaker.failure, max(0.0, (breaker.blocked_until(now) or now) - now))
                for name, breaker in breakers
                if breaker.is_adopted and breaker.failure is not None
            ]

    def reset_breaker(self, deployment: str) -> None:
        """Close a deployment's breaker, and let those who wait look again."""
        with self.lock:
            self._of[deployment].breaker.reset()
        self.notify_waiters()

    def open_breaker(self, deployment: str, now: float, for_s: float) -> None:
        """Open a deployment's breaker for so many seconds."""
        with self.lock:
            self._of[deployment].breaker.open_for(now, for_s)

    def inherit(self, other: Health, unchanged: Iterable[str]) -> None:
        """Keep what another model's health knows of deployments that stayed as they were; calls that still use the
        other share its lock, and wake those that wait here."""
        self.lock, self._waiters = other.lock, other._waiters
        self._calls, self.retry_budget, self.hedge_budget = other._calls, other.retry_budget, other.hedge_budget
        self.conversations, self.adopted = other.conversations, other.adopted
        for name in unchanged:
            self._of[name] = other._of[name]

    def snapshot(self, now: float) -> dict[str, DeploymentState]:
        """Plain data per deployment, as `model.state()` shows it."""
        with self.lock:
            return {name: health.snapshot(now) for name, health in self._of.items()}


def _breaker(target: Target) -> CircuitBreaker:
    warm_up = WarmUp(target.cold_start.max_wait_s) if target.cold_start else None
    return CircuitBreaker(target.breaker, warm_up)
