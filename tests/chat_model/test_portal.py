"""The loop on which sync callers run the engine: one per process, whoever calls and however they leave."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any

import pytest

from llm_fallback import build_chat_model
from llm_fallback.chat_model.portal import Portal, may_wait, portal
from llm_fallback.testing import FakeServer

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def run(step):
    return portal().run(step, contextvars.copy_context())


class Interrupted(BaseException):
    """Raised in the main thread by a signal, as KeyboardInterrupt is."""


@contextmanager
def interrupting_signal():
    """A step's way to interrupt whoever waits for it: once, however often it has to try, as Python does not notice a
    signal that comes between its last look and the waiting."""
    came = threading.Event()

    def handle(number, frame):
        if not came.is_set():
            came.set()
            raise Interrupted

    async def interrupt():
        while not came.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
        await asyncio.Event().wait()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGUSR1, before)


async def until_main_thread_waits():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "wait":
        await asyncio.sleep(0)


def test_steps_of_many_threads_run_on_one_loop_and_come_back_to_whoever_asked():
    """Thirty-two threads, fifty steps each, no answer mixed up."""

    async def step(number):
        await asyncio.sleep(0)
        return number, threading.current_thread()

    def caller(thread):
        return [run(step((thread, number))) for number in range(50)]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(caller, range(32)))
    assert [[number for number, _ in own] for own in answers] == [
        [(thread, number) for number in range(50)] for thread in range(32)
    ]
    assert len({thread for own in answers for _, thread in own}) == 1


FIRST_AT_ONCE = """
import threading
from concurrent.futures import ThreadPoolExecutor
from llm_fallback.chat_model.portal import portal

start = threading.Barrier(16, timeout=10)

def first(number):
    start.wait()
    return portal()

with ThreadPoolExecutor(16) as pool:
    assert len(set(pool.map(first, range(16)))) == 1
assert [thread.name for thread in threading.enumerate()].count("llm_fallback portal") == 1
"""


def test_threads_that_come_first_at_once_get_the_same_portal():
    """It is made once, in a process that had none."""
    assert script(FIRST_AT_ONCE) == ""


def script(source: str) -> str:
    """What a script of its own process prints; it has to end well."""
    # Python 3.12 warns of every fork beside threads, and that is what some of them try.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source]
    ended = subprocess.run(command, timeout=30, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


async def test_a_sync_caller_inside_a_running_loop_is_served():
    """The portal's loop is another one; the caller's own stands still meanwhile, as with any sync call."""

    async def step():
        return asyncio.get_running_loop()

    assert run(step()) is not asyncio.get_running_loop()


def test_steps_of_two_callers_run_side_by_side():
    """One caller's step may wait for what another's brings."""
    opened = Future()

    async def waits():
        event = asyncio.Event()
        opened.set_result(event)
        await event.wait()
        return "came"

    async def brings(event):
        event.set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, waits())
        run(brings(opened.result(timeout=5)))
        assert waiting.result(timeout=5) == "came"


def test_the_caller_s_context_variables_are_those_of_the_step():
    """And what a step sets the next step of the same call sees, but nobody else."""

    async def step(name=None):
        before = tenant.get()
        if name:
            tenant.set(name)
        return before

    tenant_token = tenant.set("blue")
    try:
        context = contextvars.copy_context()
        assert [portal().run(step(name), context) for name in ("green", None)] == ["blue", "green"]
        assert tenant.get() == "blue"
        assert run(step()) == "blue"
    finally:
        tenant.reset(tenant_token)
    assert run(step()) == "nobody"


def test_an_exception_comes_out_as_the_one_that_was_raised():
    """The same object, not a wrapper of it."""
    error = LookupError("mine")

    async def step():
        raise error

    with pytest.raises(LookupError) as raised:
        run(step())
    assert raised.value is error


def test_a_cancellation_from_within_is_the_cancellation_async_callers_know():
    """asyncio's own, not that of concurrent.futures."""

    async def step():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(step())


def test_an_interrupt_of_the_waiting_thread_cancels_the_step_and_waits_for_its_end():
    """When the interrupt goes on the request is closed already."""
    ended = []

    async def step():
        await until_main_thread_waits()
        try:
            await interrupt()
        finally:
            await asyncio.sleep(0)
            ended.append("closed")

    with interrupting_signal() as interrupt, pytest.raises(Interrupted):
        run(step())
    assert ended == ["closed"]


