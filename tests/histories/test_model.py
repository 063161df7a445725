"""Random histories of a whole model: callers, servers and clock follow from a seed, and every promise holds in each.

One that breaks prints what it needs of its plan, what happened, and how to play it again.
"""

from __future__ import annotations

from copy import deepcopy
from typing import get_args

from llm_fallback.spec import load_spec
from tests.histories.plans import Ask, Befalling, Mishap, Plan, plan
from tests.histories.replay import breach, explained, played
from tests.histories.servers import FAILURES, KEY_TROUBLES, Trouble
from tests.histories.shrink import shrunk
from tests.thinning import histories


@histories(12, 10_000, at_once=100)
def test_a_model_keeps_its_promises_whatever_happens(seed):
    """Cut, slow, silent and lying servers; callers that leave; reloads; budgets near their end; tasks and threads in
    any order; processes that die, and what they share with others failing."""
    if (broken := breach(plan(seed))) is not None:
        raise AssertionError(explained(plan(seed), broken))


def test_a_hedged_call_that_is_cancelled_as_it_begins_sends_nothing_that_is_not_told():
    """Its request is a task of its own, which may not have begun when the call has given back what it held."""
    deployment = {"backend": "vllm", "model": "m", "api_base": "http://server.invalid", "price": "free"}
    chain = {"tiers": ["a"], "hedge": {"after_s": 1}}
    spec = {"deployments": {"a": deployment}, "chains": {"main": chain}}
    ask = Ask(0.0, "c00", "main", streamed=True, words=3, leaving="cancels twice")
    for seed in range(40):
        assert breach(Plan(seed, spec, (ask,))) is None


# That the histories are worth their time.


def test_a_seed_plays_the_same_history_each_time():
    """Else a failing one could not be looked into."""
    for seed in range(15):
        one, other = (played(plan(seed)).world.history for _ in range(2))
        assert one == other
        assert len(one) > 5


def test_histories_have_every_trouble_and_every_way_to_leave():
    plans = [plan(seed) for seed in range(2000)]
    actions = [action for each in plans for action in each.actions]
    words = {action.word for action in actions if isinstance(action, Trouble)}
    assert words == {*FAILURES, *KEY_TROUBLES} - {"answer"}
    assert {action.what for action in actions if isinstance(action, Mishap)} == {
        what for kind in get_args(Befalling) for what in get_args(kind)
    }
    ways = {action.leaving for action in actions if isinstance(action, Ask)}
    assert ways == {None, "cancels", "cancels twice", "times out", "closes", "drops"}


def test_histories_come_to_every_outcome():
    """Answers, answers of several servers, exhausted chains, broken streams, budgets, and each reason to pass over."""
    outcomes, reasons = set(), set()
    for seed in range(120):
        for call in played(plan(seed)).calls.values():
            outcomes.add(type(call.error).__name__)
            if call.end is not None:
                reasons |= {skip.reason for skip in call.end.record.skipped}
                outcomes |= {"stitched"} if call.end.record.stitches else set()
                outcomes |= {attempt.outcome for attempt in call.end.record.attempts}
    assert {"NoneType", "ChainExhausted", "StreamBroken", "BudgetExceeded", "CancelledError", "stitched"} <= outcomes
    assert {"succeeded", "failed", "cancelled"} <= outcomes
    assert reasons >= {"breaker_open", "limit", "budget", "zone"}


def test_processes_come_to_what_only_several_can():
    """One is killed with a call under way, one hears from another of a breaker, one learns what another has spent."""
    seen = set()
    for seed in range(150):
        planned = plan(seed)
        if planned.processes > 1:
            history = played(planned)
            calls = history.calls.values()
            seen |= {"killed" for call in calls if call.was_killed}
            seen |= {getattr(event, "source", "") for call in calls for event in call.told}
            seen |= {"written" for _ in history.disk.appended}
    assert seen >= {"killed", "fleet", "written"}


def test_replies_come_to_tool_calls_and_threads_to_every_end():
    """Whole tool calls, parts of ones whose stream broke, and calls from threads that are answered, fail and leave."""
    seen = set()
    for seed in range(100):
        for call in played(plan(seed)).calls.values():
            how = type(call.error).__name__
            seen |= {f"tools, {how}"} if call.ask.tools and call.has_content else set()
            seen |= {f"thread, {how}"} if call.ask.in_thread else set()
    assert seen >= {"tools, NoneType", "tools, StreamBroken"}
    assert seen >= {"thread, NoneType", "thread, ChainExhausted", "thread, KeyboardInterrupt"}


def test_what_a_breach_does_not_need_is_left_out():
    """Of many calls and troubles the two that matter."""
    planned = next(each for each in map(plan, range(100)) if len(_asks(each)) > 7 and len(each.spec["deployments"]) > 2)
    needed = set(_asks(planned)[2:4])
    small = shrunk(planned, lambda tried: needed <= set(_asks(tried)))
    assert set(_asks(small)) == needed
    assert len(small.actions) == 2
    assert set(small.spec["chains"]["main"]) == {"tiers", "timeouts"}


def test_of_a_spec_nothing_is_left_out_that_the_rest_needs():
    """Without the zone of its only deployment there a chain that names the zone could not be loaded."""
    chain = {"tiers": ["a"], "zones": ["eu"], "timeouts": {"total_s": 3}}
    spec = {"deployments": {"a": {"model": "m", "zone": "eu"}}, "chains": {"main": chain}}
    small = shrunk(Plan(0, spec, ()), lambda tried: load_spec(deepcopy(tried.spec)).chains["main"].zones is not None)
    assert small.spec == spec


def _asks(planned: Plan) -> list[str]:
    return [action.name for action in planned.actions if isinstance(action, Ask)]
