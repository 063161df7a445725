"""What to do next in one call: every row of the failure table as a sentence, then every history there is."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.engine.affinity import Rendezvous
from llm_fallback.engine.balancing import LeastLoaded, by_weight
from llm_fallback.engine.health import Health, Unavailable
from llm_fallback.engine.policy import FallbackPolicy, Stop, Try, Wait
from llm_fallback.engine.transport import Fault
from llm_fallback.events import Failure
from llm_fallback.plan.cold_start import warmup_retries_within
from llm_fallback.plan.explain import explain
from llm_fallback.plan.plan import ChainPlan, Member, Tiers
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import Breaker, ColdStart, Limits, load_spec
from tests.plans import COUNTED, OPENING, chain, health_of, member
from tests.thinning import examples

ELSEWHERE_AT_ONCE = sorted((COUNTED | OPENING | {"rate_limited", "rejected"}) - {"stream_broken"})
OK = "ok"
UNSUPPORTED = "unsupported"
STATUS = {"bad_request": 400}
"""Without one, a bad request is none that a server got."""
REFUSED_HERE = Fault("bad_request", "no such part of a message")

Answers = Mapping[str, str | Fault | Sequence[str | Fault]]
"""What each deployment answers: a failure, `ok` or `unsupported`; of a list one after the other, the last for ever."""


@dataclass
class Journey:
    """A course driven to its end, and what it did on the way."""

    course: FallbackPolicy
    health: Health
    now: float = 0.0
    asked: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    stop: Stop | None = None
    answered: str | None = None

    @property
    def skipped(self) -> dict[str, tuple[str, float | None]]:
        return {skip.deployment: (skip.reason, skip.retry_in_s) for skip in self.course.skipped}


def journey(
    plan: ChainPlan,
    answers: Answers,
    *,
    health: Health | None = None,
    now: float = 0.0,
    backoff: Callable[[int], float] = float,
    took: float = 0.0,
    **settings: object,
) -> Journey:
    """Drive a course to its end; every answer takes `took` seconds, the n-th repeat waits n seconds unless told."""
    known = health or health_of(plan)
    course = FallbackPolicy(
        plan,
        lambda name, at: known[name].unavailable(at),
        pick=by_weight(Random(7)),
        backoff=backoff,
        deadline=now + plan.total_s,
        **settings,
    )
    so_far = Journey(course, known, now)
    script = {name: iter(_for_ever(said)) for name, said in answers.items()}
    for _ in range(200):
        if so_far.stop is not None or so_far.answered is not None:
            return so_far
        _go_on(so_far, script, took)
    raise AssertionError("a course has to end")


def _for_ever(said):
    steps = [said] if isinstance(said, str | Fault) else list(said)
    return itertools.chain(steps, itertools.repeat(steps[-1]))


def _go_on(so_far, script, took):
    step = so_far.course.next_step(so_far.now)
    if isinstance(step, Stop):
        so_far.stop = step
    elif isinstance(step, Wait):
        so_far.waits.append(step.until - so_far.now)
        so_far.now = step.until
        assert so_far.waits[-1] > 0
        if math.isinf(step.until):
            raise AssertionError("waits for a release nobody will bring")
    else:
        _ask(so_far, step, next(script[step.member.name]), took)


def _ask(so_far, step, said, took):
    name, own = step.member.name, so_far.health[step.member.name]
    permit = own.begin(so_far.now)
    if said == UNSUPPORTED:
        own.cancelled(permit)
        so_far.course.unsupported(step.member)
        return
    so_far.asked.append(name)
    so_far.times.append(so_far.now)
    if step.repeat:
        so_far.repeats.append(name)
    so_far.now += took
    if said == OK:
        own.succeeded(permit, so_far.now)
        so_far.answered = name
        return
    fault = said if isinstance(said, Fault) else Fault(said, "no", STATUS.get(said))
    own.failed(permit, so_far.now, fault.failure, fault.retry_after_s)
    so_far.course.failed(step.member, fault, so_far.now)


def open_breaker(health: Health, name: str, failure: Failure = "server_error", *, at: float = 0.0, retry=None) -> None:
    """Let a deployment fail before the call, often enough to open its breaker."""
    while health[name].breaker.state(at) == "closed":
        own = health[name]
        own.failed(own.begin(at), at, failure, retry)


def three(**settings) -> ChainPlan:
    return chain(member("a"), member("b"), member("c"), **settings)


# Each failure of a deployment: another one at once.


@pytest.mark.parametrize("failure", ELSEWHERE_AT_ONCE)
def test_a_deployment_that_fails_is_left_at_once_while_another_is_untried(failure):
    """No wait, no repeat: the next tier answers at the same moment."""
    went = journey(three(), {"a": failure, "b": failure, "c": OK})
    assert (went.asked, went.times, went.waits) == (["a", "b", "c"], [0, 0, 0], [])
    assert went.course.first.name == "a"


@pytest.mark.parametrize("failure", sorted(COUNTED | {"rejected"}))
def test_when_all_have_failed_the_call_repeats_with_backoff_as_often_as_the_chain_allows(failure):
    """One request per deployment, then `retries.max` more, each after its wait."""
    went = journey(three(retries=2), {"a": failure, "b": failure, "c": failure})
    assert went.asked[:3] == ["a", "b", "c"]
    assert len(went.asked) == 5
    assert (went.repeats, went.times[3:]) == (went.asked[3:], [1, 3])
    assert went.stop.failure == failure


@pytest.mark.parametrize("failure", sorted(OPENING))
def test_what_no_repeat_mends_is_not_repeated(failure):
    """A wrong key, an empty account, an unknown model: one request is enough to know."""
    went = journey(three(retries=5), {"a": failure, "b": failure, "c": failure})
    assert went.asked == ["a", "b", "c"]
    assert (went.stop.failure, went.waits) == (failure, [])


def test_repeats_go_only_to_those_for_whom_there_is_hope():
    """The one with the wrong key is left out, the one that was slow is asked again."""
    went = journey(three(retries=3), {"a": "auth", "b": "timeout", "c": "not_found"})
    assert went.asked == ["a", "b", "c", "b", "b", "b"]


def test_a_repeat_may_be_the_one_that_answers():
    """And the call is answered by its first choice then."""
    went = journey(chain(member("a")), {"a": ["connection", "server_error", OK]})
    assert (went.answered, went.asked, went.times) == ("a", ["a"] * 3, [0, 1, 3])


def test_no_repeats_are_made_where_the_chain_wants_none():
    """`retries: {max: 0}`."""
    went = journey(three(retries=0), {"a": "timeout", "b": "timeout", "c": "timeout"})
    assert went.asked == ["a", "b", "c"]


def test_a_backoff_that_does_not_fit_into_the_time_is_not_waited_for():
    """The call ends at once instead of sleeping to its deadline."""
    went = journey(three(total_s=10), {"a": "timeout", "b": "timeout", "c": "timeout"}, backoff=lambda n: 10.0)
    assert (went.asked, went.waits, went.now) == (["a", "b", "c"], [], 0)


def test_no_repeat_is_made_that_the_budget_of_all_calls_forbids():
    """In a total outage repeats must not multiply the load."""
    went = journey(three(), {"a": "timeout", "b": "timeout", "c": "timeout"}, may_repeat=lambda now: False)
    assert went.asked == ["a", "b", "c"]
    assert went.stop.reason.startswith("the retry budget withheld repeats: repeats and hedges together are at most 20%")


def test_where_no_repeat_would_help_the_retry_budget_is_not_to_blame():
    """A wrong key is not asked again whatever the budget says."""
    went = journey(three(), dict.fromkeys("abc", "auth"), may_repeat=lambda now: False)
    assert went.stop.reason == ""
    assert journey(three(retries=0), dict.fromkeys("abc", "timeout"), may_repeat=lambda now: False).stop.reason == ""


def test_the_budget_of_all_calls_is_asked_for_the_time_it_is():
    """What was repeated in the last minute depends on when that is."""
    asked_at = []
    went = journey(
        three(), dict.fromkeys("abc", "timeout"), may_repeat=lambda now: asked_at.append(now) or now < 105, now=100.0,
        took=2.0,
    )  # fmt: skip
    assert set(asked_at) == {106.0}
    assert went.asked == ["a", "b", "c"]
    with_breaker = chain(member("a", policy=Breaker(failures=1)), member("b", policy=Breaker(failures=1)))
    went = journey(with_breaker, dict.fromkeys("ab", "timeout"), may_repeat=lambda now: now > 5, now=7.0)
    assert len(went.asked) == 4
    health = health_of(with_breaker)
    for name in "ab":
        open_breaker(health, name, at=6.0)
    went = journey(with_breaker, dict.fromkeys("ab", "timeout"), may_repeat=lambda now: now > 5, now=7.0, health=health)
    assert len(went.asked) == 3


def test_one_whose_request_was_dropped_may_be_asked_again():
    """As a hedge that lost: nothing is known against it."""
    course = FallbackPolicy(
        chain(member("a")), lambda name, at: None, pick=by_weight(Random(1)), backoff=float, deadline=9.0
    )
    first = course.next_step(0.0)
    assert course.next_step(0.0) == Wait(1.0)
    assert course.next_step(1.0) == Try(first.member, repeat=True)


@pytest.mark.parametrize(("max_wait_s", "total_s"), [(10, 300.0), (60, 10.0), (60, 0.6)])
def test_one_that_warms_up_is_retried_no_more_often_than_its_pauses_could(max_wait_s, total_s):
    """Though nothing else keeps it from being asked; they are no repeats."""
    plan = chain(member("a", cold_start=ColdStart(max_wait_s=max_wait_s)), retries=0, total_s=total_s)
    course = FallbackPolicy(plan, lambda name, at: None, pick=by_weight(Random(1)), backoff=float, deadline=total_s)
    tries = []
    for _ in range(50):
        step = course.next_step(0.0)
        if isinstance(step, Stop):
            break
        tries.append((step.repeat, step.warmup_retry))
        course.failed(step.member, Fault("overloaded", "no"), 0.0)
    assert tries == [(False, False), *[(False, True)] * warmup_retries_within(min(max_wait_s, total_s))]
    assert course.repeats == 0


def test_one_that_is_left_alone_for_something_else_is_not_waited_for_as_if_it_warmed_up():
    """It refused as one that starts does, and is blocked by a wrong key since."""
    plan = chain(member("a", cold_start=ColdStart(max_wait_s=60)), retries=0)
    warming = Unavailable("breaker_open", 30.0, return_known=True, failure="overloaded", warming_up=True)
    for blocked, then in ((warming, Wait), (Unavailable("breaker_open", 30.0, failure="auth"), Stop)):
        blocks = {}
        course = FallbackPolicy(
            plan, lambda name, at, of=blocks: of.get(name), pick=by_weight(Random(1)), backoff=float, deadline=300.0
        )
        course.failed(course.next_step(0.0).member, Fault("overloaded", "no"), 0.0)
        blocks["a"] = blocked
        assert isinstance(course.next_step(0.0), then)


# Rate limits and the times that servers name.


def test_a_named_time_is_waited_for_before_the_same_deployment_is_asked_again():
    """Retry-After of 7 s: the repeat comes after 7 s, not after the backoff of 1 s."""
    went = journey(chain(member("a")), {"a": [Fault("rate_limited", "", 429, 7.0), OK]})
    assert (went.times, went.answered) == ([0, 7], "a")


def test_a_named_time_holds_with_the_breaker_off_too():
    """The server said so, whoever counts."""
    went = journey(chain(member("a", policy=None)), {"a": [Fault("overloaded", "", 503, 7.0), OK]})
    assert went.times == [0, 7]


def test_a_named_time_beyond_the_deadline_ends_the_call_at_once():
    """There is no use in sleeping until the time is up."""
    went = journey(chain(member("a"), total_s=20), {"a": Fault("rate_limited", "", 429, 30.0)})
    assert (went.asked, went.waits, went.stop.failure) == (["a"], [], "rate_limited")


def test_after_a_rate_limit_the_others_are_asked_first():
    """Nobody waits for a named time while another is untried, and repeats go to who is free first."""
    went = journey(three(), {"a": Fault("rate_limited", "", 429, 5.0), "b": "timeout", "c": ["timeout", OK]})
    assert went.asked[:3] == ["a", "b", "c"]
    assert "a" not in went.asked[3:]


# Failures of the request.


def test_a_prompt_that_is_too_long_goes_to_the_chain_s_tiers_for_long_prompts():
    """And to nobody else: neither the rest of its tiers nor a repeat."""
    plan = three(long=[member("long"), member("longer")])
    went = journey(plan, {"a": "context_window", "long": "context_window", "longer": "context_window"})
    assert went.asked == ["a", "long", "longer"]
    assert (went.stop.failure, went.waits) == ("context_window", [])


def test_the_tiers_for_long_prompts_end_the_call_once_they_are_used_up():
    """Whatever they fail by, there is no way back to the chain's own tiers, and no repeat."""
    went = journey(three(long=[member("long")]), {"a": "context_window", "long": "timeout"})
    assert (went.asked, went.stop.failure) == (["a", "long"], "timeout")


