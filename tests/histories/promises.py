"""What must hold in every history of a model: the sentences of the contract, checked while it is played and at its end.

Nothing here asks the engine what is right: servers know what they were sent and what they have on their bills, callers
know what they got and when. Where a promise is about the engine's own state, that is named.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import NoneType
from unittest.mock import patch

from llm_fallback.engine.circuit_breaker import PERMANENT_FAILURE_S, Permit
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.engine.retry import FAILURES as FAILURES_TABLE
from llm_fallback.errors import BudgetExceeded, ChainExhausted, LLMFallbackError, StreamBroken
from llm_fallback.events import (
    Attempt,
    AttemptFailed,
    BreakerOpened,
    CallEnded,
    Event,
    Failure,
    FellBack,
    Record,
    Usage,
)
from llm_fallback.plan.plan import RETRY_FLOOR, RETRY_SHARE
from tests.histories.model import Call, SimulatedModel
from tests.histories.servers import FAILURES, LAST, LIMITS, REFUSALS, Request, answer_to
from tests.histories.world import BrokenPromise

PROMPT_TIME_S = 0.05
"""Beyond `total_s`."""
_EXACT = 1e-6
_SIDE_ROUTES = ("context_window", "content_policy", "bad_request", "filtered")
"""Words by which a call turns away from deployments for another reason than that they fail."""


@contextmanager
def watched(simulated: SimulatedModel) -> Iterator[None]:
    """Check what can only be seen while a history is played; raises BrokenPromise in the middle of it."""
    watch = _Watch(simulated)
    begin = DeploymentHealth.begin

    def watched_begin(health: DeploymentHealth, now: float, tokens: int = 0) -> Permit:
        watch.before_request(health, now, tokens)
        return begin(health, now, tokens)

    simulated.servers.on_request, simulated.on_event = watch.on_request, watch.hear
    simulated.loop.before_time_passes = watch.at_rest
    with patch.object(DeploymentHealth, "begin", watched_begin):
        yield
    watch.raise_broken()


class _Watch:
    """Looks on."""

    def __init__(self, simulated: SimulatedModel) -> None:
        self.simulated, self.world = simulated, simulated.world
        self.broken: BrokenPromise | None = None
        self.seen: dict[DeploymentHealth, str] = {}
        """Of every spec there was."""
        self._breakers = _Breakers(simulated)
        self._extra_at: list[float] = []
        """When a repeat or a hedge was sent."""

    def break_(self, promise: str) -> None:
        """Note a breach: an exception here would be the engine's to handle."""
        if self.broken is None:
            self.broken = BrokenPromise(self.world, promise)

    def raise_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    def hear(self, call: Call, event: Event) -> None:
        if wrong := self._breakers.hear(call, event):
            self.break_(f"{call.name}: {wrong}")

    # Before a request.

    def before_request(self, health: DeploymentHealth, now: float, tokens: int) -> None:
        name, call = self._name(health), self.simulated.current()
        if call is None:
            self.break_(f"a request to {name} that belongs to no call")
            return
        blocked = health.unavailable(now, tokens)
        if blocked is not None and not (blocked.reason == "breaker_open" and self._is_outage(call, now)):
            self.break_(f"{call.name} asks {name}, which is passed over: {blocked.reason}")
        if untried := self._untried(call, name, now, tokens):
            self.break_(f"{call.name} asks {name} again before {untried}")

    def _name(self, health: DeploymentHealth) -> str:
        if health not in self.seen:
            for engine in self.simulated.engines:
                self.seen |= {engine.health[name]: name for name in engine.health}
        return self.seen[health]

    def _untried(self, call: Call, name: str, now: float, tokens: int) -> list[str]:
        """Whom a call could ask before it asks the deployment again."""
        asked = {request.deployment for request in call.requests}
        if name not in asked or call.chain.budget is not None or self._turns_away(call):
            return []
        members = [member.name for tier in call.chain.tiers for member in tier.members]
        return [
            other
            for other in members
            if other not in asked and call.engine.health[other].unavailable(now, tokens) is None
        ]

    def _turns_away(self, call: Call) -> bool:
        return any(request.word in _SIDE_ROUTES for request in call.requests)

    def _is_outage(self, call: Call, now: float) -> bool:
        """Whether every deployment the call may ask is open, so that one of them is asked all the same."""
        if self._turns_away(call):
            return True  # Who is left to ask is not known here.
        if call.chain.budget is not None and call.chain.budget.on_limit == "cheaper":
            return True  # The others may be too expensive.
        health = call.engine.health
        blocks = [health[member.name].unavailable(now) for member in call.chain.members]
        return all(block is not None and block.reason == "breaker_open" for block in blocks)

    # When a request is sent.

    def on_request(self, request: Request) -> None:
        call = self.simulated.calls[request.call]
        call.requests.append(request)
        if call.ended and call.ended < self.world.now:
            self.break_(f"{call.name} asks {request.deployment} after its end")
        target = call.target(request.deployment)
        if call.zones is not None and target.zone not in call.zones:
            self.break_(f"{call.name} asks {request.deployment} in {target.zone}, outside of {sorted(call.zones)}")
        self._count_extra(call, request)
        limits = target.limits
        if limits is not None and limits.rpm is not None and len(self.simulated.engines) == 1:
            since = self.world.now - 60 + _EXACT
            recent = [
                each
                for each in self.simulated.servers.requests
                if each.deployment == request.deployment and each.at > since
            ]
            if len(recent) > limits.rpm:
                self.break_(f"{len(recent)} requests to {request.deployment} in a minute, of {limits.rpm}")

    def _count_extra(self, call: Call, request: Request) -> None:
        """Of the requests beyond the first: a repeat goes where one of the call was before, a hedge beside one."""
        if any(target.cold_start for target in call.targets.values()):
            return  # Asking again whether it is up is neither.
        if any(
            other is not request and (other.deployment == request.deployment or other.is_open)
            for other in call.requests
        ):
            self._extra_at.append(request.at)
            now = self.world.now
            # Counted by slices of five seconds.
            extra = sum(at > now - 55 for at in self._extra_at)
            calls = sum(other.began > now - 65 for other in self.simulated.calls.values())
            if extra > max(RETRY_FLOOR, RETRY_SHARE * calls):
                self.break_(f"{extra} repeats and hedges of {calls} calls in a minute")

    # Whenever nobody has anything to do.

    def at_rest(self) -> None:
        self.raise_broken()
        simulated = self.simulated
        open_requests = Counter(request.deployment for request in simulated.servers.requests if request.is_open)
        held: Counter[str] = Counter()
        for engine in simulated.engines:
            for name in engine.health:
                self.seen.setdefault(engine.health[name], name)
        for health, name in self.seen.items():
            held[name] += health.in_flight
            if health.in_flight < 0:
                self.break_(f"{health.in_flight} requests under way at {name}")
        for name, count in open_requests.items():
            if count > held[name]:
                self.break_(f"{count} requests are open at {name}, of which {held[name]} hold a place")
        self._check_budgets()
        self.raise_broken()

    def _check_budgets(self) -> None:
        for chain in self.simulated.engine.budgets.__dict__["_accounts"].items():
            (name, window, *_), account = chain
            plan = self.simulated.model.runtime.plan.chains[name]
            assert plan.budget is not None
            limit = plan.budget.limits.get(window)
            for balance in account.balances() if window == "day" else ():
                if balance.reserved < 0 or (limit is not None and balance.total > limit):
                    self.break_(f"{name} has spent {balance.spent} and reserved {balance.reserved} of {limit}")


