"""The background task: it exchanges, it says what has changed, and nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from llm_fallback.engine.health import Health
from llm_fallback.fleet.deployment import DeploymentNames
from llm_fallback.fleet.evidence import Evidence, encode_evidence
from llm_fallback.fleet.exchanger import Background, Exchanger
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.memory_store import MemoryStore
from llm_fallback.fleet.messages import Grant, News, Overtaken, Request, Response, StoreError
from llm_fallback.fleet.names import Names
from llm_fallback.spec import Breaker
from tests.forks import in_child
from tests.plans import target


class Troubled(MemoryStore):
    """A store that does not answer, or answers that it cannot."""

    trouble = ""
    exchanges = closed = 0

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.leaves: list[bool] = []
        self.asked_at: list[float] = []

    async def exchange(self, request: Request) -> Response:
        self.exchanges += 1
        self.asked_at.append(time.monotonic())
        self.leaves.append(request.leaves)
        if self.trouble == "overtaken":
            raise Overtaken
        if self.trouble == "hangs":
            await asyncio.Event().wait()
        if self.trouble == "grants too much":
            return replace(await super().exchange(request), grants=(Grant(1, 1, 1),))
        if self.trouble:
            raise StoreError(self.trouble)
        return await super().exchange(request)

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store() -> Troubled:
    return Troubled(time.monotonic)


def in_this_loop() -> Background:
    tasks: list[asyncio.Task[None]] = []
    return lambda task: tasks.append(asyncio.ensure_future(task))


def member(store: MemoryStore, seed: int = 0, background: Background | None = None) -> Exchanger:
    names = Names("secret")
    made = Member(names, time.monotonic, Random(seed))
    health = Health.of_targets([target("primary", policy=Breaker(failures=2))])
    made.share(health, {"primary": DeploymentNames("d", "a", partial(names.of, "primary"))})
    exchanger = Exchanger(made, lambda: store, "memory", background or in_this_loop())
    exchanger.health = health  # type: ignore[attr-defined]
    return exchanger


async def until(holds, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_it_exchanges_until_it_is_closed_and_then_leaves(store):
    """The last exchange tells that it goes, and of what calls it makes until then; it runs once."""
    exchanger, other = member(store), member(store, 1)
    exchanger.hurry()
    assert exchanger.is_running is False
    exchanger.called()
    assert exchanger.is_running is True
    exchanger.called()
    exchanger.start()
    await until(lambda: store.exchanges > 2)
    assert [it.is_active for it in store.state.members.values()] == [True]
    exchanger.close()
    await until(lambda: store.closed)
    assert [it.is_active for it in store.state.members.values()] == [False]
    assert [leaves for leaves in store.leaves if leaves] == store.leaves[-1:] == [True]
    assert exchanger.is_running is False
    exchanger.start()
    assert exchanger.is_running is False
    assert store.closed == 1
    other.finish()


def test_hurrying_is_nothing_once_the_loop_has_ended(store):
    """As at the end of the interpreter."""

    async def run() -> Exchanger:
        exchanger = member(store)
        exchanger.start()
        await until(lambda: store.exchanges)
        return exchanger

    exchanger = asyncio.run(run())
    exchanger.hurry()
    exchanger.close()


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


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("hangs", "no answer within 0.38 s"),
        ("ConnectionError: refused", "ConnectionError: refused"),
        ("overtaken", "it has had a later request of ours"),
    ],
)
async def test_it_says_once_that_the_store_is_gone_and_once_that_it_is_back(store, trouble, said, caplog):
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
    assert gone == (
        f"fleet store memory does not answer ({said}); this process goes on by what it knows, with 1/1 of each limit"
    )
    assert back == "fleet store memory answers again"


async def test_an_answer_to_other_claims_is_none_and_ends_no_task(store, caplog):
    """Whoever may write to the store can only make it a store that does not answer."""
    exchanger = member(store)
    exchanger.start()
    await until(lambda: exchanger.member.snapshot()["store"] == "answers")
    store.trouble = "grants too much"
    await until(lambda: caplog.records)
    assert exchanger.is_running
    assert "(it answered with grants of other claims)" in caplog.text
    exchanger.close()
    await until(lambda: store.closed)


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


async def test_what_hurries_waits_for_a_part_of_its_turn_but_for_all_of_it_while_the_store_is_gone(store):
    """Whatever calls ask for: a store that answers is asked by no member more than some fifty times a second, one that
    does not, no more often than it would be without them."""
    exchanger = member(store)
    exchanger.called()

    async def hurry() -> None:
        while True:
            exchanger.hurry()
            await asyncio.sleep(0.002)

    def pauses() -> list[float]:
        return [later - earlier for earlier, later in pairwise(store.asked_at)]

    hurrying = asyncio.create_task(hurry())
    await until(lambda: len(pauses()) > 5 and min(pauses()) < 0.15)
    assert min(pauses()) > 0.018
    store.trouble = "ConnectionError: refused"
    store.asked_at.clear()
    await until(lambda: pauses())
    assert min(pauses()) > 0.24
    exchanger.close()
    await until(lambda: store.closed)
    hurrying.cancel()


async def test_after_news_that_did_not_come_it_listens_again(monkeypatch):
    """A connection that is lost takes what came over it along, not what comes over the next."""
    monkeypatch.setattr("llm_fallback.fleet.schedule.INTERVAL_S", 0.02)

    class Interrupted(Troubled):
        listened = 0

        async def news(self) -> News:
            self.listened += 1
            if self.listened == 1:
                raise StoreError("the connection is lost")
            if self.listened == 2:
                return News("other", encode_evidence(Evidence(fences={"d": 7})))
            return await super().news()

    store = Interrupted(time.monotonic)
    exchanger = member(store)
    exchanger.start()
    await until(lambda: exchanger.health["primary"].shared.fence == 7)
    exchanger.close()
    await until(lambda: store.closed)


def test_a_process_waits_a_moment_for_its_leave_and_not_for_a_loop_that_stands_still(store):
    """Half a second, whatever holds the loop up."""
    begun: list[Coroutine[Any, Any, None]] = []
    exchanger = member(store, background=begun.append)
    exchanger.called()
    finishing = threading.Thread(target=exchanger.finish, daemon=True)
    began = time.monotonic()
    finishing.start()
    finishing.join(20)
    has_waited_s, waits_still = time.monotonic() - began, finishing.is_alive()
    asyncio.run(begun.pop())
    assert has_waited_s > 0.4
    assert not waits_still
    assert store.leaves == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_exchanges_for_itself_from_its_first_call_on(store):
    """The parent's task is not in it, though the parent was exchanging, or had left already."""
    begun: list[Coroutine[Any, Any, None]] = []
    exchanging, left = (member(store, seed, begun.append) for seed in (1, 2))
    exchanging.called()
    left.close()

    def child() -> bool:
        runs = [exchanging.is_running, left.is_running]
        for exchanger in (exchanging, left):
            exchanger.called()
        return runs == [False, False] and exchanging.is_running and left.is_running and len(begun) == 3

    assert in_child(child)
    for task in begun:
        task.close()


AT_THE_END = """if True:
    import asyncio, threading, time
    from tests.fleet.test_exchanger import Troubled, member, until

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    class Told(Troubled):
        async def close(self):
            print(self.leaves[-1], flush=True)

    store = Told(time.monotonic)
    exchangers = [member(store, seed, lambda task: asyncio.run_coroutine_threadsafe(task, loop)) for seed in (1, 2)]
    for exchanger in exchangers:
        exchanger.called()
    asyncio.run(until(lambda: store.exchanges >= 2))
"""


def test_a_process_that_ends_leaves_the_fleet_first():
    """With each of its models; what it holds is the others' at once."""
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.split() == ["True", "True"], done.stderr