@pytest.mark.parametrize(("side", "failure"), [("long", "context_window"), ("refused", "content_policy")])
def test_an_empty_list_raises_instead_of_asking_on(side, failure):
    """`on_context_window: []`, `on_content_policy: []`."""
    went = journey(three(**{side: []}), {"a": failure})
    assert (went.asked, went.stop) == (["a"], Stop(failure, "the chain declares to raise here"))


@pytest.mark.parametrize(
    ("windows", "asked"),
    [
        ((8000, 8000, 8000), ["a"]),
        ((8000, 8001, 7999), ["a", "b"]),
        ((8000, None, 9000), ["a", "b", "c"]),
        ((8000, 4000, 9000), ["a", "c"]),
        ((8000, 16000, 12000), ["a", "b"]),
        ((None, 4000, None), ["a", "b", "c"]),
        ((8000, None, 7000), ["a", "b"]),
    ],
)
def test_a_prompt_that_is_too_long_goes_on_only_to_a_larger_or_unknown_window(windows, asked):
    """Larger than the largest that was too small; the others are named as skipped for their window."""
    plan = chain(*(member(name, context_window=window) for name, window in zip("abc", windows, strict=True)))
    went = journey(plan, dict.fromkeys("abc", "context_window"))
    assert went.asked == asked
    assert went.skipped == {name: ("context_window", None) for name in "abc" if name not in asked}
    assert went.stop.failure == "context_window"