class _Breakers:
    """What breakers have to know, by what was told of attempts."""

    def __init__(self, simulated: SimulatedModel) -> None:
        self._simulated = simulated
        self._outcomes: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        """When each deployment failed (False) or answered."""
        self._changed_at: dict[str, float] = {}
        """When it opened or closed."""
        self._is_open: set[str] = set()

    def hear(self, call: Call, event: Event) -> str | None:
        """What is wrong with a breaker, now that this is told."""
        match event:
            case BreakerOpened(deployment=name, failure=failure, retry_in_s=seconds):
                self._changed_at[name] = self._simulated.world.now
                self._is_open.add(name)
                least_s, most_s = self._open_for_s(call, name, failure)
                if not least_s - _EXACT <= seconds <= most_s + _EXACT:
                    return f"{name} is open for {seconds:g} s by {failure}, not for {least_s:g} s"
            case CallEnded(failure=None, record=Record(deployment=str(name))):
                sent_at = next(request.at for request in reversed(call.requests) if request.deployment == name)
                self._count(name, sent_at, is_ok=True)
            case AttemptFailed(attempt=attempt) if not (attempt.message or "").startswith("total_s"):
                is_ok = FAILURES_TABLE[attempt.failure].breaker == "ignores"  # type: ignore[index]
                counts = self._count(attempt.deployment, call.began + attempt.started_at, is_ok=is_ok)
                if counts and not is_ok and self._has_to_be_open(call, attempt):
                    return f"{attempt.deployment} fails ({attempt.failure}), and its breaker stays closed"
        return None

    def _count(self, name: str, sent_at: float, *, is_ok: bool) -> bool:
        """Whether it is counted: what was sent before the breaker opened or closed tells nothing new."""
        changed_at = self._changed_at.get(name, -math.inf)
        if sent_at < changed_at + (-_EXACT if is_ok else _EXACT):
            return False  # Of what was sent at that moment nobody here knows whether it was before.
        if is_ok and name in self._is_open:  # It closes, and begins anew.
            self._outcomes[name].clear()
            self._is_open.discard(name)
            self._changed_at[name] = self._simulated.world.now
        else:
            self._outcomes[name].append((self._simulated.world.now, is_ok))
        return True

    def _open_for_s(self, call: Call, name: str, failure: Failure) -> tuple[float, float]:
        """For how many seconds at least and at most a failure opens the breaker."""
        target = call.target(name)
        if target.breaker is None or target.cold_start is not None:
            return 0.0, math.inf
        last = next(request for request in reversed(call.requests) if request.deployment == name)
        if last.retry_after_s is not None and failure == "rate_limited":
            return last.retry_after_s, last.retry_after_s
        return PERMANENT_FAILURE_S if FAILURES_TABLE[
            failure
        ].breaker == "opens" else target.breaker.cooldown_s, math.inf

    def _has_to_be_open(self, call: Call, attempt: Attempt) -> bool:
        name, target, now = attempt.deployment, call.target(attempt.deployment), self._simulated.world.now
        if target.breaker is None or target.cold_start is not None or len(self._simulated.engines) > 1:
            return False
        if not call.engine.health[name].breaker.is_closed:
            return False
        if FAILURES_TABLE[attempt.failure].breaker != "counts":  # type: ignore[index]
            return True
        window_s, outcomes = target.breaker.window_s, self._outcomes[name]
        # A window slides by slices.
        failed = [at for at, ok in outcomes if not ok and at > now - 0.8 * window_s]
        total = [at for at, _ in outcomes if at > now - 1.2 * window_s]
        return len(failed) >= target.breaker.failures and len(failed) >= target.breaker.failure_ratio * len(total)


