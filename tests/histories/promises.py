"""What must hold at the end of every history: the sentences of the contract about calls, and what is left of them.

Nothing here asks the engine what is right: servers know what they were sent and what they have on their bills, callers
know what they got and when. Where a promise is about the engine's own state, that is named.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from types import NoneType

from llm_fallback.engine.engine import Engine
from llm_fallback.errors import BudgetExceeded, ChainExhausted, LLMFallbackError, StreamBroken
from llm_fallback.events import Attempt, AttemptFailed, CallEnded, FellBack, Usage
from tests.histories.calls import Call
from tests.histories.history import STARTS_AT, History
from tests.histories.members import days
from tests.histories.replies import is_good, of_reply
from tests.histories.servers import FAILURES, LAST, LIMITS, Request
from tests.histories.specs import DEAREST_USD
from tests.histories.world import BrokenPromise

PROMPT_TIME_S = 0.05
"""Beyond `total_s`."""
_EXACT = 1e-6


def check(history: History) -> None:
    """Raise BrokenPromise for what does not hold of the history that was played."""
    for promise in _broken(history):
        raise BrokenPromise(history.world, promise)


def _broken(history: History) -> Iterator[str]:
    for call in history.calls.values():
        for promise in _of_call(history, call):
            yield f"{call.name}: {promise}"
    yield from _of_rest(history)
    yield from _of_money(history)
    yield from _of_file(history)
    yield from _of_last_calls(history)


def _of_call(history: History, call: Call) -> Iterator[str]:
    if call.was_killed:
        yield from _of_requests(call)
        yield from of_reply(call)
        return
    if isinstance(call.error, RuntimeError):
        if not (call.process.is_closed and "closed" in str(call.error)):
            yield f"ends with {call.error!r}"
        return
    yield from _of_time(call)
    yield from _of_requests(call)
    yield from of_reply(call)
    yield from _of_end(call)
    if call.end is not None:
        yield from _of_attempts(call, call.end)


def _of_time(call: Call) -> Iterator[str]:
    if call.took_s > call.total_s + PROMPT_TIME_S + _EXACT:
        yield f"took {call.took_s:.3f} s of {call.total_s} s"


def _of_requests(call: Call) -> Iterator[str]:
    if len(call.requests) > call.most_requests:
        yield f"{len(call.requests)} requests, of at most {call.most_requests}"
    asked = Counter(request.deployment for request in call.requests)
    is_woken = any(member.target.cold_start for member in call.chain.members)
    if asked.total() - len(asked) > call.chain.retries.max and not is_woken:
        yield f"{asked.total() - len(asked)} repeats, of at most {call.chain.retries.max}"
    if call.chain.on_stream_break != "continue" and call.got_first_content_at is not None:
        late = [request for request in call.requests if request.at > call.got_first_content_at + _EXACT]
        if late:
            yield f"asks {late[0].deployment} after its first content, though the chain does not go on"


def _of_end(call: Call) -> Iterator[str]:
    """How it ended is told once, and the same everywhere."""
    ends = [event for event in call.told if isinstance(event, CallEnded)]
    is_untouched = call.has_left and not call.requests
    if len(ends) != 1 and not (is_untouched and not ends):
        yield f"its end was told {len(ends)} times"
    if call.has_left:
        if not isinstance(
            call.error, NoneType | asyncio.CancelledError | TimeoutError | LLMFallbackError | KeyboardInterrupt
        ):
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
            return failure == raised and not call.has_content
        case StreamBroken(partial=partial):
            return call.has_content and partial.text == call.text and call.chain.on_stream_break != "hold"
        case BudgetExceeded():
            return failure == "budget" and call.chain.budget is not None and not call.has_content
    return False


def _of_attempts(call: Call, end: CallEnded) -> Iterator[str]:
    """Each request is one attempt, taken as what it was, at the cost that is on its server's bill."""
    attempts = [attempt for attempt in end.record.attempts if not _was_not_sent(attempt)]
    sent, told = Counter(r.deployment for r in call.requests), Counter(a.deployment for a in attempts)
    if sent != told:
        yield f"sent {dict(sent)}, and tells of {dict(told)}"
        return
    keyless = sum(map(_lacked_a_key, end.record.attempts))
    if keyless > (refused := sum(isinstance(said, Exception) for told in call.keys.values() for said in told)):
        yield f"lacked a key {keyless} times, and its functions failed {refused} times"
    failed = {id(attempt) for attempt in end.record.attempts if attempt.outcome == "failed"}
    told_failed = {id(event.attempt) for event in call.told if isinstance(event, AttemptFailed)}
    # What the step had to tell whose end Ctrl-C kept from the caller is told at the end only.
    if told_failed != failed and not (told_failed < failed and isinstance(call.error, KeyboardInterrupt)):
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


def _is_at_its_limit(call: Call, attempt: Attempt) -> bool:
    """Whether it had no content when the time for that was over; then nothing of it is waited for any more."""
    timeouts = next(each.timeouts for each in call.chain.members if each.name == attempt.deployment)
    limits = [limit for limit in (timeouts.attempt_s, timeouts.first_token_s) if limit is not None]
    limits.append(call.total_s - attempt.started_at)
    return attempt.time_to_first_token_s is None and attempt.latency_s >= min(limits) - _EXACT


def _was_not_sent(attempt: Attempt) -> bool:
    """Whether it has no request, as it had no key, or only when the call's time was over."""
    is_late = attempt.latency_s == 0 and (attempt.message or "").startswith("total_s")
    return is_late or _lacked_a_key(attempt)


def _lacked_a_key(attempt: Attempt) -> bool:
    return attempt.failure == "auth" and (attempt.message or "").startswith("the key function failed")