def test_a_deployment_that_failed_before_is_not_repeated_with_a_prompt_its_window_cannot_hold():
    """What was learnt of the prompt holds for the repeats too."""
    plan = chain(member("small", context_window=4000), member("large", context_window=8000))
    went = journey(plan, {"small": "timeout", "large": "context_window"})
    assert went.asked == ["small", "large"]


def test_a_refusal_goes_to_the_chain_s_tiers_for_refusals():
    """`on_content_policy` instead of the next tier."""
    went = journey(three(refused=[member("calm")]), {"a": "content_policy", "calm": OK})
    assert went.asked == ["a", "calm"]


def test_a_refusal_without_such_tiers_goes_to_the_next_tier_and_not_to_its_own():
    """Those that share a tier share their safety system."""
    plan = chain([member("a"), member("b"), member("c")], [member("next")])
    went = journey(plan, dict.fromkeys("abc", "content_policy") | {"next": OK})
    assert (len(went.asked), went.asked[-1]) == (2, "next")


def test_a_second_refusal_leaves_the_tier_of_the_first_where_it_is():
    """Nobody of it is repeated, though it failed by something else before."""
    plan = chain([member("a", weight=1e-6), member("b", weight=1e6)], member("next"))
    went = journey(plan, {"a": "content_policy", "b": ["timeout", OK], "next": "content_policy"})
    assert went.asked == ["b", "a", "next"]


def test_within_the_tiers_for_long_prompts_a_refusal_goes_to_their_next_tier():
    """The tier that counts is the one on the way, not the chain's."""
    plan = chain(member("a"), long=[[member("x"), member("y")], member("z")])
    went = journey(plan, {"a": "context_window", "x": "content_policy", "y": "content_policy", "z": OK})
    assert (len(went.asked), went.asked[-1]) == (3, "z")


def test_a_refused_and_too_long_request_finds_its_way_through_both_side_tiers():
    """Each deployment at most once, and it ends."""
    plan = chain(member("a"), long=[member("l"), member("m")], refused=[member("r"), member("m")])
    went = journey(plan, {"a": "context_window", "l": "content_policy", "r": "context_window", "m": "content_policy"})
    assert went.asked == ["a", "l", "r", "m"]
    assert went.stop.failure == "content_policy"


def test_a_bad_request_goes_on_only_to_deployments_that_serve_something_else():
    """The same model would give the same answer."""
    plan = chain(
        member("a", model_identity="gpt"),
        [member("b", model_identity="gpt"), member("c", model_identity="gpt")],
        member("d"),
    )
    went = journey(plan, {"a": "bad_request", "d": OK})
    assert went.asked == ["a", "d"]


def test_a_request_that_one_provider_s_translation_refuses_goes_on_to_another_provider():
    """Whatever the deployments of the same provider serve: none of them would be sent anything."""
    plan = chain(
        member("a", model_identity="gpt"),
        [member("b"), member("c")],
        member("d", provider="anthropic", model_identity="gpt"),
        member("e", provider="mistral"),
    )
    went = journey(plan, {"a": REFUSED_HERE, "d": REFUSED_HERE, "e": OK})
    assert went.asked == ["a", "d", "e"]


def test_it_ends_where_every_provider_refuses_it():
    """Nothing is repeated, nothing waited for."""
    went = journey(chain(member("a"), member("b"), retries=5), {"a": REFUSED_HERE})
    assert (went.asked, went.stop.failure, went.waits) == (["a"], "bad_request", [])


def test_what_a_deployment_s_own_parameters_may_have_caused_says_nothing_of_one_without_them():
    """A header of no known form in one deployment must not keep every request from its replicas."""
    plan = chain(member("a", params={"extra_headers": 5}), member("b", params={"extra_headers": 5}), member("c"))
    went = journey(plan, {"a": REFUSED_HERE, "c": OK})
    assert went.asked == ["a", "c"]


def test_a_bad_request_is_never_repeated():
    """Not even when nothing else is left."""
    went = journey(chain(member("a"), member("b")), {"a": "bad_request", "b": "bad_request"})
    assert (went.asked, went.stop.failure) == (["a", "b"], "bad_request")


def test_deployments_that_share_a_model_by_name_are_one_model_to_a_bad_request():
    """From the spec: `base_model`, else the model without its provider."""
    spec = load_spec(
        {
            "deployments": {
                "openai": {"model": "openai/gpt-4.1"},
                "azure": {"model": "azure/prod-41", "base_model": "gpt-4.1"},
                "claude": {"model": "anthropic/claude-sonnet-4-5"},
            },
            "chains": {"main": {"tiers": ["openai", "azure", "claude"]}},
        }
    )
    plan = resolve_spec(spec, {}).chains["main"]
    went = journey(plan, {"openai": "bad_request", "claude": OK})
    assert went.asked == ["openai", "claude"]


# Open breakers.


def test_an_open_deployment_is_passed_over_without_a_request():
    """And named with the time until it could be asked."""
    plan = three()
    health = health_of(plan)
    open_breaker(health, "a")
    went = journey(plan, {"b": OK}, health=health, now=10.0)
    assert (went.asked, went.skipped) == (["b"], {"a": ("breaker_open", 20.0)})
    assert went.course.first.name == "a"


def test_after_its_cooldown_the_first_deployment_is_asked_again():
    """The probe is a call like any other."""
    plan = three()
    health = health_of(plan)
    open_breaker(health, "a")
    assert journey(plan, {"a": OK}, health=health, now=30.0).asked == ["a"]


def test_when_every_deployment_is_open_the_one_that_reopens_first_is_asked_at_once():
    """Better one request in vain than failing without any."""
    plan = three()
    health = health_of(plan)
    open_breaker(health, "a", at=5.0), open_breaker(health, "b", at=0.0), open_breaker(health, "c", at=9.0)
    went = journey(plan, {"b": OK}, health=health, now=10.0)
    assert (went.asked, went.waits, went.answered) == (["b"], [], "b")


@pytest.mark.parametrize(("busy", "asked"), [("a", ["b"]), ("b", ["a"]), ("ab", [])])
def test_in_a_total_outage_a_limit_holds_too(busy, asked):
    """Who is at one is not asked all the same; where all are, the call ends at once."""
    plan = chain(*[member(name, limits=Limits(max_parallel=1)) for name in "ab"])
    health = health_of(plan)
    for name in "ab":
        open_breaker(health, name, at=5.0)
    for name in busy:
        health[name].begin(6.0)
    went = journey(plan, {"a": OK, "b": OK}, health=health, now=10.0)
    assert (went.asked, went.waits) == (asked, [])


