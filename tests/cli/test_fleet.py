"""`llm-fallback fleet`: what the processes of a fleet share, seen from outside."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random

import pytest

from llm_fallback.engine.budget import ChainBudgets
from llm_fallback.engine.health import Health
from llm_fallback.fleet.join import share, store_of
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.names import Names
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import load_spec
from tests.cli.conftest import FINE


@pytest.fixture
def spec(here, write):
    """With a fleet in a file, a limit and a budget."""
    text = FINE.replace("api_base: ${OWN_URL", "limits: {rpm: 60}\n    price: free\n    api_base: ${OWN_URL")
    text = text.replace("api_base: ${OTHER_URL", "price: free\n    api_base: ${OTHER_URL")
    write(f"{text}    budget: {{usd_per_day: 5}}\nfleet: {{store: 'file://{here}/fleet.json', name: prod}}\n")
    return load_spec(here / "llm-fallback.yaml")


def two_report(spec) -> None:
    """Two processes have left `own` alone."""
    plan = resolve_spec(spec, {})

    async def report() -> None:
        store = store_of(plan.fleet)()
        for seed in range(2):
            health = Health.of_targets(plan.targets.values())
            member = Member(Names(plan.fleet.secret), time.monotonic, Random(seed))
            share(member, plan, health, ChainBudgets(time.time))
            member.called_at = time.monotonic()
            for _ in range(3):
                own = health["own"]
                own.failed(own.begin(time.monotonic()), time.monotonic(), "connection", None)
            await store.exchange(member.request())

    asyncio.run(report())


def test_it_shows_breakers_limits_money_and_members(run, spec):
    """By the names of the spec, which the store does not have."""
    two_report(spec)
    done = run("fleet")
    assert done.exit_code == 0, done.stderr
    assert "fleet prod: 2 processes that make calls" in done.stdout
    [own] = [line for line in done.stdout.splitlines() if line.split()[:1] == ["own"]]
    assert own.split() == ["own", "open", "(connection)", "2", "of", "2", "6/60", "rpm"]
    assert "chain assistant, 2" in done.stdout
    assert "of $5 spent or in hand" in done.stdout


def test_as_json_it_is_what_state_shows(run, spec):
    """Who looks on is no member, and holds nothing."""
    two_report(spec)
    data = json.loads(run("fleet", "--json").stdout)
    assert data["members"] == 2
    assert data["deployments"]["own"]["breaker"] == "open"
    assert len(data["deployments"]["own"]["reported_by"]) == 2
    assert data["deployments"]["own"]["limits"]["rpm"]["held"] == 0
    assert data["budgets"][0]["held_usd"] == 0


def test_a_spec_without_a_fleet_is_wrong_usage(run, write):
    """With what to write."""
    write()
    done = run("fleet")
    assert done.exit_code == 2
    assert "names no fleet" in done.stderr


def test_a_store_that_does_not_answer_is_told_without_its_password(run, here, write):
    """And the exit code says so."""
    pytest.importorskip("redis")
    write(FINE + "fleet: {store: 'redis://:sesame-open@127.0.0.1:9/0'}\n")
    done = run("fleet", "--once")
    assert done.exit_code == 1
    assert "fleet store redis://***@127.0.0.1:9/0 does not answer" in done.stderr
    assert "sesame" not in done.output