# At the end of a history.


def check(simulated: SimulatedModel) -> None:
    """Raise BrokenPromise for what does not hold of the history that was played."""
    for promise in _broken(simulated):
        raise BrokenPromise(simulated.world, promise)


def _broken(simulated: SimulatedModel) -> Iterator[str]:
    for call in simulated.calls.values():
        for promise in _of_call(simulated, call):
            yield f"{call.name}: {promise}"
    yield from _of_rest(simulated)
    yield from _of_money(simulated)
    if not simulated.is_closed:
        yield from _of_last_calls(simulated)


def _of_call(simulated: SimulatedModel, call: Call) -> Iterator[str]:
    if isinstance(call.error, RuntimeError):
        if not (simulated.is_closed and "closed" in str(call.error)):
            yield f"ends with {call.error!r}"
        return
    yield from _of_time(call)
    yield from _of_requests(simulated, call)
    yield from _of_text(call)
    yield from _of_end(call)
    if call.end is not None:
        yield from _of_attempts(call, call.end)


def _of_time(call: Call) -> Iterator[str]:
    took_s = call.ended - call.began - call.held_s
    if took_s > call.total_s + PROMPT_TIME_S + _EXACT:
        yield f"took {took_s:.3f} s of {call.total_s} s"


def _of_requests(simulated: SimulatedModel, call: Call) -> Iterator[str]:
    if len(call.requests) > call.most_requests:
        yield f"{len(call.requests)} requests, of at most {call.most_requests}"
    asked = Counter(request.deployment for request in call.requests)
    is_woken = any(member.target.cold_start for member in call.chain.members)
    if asked.total() - len(asked) > call.chain.retries.max and not is_woken:
        yield f"{asked.total() - len(asked)} repeats, of at most {call.chain.retries.max}"
    if call.chain.on_stream_break == "raise" and call.ask.streamed:
        yield from _after_first_text(call)


def _after_first_text(call: Call) -> Iterator[str]:
    """Nobody is asked once something was delivered, where the chain does not go on."""
    if call.text and call.got_first_text_at is not None:
        late = [request for request in call.requests if request.at > call.got_first_text_at + _EXACT]
        if late:
            yield f"asks {late[0].deployment} after its first text, though the chain raises"