def test_in_a_total_outage_a_call_makes_one_request_and_its_repeats():
    """Breakers are there to spare those that are down: not one request each."""
    plan = three(retries=2)
    health = health_of(plan)
    for name in "abc":
        open_breaker(health, name)
    went = journey(plan, dict.fromkeys("abc", "connection"), health=health)
    assert len(went.asked) == 3
    assert went.times == [0, 1, 3]


def test_in_a_total_outage_calls_go_round():
    """Whoever has recovered is found within as many calls as there are deployments."""
    plan = three(retries=0)
    health = health_of(plan)
    for at, name in enumerate("abc"):
        open_breaker(health, name, at=at)
    asked = []
    for now in (5.0, 5.0, 5.0, 8.0):
        (name,) = journey(plan, dict.fromkeys("abc", "connection"), health=health, now=now).asked
        asked.append(name)
    assert asked == ["a", "b", "c", "a"]


def test_repeats_go_round():
    """Another request to the one that just failed is the least likely to fare better."""
    went = journey(chain(member("a"), member("b"), retries=4), {"a": "connection", "b": "connection"})
    assert went.asked == ["a", "b", "a", "b", "a", "b"]


def test_in_a_total_outage_those_that_only_a_person_mends_come_last():
    """A wrong key is no more right because everybody else is down."""
    plan = chain(member("a"), member("b"), retries=0)
    health = health_of(plan)
    open_breaker(health, "a", "auth", at=0.0)
    open_breaker(health, "b", at=5.0)
    assert journey(plan, {"b": OK}, health=health, now=6.0).asked == ["b"]


def test_one_that_named_its_time_is_waited_for_when_every_deployment_is_open():
    """Inside total_s: it said itself that it will answer then."""
    plan = chain(member("a"), member("b"), total_s=60)
    health = health_of(plan)
    open_breaker(health, "a", "rate_limited", retry=12.0)
    open_breaker(health, "b", "auth")
    went = journey(plan, {"a": OK}, health=health)
    assert (went.asked, went.times) == (["a"], [12])


def test_one_that_named_a_time_beyond_the_deadline_is_not_waited_for():
    """Another that is open and named none is asked at once; with none such the call ends without a request."""
    plan = chain(member("a"), member("b"), total_s=10)
    health = health_of(plan)
    open_breaker(health, "a", "rate_limited", retry=12.0)
    open_breaker(health, "b")
    assert journey(plan, {"b": OK}, health=health).times == [0]
    alone = chain(member("a"), total_s=10)
    went = journey(alone, {}, health=health)
    assert (went.asked, went.stop.failure, went.skipped) == ([], "rate_limited", {"a": ("breaker_open", 12.0)})


def test_those_who_waited_for_a_named_time_do_not_give_up_while_the_first_of_them_probes():
    """At that time ten calls wake; one is the probe, the other nine are asked through at once."""
    plan = chain(member("a"), total_s=20)
    health = health_of(plan)
    open_breaker(health, "a", "rate_limited", retry=2.0)
    health["a"].begin(2.0)
    went = journey(plan, {"a": OK}, health=health, now=2.0)
    assert (went.asked, went.answered) == (["a"], "a")


def test_while_another_is_available_nobody_joins_the_probe():
    """Exactly one request goes through after the cooldown."""
    plan = three()
    health = health_of(plan)
    open_breaker(health, "a")
    health["a"].begin(30.0)
    went = journey(plan, {"b": OK}, health=health, now=31.0)
    assert went.asked == ["b"]


@pytest.mark.parametrize("failure", ["bad_request", "auth", "server_error"])
def test_a_call_whose_last_deployment_failed_does_not_sleep_through_another_s_cooldown(failure):
    """Ours is a guess of 30 to 300 s, not a time the server named: the caller gets the failure, not a long silence."""
    plan = chain(member("a"), member("b"), retries=0)
    health = health_of(plan)
    open_breaker(health, "a")
    assert journey(plan, {"a": OK, "b": failure}, health=health).waits == []


def test_a_total_outage_of_many_deployments_is_as_quick_to_tell_as_one_of_few():
    """One request in spite of open breakers, two repeats, and then the call has failed."""
    plan = chain(*(member(name) for name in "abcde"), retries=2)
    health = health_of(plan)
    for name in "abcde":
        open_breaker(health, name)
    went = journey(plan, dict.fromkeys("abcde", "connection"), health=health)
    assert (len(went.asked), went.now) == (3, 3.0)


def blocked_by(blocks: Mapping[str, Unavailable], **settings: object) -> FallbackPolicy:
    """A course at 0 over deployments that cannot be asked until the time of their block."""
    return FallbackPolicy(
        chain(*(member(name) for name in blocks), retries=0),
        lambda name, at: blocks[name] if at < blocks[name].until else None,
        pick=by_weight(Random(1)),
        backoff=float,
        **settings,
    )


def test_one_that_returns_at_the_deadline_is_no_reason_to_leave_the_others():
    """It is too late; whoever only a person can mend is asked all the same, at once."""
    broken = Unavailable("breaker_open", 300.0, failure="auth")
    for until, step in [(9.9, Wait(9.9)), (10.0, "b")]:
        course = blocked_by({"a": Unavailable("breaker_open", until, return_known=True), "b": broken}, deadline=10.0)
        found = course.next_step(0.0)
        assert (found.member.name if isinstance(found, Try) else found) == step


def test_of_those_that_only_a_person_mends_the_one_asked_longest_ago_is_asked():
    """Though another's cooldown ends sooner, and within the time of the call."""
    asked = [
        Unavailable("breaker_open", until, failure="auth", last_request=(at, 1)) for at, until in ((2, 9), (1, 99))
    ]
    course = blocked_by({"a": asked[0], "b": asked[1]}, deadline=50.0)
    assert course.next_step(0.0).member.name == "b"


def test_a_repeat_waits_for_a_place():
    """At its limit until 5 s, and the backoff is 1 s."""
    free_at = 0.0
    course = FallbackPolicy(
        chain(member("a")),
        lambda name, at: Unavailable("limit", free_at) if at < free_at else None,
        pick=by_weight(Random(1)),
        backoff=float,
        deadline=60.0,
    )
    step = course.next_step(0.0)
    course.failed(step.member, Fault("timeout", ""), 0.0)
    free_at = 5.0
    assert course.next_step(0.0) == Wait(5.0)


def test_nobody_waits_for_the_cooldown_of_one_that_just_failed():
    """The other needs no wait, but nothing would come of asking it again."""
    plan = chain(member("a", policy=Breaker(failures=1, cooldown_s=5)), member("b"))
    went = journey(plan, {"a": "timeout", "b": "bad_request"})
    assert (went.asked, went.waits, went.stop.failure) == (["a", "b"], [], "bad_request")


