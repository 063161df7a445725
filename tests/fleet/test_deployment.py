"""One deployment of a fleet's member: what it asks for, reports, and makes of what others report."""

from __future__ import annotations

from typing import Any

import pytest

from llm_fallback.engine.circuit_breaker import Permit
from llm_fallback.engine.health import DeploymentHealth, Health
from llm_fallback.fleet.deployment import DeploymentNames, MemberDeployment
from llm_fallback.fleet.evidence import Fact, Report
from llm_fallback.fleet.leases import Lease
from llm_fallback.fleet.messages import Grant
from llm_fallback.spec import Breaker, Limits
from tests.plans import target

COOLDOWN_S = 30.0


class Membership:
    """A member whose store answers, in a fleet of four."""

    members = 4

    def __init__(self) -> None:
        self.answers = True
        self.hurried = self.told = 0

    def now(self) -> float:
        return 0.0

    def is_answered(self) -> bool:
        return self.answers

    def next_exchange(self) -> float:
        return 0.25

    def hurry(self) -> None:
        self.hurried += 1

    def tell(self) -> None:
        self.told += 1


class Deployment:
    """One that a process shares with others, and what it knows of it."""

    def __init__(self, **limits: Any) -> None:
        self.membership = Membership()
        policy = Breaker(failures=2, cooldown_s=COOLDOWN_S)
        self.health: DeploymentHealth = Health.of_targets(
            [target("primary", policy=policy, limits=Limits(**limits) if limits else None)]
        )["primary"]
        self.share()

    def share(self) -> None:
        """Anew, as where a spec that is loaded again names a fleet."""
        names = DeploymentNames("d", "account", lambda limit: f"d/{limit}")
        self.shared = self.health.shared = MemberDeployment(self.health, names, self.membership)

    def lease(self, limit: str) -> Lease:
        [lease] = [lease for lease in self.shared.all_leases if lease.resource == f"d/{limit}"]
        return lease

    def hold(self, *, fence: int = 0, **units: float) -> None:
        for limit, count in units.items():
            self.lease(limit).receive(Grant(count, 0.0, fence), 1000.0)

    def is_free(self, now: float = 0.0, tokens: int = 0) -> bool:
        return self.health.unavailable(now, tokens) is None

    def fail(self, now: float = 0.0, times: int = 2) -> None:
        for _ in range(times):
            self.health.failed(self.health.begin(now), now, "connection", None)

    def begin(self, kind: str, now: float) -> Permit:
        permit = self.health.begin(now)
        assert permit.kind == kind
        return permit

    def succeed(self, kind: str = "closed", now: float = 0.0) -> None:
        self.health.succeeded(self.begin(kind, now), now)

    def hear(self, *reports: Report, fence: int = 0, healed: int = 0, now: float = 0.0) -> bool:
        return self.shared.learn(reports, fence, healed, now)


def report(member: str = "b", reopens_in_s: float = 30.0, opening: int = 1, **changes: Any) -> Report:
    values = {"deployment": "d", "account": "", "failure": "connection", "cooldown_s": 30.0, "fence": 0}
    return Report(member, Fact(**{**values, "reopens_in_s": reopens_in_s, "opening": opening, **changes}))


# Limits.


def test_limits_and_the_probe_stay_called_as_they_are():
    """Processes of two versions share them."""
    shared = Deployment(rpm=1, tpm=2, max_parallel=3).shared
    told = [(lease.resource, lease.capacity, lease.window_s) for lease in shared.all_leases]
    assert told == [("d/rpm", 1, 60), ("d/tpm", 2, 60), ("d/max_parallel", 3, 10), ("d/probe", 1, 0)]


def test_the_last_unit_in_hand_is_enough():
    """One request, one place, and as many tokens as it takes."""
    deployment = Deployment(rpm=10, tpm=100, max_parallel=10)
    deployment.hold(rpm=1, tpm=7, max_parallel=1)
    assert deployment.is_free(tokens=7)
    assert not deployment.is_free(tokens=8)


def test_what_is_in_hand_is_held_for_a_call_that_waits_for_the_rest():
    """It is wanted, and not missed: nobody else has to give of it."""
    deployment = Deployment(rpm=10, tpm=1000)
    deployment.hold(rpm=1)
    assert not deployment.is_free(tokens=300)
    claims = [deployment.lease(limit).claim(0.0, 4) for limit in ("rpm", "tpm")]
    assert [(claim.wanted, claim.need) for claim in claims] == [(2, 0), (600, 300)]
    assert deployment.membership.hurried == 1


