"""What a process shares under which names: deployments, accounts, the money of a day, its store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

from llm_fallback.engine.budget import ChainBudgets, Spender
from llm_fallback.engine.health import Health
from llm_fallback.fleet.join import join, names_in_clear, names_of, share, store_of
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.names import Names
from llm_fallback.plan.plan import FleetPlan, Plan
from llm_fallback.spec import Budget
from tests.plans import chain, member, target

NAMES = Names("secret")
FLEET = FleetPlan("file:///tmp/fleet.json", "prod", "secret", processes=3)


def test_names_stay_what_they_are_from_one_version_to_the_next():
    """Processes of both share a fleet while one follows the other."""
    a = names_of(target("a", params={"api_base": "http://b"}, api_key=SecretStr("k")), NAMES)
    assert (a.deployment, a.account, a.resource("rpm")) == (
        NAMES.of("deployment", "a", "openai/a", "http://b"),
        NAMES.of("account", "a", "openai/a", "http://b", "k"),
        NAMES.of("resource", "a", "openai/a", "http://b", "rpm"),
    )
    assert names_of(target("a"), NAMES).deployment == NAMES.of("deployment", "a", "openai/a", "")
    asked = names_of(target("a", api_key=lambda: "k"), NAMES)
    assert asked.account == NAMES.of("account", "a", "openai/a", "", "function")
    assert NAMES.of("a", "b") == "2a9b674492a7ed767e2a"


def plan_of(*members: Any, fleet: FleetPlan | None = FLEET, **settings: Any) -> Plan:
    chains = {name: replace(chain(*members, **of_chain), name=name) for name, of_chain in settings.items()}
    return Plan(chains, "one", {each.target.name: each.target for each in members}, (), fleet)


@pytest.mark.parametrize("fleet", [FLEET, None])
def test_what_is_called_what_in_the_store_is_known_to_whoever_has_the_spec(fleet):
    """With its secret, if it names a fleet."""
    names = Names(fleet.secret if fleet else "")
    assert names_in_clear(plan_of(member("a"), member("b"), fleet=fleet)) == {
        names.of("deployment", name, f"openai/{name}", ""): name for name in ("a", "b")
    }


@pytest.mark.parametrize("fleet", [FLEET, None])
def test_deployments_and_the_money_of_days_are_shared(fleet, tmp_path):
    """Of every chain; that of calls is each call's own, and a file keeps what it keeps."""
    plan = plan_of(
        member("a"),
        fleet=fleet,
        none={},
        calls={"budget": Budget(usd_per_call="1")},
        kept={"budget": Budget(usd_per_day="1", file=str(tmp_path / "spent.json"))},
        both={"budget": Budget(usd_per_call="1", usd_per_day="2")},
        spenders={"budget": Budget(usd_per_day="3", per="tenant")},
    )
    shares, health = Member(NAMES, lambda: 0.0, Random(1)), Health.of_targets(plan.targets.values())
    budgets = ChainBudgets(lambda: 0.0)
    share(shares, plan, health, budgets)
    assert [(it["scope"], it["limit_usd"], it["spender"]) for it in shares.snapshot()["budgets"]] == [
        ("chain both", 2.0, None)
    ]
    [limit] = budgets.limits(plan.chains["spenders"])
    with limit.account.lock:
        limit.account.shared(limit, limit.account.of(Spender(metadata={"tenant": "t1"})))
    names = Names(fleet.secret if fleet else "")
    assert {claim.resource: claim.capacity for claim in shares.request().claims} == {
        NAMES.of("usd", "chain both", "1970-01-01", ""): 2e9,
        NAMES.of("usd", "chain spenders", "1970-01-01", "t1"): 3e9,
    }
    assert health["a"].shared.names.deployment == names_of(plan.targets["a"], names).deployment


def test_a_store_keeps_a_fleet_under_a_name_that_says_nothing():
    """In a file, or in Redis."""
    name = NAMES.of("fleet", "prod")
    assert store_of(FLEET)()._name == f"1:{name}"
    pytest.importorskip("redis")
    made = store_of(replace(FLEET, store="redis://h:7777/3"))
    assert made.args == ("redis://h:7777/3", name)
    assert made()._client.connection_pool.connection_kwargs["port"] == 7777


def test_a_process_joins_as_one_of_as_many_as_the_spec_knows():
    """And shows its store without the password."""
    ran: list[Callable[[], None]] = []
    exchanger = join(replace(FLEET, store="redis://u:hunter22@h/0"), FakeClock(), ran.append)
    assert (exchanger.member.members, exchanger._shown) == (3, "redis://***@h/0")


class FakeClock:
    def now(self) -> float:
        return 0.0