def test_a_call_that_passed_everybody_over_says_when_the_first_is_free():
    """From now on; of nobody who comes back it says nothing."""
    course = blocked_by({"a": Unavailable("limit", 130.0), "b": Unavailable("limit", 120.0)}, deadline=110.0)
    assert course.next_step(100.0) == Stop(
        "rate_limited", "every deployment was passed over; the first is free in 20.0 s"
    )
    lacking = blocked_by({"a": Unavailable("limit", 1.0)}, lacks=lambda who: "tools")
    assert lacking.next_step(0.0) == Stop("bad_request", "every deployment was passed over")


def test_an_open_deployment_is_not_forced_while_another_only_has_to_be_waited_for():
    """One at its limit will answer when it is free: not every deployment is down."""
    plan = chain(member("a", limits=Limits(rpm=1)), member("b"))
    health = health_of(plan)
    health["a"].begin(0.0)
    open_breaker(health, "b")
    went = journey(plan, {"b": OK}, health=health, now=10.0)
    assert (went.asked, went.times) == (["b"], [30])


# Limits.


def test_a_deployment_at_its_limit_is_passed_over_for_the_next():
    """Neither an attempt nor a failure, and named with the time until it is free."""
    plan = chain(member("a", limits=Limits(rpm=1)), member("b"))
    health = health_of(plan)
    health["a"].begin(0.0)
    went = journey(plan, {"b": OK}, health=health, now=10.0)
    assert (went.asked, went.skipped) == (["b"], {"a": ("limit", 50.0)})


def test_when_all_are_at_their_limits_the_call_waits_for_the_first_that_is_free():
    """Inside total_s."""
    plan = chain(member("a", limits=Limits(rpm=1)), member("b", limits=Limits(rpm=1)))
    health = health_of(plan)
    health["a"].begin(5.0), health["b"].begin(0.0)
    went = journey(plan, {"b": OK}, health=health, now=10.0)
    assert (went.asked, went.waits, went.skipped) == (["b"], [50.0], {"a": ("limit", 55.0)})


def test_a_limit_that_frees_nobody_before_the_deadline_ends_the_call_at_once():
    """It has failed by its own rate limit, without a request."""
    plan = chain(member("a", limits=Limits(rpm=1)), total_s=30)
    health = health_of(plan)
    health["a"].begin(0.0)
    went = journey(plan, {}, health=health)
    assert (went.asked, went.stop.failure, went.now) == ([], "rate_limited", 0)
    assert "60.0 s" in went.stop.reason


def test_a_place_that_only_a_release_can_free_is_waited_for_without_a_time():
    """And taken as soon as it is there."""
    plan = chain(member("a", limits=Limits(max_parallel=1)))
    health = health_of(plan)
    permit = health["a"].begin(0.0)
    course = FallbackPolicy(
        plan, lambda name, at: health[name].unavailable(at), pick=by_weight(Random(1)), backoff=float, deadline=30.0
    )
    assert course.next_step(1.0) == Wait(math.inf)
    health["a"].succeeded(permit, 2.0)
    assert isinstance(course.next_step(2.0), Try)


def test_one_that_became_free_is_asked_before_those_further_down():
    """Who was passed over at the start gets its turn as soon as it is free again."""
    plan = chain(member("a", limits=Limits(rpm=1)), member("b"), member("c"))
    health = health_of(plan)
    health["a"].begin(0.0)
    went = journey(plan, {"b": "timeout", "a": OK}, health=health, now=50.0, took=20.0)
    assert went.asked == ["b", "a"]
    assert went.skipped == {}


# What a deployment cannot take.


def test_a_deployment_that_lacks_what_the_request_needs_is_skipped():
    """It is not the first choice then: the next one is, and answering is no falling back."""
    went = journey(three(), {"b": OK}, lacks=lambda who: "tools" if who.name == "a" else None)
    assert (went.asked, went.skipped) == (["b"], {"a": ("unsupported", None)})
    assert went.course.first.name == "b"


def test_a_deployment_that_turns_out_to_lack_something_is_skipped_too():
    """Nothing was sent; it is never tried again in this call."""
    went = journey(three(), {"a": UNSUPPORTED, "b": "timeout", "c": "timeout"})
    assert "a" not in went.asked
    assert went.skipped == {"a": ("unsupported", None)}


def test_one_that_cannot_take_the_request_is_not_tried_again_in_the_tiers_for_refusals():
    """What it lacked it lacks there too."""
    plan = chain(member("a"), member("b"), refused=[member("a"), member("c")])
    asked = journey(plan, {"a": [UNSUPPORTED, OK], "b": "content_policy", "c": OK}).asked
    assert asked == ["b", "c"]


def test_one_that_was_busy_and_then_turns_out_to_lack_something_is_skipped_for_that():
    """Time would not have helped, so none is named."""
    plan = chain(member("a", limits=Limits(rpm=1)), member("b"))
    health = health_of(plan)
    health["a"].begin(0.0)
    went = journey(plan, {"a": UNSUPPORTED, "b": ["timeout", OK]}, health=health, now=50.0, took=20.0)
    assert went.skipped == {"a": ("unsupported", None)}


def test_a_chain_of_which_nobody_can_take_the_request_fails_as_a_bad_request():
    """Without one request."""
    went = journey(three(), {}, lacks=lambda who: "tools")
    assert (went.asked, went.stop.failure) == ([], "bad_request")
    assert {reason for reason, _ in went.skipped.values()} == {"unsupported"}


# Order.


def drawn(*weights: float, times: int = 3000) -> Counter[tuple[str, ...]]:
    plan = chain([member(name, weight=weight) for name, weight in zip("abc", weights, strict=False)], retries=0)
    rng, seen = Random(11), Counter()
    for _ in range(times):
        course = FallbackPolicy(plan, lambda name, at: None, pick=by_weight(rng), backoff=float)
        order = []
        while isinstance(step := course.next_step(0.0), Try):
            order.append(step.member.name)
            course.failed(step.member, Fault("timeout", ""), 0.0)
        assert course.first.name == order[0]
        seen[tuple(order)] += 1
    return seen


def test_where_a_conversation_went_is_asked_before_all_tiers_and_only_once():
    """Then the tiers in order, without it; staying there is the call's first choice."""
    plan = three(retries=0)
    went = journey(plan, dict.fromkeys("abc", "timeout"), stays_with=plan.tiers[2].members[0])
    assert (went.asked, went.course.first.name) == (["c", "a", "b"], "c")


def test_a_chain_without_a_deployment_in_its_zones_says_so():
    """Whether one zone is meant, several, or none that is named."""
    plan = chain(member("a", zone="us"))
    for zones, told in [
        ({"own"}, "no deployment of the chain is in zone own"),
        ({"own", "eu"}, "no deployment of the chain is in zone eu, own"),
        (set(), "no deployment of the chain is in a zone where its prompts may go"),
    ]:
        assert journey(plan.within(zones), {}).stop == Stop("bad_request", told)


def test_everybody_outside_of_the_zones_is_named():
    """Not the first alone."""
    plan = chain([member("b", zone="us"), member("c", zone="us")], member("d", zone="own"), retries=0)
    went = journey(plan.within({"own"}), {"d": OK})
    assert went.skipped == {"b": ("zone", None), "c": ("zone", None)}