def test_each_request_is_one_request_and_takes_one_place():
    """Twice as much is wanted until the next exchange."""
    deployment = Deployment(rpm=9, tpm=900, max_parallel=9)
    deployment.hold(rpm=5, tpm=500, max_parallel=5)
    for _ in range(2):
        deployment.health.begin(0.0, 50)
    claims = [lease.claim(0.0, 4) for lease in deployment.shared.leases(0.0)]
    assert [(claim.wanted, claim.held) for claim in claims] == [(4, 3), (200, 200), (4, 3)]


@pytest.mark.parametrize(
    ("limits", "tokens", "requests"),
    [
        pytest.param({"rpm": 8}, 1, 2, id="requests"),
        pytest.param({"tpm": 800}, 100, 2, id="tokens"),
        pytest.param({"tpm": 800}, 101, 1, id="what is too much with the one before"),
        pytest.param({"max_parallel": 8}, 1, 2, id="places"),
        pytest.param({"rpm": 3, "tpm": 1000}, 1, 1, id="one at least"),
    ],
)
def test_without_the_store_each_of_four_keeps_to_a_fourth_of_each_limit(limits, tokens, requests):
    """And to one, where there are fewer than processes."""
    deployment = Deployment(**limits)
    deployment.membership.answers = False
    sent = 0
    while deployment.is_free(tokens=tokens):
        deployment.health.begin(0.0, tokens)
        sent += 1
    assert sent == requests


def test_it_shows_what_is_held_and_used_of_each_limit():
    """And why it is left alone, and who says so."""
    deployment = Deployment(rpm=10, tpm=100, max_parallel=10)
    deployment.lease("rpm").receive(Grant(2, 5.0, 1), 1000.0)
    deployment.fail()
    deployment.hear(report("b"), report("c"))
    assert deployment.shared.snapshot(1.0) == {
        "breaker": "open",
        "failure": "connection",
        "reported_by": ["b", "c"],
        "limits": {
            "rpm": {"limit": 10, "held": 0, "used_by_all": 5.0},
            "tpm": {"limit": 100, "held": 0.0, "used_by_all": None},
            "max_parallel": {"limit": 10, "held": 0.0, "used_by_all": None},
        },
    }


# Probes, and what they heal.


def test_a_probe_has_the_number_of_its_lease():
    """What is met after it was sent has no lower one."""
    deployment = Deployment()
    deployment.fail()
    deployment.hold(probe=1, fence=7)
    deployment.succeed("probe", COOLDOWN_S)
    assert (deployment.shared.fence, deployment.shared.healed) == (7, 7)


def test_a_probe_without_a_lease_has_the_next_number():
    """As many as are sent."""
    deployment = Deployment()
    deployment.hear(fence=5)
    deployment.fail()
    deployment.fail(COOLDOWN_S, times=1)
    assert (deployment.shared.fence, deployment.shared.healed) == (6, 0)
    deployment.succeed("probe", 3 * COOLDOWN_S)
    assert (deployment.shared.fence, deployment.shared.healed) == (7, 7)


def test_a_request_in_spite_of_the_open_breaker_that_succeeds_has_the_next_number_and_heals():
    """As a probe would; the others had better know."""
    deployment = Deployment()
    deployment.hear(fence=5)
    deployment.fail()
    told = deployment.membership.told
    deployment.succeed("forced", 1.0)
    assert (deployment.shared.fence, deployment.shared.healed) == (6, 6)
    assert deployment.membership.told == told + 1


def test_an_old_probe_takes_no_healing_back():
    """Another member's was sent later, and has succeeded."""
    deployment = Deployment()
    deployment.fail()
    deployment.hold(probe=1, fence=2)
    probe = deployment.begin("probe", COOLDOWN_S)
    deployment.hear(fence=3, healed=3)
    deployment.health.succeeded(probe, COOLDOWN_S)
    assert deployment.shared.healed == 3


def test_what_was_met_before_it_is_shared_is_reported_and_its_probe_has_no_number():
    """Others find out for themselves."""
    deployment = Deployment()
    deployment.fail()
    probe = deployment.begin("probe", COOLDOWN_S)
    deployment.share()
    assert deployment.shared.fact(COOLDOWN_S) == Fact("d", "", "connection", 0.0, 30.0, 0, 0)
    deployment.health.succeeded(probe, COOLDOWN_S)
    assert (deployment.shared.fact(COOLDOWN_S), deployment.shared.healed) == (None, 0)


def test_what_was_met_with_the_last_probe_known_is_not_healed_by_it():
    """Only by the next."""
    deployment = Deployment()
    deployment.hear(fence=3)
    deployment.fail()
    for healed, is_closed in ((2, False), (3, False), (4, True)):
        deployment.hear(fence=healed, healed=healed)
        assert deployment.health.is_closed == is_closed


