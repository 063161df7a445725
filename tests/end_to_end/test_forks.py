"""Forks under traffic: parent and child go on, each with its own locks, requests and money."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from llm_fallback import BudgetExceeded, ChainExhausted, Ledger, build_chat_model
from llm_fallback._forks import after_fork_in_child, fork_safe_lock
from llm_fallback.exporters.jsonl import read
from llm_fallback.testing import FakeServer, Reply, Stall
from tests.asking import TWO_MODES, ask
from tests.forks import in_child

PRICED = {"price": {"input_per_million": 10_000, "output_per_million": 10_000}}
REPLY = Reply("hello there", usage=(10, 10))
COST = 0.2


FOUGHT_OVER = """
import os, signal, sys, threading
from llm_fallback._forks import fork_safe_lock

lock, is_over = fork_safe_lock(), threading.Event()

def fight():
    while not is_over.is_set():
        with lock:
            os.stat("/")  # Which gives the interpreter to another thread.

threads = [threading.Thread(target=fight) for _ in range(4)]
for thread in threads:
    thread.start()
ended = []
for _ in range(300):
    child = os.fork()
    if not child:
        signal.alarm(30)
        with lock:
            os._exit(0)
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if any(ended):
        break
is_over.set()
for thread in threads:
    thread.join()
sys.exit(any(ended))
"""


class TestLocks:
    def test_a_lock_that_threads_fight_over_is_free_in_every_child(self):
        """Also where one of them is just about to have it."""
        # Python 3.12 warns of every fork beside threads, and that is what this tries.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FOUGHT_OVER]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_child_finds_every_lock_free(self):
        """Whether another thread held it in the parent, or the one that forked."""
        locks = [fork_safe_lock() for _ in range(3)]
        holder = threading.Thread(target=locks[0].acquire)
        holder.start()
        holder.join()
        with locks[1]:
            assert in_child(lambda: all(lock.acquire(timeout=1) for lock in locks))
            assert [lock.locked() for lock in locks] == [True, True, False]

    def test_what_lives_begins_anew_in_a_child_and_what_is_gone_is_forgotten(self):
        """In the child only; being told of a fork keeps nothing alive."""

        class Own:
            is_new = False

            def begin_anew(self):
                self.is_new = True

        lives, goes = Own(), Own()
        for own in (lives, goes):
            after_fork_in_child(own, Own.begin_anew)
        gone = weakref.ref(goes)
        del goes, own
        assert gone() is None
        assert in_child(lambda: lives.is_new)
        assert not lives.is_new


class TestRequestsOfTheParent:
    @pytest.mark.parametrize("mode", TWO_MODES)
    async def test_they_take_neither_a_place_nor_money_from_the_child(self, mode):
        """Nobody would ever give it back there. What the parent has spent the child has spent, too."""
        with FakeServer({"a": [REPLY, Stall(), REPLY, REPLY, REPLY]}) as server:
            deployments = {"a": {**PRICED, "limits": {"max_parallel": 1}}}
            spec = server.spec(deployments=deployments, budget={"usd_per_day": 1.75 * COST}, timeouts={"total_s": 10})
            model = build_chat_model(spec, max_tokens=10)
            await ask(model, mode)
            waiting = ThreadPoolExecutor(1).submit(model.invoke, "hi")
            await server.await_until(lambda: len(server.received()) == 2)

            def asks_twice():
                assert model.invoke("hi").text == "hello there"
                try:
                    model.invoke("hi")
                except BudgetExceeded:
                    return model.state()["a"]["in_flight"] == 0
                return False

            assert in_child(asks_twice)
            assert model.state()["a"]["in_flight"] == 1
        with pytest.raises(ChainExhausted):
            waiting.result(timeout=10)

    def test_a_stream_goes_on_in_the_process_that_began_it(self):
        """A child that reads on gets an error at once; one that drops it closes, tells and pays nothing."""
        ledger = Ledger()
        with FakeServer({"a": Reply("one two three four", chunks=4, delay_s=0.05)}) as server:
            model = build_chat_model(server.spec(deployments={"a": PRICED}), listeners=[ledger])
            stream = model.stream("hi")
            first = next(stream)

            def reads_on():
                with pytest.raises(RuntimeError, match="in the process that began it"):
                    next(stream)
                return True

            def drops():
                stream.close()
                return ledger.snapshot().total.calls == 0

            assert in_child(reads_on)
            assert in_child(drops)
            assert "".join(chunk.text for chunk in (first, *stream)) == "one two three four"
        assert ledger.snapshot().total.calls == 1


TRAFFIC = """
import asyncio, json, os, signal, sys, threading
from llm_fallback import build_chat_model
from llm_fallback.exporters.jsonl import CallLog

url, forks, ends = sys.argv[1], int(sys.argv[2]), sys.argv[3]
price = {"input_per_million": 10_000, "output_per_million": 10_000}

def built(**chain):
    deployments = {"a": {"backend": "openai-compatible", "model": "a", "api_base": url, "price": price}}
    spec = {"deployments": deployments, "chains": {"c": {"tiers": ["a"], "timeouts": {"total_s": 30}, **chain}}}
    return build_chat_model(spec, listeners=[log])