def test_whoever_is_outside_of_the_zones_is_named_when_its_tier_comes():
    """Not before, as nobody is passed over who was not reached."""
    plan = chain(member("a", zone="own"), member("b", zone="us"), member("c", zone="own"), retries=0).within({"own"})
    assert journey(plan, {"a": OK}).skipped == {}
    went = journey(plan, {"a": "timeout", "c": OK})
    assert (went.asked, went.skipped) == (["a", "c"], {"b": ("zone", None)})


def test_members_of_a_tier_share_the_load_by_weight():
    """Of three thousand calls the first choice is spread 2 : 1 : 1, to a few per cent."""
    first = Counter(order[0] for order, count in drawn(2, 1, 1).items() for _ in range(count))
    assert first["a"] / 3000 == pytest.approx(1 / 2, abs=0.04)
    assert first["b"] / 3000 == pytest.approx(1 / 4, abs=0.04)


def test_whoever_picks_is_told_the_time():
    """What is under way, and how fast who was, depend on when that is."""
    told = []

    def pick(tier, taken, now):
        told.append(now)
        return by_weight(Random(7))(tier, taken, now)

    plan = three()
    course = FallbackPolicy(plan, lambda name, at: None, pick=pick, backoff=float, deadline=1009.0)
    step = course.next_step(1000.0)
    course.failed(step.member, Fault("timeout", "no"), 1002.0)
    course.next_step(1002.0)
    assert set(told) == {1000.0, 1002.0}


def test_the_order_within_a_tier_is_weighted_random_without_replacement():
    """Every member once, and the second choice by the weights of those left."""
    seen = drawn(2, 1, 1)
    assert set(seen) == set(itertools.permutations("abc"))
    for order, count in seen.items():
        weights = {"a": 2, "b": 1, "c": 1}
        left, chance = 4.0, 1.0
        for name in order:
            chance *= weights[name] / left
            left -= weights[name]
        assert count / 3000 == pytest.approx(chance, abs=0.04)


def test_a_very_unequal_tier_still_asks_everybody():
    """A weight of a millionth is the last to be drawn, but is drawn."""
    seen = drawn(1, 1e-6, times=200)
    assert set(seen) <= {("a", "b"), ("b", "a")}
    assert seen["a", "b"] > 190


def test_a_weight_of_zero_keeps_a_deployment_out_of_rotation():
    """From the spec: it is in no tier of the plan, and a tier of nobody else is none."""
    spec = load_spec(
        {
            "deployments": {
                "a": {"model": "openai/a", "weight": 0},
                "b": {"model": "openai/b"},
                "c": {"model": "openai/c", "weight": 0},
            },
            "chains": {"main": {"tiers": [["a", "b"], "c"]}},
        }
    )
    plan = resolve_spec(spec, {}).chains["main"]
    assert [[found.name for found in tier.members] for tier in plan.tiers] == [["b"]]
    assert journey(plan, {"b": "timeout"}).asked == ["b"] * 3


def test_all_members_of_a_tier_come_before_the_next_tier():
    """In whichever order."""
    plan = chain([member("a"), member("b"), member("c")], [member("d"), member("e")])
    went = journey(plan, dict.fromkeys("abcde", "timeout"))
    assert set(went.asked[:3]) == set("abc")
    assert set(went.asked[3:5]) == set("de")


def test_the_first_choice_is_whom_the_call_would_ask_in_full_health():
    """An answer from another is a fallback, be it that the first failed or was passed over."""
    plan = three()
    health = health_of(plan)
    open_breaker(health, "a")
    for answers, known in [({"a": "timeout", "b": OK}, None), ({"b": OK}, health)]:
        went = journey(plan, answers, health=known)
        assert (went.answered, went.course.first.name) == ("b", "a")


def test_one_that_turns_out_to_lack_something_was_no_first_choice_and_was_not_asked():
    """The next one is the first choice then; of another that lacks something, the first choice stays what it was."""
    plan = three()
    went = journey(plan, {"a": UNSUPPORTED, "b": OK})
    assert (went.answered, went.course.first.name) == ("b", "b")
    went = journey(plan, {"a": "timeout", "b": UNSUPPORTED, "c": OK})
    assert (went.answered, went.course.first.name) == ("c", "a")
    course = FallbackPolicy(plan, lambda name, at: None, pick=by_weight(Random(1)), backoff=float)
    course.unsupported(course.next_step(0.0).member)
    assert course.first is None
    health = health_of(three())
    open_breaker(health, "b")
    open_breaker(health, "c")
    went = journey(three(retries=0), {"a": UNSUPPORTED, "b": OK}, health=health)
    assert (went.asked, went.waits) == (["b"], []), "the first request in a total outage is no repeat"


def test_another_names_only_those_nobody_asked_and_who_are_free():
    """For a hedge: it never waits, never repeats, never forces an open breaker."""
    plan = three()
    health = health_of(plan)
    open_breaker(health, "b")
    course = FallbackPolicy(
        plan, lambda name, at: health[name].unavailable(at), pick=by_weight(Random(1)), backoff=float, deadline=99.0
    )
    assert course.next_untried(1.0).member.name == "a"
    assert course.next_untried(1.0).member.name == "c"
    assert course.next_untried(1.0) is None
    assert course.next_untried(40.0).member.name == "b"
    assert course.next_untried(40.0) is None


# What the engine did not do after all.


def free(plan: ChainPlan, backoff: Callable[[int], float] = float) -> FallbackPolicy:
    """A course over deployments that may be asked at any time."""
    return FallbackPolicy(plan, lambda name, at: None, pick=by_weight(Random(1)), backoff=backoff, deadline=99.0)


def test_one_that_was_not_asked_for_want_of_its_key_comes_after_everybody_else_and_is_no_repeat():
    """Its key may be there by then; who has failed in this call stays asked."""
    course = free(three())
    step = course.next_step(0.0)
    course.put_off(step.member)
    for name in "bc":
        other = course.next_step(0.0)
        assert other.member.name == name
        course.failed(other.member, Fault("timeout", ""), 0.0)
    assert course.next_untried(0.0) is None, "nobody hedges by it once more"
    assert course.next_step(0.0) == step
    course.failed(step.member, Fault("timeout", ""), 0.0)
    course.put_off(step.member)
    assert course.next_untried(2.0) is None
    assert (course.repeats, course.skipped) == (0, ())


def test_one_that_was_not_asked_because_it_was_too_late_comes_in_its_turn():
    """Nothing is known against it."""
    course = free(three())
    step = course.next_step(0.0)
    course.withdraw(step.member)
    assert course.next_untried(0.0) == step
    course.failed(step.member, Fault("timeout", ""), 0.0)
    course.withdraw(step.member)
    assert course.next_untried(0.0).member.name == "b"


def test_it_comes_last_on_another_route_too():
    """As the first of those that take long prompts."""
    b = member("b")
    course = free(chain(member("a"), b, long=[b, member("c")]))
    primary = course.next_step(0.0).member
    course.put_off(course.next_untried(0.0).member)
    course.failed(primary, Fault("context_window", ""), 0.0)
    assert [course.next_step(0.0).member.name for _ in "cb"] == ["c", "b"]