def test_an_interrupt_that_comes_as_the_step_is_handed_over_cancels_it_too(monkeypatch):
    """A signal handler runs between any two lines: also between the hand-over and the waiting."""
    own = portal()
    hand_over = own.loop.call_soon_threadsafe

    def interrupted(callback, *args):
        monkeypatch.undo()
        hand_over(callback, *args)
        raise Interrupted

    async def step():
        await asyncio.Event().wait()

    waits = step()
    monkeypatch.setattr(own.loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(Interrupted):
        run(waits)
    assert inspect.getcoroutinestate(waits) == inspect.CORO_CLOSED


def test_a_step_that_fails_while_it_is_cancelled_does_not_hide_the_interrupt():
    """Whoever pressed Ctrl-C sees KeyboardInterrupt."""

    async def step():
        await until_main_thread_waits()
        try:
            await interrupt()
        finally:
            raise OSError("while closing")

    with interrupting_signal() as interrupt, pytest.raises(Interrupted):
        run(step())


def test_the_portal_serves_on_after_an_interrupt_and_an_error():
    """One caller's misfortune is nobody else's."""

    async def fails():
        raise ValueError

    async def step():
        return "fine"

    with pytest.raises(ValueError):
        run(fails())
    assert run(step()) == "fine"


def test_a_step_nobody_waits_for_runs_all_the_same():
    """Closing what was dropped, from a thread that must not wait."""
    done = Future()

    async def step():
        done.set_result(portal().is_current())

    portal().send(step(), contextvars.copy_context())
    assert done.result(timeout=5) is True
    assert portal().is_current() is False


def test_a_portal_s_thread_does_not_keep_the_process_alive():
    """It is a daemon."""
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "llm_fallback portal"] == [True]
    assert isinstance(portal(), Portal)


FORK = """
import contextvars, os, sys, threading
import llm_fallback.chat_model.portal as own

async def step():
    return os.getpid()

def run():
    return own.portal().run(step(), contextvars.copy_context())

assert run() == os.getpid()
before = own.portal()
if {held}:
    own._lock.acquire()
child = os.fork()
if child == 0:
    code = 0 if run() == os.getpid() and own.portal() is not before else 1
    os._exit(code)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
if {held}:
    own._lock.release()
assert run() == os.getpid() and own.portal() is before
sys.exit(status)
"""


@pytest.mark.parametrize("held", [False, True])
def test_after_a_fork_the_child_has_a_portal_of_its_own(held):
    """Threads do not survive a fork; and the lock may have been held by one of them."""
    assert script(FORK.format(held=held)) == ""


FIRST_CALLER = """
import contextvars, gc, weakref
from llm_fallback.chat_model.portal import portal

class Session:
    pass

session = contextvars.ContextVar("session")

async def step():
    return None

def first():
    own = Session()
    session.set(own)
    portal().run(step(), contextvars.copy_context())
    return weakref.ref(own)

own = contextvars.Context().run(first)
portal().run(step(), contextvars.copy_context())
gc.collect()
assert own() is None
"""


def test_the_first_caller_s_context_is_not_kept():
    """The loop lives as long as the process; what the first request had in its context variables need not."""
    assert script(FIRST_CALLER) == ""


def test_nobody_waits_in_the_midst_of_a_collection_or_on_the_portal():
    """There the portal, or what runs in place of a waiting thread, may need what this thread holds."""

    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            found.append(may_wait())

    async def step():
        return may_wait()

    found = []
    Garbage()
    gc.collect()
    assert found == [False]
    assert run(step()) is False
    assert may_wait() is True


AT_EXIT = """
import asyncio, contextvars
from llm_fallback.chat_model.portal import portal

async def items():
    try:
        yield 1
        yield 2
    finally:
        print("closed", flush=True)

async def first(found):
    return await anext(found)

found = items()
assert portal().run(first(found), contextvars.copy_context()) == 1
"""


def test_what_a_stream_left_open_holds_is_closed_when_the_interpreter_ends():
    """A script that breaks off its last stream does not leave a connection behind."""
    assert script(AT_EXIT) == "closed\n"


@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_what_is_async_at_a_sync_caller_s_is_run_here(mode):
    """A key function and a predicate, on the same loop in every call: clients they keep go on working."""
    loops: list[object] = []

    async def key() -> str:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return "sk-asked"

    async def is_good(message: Any) -> bool:
        await asyncio.sleep(0)
        return message.content != "bad"

    with FakeServer({"a": "bad", "b": "good"}) as server:
        spec = server.spec(backend="vllm", deployments={"a": {"api_key": key}, "b": {"api_key": key}}, accept=is_good)
        with build_chat_model(spec) as model:
            for _ in range(2):
                message = model.invoke("hi") if mode == "invoke" else reduce(add, model.stream("hi"))
                assert message.content == "good"
        sent = {request.headers["authorization"] for name in "ab" for request in server.received(name)}
    assert (sent, len(loops), len(set(loops))) == ({"Bearer sk-asked"}, 4, 1)


def test_an_async_key_function_that_raises_has_failed():
    """As in an async call: the next deployment answers."""

    async def key() -> str:
        await asyncio.sleep(0)
        raise LookupError("no vault")

    with FakeServer({"a": "never asked", "b": "good"}) as server:
        with build_chat_model(server.spec(backend="vllm", deployments={"a": {"api_key": key}})) as model:
            message = model.invoke("hi")
        assert server.received("a") == []
    [first, _] = message.response_metadata["llm_fallback"]["attempts"]
    assert (message.content, first["failure"], "no vault" in first["message"]) == ("good", "auth", True)