def _of_text(call: Call) -> Iterator[str]:
    """Nothing is delivered twice, left out or invented."""
    whole, text = answer_to(call.name, call.ask.words), call.text
    if call.chain.accept is None and any(request.word == "nonsense" for request in call.requests):
        return
    if not whole.startswith(text):
        yield f"has got {text!r}"
        return
    reached = 0
    for begin, end in sorted((request.begins_at, request.begins_at + len(request.sent)) for request in call.requests):
        reached = max(reached, end) if begin <= reached else reached
    if len(text) > reached:
        yield f"has got {text!r}, of which {text[reached:]!r} was not sent"
    if call.error is None and not call.has_left:
        yield from _of_success(call, whole)


def _of_success(call: Call, whole: str) -> Iterator[str]:
    if call.ask.streamed:
        with_facts = [at for at, chunk in enumerate(call.chunks) if "llm_fallback" in chunk.response_metadata]
        if with_facts != [len(call.chunks) - 1]:
            yield f"the facts are in chunks {with_facts} of {len(call.chunks)}"
            return
        named = [chunk for chunk in call.chunks if "model_name" in chunk.response_metadata]
        if len(named) != 1:
            yield f"{len(named)} chunks name the model"
        facts = call.chunks[-1].response_metadata["llm_fallback"]
    else:
        assert call.reply is not None
        facts = call.reply.response_metadata["llm_fallback"]
    answering = [request for request in call.requests if request.deployment == facts["deployment"]]
    good = [request for request in answering if _is_good(call, request)]
    if not good:
        yield f"is answered by {facts['deployment']}, which did not send a whole answer"
    elif call.text != whole and not any(request.word in ("short", "nonsense", "empty") for request in good):
        yield f"is answered by {call.text!r}, and that is not all"
    won = [attempt for attempt in facts["attempts"] if attempt["outcome"] == "succeeded"]
    if [attempt["deployment"] for attempt in won] != [facts["deployment"]]:
        yield f"was answered by {facts['deployment']}, and {won} succeeded"
    if call.end is not None and facts != call.end.record.as_metadata():
        differing = [name for name, value in call.end.record.as_metadata().items() if facts.get(name) != value]
        if differing not in ([], ["latency_s"]):
            yield f"metadata and event differ in {differing}"


def _is_good(call: Call, request: Request) -> bool:
    """Whether it may pass for an answer."""
    if not request.is_finished or request.word in (*REFUSALS, "filtered"):
        return False
    if request.word == "empty":
        return bool(call.text)  # Who goes on with a reply may say that nothing is missing.
    return request.word != "nonsense" or call.chain.accept is None


def _of_end(call: Call) -> Iterator[str]:
    """How it ended is told once, and the same everywhere."""
    ends = [event for event in call.told if isinstance(event, CallEnded)]
    is_untouched = call.has_left and not call.requests
    if len(ends) != 1 and not (is_untouched and not ends):
        yield f"its end was told {len(ends)} times"
    if call.has_left:
        if not isinstance(call.error, NoneType | asyncio.CancelledError | TimeoutError | LLMFallbackError):
            yield f"its caller left, and it ends with {call.error!r}"
        return
    if call.ask.is_traced and call.traced["end"] != call.traced["start"]:
        yield f"LangChain's handlers were told {dict(call.traced)}"
    if ends and not _ends_alike(call, ends[0].failure):
        yield f"is told as {ends[0].failure}, has delivered {call.text!r}, and ends with {call.error!r}"


def _ends_alike(call: Call, failure: str | None) -> bool:
    """Whether what a caller gets is what is told, and what the chain allows."""
    match call.error:
        case None:
            return failure is None
        case ChainExhausted(failure=raised):
            return failure == raised and not call.text
        case StreamBroken(partial=partial):
            return bool(call.text) and partial.text == call.text and call.chain.on_stream_break != "hold"
        case BudgetExceeded():
            return failure == "budget" and call.chain.budget is not None and not call.text
    return False