def test_it_comes_last_where_its_conversation_asked_for_it_before_its_turn():
    """It was busy at first, and comes up once more when its tier does."""
    plan, busy = three(), {"b": Unavailable("limit", math.inf)}
    course = FallbackPolicy(
        plan,
        lambda name, at: busy.get(name),
        pick=by_weight(Random(1)),
        backoff=float,
        stays_with=plan.tiers[1].members[0],
    )
    primary = course.next_step(0.0).member
    busy.clear()
    assert course.next_untried(0.0).member.name == "b"
    course.put_off(plan.tiers[1].members[0])
    course.failed(primary, Fault("timeout", ""), 0.0)
    assert [course.next_step(0.0).member.name for _ in "cb"] == ["c", "b"]


def test_one_for_which_there_is_no_money_now_is_named_unless_it_is_asked_later():
    """When another attempt has cost less than was set aside."""
    course = free(three())
    first = course.next_step(0.0).member
    course.over_budget(first)
    assert [(skip.deployment, skip.reason) for skip in course.skipped] == [("a", "budget")]
    assert course.next_step(0.0) == Try(first)
    assert course.skipped == ()


def test_one_that_is_too_expensive_is_left_out_and_takes_no_repeat():
    """The call goes on without it; one that was asked before is not said to have been passed over."""
    course = free(chain([member("a"), member("b")], retries=1), lambda repeat: 0.0)
    step = course.next_step(0.0)
    course.too_expensive(step)
    other = course.next_step(0.0)
    assert other.member.name != step.member.name
    assert [(skip.deployment, skip.reason) for skip in course.skipped] == [(step.member.name, "budget")]
    course.failed(other.member, Fault("timeout", ""), 0.0)
    again = course.next_step(1.0)
    assert (again, course.repeats) == (Try(other.member, repeat=True), 1)
    course.too_expensive(again)
    assert course.repeats == 0
    assert course.next_step(1.0) == Stop("timeout", "")
    assert [skip.deployment for skip in course.skipped] == [step.member.name]


def test_a_repeat_that_is_too_expensive_leaves_the_repeat_to_another():
    """It counts as none."""
    course = free(chain(member("a"), member("b"), retries=1), lambda repeat: 0.0)
    for _ in "ab":
        course.failed(course.next_step(0.0).member, Fault("timeout", ""), 0.0)
    first = course.next_step(1.0)
    course.too_expensive(first)
    second = course.next_step(3.0)
    assert [first.member.name, second.member.name, second.repeat] == ["a", "b", True]


def test_what_is_told_of_one_after_the_call_has_turned_elsewhere_ends_no_call():
    """A hedge found the prompt too long while the first was still being translated."""
    course = free(three(long=[member("long")]))
    first, hedge = course.next_step(0.0).member, course.next_untried(0.0).member
    course.failed(hedge, Fault("context_window", ""), 0.0)
    course.unsupported(first)
    assert (course.next_untried(0.0).member.name, course.first.name) == ("long", "long")
    course = free(three(long=[member("long")]))
    step, hedge = course.next_step(0.0), course.next_untried(0.0).member
    course.failed(hedge, Fault("context_window", ""), 0.0)
    course.too_expensive(step)
    assert course.next_untried(0.0).member.name == "long"


@pytest.mark.parametrize("tell", [FallbackPolicy.too_expensive, lambda course, step: course.withdraw(step.member)])
def test_in_a_total_outage_one_that_was_not_asked_after_all_was_not_the_one_request(tell):
    """The next is asked at once, and is no repeat."""
    plan = three(retries=0)
    health = health_of(plan)
    for name in "abc":
        open_breaker(health, name)
    course = FallbackPolicy(
        plan, lambda name, at: health[name].unavailable(at), pick=by_weight(Random(1)), backoff=float, deadline=99.0
    )
    tell(course, course.next_step(1.0))
    step = course.next_step(1.0)
    assert isinstance(step, Try)
    assert not step.repeat


# Every history.

FAILURES = st.sampled_from(
    [
        *("timeout", "connection", "overloaded", "server_error", "rejected", "auth", "quota_exhausted"),
        "rate_limited",
        *("context_window", "content_policy", "bad_request"),
    ]
)
NAMES = "abcdefg"


@st.composite
def members(draw) -> dict[str, Member]:
    limits = st.one_of(
        st.none(),
        st.builds(Limits, rpm=st.one_of(st.none(), st.integers(1, 2)), max_parallel=st.one_of(st.none(), st.just(1))),
    )
    return {
        name: member(
            name,
            provider=draw(st.sampled_from(["openai", "openai", "anthropic"])),
            model_identity=draw(st.sampled_from([None, None, "same"])),
            policy=draw(st.sampled_from([Breaker(), Breaker(failures=1), None])),
            context_window=draw(st.sampled_from([None, 4000, 8000])),
            limits=draw(limits),
            weight=draw(st.sampled_from([1.0, 5.0])),
            cold_start=draw(st.sampled_from([None, None, ColdStart(max_wait_s=4), ColdStart(max_wait_s=60)])),
        )
        for name in NAMES[: draw(st.integers(1, len(NAMES)))]
    }


