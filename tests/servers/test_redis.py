"""A fleet of real processes over a real Redis: what it shares, and that nobody notices when it is gone."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from llm_fallback.fleet.messages import (
    Claim,
    News,
    Overtaken,
    Request,
    Response,
    decode_response,
    encode_request,
)
from llm_fallback.fleet.state import FleetState
from llm_fallback.testing import Fail, FakeServer, Reply
from tests.servers.install import redis_servers
from tests.servers.members import Members, most_within
from tests.servers.redis_server import Redis

pytestmark = pytest.mark.servers

SERVERS = redis_servers()
PRICE = {"per_request": 0.002, "input_per_million": 0, "output_per_million": 0}
COOLDOWN_S = 3


@pytest.fixture(params=SERVERS, ids=str)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Redis]:
    server = Redis(request.param, tmp_path)
    yield server
    server.client.close()
    server.stop()


@pytest.fixture
def one_server(tmp_path: Path) -> Iterator[Redis]:
    """Where it matters little which."""
    if not SERVERS:
        pytest.skip("there is no redis-server: make test-servers SYSTEMS=redis installs one")
    server = Redis(SERVERS[0], tmp_path)
    yield server
    server.client.close()
    server.stop()


def spec(store: str, primary: FakeServer, backup: FakeServer, **of_primary: Any) -> dict[str, Any]:
    own, other = primary.spec()["deployments"]["primary"], backup.spec()["deployments"]["backup"]
    breaker = {"failures": 3, "cooldown_s": COOLDOWN_S}
    return {
        "deployments": {
            "primary": {"price": "free", **own, "breaker": breaker, **of_primary},
            "backup": {"price": "free", **other},
        },
        "chains": {"assistant": {"tiers": ["primary", "backup"]}},
        "fleet": {"store": store, "name": "proof"},
    }


# The script.


def test_the_script_does_what_the_state_in_memory_does(server):
    """Random exchanges, with clocks that jump, data that are old and requests that come late: not a number differs."""
    from importlib.resources import files

    script = server.client.register_script(files("llm_fallback.fleet").joinpath("exchange.lua").read_text())
    for seed in range(60):
        rng, state, now, numbers = random.Random(seed), FleetState(), 1_790_000_000_000, {}
        server.client.flushall()
        for _ in range(40):
            now += rng.choice([100, 250, 250, 2000, -3_600_000, 3_600_000, 70_000]) if rng.random() < 0.3 else 200
            request = _request(rng, numbers)
            expected = _outcome(partial(state.exchange, request, now))
            keys = ["meta", "members", *(claim.resource for claim in request.claims)]
            arguments = [encode_request(request), now]
            got = _outcome(partial(decode_response, script(keys=keys, args=arguments)))
            assert got == expected, f"seed {seed}: {request}"


def _outcome(exchange: Callable[[], Response]) -> Response | None:
    try:
        return exchange()
    except Overtaken:
        return None


def _request(rng: random.Random, numbers: dict[str, int]) -> Request:
    member = f"m{rng.randint(0, 4)}"
    number = numbers[member] = numbers.get(member, 0) + (rng.random() < 0.95)
    claims = tuple(_claim(rng, resource) for resource in rng.sample(["a", "b", "c"], rng.randint(0, 3)))
    return Request(
        member=member,
        number=number,
        answered=rng.randint(0, number) if rng.random() < 0.1 else 0,
        epoch="",
        lease_s=rng.choice([1.0, 1.0, 2.0]),
        is_active=rng.random() < 0.8,
        evidence=rng.choice(["", "x", '{"a": []}']),
        claims=claims,
        leaves=rng.random() < 0.1,
    )


def _claim(rng: random.Random, resource: str) -> Claim:
    capacity, window_s = {"a": (10, 60), "b": (1, 5), "c": (1000, 172_800)}[resource]
    charges = ((rng.randint(0, 3), rng.randint(0, window_s * 1000) / 1000) for _ in range(rng.randint(0, 3)))
    return Claim(
        *(resource, capacity, window_s, tuple(charges)),
        held=rng.randint(0, 3),
        wanted=rng.randint(0, 20),
        need=rng.choice([0, 0, 1, 5, 2000]),
        fence=rng.randint(0, 3),
        remembered={f"m{rng.randint(0, 4)}": rng.randint(0, 50)} if rng.random() < 0.2 else {},
    )


def test_a_store_exchanges_and_sends_on_what_is_news(server):
    """By the client that members use; what is no news is sent to nobody."""
    from llm_fallback.fleet.redis_store import RedisStore

    async def talk() -> tuple[Response, News]:
        one, other = RedisStore(server.url, "fleet"), RedisStore(server.url, "fleet")
        listening = asyncio.create_task(other.news())
        async with asyncio.timeout(10):
            while not server.client.pubsub_channels():
                await asyncio.sleep(0.01)
            for number, is_news in enumerate([False, True], start=1):
                await one.exchange(Request("m", number, 0, "", 1.0, True, f'[["{number}"],{{}},{{}}]', is_news=is_news))
            heard, response = await listening, await other.exchange(Request("n", 1, 0, "", 1.0, True, ""))
        await one.close()
        await other.close()
        return response, heard

    response, heard = asyncio.run(talk())
    assert heard == News("m", '[["2"],{},{}]')
    assert response.evidence["m"][1] == heard.evidence


def test_nothing_in_it_can_be_read(one_server, tmp_path):
    """No name of a deployment, a chain or a spender, no address and no key: only what a secret has made of them."""
    with FakeServer({"primary": Fail(401)}) as primary, FakeServer({"backup": "fine"}) as backup:
        work = spec(one_server.url, primary, backup, api_key="sk-never-in-a-store", limits={"rpm": 60})
        members = Members.start(tmp_path / "out", spec=work, processes=2, seconds=2, calls_per_s=5)
        members.wait()
    keys = one_server.client.keys()
    texts = b" ".join(one_server.client.dump(key) or b"" for key in keys) + b" ".join(keys)
    for word in (b"primary", b"backup", b"assistant", b"proof", b"sk-never", b"127.0.0.1", b"sesame"):
        assert word not in texts
    assert keys


# What is shared.


def test_what_two_processes_have_met_is_known_to_eight(one_server, tmp_path):
    """After two have reported a dead primary, at most four requests go there; then one probe a cooldown for all."""
    with FakeServer({"primary": Fail(500)}) as primary, FakeServer({"backup": "fine"}) as backup:
        work = spec(one_server.url, primary, backup)
        members = Members.start(tmp_path / "out", spec=work, processes=8, seconds=12, calls_per_s=2)
        members.wait()
    opened = [line for line in members.lines("opened") if line["deployment"] == "primary"]
    assert len(opened) >= 2
    second = opened[1]["at"]
    requests = [request["at"] for request in members.requests("primary")]
    assert sum(second + 0.01 < at < second + COOLDOWN_S * 0.9 for at in requests) <= 4
    probes = [at for at in requests if at >= second + COOLDOWN_S * 0.9]
    assert probes, "nobody has probed it"
    assert all(later - earlier >= COOLDOWN_S * 0.95 for earlier, later in pairwise(probes))
    assert all(not call["error"] for call in members.lines("call"))


def test_one_sick_process_of_eight_opens_nobody_else_s_breaker(one_server, tmp_path):
    """It gets to no primary, by a proxy that is not there; the seven others go on as ever."""
    with FakeServer({"primary": "here"}) as primary, FakeServer({"backup": "fine"}) as backup:
        away = {"http_proxy": "http://127.0.0.1:9", "no_proxy": backup.url.removeprefix("http://")}
        work = spec(one_server.url, primary, backup)
        members = Members.start(
            *(tmp_path / "out",), spec=work, processes=8, seconds=10, calls_per_s=3, sick=0, environment_of_sick=away
        )
        members.wait()
    assert {line["process"] for line in members.lines("opened")} == {0}
    assert {line["process"] for line in members.lines("ended") if line["breaker"] != "closed"} <= {0}


def test_a_limit_is_never_exceeded_under_twice_the_demand(one_server, tmp_path):
    """In no window of a minute, by the clock all share; and most of it is used."""
    with FakeServer({"primary": "here"}) as primary, FakeServer({"backup": "fine"}) as backup:
        work = spec(one_server.url, primary, backup, limits={"rpm": 120})
        members = Members.start(tmp_path / "out", spec=work, processes=8, seconds=70, calls_per_s=0.5)
        members.wait()
    at = [request["at"] for request in members.requests("primary")]
    assert 100 <= most_within(at, 60) <= 120


def test_a_dollar_is_one_dollar_for_all(one_server, tmp_path):
    """Eight processes, some of them killed in the middle: never over, and 97 % of it is used."""
    with FakeServer({"primary": "here"}) as primary, FakeServer({"backup": "fine"}) as backup:
        work = spec(one_server.url, primary, backup, price=PRICE)
        work["deployments"]["backup"]["price"] = PRICE
        work["chains"]["assistant"]["budget"] = {"usd_per_day": 1}
        members = Members.start(tmp_path / "out", spec=work, processes=8, seconds=25, calls_per_s=8)
        for pid in members.pids[:3]:
            time.sleep(1)
            os.kill(pid, signal.SIGKILL)
        members.wait()
        spent = Decimal("0.002") * (len(primary.received("primary")) + len(backup.received("backup")))
    assert Decimal("0.97") <= spent <= 1


# Redis in trouble.


def _paused(server: Redis) -> None:
    server.process.signal_all(signal.SIGSTOP)
    time.sleep(4)
    server.process.signal_all(signal.SIGCONT)


def _killed(server: Redis) -> None:
    server.stop()
    time.sleep(4)
    server.start()


def _flushed(server: Redis) -> None:
    server.client.flushall()


def _restored(server: Redis) -> None:
    """From a dump that is some seconds old."""
    server.client.save()
    shutil.copy(server.folder / "dump.rdb", server.folder / "old.rdb")
    time.sleep(2)
    server.stop()
    shutil.copy(server.folder / "old.rdb", server.folder / "dump.rdb")
    server.start()


@pytest.mark.parametrize("befall", [_paused, _killed, _flushed, _restored])
def test_no_call_notices_what_befalls_redis(one_server, tmp_path, befall):
    """None fails, none waits for it, and each process says in two lines what has changed."""
    with FakeServer({"primary": Reply("here", delay_s=0.02)}) as primary, FakeServer({"backup": "fine"}) as backup:
        work = spec(one_server.url, primary, backup, limits={"rpm": 6000})
        members = Members.start(tmp_path / "out", spec=work, processes=4, seconds=14, calls_per_s=4)
        time.sleep(3)
        began = time.monotonic()
        befall(one_server)
        members.wait()
    calls = members.lines("call")
    assert len(calls) > 100
    assert not [call for call in calls if call["error"]]
    before, after = (
        median(call["took_s"] for call in calls if (call["at"] < began) == is_before) for is_before in (True, False)
    )
    assert after <= 1.5 * before + 0.05, f"{after:.3f} s instead of {before:.3f} s"
    for process in range(4):
        lines = [line["text"] for line in members.lines("log") if line["process"] == process]
        assert len(lines) <= 2, lines
    assert {line["fleet"]["store"] for line in members.lines("ended")} == {"answers"}


def test_an_idle_process_costs_next_to_nothing(one_server, tmp_path):
    """It wakes up some six times a second and sleeps in between. A busy machine makes each dearer, but no more of them.
    What never slept would take all of a core."""
    with FakeServer({"primary": "here"}) as primary, FakeServer({"backup": "fine"}) as backup:
        work = spec(one_server.url, primary, backup, limits={"rpm": 600})
        members = Members.start(tmp_path / "out", spec=work, processes=1, seconds=20, calls_per_s=0, begin_s=6)
        members.wait()
    begun, ended = members.lines("begun")[0], members.lines("ended")[0]
    seconds = ended["at"] - begun["at"]
    assert (ended["wakeups"] - begun["wakeups"]) / seconds <= 10
    assert (ended["cpu_s"] - begun["cpu_s"]) / seconds <= 0.1


def test_without_it_a_process_goes_on_alone():
    """Its part of the limits is what it has from the beginning."""
    from llm_fallback import build_chat_model

    async def ask() -> dict[str, Any]:
        with FakeServer({"primary": "here"}) as primary, FakeServer({"backup": "fine"}) as backup:
            work = spec("redis://127.0.0.1:9/0", primary, backup, limits={"rpm": 60})
            async with build_chat_model(work) as model:
                await asyncio.sleep(2)
                reply = await model.ainvoke("hi")
                assert reply.response_metadata["llm_fallback"]["deployment"] == "primary"
                return model.state()["fleet"]

    assert asyncio.run(ask())["store"] == "gone"