def test_it_reports_for_how_long_it_leaves_the_deployment_alone():
    """To the moment; nobody waits for a probe that is under way here."""
    deployment = Deployment()
    assert deployment.shared.fact(0.0) is None
    deployment.fail()
    for now, reopens_in_s in ((0.0, 30.0), (29.5, 0.5), (30.0, 0.0)):
        assert deployment.shared.fact(now) == Fact("d", "", "connection", reopens_in_s, 30.0, 1, 0)
    deployment.begin("probe", 30.0)
    assert deployment.shared.fact(31.0).reopens_in_s == 0.0


# What others report.


def test_it_says_so_only_when_what_others_report_opens_it():
    """Once."""
    deployment = Deployment()
    assert [deployment.hear(report("b")), deployment.hear()] == [False, False]
    assert [deployment.hear(report("b"), report("c")) for _ in range(2)] == [True, False]
    own = Deployment()
    own.fail()
    assert not own.hear(report("b"), report("c"))


@pytest.mark.parametrize("reports", [[], [report("b")]], ids=["nobody", "one"])
def test_it_closes_once_no_two_report_it(reports):
    """What its own requests have not met was hearsay."""
    deployment = Deployment()
    deployment.hear(report("b"), report("c"))
    assert not deployment.health.is_closed
    deployment.hear(*reports)
    assert deployment.health.is_closed


def test_a_time_that_the_deployment_named_is_as_good_as_if_it_had_named_it_here():
    """It is waited for until then."""
    deployment = Deployment()
    deployment.hear(report("b", 12.0, failure="rate_limited", account="account"))
    blocked = deployment.health.unavailable(0.0)
    assert blocked is not None
    assert (blocked.until, blocked.return_known) == (12.0, True)
    deployment.hear(report("b", 12.0, failure="auth", account="account"))
    blocked = deployment.health.unavailable(0.0)
    assert blocked is not None
    assert not blocked.return_known


def is_careful(deployment: Deployment) -> bool:
    """Whether one request keeps the others away."""
    permit = deployment.health.begin(0.0)
    try:
        return not deployment.is_free()
    finally:
        deployment.health.cancelled(permit)


def test_it_is_careful_while_one_reports_it():
    """Until the report is taken back."""
    deployment = Deployment()
    assert not is_careful(deployment)
    deployment.hear(report())
    assert is_careful(deployment)
    deployment.hear()
    assert not is_careful(deployment)


def test_a_report_after_which_a_request_has_succeeded_here_makes_careful_no_more():
    """However often it is told, and whatever succeeds then; another one does."""
    deployment = Deployment()
    deployment.hear(report())
    deployment.succeed("trial")
    for _ in range(2):
        deployment.hear(report())
        assert not is_careful(deployment)
        deployment.succeed()
    deployment.hear(report(opening=2))
    assert is_careful(deployment)


@pytest.mark.parametrize("before", ["nothing", "another's report", "it was shared"])
def test_who_has_met_it_himself_is_careful_when_another_s_probe_has_healed_it(before):
    """His own path may not be mended, whatever was before."""
    deployment = Deployment()
    if before == "another's report":
        deployment.hear(report())
    deployment.fail()
    if before == "it was shared":
        deployment.share()
    deployment.hear(fence=1, healed=1)
    assert deployment.health.is_closed
    assert is_careful(deployment)


@pytest.mark.parametrize("ends", ["hear", "forget_others"])
def test_another_s_report_that_has_ended_brings_no_old_one_back(ends):
    """That one a request has outlived."""
    deployment = Deployment()
    deployment.hear(report("b"))
    deployment.succeed("trial")
    deployment.hear(report("c"))
    if ends == "hear":
        deployment.hear()
    else:
        deployment.shared.forget_others()
    assert not is_careful(deployment)
    deployment.succeed()
    deployment.hear(report("b"))
    assert not is_careful(deployment)


def test_only_a_trial_that_fails_hurries_the_next_exchange():
    """None goes there until it has come."""
    deployment = Deployment()
    deployment.fail(times=1)
    assert deployment.membership.hurried == 0
    deployment.hear(report())
    deployment.health.failed(deployment.begin("trial", 100.0), 100.0, "connection", None)
    assert (deployment.membership.hurried, deployment.is_free(100.0)) == (1, False)


def test_the_probe_that_a_call_has_asked_for_is_kept_while_nobody_else_has_probed():
    """Also at the first word of the others."""
    deployment = Deployment()
    deployment.fail()
    assert not deployment.is_free(COOLDOWN_S)
    for now, reports in ((COOLDOWN_S, []), (COOLDOWN_S + 1, [report("b")])):
        deployment.hear(*reports, now=now)
        assert deployment.lease("probe").claim(now, 4).need == 1
    deployment.hear(report("b", fence=1), now=COOLDOWN_S + 2)
    assert deployment.lease("probe").claim(COOLDOWN_S + 2, 4).need == 0
