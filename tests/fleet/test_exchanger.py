"""The background task: it exchanges, it says what has changed, and nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from random import Random

import pytest

from llm_fallback.engine.health import Health
from llm_fallback.fleet.deployment import DeploymentNames
from llm_fallback.fleet.exchanger import Exchanger
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.memory_store import MemoryStore
from llm_fallback.fleet.messages import Request, Response, StoreError
from llm_fallback.fleet.names import Names
from llm_fallback.spec import Breaker
from tests.plans import target


class Troubled(MemoryStore):
    """A store that does not answer, or answers that it cannot."""

    trouble = ""
    exchanges = closed = 0

    async def exchange(self, request: Request) -> Response:
        self.exchanges += 1
        if self.trouble == "hangs":
            await asyncio.Event().wait()
        if self.trouble:
            raise StoreError(self.trouble)
        return await super().exchange(request)

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store() -> Troubled:
    return Troubled(time.monotonic)


def member(store: MemoryStore, seed: int = 0) -> Exchanger:
    names = Names("secret")
    made = Member(names, time.monotonic, Random(seed))
    health = Health.of_targets([target("primary", policy=Breaker(failures=2))])
    made.share(health, {"primary": DeploymentNames("d", "a", partial(names.of, "primary"))})
    tasks: list[asyncio.Task[None]] = []
    exchanger = Exchanger(made, lambda: store, "memory", lambda task: tasks.append(asyncio.ensure_future(task)))
    exchanger.health = health  # type: ignore[attr-defined]
    return exchanger


async def until(holds, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_it_exchanges_until_it_is_closed_and_then_leaves(store):
    """The last exchange tells that it goes."""
    exchanger = member(store)
    exchanger.start()
    exchanger.start()
    await until(lambda: store.exchanges > 2)
    exchanger.close()
    await until(lambda: store.closed)
    assert [it.is_active for it in store.state.members.values()] == [False]
    assert not exchanger.is_running


async def test_news_reach_the_others_before_their_turn(store):
    """A breaker that opens in one is known in the other well before a quarter of a second."""
    one, other = member(store, 1), member(store, 2)
    for exchanger in (one, other):
        exchanger.start()
    await until(lambda: other.member.snapshot()["store"] == "answers" and len(store.state.members) == 2)
    await asyncio.sleep(0.05)
    primary = one.health["primary"]
    began = time.monotonic()
    with one.health.lock:
        primary.failed(primary.begin(began), began, "auth", None)
    await until(lambda: other.health["primary"].breaker.state(time.monotonic()) == "open")
    assert time.monotonic() - began < 0.2
    for exchanger in (one, other):
        exchanger.close()
    await until(lambda: store.closed == 2)


@pytest.mark.parametrize("trouble", ["hangs", "ConnectionError: refused"])
async def test_it_says_once_that_the_store_is_gone_and_once_that_it_is_back(store, trouble, caplog):
    """Not with each exchange, and not for one answer that got lost."""
    exchanger = member(store)
    with caplog.at_level(logging.WARNING, "llm_fallback"):
        exchanger.start()
        await until(lambda: exchanger.member.snapshot()["store"] == "answers")
        store.trouble = trouble
        await until(lambda: exchanger.member.snapshot()["store"] == "gone")
        tried = store.exchanges
        await until(lambda: store.exchanges > tried + 2)
        store.trouble = ""
        await until(lambda: exchanger.member.snapshot()["store"] == "answers")
        await until(lambda: len(caplog.records) == 2)
    exchanger.close()
    await until(lambda: store.closed)
    gone, back = (record.getMessage() for record in caplog.records)
    assert gone.startswith("fleet store memory does not answer (")
    assert "goes on by what it knows" in gone
    assert back == "fleet store memory answers again"


async def test_no_lock_is_held_while_the_store_is_asked(store):
    """A store that hangs keeps nobody from the engine's state."""
    store.trouble = "hangs"
    exchanger = member(store)
    exchanger.start()
    await until(lambda: store.exchanges)
    assert exchanger.health.lock.acquire(blocking=False)
    exchanger.health.lock.release()
    exchanger.close()
    await until(lambda: store.closed)