@st.composite
def chains(draw) -> ChainPlan:
    known = draw(members())

    def tiers(most: int):
        order = draw(st.permutations(list(known)))[: draw(st.integers(0, most))]
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(order) - 1)), max_size=2)))
        parts = [order[i:j] for i, j in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        return [[known[name] for name in part] for part in parts if part]

    return chain(
        *(tiers(len(NAMES)) or [[next(iter(known.values()))]]),
        long=draw(st.one_of(st.none(), st.just(tiers(3)))),
        refused=draw(st.one_of(st.none(), st.just(tiers(3)))),
        retries=draw(st.integers(0, 4)),
        total_s=draw(st.sampled_from([0.5, 5.0, 50.0, 300.0])),
    )


@dataclass
class Observer:
    """Watches one course being driven and holds every step against the contract."""

    plan: ChainPlan
    health: Health
    course: FallbackPolicy
    now: float
    deadline: float
    lacking: frozenset[str]
    route: Tiers
    asked: list[str] = field(default_factory=list)
    passed_over: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    """Models and providers that refuse the request."""
    barred: set[str] = field(default_factory=set)
    too_long_for: int = 0

    def block(self, name):
        return self.health[name].unavailable(self.now)

    def untried(self, tiers: Tiers) -> Iterator[Member]:
        """Who was not asked yet, and whom nothing learnt of the request rules out without a word."""
        for who in (found for tier in tiers for found in tier.members):
            if (
                who.name not in self.asked
                and who.name not in self.barred
                and self.refusing.isdisjoint({who.target.model_identity, who.target.provider})
            ):
                yield who

    def lacks_room(self, who: Member) -> bool:
        window = who.target.context_window
        return self.route is self.plan.tiers and window is not None and window <= self.too_long_for

    def candidates(self) -> set[str]:
        """Whom the present route holds and who could answer."""
        untried = [who for who in self.untried(self.route) if not self.lacks_room(who)]
        return {who.name for who in untried} - self.lacking

    def learn(self, who: Member, fault: Fault) -> None:
        """What the contract draws from a failure of the request."""
        failure = fault.failure
        if failure == "bad_request":
            self.refusing.add(who.target.provider if fault.status is None else who.target.model_identity)
        if failure == "context_window":
            self.too_long_for = max(self.too_long_for, who.target.context_window or 0)
        if failure == "content_policy":
            tiers = [{mate.name for mate in tier.members} for tier in self.route]
            self.barred |= {name for tier in tiers if who.name in tier for name in tier}
        sides = {"context_window": self.plan.on_context_window, "content_policy": self.plan.on_content_policy}
        if (side := sides.get(failure)) is not None:
            self.route, self.barred = side, set()

    def check_try(self, step):
        name, block = step.member.name, self.block(step.member.name)
        inside = [i for i, tier in enumerate(self.route) if step.member in tier.members]
        self.passed_over |= {who.name for who in self.untried(self.route[: inside[0]])}
        free = {other for other in self.candidates() if self.block(other) is None}
        if block is not None:
            assert block.reason == "breaker_open", "a limit was ignored"
            assert not block.return_known, "a named time was ignored"
            assert not free, "an open breaker was tried while a closed one was untried"
            assert {self.block(other).reason for other in self.candidates()} <= {"breaker_open"}
            if name not in self.asked:
                self.check_goes_round(block)
        if name in self.asked:
            assert step.repeat or (step.warmup_retry and step.member.target.cold_start)
            assert not free, "somebody was asked twice before everybody was tried"
        assert self.now < self.deadline
        assert name not in self.lacking

    def check_goes_round(self, block):
        """Of all that could be asked in spite of their breakers, it is the one asked longest ago; of those that only a
        person mends, one is asked only where there are no others."""
        others = [other for name in self.candidates() if not (other := self.block(name)).return_known]
        hopeful = [other for other in others if not other.needs_a_person]
        assert block.last_request == min(other.last_request for other in hopeful or others)

    def check_wait(self, step):
        self.passed_over |= {who.name for who in self.untried(self.route)}
        free = {other for other in self.candidates() if self.block(other) is None}
        assert not free, "waits while another can be asked"
        assert step.until > self.now
        assert step.until < self.deadline or math.isinf(step.until)


@settings(deadline=None, max_examples=examples(200))
@given(st.data(), chains())
def test_whatever_happens_a_course_keeps_the_promises_of_the_contract(data, plan):
    """Requests, time, order and an end; for any chain, any past of its deployments, and any present."""
    health, start = health_of(plan), 1000.0
    names = [found.name for found in plan.members]
    under_way = _past(data, health, names, start)
    lacking = data.draw(st.frozensets(st.sampled_from(names), max_size=1))
    rng = Random(data.draw(st.integers(0, 99)))
    picks = (
        by_weight(rng),
        LeastLoaded(rng, health.tier_load, streamed=data.draw(st.booleans())),
        Rendezvous(data.draw(st.binary(min_size=1, max_size=8)), health.tier_load),
    )
    course = FallbackPolicy(
        plan,
        lambda name, at: health[name].unavailable(at),
        pick=data.draw(st.sampled_from(picks)),
        backoff=lambda repeat: 0.25 * 2**repeat,
        deadline=start + plan.total_s,
        lacks=lambda who: "tools" if who.name in lacking else None,
    )
    watch = Observer(plan, health, course, start, start + plan.total_s, lacking, plan.tiers)
    for _ in range(1000):
        step = course.next_step(watch.now)
        if isinstance(step, Stop):
            free = [name for name in watch.candidates() if watch.block(name) is None]
            assert not free, "ends while another can be asked"
            break
        if isinstance(step, Wait):
            watch.check_wait(step)
            if math.isinf(step.until) and not under_way:
                watch.now = watch.deadline
                break
            _release(watch, under_way)
            watch.now = watch.now + 0.5 if math.isinf(step.until) else step.until
        else:
            watch.check_try(step)
            if _answers(data, watch, step):
                break
        if watch.now >= watch.deadline:
            break
    else:
        raise AssertionError("a course has to end")
    assert len(watch.asked) <= explain(plan)["max_requests"]
    assert course.repeats <= plan.retries.max
    probes = {who.name: _probes(plan, who) for who in plan.members}
    assert all(count <= 1 + plan.retries.max + probes[name] for name, count in Counter(watch.asked).items())
    _check_skips(watch)


def _probes(plan, who):
    cold_start = who.target.cold_start
    return warmup_retries_within(min(cold_start.max_wait_s, plan.total_s)) if cold_start else 0


def _past(data, health, names, start):
    """Requests before this call: some failed, some still under way."""
    under_way = []
    past = st.tuples(st.sampled_from(names), FAILURES, st.sampled_from([0.0, 1.0, 29.5, 90.0]), st.booleans())
    for name, failure, ago, ended in sorted(data.draw(st.lists(past, max_size=8)), key=lambda request: -request[2]):
        permit = health[name].begin(start - ago)
        if ended:
            health[name].failed(permit, start - ago, failure, data.draw(st.sampled_from([None, None, 3.0, 100.0])))
        else:
            under_way.append((name, permit))
    return under_way


def _release(watch, under_way):
    if under_way:
        name, permit = under_way.pop()
        watch.health[name].succeeded(permit, watch.now)


def _answers(data, watch, step):
    """One request and what came of it; True if it answered."""
    name, own = step.member.name, watch.health[step.member.name]
    permit = own.begin(watch.now)
    watch.asked.append(name)
    watch.now += data.draw(st.sampled_from([0.0, 0.25, 10.0]))
    failure = data.draw(st.one_of(FAILURES, FAILURES, st.sampled_from([None, UNSUPPORTED])))
    if failure == UNSUPPORTED and watch.asked.count(name) == 1:
        watch.asked.pop()
        watch.lacking |= {name}
        own.cancelled(permit)
        watch.course.unsupported(step.member)
        return False
    if failure in (None, UNSUPPORTED):
        own.succeeded(permit, watch.now)
        return True
    status = data.draw(st.sampled_from([None, 400]))
    fault = Fault(failure, "", status, data.draw(st.sampled_from([None, None, None, 2.0, 400.0])))
    own.failed(permit, watch.now, failure, fault.retry_after_s)
    watch.course.failed(step.member, fault, watch.now)
    watch.learn(step.member, fault)
    return False


def _check_skips(watch):
    """Whoever is named as skipped was never asked, has a reason of the contract, and time only where it helps."""
    for skip in watch.course.skipped:
        assert skip.deployment not in watch.asked
        if skip.reason in ("context_window", "unsupported"):
            assert skip.retry_in_s is None
        else:
            assert skip.reason in ("breaker_open", "limit")
            assert skip.retry_in_s is None or skip.retry_in_s > 0
    assert watch.passed_over - set(watch.asked) <= {skip.deployment for skip in watch.course.skipped}