log = CallLog("calls.jsonl")
budgets = ({"usd_per_day": 1e6, "file": "day"}, {"usd_per_day": 1e6}, None)
models = [built(budget=budget) if budget else built() for budget in budgets]
is_over = threading.Event()
answered = [0] * len(models)

def traffic(number):
    while not is_over.is_set():
        models[number].invoke("hi")
        answered[number] += 1

async def ask_all():
    await asyncio.gather(*[model.ainvoke("hi") for model in models])

async def atraffic():
    while not is_over.is_set():
        await ask_all()
        answered[:] = [count + 1 for count in answered]

def end(code):
    sys.stdout.flush()
    os._exit(code) if ends == "abruptly" else sys.exit(code)

failures = []
threading.excepthook = lambda raised: failures.append(repr(raised.exc_value))
asker = threading.Thread(target=lambda: asyncio.run(atraffic()))
threads = [*(threading.Thread(target=traffic, args=(number,)) for number in range(len(models))), asker]
for model in models:
    model.invoke("hi")
for thread in threads:
    thread.start()
ended = []
for _ in range(forks):
    before = sum(answered)
    child = os.fork()
    if not child:
        signal.alarm(60)
        for model in models:
            model.invoke("hi")
        asyncio.run(ask_all())
        end(0)
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    while sum(answered) == before and not failures:
        is_over.wait(0.001)
is_over.set()
for thread in threads:
    thread.join()
print(json.dumps({"ended": ended, "failures": failures, "calls": [count + 1 for count in answered]}))
"""
"""Threads and an event loop of a process ask three models, with a budget in a file, one in memory and none, while it is
forked; each child asks them too."""


class TestTraffic:
    @pytest.mark.parametrize(
        ("forks", "ends"),
        [
            (10, "abruptly"),
            (5, "in order"),
            pytest.param(300, "abruptly", marks=pytest.mark.slow),
        ],
    )
    def test_parent_and_children_go_on_and_no_amount_is_lost_or_doubled(self, tmp_path, forks, ends):
        """Nobody hangs, and the file and the log have each answer once."""
        with FakeServer({"a": REPLY}) as server:
            command = [sys.executable, "-c", TRAFFIC, server.base("a") + "/v1", str(forks), ends]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["failures"] == []
        assert told["ended"] == [0] * forks
        with_file = told["calls"][0] + 2 * forks
        lines = (tmp_path / "day").read_text(encoding="utf-8").splitlines()[1:]
        assert sum(Decimal(json.loads(line)[2]) for line in lines) == with_file * Decimal("0.2")
        logged = list(read(tmp_path / "calls.jsonl"))
        assert None not in logged
        assert len(logged) == sum(told["calls"]) + 6 * forks


LEAVES_WITH = """
import os, signal, sys
from llm_fallback import build_chat_model
from llm_fallback.testing import FakeServer

with FakeServer({"a": "hello"}) as server:
    child = os.fork()
    if not child:
        signal.alarm(60)
        with build_chat_model(server.spec()) as model:
            sys.exit(model.invoke("hi").text != "hello")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with build_chat_model(server.spec()) as model:
        sys.exit(code or model.invoke("hi").text != "hello")
"""


class TestFakeServer:
    """A child's is the parent's, whose thread does not live there."""

    @pytest.mark.slow
    def test_a_child_that_ends_within_it_ends_and_the_parent_s_goes_on(self):
        """As a worker does that was forked by a test."""
        done = subprocess.run([sys.executable, "-c", LEAVES_WITH], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")

    async def test_closing_it_in_a_child_ends_nothing(self):
        """In sync and in async code; what the child starts from then on is its own."""
        server = await FakeServer({"a": "hello"}).__aenter__()

        def closes():
            theirs = server.url
            server.close()
            with server:
                own = server.url
                assert build_chat_model(server.spec()).invoke("hi").text == "hello"
            return own != theirs

        def leaves():
            with pytest.raises(StopIteration):
                server.__aexit__(None, None, None).send(None)
            return True

        assert in_child(closes)
        assert in_child(leaves)
        assert (await build_chat_model(server.spec()).ainvoke("hi")).text == "hello"
        assert len(server.received()) == 1
        await server.__aexit__(None, None, None)

    def test_its_port_is_closed_though_a_child_lives_on(self):
        """Else whoever asks would wait for an answer that nobody gives."""
        if os.environ.get("EVENT_LOOP") == "uvloop":
            pytest.skip("a server of uvloop's cannot be closed by a process that its loop does not run in")
        is_over = os.pipe()
        server = FakeServer({"a": "hello"}).start()
        model = build_chat_model(server.spec(timeouts={"attempt_s": 5}, retries={"max": 0}))
        child = os.fork()
        if not child:
            signal.alarm(30)
            os.close(is_over[1])
            os.read(is_over[0], 1)
            os._exit(0)
        try:
            server.close()
            with pytest.raises(ChainExhausted) as caught:
                model.invoke("hi")
        finally:
            os.close(is_over[1])
            os.waitpid(child, 0)
        assert caught.value.failure == "connection"
