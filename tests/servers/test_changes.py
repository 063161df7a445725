"""Servers that are replaced with care, so that nobody who is calling notices, and one that loses a part."""

from __future__ import annotations

import signal
import threading

import httpx
import pytest

from llm_fallback import build_chat_model
from llm_fallback.testing import assert_attempts
from tests.servers.callers import MANNERS, Manner, caller_of, start
from tests.servers.conftest import BACKUP, SpecOf
from tests.servers.fleet import Server
from tests.servers.process import until
from tests.servers.systems import SYSTEMS, System, selected

pytestmark = pytest.mark.servers

_SOME = 600
"""Tokens of a reply that lasts a quarter of a minute."""

FINISHING = [system for system in selected() if system.on_sigterm == "finishes"]
STAYING = [system for system in selected() if system.on_sigterm == "stays"]
OPENLLM = [system for system in selected() if system == SYSTEMS["openllm"]]
RAY = [system for system in selected() if system == SYSTEMS["ray-serve"]]


@pytest.mark.parametrize("system", FINISHING, indirect=True, ids=str)
def test_a_server_that_finishes_on_sigterm_finishes_what_was_begun(
    system: System, server: Server, spec_of: SpecOf
) -> None:
    """Whoever was calling gets the whole reply from it; whoever comes later is answered by the next, at once."""
    callers = [caller_of(system, manner, spec_of) for manner in MANNERS]
    late = caller_of(system, Manner("invoke"), spec_of)
    start(callers)
    server.signal(signal.SIGTERM)
    server.await_refusal()
    late.start()
    late.join()
    was_late_answered_first = all(caller.ended_at is None for caller in callers if caller.manner.shows)
    for caller in callers:
        caller.join()
        assert_attempts(caller.message, f"{system}: succeeded")
    server.end()
    assert_attempts(late.message, f"{system}: connection", "backup: succeeded")
    assert was_late_answered_first


@pytest.mark.parametrize("system", STAYING, indirect=True, ids=str)
def test_a_server_that_stays_on_sigterm_is_not_missed(system: System, server: Server, spec_of: SpecOf) -> None:
    """Whose command ends while the server goes on: who was calling is answered by it, and so is who comes later."""
    callers = [caller_of(system, manner, spec_of, max_tokens=_SOME) for manner in MANNERS]
    late = caller_of(system, Manner("invoke"), spec_of)
    start(callers)
    server.signal(signal.SIGTERM)
    server.await_end_of_command()
    late.start()
    for caller in (*callers, late):
        caller.join()
    server.end()
    for caller in (*callers, late):
        assert_attempts(caller.message, f"{system}: succeeded")


@pytest.mark.parametrize("system", OPENLLM, indirect=True, ids=str)
@pytest.mark.parametrize(
    ("mode", "limit", "failure"),
    [("invoke", "attempt_s", "timeout"), ("stream", "first_token_s", "first_token_timeout")],
)
def test_who_comes_to_a_bentoml_that_drains_waits_no_longer_than_is_bearable(
    mode: str, limit: str, failure: str, system: System, server: Server, spec_of: SpecOf
) -> None:
    """It finishes what was begun with its door open: nobody answers there any more. A time limit sends to the next."""
    bearable = {system.name: {"timeouts": {limit: 2}}}
    reader = caller_of(system, Manner("astream"), spec_of, max_tokens=_SOME)
    late = caller_of(system, Manner(mode), spec_of, deployments=bearable)
    start([reader])
    server.signal_all(signal.SIGTERM)
    server.await_silence()
    late.start()
    late.join()
    was_late_answered_first = reader.ended_at is None
    reader.join()
    server.end()
    assert_attempts(late.message, f"{system}: {failure}", "backup: succeeded")
    assert_attempts(reader.message, f"{system}: succeeded")
    assert was_late_answered_first


@pytest.mark.parametrize("system", RAY, indirect=True, ids=str)
def test_a_rollout_is_not_noticed(system: System, server: Server, spec_of: SpecOf) -> None:
    """While Ray Serve replaces every replica, call upon call is answered by it, at once and whole."""
    rolled_out = threading.Event()
    courses: list[object] = []

    def call_until_rolled_out() -> None:
        with build_chat_model(spec_of(system)) as model:
            while not rolled_out.is_set():
                courses.append(list(model.stream("Count, please.", max_tokens=50))[-1])

    threads = [threading.Thread(target=call_until_rolled_out) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.signal(signal.SIGHUP)
    until(lambda: httpx.get(f"{server.url}/health", timeout=30).json() == {"release": "2"}, 120)
    rolled_out.set()
    for thread in threads:
        thread.join()
    assert len(courses) >= 2 * len(threads)
    for message in courses:
        assert_attempts(message, f"{system}: succeeded")


@pytest.mark.parametrize("system", RAY, indirect=True, ids=str)
def test_the_death_of_a_replica_is_the_end_of_its_replies_only(system: System, server: Server, spec_of: SpecOf) -> None:
    """Those it was answering go on elsewhere; the call that killed it too; the next is answered by its successor."""
    reader = caller_of(system, Manner("astream", "continue"), spec_of, max_tokens=1500)
    start([reader])
    with build_chat_model(spec_of(system)) as model:
        fatal = model.invoke("Please exit.")
        reader.join()
        after = model.invoke("Count, please.")
    assert_attempts(fatal, f"{system}: server_error", "backup: succeeded")
    assert_attempts(reader.message, f"{system}: stream_broken", "backup: succeeded")
    assert reader.text.endswith(BACKUP)
    assert_attempts(after, f"{system}: succeeded")
