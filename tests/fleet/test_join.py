"""Models in one process join a fleet, share with its members, and leave it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from pydantic import ConfigDict, TypeAdapter, with_config

from llm_fallback import BreakerOpened, ChainExhausted, DeploymentState, Event, FleetStatus, build_chat_model
from llm_fallback.fleet.join import names_of, store_of
from llm_fallback.fleet.names import Names
from llm_fallback.plan.plan import FleetPlan
from llm_fallback.testing import Fail, FakeServer, fake_chat_model
from tests.asking import MODES, ask
from tests.end_to_end.test_call_overhead import counted
from tests.plans import target

NAMES = Names("secret")


async def until(holds, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def with_fleet(spec: dict, folder: Path, **of_fleet) -> dict:
    return {**spec, "fleet": {"store": f"file://{folder}/fleet.json", "name": "prod", **of_fleet}}


async def test_what_one_model_has_met_another_knows(tmp_path):
    """A wrong key, which no second one has to try."""
    with FakeServer({"primary": Fail(401), "backup": "fine"}) as server:
        spec = with_fleet(server.spec(), tmp_path)
        async with build_chat_model(spec) as one, build_chat_model(spec) as other:
            await until(lambda: other.state()["fleet"]["store"] == "answers")
            await one.ainvoke("hi")
            await until(lambda: other.state()["primary"]["breaker"] == "open")
            reply = await other.ainvoke("hi")
        assert reply.response_metadata["llm_fallback"]["skipped"][0]["reason"] == "breaker_open"
        assert len(server.received("primary")) == 1


async def test_how_a_fleet_stands_is_what_its_type_says(tmp_path):
    """Beside the deployments, and in the way of nothing that shows those."""
    limited = {"rpm": 60, "tpm": 1000, "max_parallel": 2}
    with FakeServer({"primary": Fail(401), "backup": "fine"}) as server:
        known = {"price": {"per_request": 0.01}, "limits": limited}
        both = {"primary": known, "backup": known}
        spec = with_fleet(server.spec(deployments=both, budget={"usd_per_day": 1}), tmp_path)
        async with build_chat_model(spec) as model:
            await until(lambda: model.state()["fleet"]["store"] == "answers")
            await model.ainvoke("hi")
            model.open_breaker("primary", 60)
            fleet, deployments = model.state()["fleet"], {**model.state()}
            del deployments["fleet"]
            assert "'primary': 'open'" in repr(model)
            assert "primary" in model._repr_html_()
    TypeAdapter(with_config(ConfigDict(extra="forbid"))(FleetStatus)).validate_python(fleet)
    assert set(fleet["deployments"]["primary"]["limits"]) == set(limited)
    assert fleet["budgets"] != []
    TypeAdapter(dict[str, DeploymentState]).validate_python(deployments)


@pytest.mark.parametrize("kept", [{"file": "day.json"}, {"per": "user"}], ids=str)
async def test_money_is_shared_ahead_of_the_first_call_where_it_is_one_sum_and_no_file_s(kept, tmp_path):
    """A file has its own sum; whoever else spends is not known before."""
    with FakeServer({"primary": "fine"}) as server:
        budget = {"usd_per_day": 1, **kept}
        if "file" in kept:
            budget["file"] = str(tmp_path / "day.json")
        spec = server.spec(deployments={"primary": {"price": {"per_request": 0.01}}}, budget=budget)
        async with build_chat_model(with_fleet(spec, tmp_path)) as model:
            await until(lambda: model.state()["fleet"]["store"] == "answers")
            assert model.state()["fleet"]["budgets"] == []


async def test_a_reload_keeps_the_member_and_another_fleet_is_another(tmp_path):
    """What is known of deployments that stayed is kept."""
    with FakeServer({"primary": "hi", "backup": "fine"}) as server:
        spec = with_fleet(server.spec(), tmp_path)
        async with build_chat_model(spec) as model:
            member = model.state()["fleet"]["member"]
            model.reload({**spec, "defaults": {"timeouts": {"total_s": 9}}})
            assert model.state()["fleet"]["member"] == member
            model.reload(with_fleet(server.spec(), tmp_path, name="test"))
            assert model.state()["fleet"]["member"] != member
            model.reload(server.spec())
            assert "fleet" not in model.state()


@pytest.mark.parametrize("mode", MODES)
async def test_a_breaker_that_others_opened_is_told_once_by_the_next_call(mode, tmp_path):
    """Also by one that could ask nobody; a chain without the deployment has nothing to tell."""
    one_heard, other_heard = [], []
    with FakeServer({"primary": Fail(429, retry_after=60), "backup": "hi"}) as server:
        spec = {**with_fleet(server.spec(), tmp_path), "defaults": {"timeouts": {"total_s": 5}}}
        spec["chains"] = {
            "both": {"tiers": ["primary", "backup"]},
            **{n: {"tiers": [n]} for n in ("primary", "backup")},
        }
        spec["default_chain"] = "both"
        one = build_chat_model(spec, listeners=[one_heard.append])
        other = build_chat_model(spec, listeners=[other_heard.append])
        async with one, other:
            await until(lambda: all(m.state()["fleet"]["store"] == "answers" for m in (one, other)))
            await ask(one, mode)
            await until(lambda: other.state()["primary"]["breaker"] == "open")
            await ask(other.with_chain("backup"), mode)
            assert openings(other_heard) == []
            with pytest.raises(ChainExhausted):
                await ask(other.with_chain("primary"), mode)
            await ask(other, mode)
    assert openings(one_heard) == [("both", "primary", "rate_limited", "requests")]
    assert openings(other_heard) == [("primary", "primary", "rate_limited", "fleet")]


def openings(heard: list[Event]) -> list[tuple[str, str, str, str]]:
    return [(it.chain, it.deployment, it.failure, it.source) for it in heard if isinstance(it, BreakerOpened)]


async def test_a_model_that_is_dropped_leaves_the_fleet(tmp_path):
    """Its task does not keep it alive."""
    with FakeServer({"primary": "hi"}) as server:
        model = build_chat_model(with_fleet(server.spec(), tmp_path))
        exchanger = model.runtime.fleet
        await until(lambda: exchanger.member.snapshot()["store"] == "answers")
        dropped = weakref.ref(model.runtime)
        del model
        gc.collect()
        assert dropped() is None
        await until(lambda: not exchanger.is_running)


def test_fakes_join_no_fleet():
    """A test with the spec of production leaves production alone."""
    spec = {
        "deployments": {"a": {"model": "openai/x"}},
        "chains": {"c": {"tiers": ["a"]}},
        "fleet": {"store": "redis://127.0.0.1:9/0"},
    }
    model = fake_chat_model(spec=spec)
    assert model.invoke("hi").text
    assert "fleet" not in model.state()


@pytest.mark.parametrize("settings", [{}, {"limits": {"rpm": 10**5, "tpm": 10**9, "max_parallel": 1000}}])
async def test_a_call_makes_two_in_a_hundred_more_function_calls_at_most(tmp_path, settings):
    """All functions count, LangChain's and litellm's too."""
    counts = []
    with FakeServer({"primary": "hi"}) as server:
        plain = server.spec()
        plain["deployments"]["primary"].update(settings)
        for spec in (plain, with_fleet(plain, tmp_path)):
            async with build_chat_model(spec) as model:
                await asyncio.sleep(2.5)  # Until there is a lease.
                for _ in range(4):
                    await model.ainvoke("hi")
                    await asyncio.sleep(0.1)
                # The least of many: on a busy machine the loop takes more turns, and an exchange may fall into one.
                counts.append(min([await counted(lambda: model.ainvoke("hi"), whose="") for _ in range(30)]))
    assert counts[1] <= 1.02 * counts[0], counts


def test_a_deployment_has_the_same_name_in_every_process_and_its_key_is_in_none():
    """By its name, model and address; the account by the key, too."""
    one, other = (names_of(target("a", api_key=None), NAMES) for _ in range(2))
    assert one.deployment == other.deployment
    assert one.resource("rpm") == other.resource("rpm") != one.resource("tpm")
    assert names_of(target("a", params={"api_base": "http://b"}), NAMES).deployment != one.deployment
    assert names_of(target("a"), Names("another")).deployment != one.deployment


def test_without_the_library_building_says_what_to_install():
    """Not a task in the background, of which nobody hears."""
    program = """if True:
        import sys
        sys.modules["redis"] = None
        from llm_fallback.fleet.join import store_of
        from llm_fallback.plan.plan import FleetPlan
        try:
            store_of(FleetPlan("redis://h", "prod", ""))
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "langchain-llm-fallback[redis]"' in done.stdout


def test_a_file_is_its_path():
    """With what an address escapes."""
    store = store_of(FleetPlan("file:///tmp/our%20fleet.json", "prod", ""))()
    assert str(store._path) == "/tmp/our fleet.json"