def _of_attempt(call: Call, request: Request, attempt: Attempt) -> Iterator[str]:
    name = f"its request to {request.deployment} ({request.word})"
    if attempt.outcome == "succeeded" and not is_good(call, request):
        yield f"{name} counts as an answer"
    if attempt.outcome == "failed" and attempt.failure not in FAILURES[request.word] | LIMITS:
        yield f"{name} counts as {attempt.failure}"
    target = call.target(request.deployment)
    assert target.prices is not None
    # A reader that left before it read the usage can but estimate it, also one whose time was over behind the finish.
    is_out_of_time = call.took_s + call.asked_s >= call.total_s - _EXACT
    is_late = (attempt.cost_estimated and is_out_of_time) or _is_at_its_limit(call, attempt)
    has_read = not (call.has_left or attempt.outcome == "cancelled" or attempt.failure in LIMITS or is_late)
    if request.told_usage is not None:
        billed = target.prices.cost(Usage(*request.told_usage))
        if has_read and (attempt.cost_usd != billed or attempt.cost_estimated):
            yield f"{name} cost {attempt.cost_usd}, and {billed} is on the bill"
    elif attempt.outcome == "failed" and not request.has_sent and attempt.cost_usd != 0:
        yield f"{name} brought nothing, and cost {attempt.cost_usd}"
    elif request.has_sent and attempt.cost_usd == 0 and target.prices.input:
        yield f"{name} cost nothing, and sent {request.sent!r}"
    took_s = attempt.latency_s
    if not 0 <= took_s <= call.ended - call.began + _EXACT and not call.has_left:
        yield f"{name} took {took_s:.3f} s of {call.ended - call.began:.3f} s"


def _of_rest(history: History) -> Iterator[str]:
    """Nothing is left: no place, no reservation, no request, no task, no error that nobody saw."""
    for process in history.alive:
        for engine in process.engines:
            yield from _of_engine(engine)
    yield from (f"a request is still open: {request}" for request in history.servers.requests if request.is_open)
    if left := history.loop.waiting():
        yield f"tasks are left: {left}"
    if history.loop.errors or history.logged:
        yield f"errors nobody saw: {history.loop.errors + history.logged}"


def _of_engine(engine: Engine) -> Iterator[str]:
    for name in engine.health:
        if engine.health[name].in_flight:
            yield f"{engine.health[name].in_flight} requests are still under way at {name}"
    if engine.health._waiters:
        yield "somebody still waits for a place"
    accounts = engine.budgets._accounts.values()
    if any(balance.reserved for account in accounts for balance in account.balances()):
        yield "dollars are still reserved"


def _of_money(history: History) -> Iterator[str]:
    """What a day has cost is what its attempts have, to the last digit."""
    midnight = STARTS_AT + history.plan.midnight_in_s
    for process in history.alive:
        for (chain, window, *_), account in process.engine.budgets._accounts.items():
            if window != "day" or account.is_kept:
                continue
            calls = [call for call in history.calls.values() if call.process is process and call.ask.chain == chain]
            if any(call.keys for call in calls) and midnight < history.world.now:
                continue  # The money is set aside before a key is asked for.
            since = midnight if midnight <= history.world.now else 0.0
            cost = sum((_cost(call, since) for call in calls), Decimal(0))
            spent = sum((balance.spent for balance in account.balances()), Decimal(0))
            if cost != spent:
                yield f"{chain} has spent {spent} by its budget, and {cost} by its calls"


def _cost(call: Call, since: float) -> Decimal:
    """What those attempts of a call have cost that were begun since then."""
    attempts = call.end.record.attempts if call.end else ()
    return sum((a.cost_usd or Decimal(0) for a in attempts if call.began + a.started_at >= since), Decimal(0))


def _of_file(history: History) -> Iterator[str]:
    """No amount is lost between processes that keep a day in one file, and in the end all know the same."""
    for process in history.alive:
        for account in process.engine.budgets._accounts.values():
            if account.is_kept and not process.is_closed:
                [day] = {balance.day for balance in account.balances()} or {""}
                spent = sum((balance.spent for balance in account.balances()), Decimal(0))
                written = sum((each.usd for each in history.disk.appended if each.day == day), Decimal(0))
                if spent != written:
                    yield f"the file holds {written} of {day}, and {process.name} knows of {spent}"


def _of_last_calls(history: History) -> Iterator[str]:
    """After all trouble the first deployment answers, at once, in every process."""
    for number, process in enumerate(history.processes):
        if process.is_closed or not process.is_alive:
            continue
        for chain in process.model.spec.chains:
            call = history.calls[f"{LAST}_{chain}_{number}"]
            # Of limits and money that are shared a process which had no call for long has no part in hand.
            shares = call.chain.budget is not None or any(member.target.limits for member in call.chain.members)
            if "fleet" in history.plan.spec and shares:
                continue
            if call.chain.members and not _is_short_of_money(call):
                yield from _of_last_call(call)


def _of_last_call(call: Call) -> Iterator[str]:
    record = None if call.end is None else call.end.record
    is_first = record is not None and not record.fell_back and len(record.attempts) == 1
    if call.error is not None or not is_first:
        yield f"after all trouble, {call.name}: {call.error!r}, {record}"


def _is_short_of_money(call: Call) -> bool:
    """Whether less is left of a day than an attempt may be estimated at."""
    limit = call.chain.budget.limits.get("day") if call.chain.budget else None
    spent = [balance.total for chain, _, balance in days(call.process) if chain == call.chain.name]
    return limit is not None and limit - sum(spent, Decimal(0)) < DEAREST_USD