def _of_attempts(call: Call, end: CallEnded) -> Iterator[str]:
    """Each request is one attempt, taken as what it was, at the cost that is on its server's bill."""
    attempts = end.record.attempts
    sent, told = Counter(r.deployment for r in call.requests), Counter(a.deployment for a in attempts)
    if sent != told:
        yield f"sent {dict(sent)}, and tells of {dict(told)}"
        return
    failed = [event.attempt for event in call.told if isinstance(event, AttemptFailed)]
    if sorted(map(id, failed)) != sorted(id(attempt) for attempt in attempts if attempt.outcome == "failed"):
        yield "its failed attempts are not those that were told one by one"
    if any(event.source == event.target for event in call.told if isinstance(event, FellBack)):
        yield "falls back to where it was"
    by_deployment: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda attempt: attempt.started_at):
        by_deployment[attempt.deployment].append(attempt)
    for name, mine in by_deployment.items():
        requests = [request for request in call.requests if request.deployment == name]
        for request, attempt in zip(requests, mine, strict=True):
            yield from _of_attempt(call, request, attempt)
    cost = None if any(a.cost_usd is None for a in attempts) else sum((a.cost_usd or 0 for a in attempts), Decimal(0))
    if end.record.cost_usd != cost:
        yield f"cost {end.record.cost_usd}, and its attempts {cost}"


def _of_attempt(call: Call, request: Request, attempt: Attempt) -> Iterator[str]:
    name = f"its request to {request.deployment} ({request.word})"
    if attempt.outcome == "succeeded" and not _is_good(call, request):
        yield f"{name} counts as an answer"
    if attempt.outcome == "failed" and attempt.failure not in FAILURES[request.word] | LIMITS:
        yield f"{name} counts as {attempt.failure}"
    target = call.target(request.deployment)
    assert target.prices is not None
    # A reader that left before it read the usage can but estimate it, also one whose time was over behind the finish.
    is_late = attempt.cost_estimated and call.ended - call.began - call.held_s >= call.total_s - _EXACT
    has_read = not (call.has_left or attempt.outcome == "cancelled" or attempt.failure in LIMITS or is_late)
    if request.told_usage is not None:
        billed = target.prices.cost(Usage(*request.told_usage))
        if has_read and (attempt.cost_usd != billed or attempt.cost_estimated):
            yield f"{name} cost {attempt.cost_usd}, and {billed} is on the bill"
    elif attempt.outcome == "failed" and not request.sent and attempt.cost_usd != 0:
        yield f"{name} brought nothing, and cost {attempt.cost_usd}"
    elif request.sent and attempt.cost_usd == 0 and target.prices.input:
        yield f"{name} cost nothing, and sent {request.sent!r}"
    took_s = attempt.latency_s
    if not 0 <= took_s <= call.ended - call.began + _EXACT and not call.has_left:
        yield f"{name} took {took_s:.3f} s of {call.ended - call.began:.3f} s"


def _of_rest(simulated: SimulatedModel) -> Iterator[str]:
    """Nothing is left: no place, no reservation, no request, no task, no error that nobody saw."""
    for engine in simulated.engines:
        for name in engine.health:
            if engine.health[name].in_flight:
                yield f"{engine.health[name].in_flight} requests are still under way at {name}"
        if engine.health._waiters:
            yield "somebody still waits for a place"
        accounts = engine.budgets._accounts.values()
        if any(balance.reserved for account in accounts for balance in account.balances()):
            yield "dollars are still reserved"
    yield from (f"a request is still open: {request}" for request in simulated.servers.requests if request.is_open)
    if left := simulated.loop.waiting():
        yield f"tasks are left: {left}"
    if simulated.loop.errors or simulated.logged:
        yield f"errors nobody saw: {simulated.loop.errors + simulated.logged}"


def _of_money(simulated: SimulatedModel) -> Iterator[str]:
    """What a day has cost is what its calls have, to the last digit."""
    accounts = simulated.engine.budgets._accounts
    for (chain, window, *_), account in accounts.items():
        if window != "day" or simulated.plan.midnight_in_s < 10_000:
            continue
        calls = [call for call in simulated.calls.values() if call.end is not None and call.ask.chain == chain]
        cost = sum((call.end.record.cost_usd or Decimal(0) for call in calls if call.end), Decimal(0))
        spent = sum((balance.spent for balance in account.balances()), Decimal(0))
        if cost != spent:
            yield f"{chain} has spent {spent} by its budget, and {cost} by its calls"


def _of_last_calls(simulated: SimulatedModel) -> Iterator[str]:
    """After all trouble the first deployment answers, at once."""
    for chain in simulated.model.spec.chains:
        call = simulated.calls[f"{LAST}_{chain}"]
        if call.chain.budget is not None or not call.chain.members:
            continue
        record = None if call.end is None else call.end.record
        if call.error is not None or record is None or record.fell_back or len(record.attempts) > 1:
            yield f"after all trouble, {call.name}: {call.error!r}, {record}"
