"""A server is killed in the middle of its callers' calls: each gets what its policy promises."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from llm_fallback import StreamBroken
from llm_fallback.testing import assert_attempts
from tests.servers.callers import MANNERS, Caller, Manner, caller_of, start
from tests.servers.conftest import BACKUP, SpecOf
from tests.servers.fleet import Fleet, Server, up
from tests.servers.systems import System, selected
from tests.servers.times import Wait

DEATHS = [
    pytest.param(system, number, id=f"{system}-{signal.Signals(number).name}")
    for system in selected()
    for number in (signal.SIGKILL, signal.SIGTERM)
    if number == signal.SIGKILL or system.on_sigterm in ("cuts", "hangs")
]

PAIRS = [pytest.param(one, other, id=f"{one}-{other}") for one, other in pairwise(selected())]

pytestmark = pytest.mark.servers
killed = pytest.mark.parametrize(("system", "number"), DEATHS, indirect=True)


@pytest.fixture(scope="module")
def number(request: pytest.FixtureRequest) -> int:
    """The signal."""
    return request.param


@dataclass(frozen=True)
class Death:
    """The end of a server, and what became of those who were calling."""

    calls: dict[Manner, Caller]
    next_call: Caller


@pytest.fixture(scope="module")
def death(system: System, number: int, fleet: Fleet, spec_of: SpecOf, note_wait: Callable[[Wait], None]) -> Death:
    """As many callers at once as the system serves, each in a manner of its own; in the middle of it, the signal."""
    calls = {manner: caller_of(system, manner, spec_of, max_tokens=system.length) for manner in MANNERS}
    for first in range(0, len(MANNERS), system.at_once):
        with up(fleet[system]) as server:
            at_it = [calls[manner] for manner in MANNERS[first : first + system.at_once]]
            start(at_it)
            killed_at = time.monotonic()
            server.signal(number)
            for caller in at_it:
                caller.join()
                note_wait(Wait.of(caller, str(system), signal.Signals(number).name, killed_at))
            next_call = caller_of(system, Manner("stream"), spec_of)
            next_call.start()
            next_call.join()
    return Death(calls, next_call)


def assert_left(caller: Caller, system: System) -> None:
    """Asserts that the system failed in one of its ways, and the backup answered; or that it answered after all."""
    first = caller.facts["attempts"][0]
    had_content = first["failure"] and first["time_to_first_token_s"] is not None
    assert first["failure"] in (system.words.cut_streamed if had_content else system.words.cut)
    assert_attempts(caller.message, *system.course(first["failure"]))


def manners(wanted: Callable[[Manner], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("manner", [manner for manner in MANNERS if wanted(manner)], ids=str)


@killed
@manners(lambda manner: not manner.is_streamed)
def test_a_plain_call_is_answered_by_the_next(manner: Manner, system: System, death: Death) -> None:
    """As if nothing had happened; some systems finish it before they go."""
    assert_left(death.calls[manner], system)


@killed
@manners(lambda manner: manner.on_stream_break == "hold")
def test_a_held_stream_is_that_of_the_next(manner: Manner, system: System, death: Death) -> None:
    """Nothing of the first is seen."""
    assert death.calls[manner].text == BACKUP
    assert_left(death.calls[manner], system)


@killed
@manners(lambda manner: manner.on_stream_break == "continue")
def test_a_continued_stream_goes_on_with_the_next(manner: Manner, system: System, death: Death) -> None:
    """What the first said stands, the next goes on from there, and the metadata say where."""
    caller = death.calls[manner]
    (stitch,) = caller.facts["stitches"]
    assert caller.facts["stitched"] is True
    assert caller.text[: stitch["at"]].strip()
    assert caller.text[stitch["at"] :] == BACKUP
    assert_left(caller, system)


@killed
@manners(lambda manner: manner.is_streamed and manner.on_stream_break == "raise")
def test_a_raised_stream_tells_what_was_delivered(manner: Manner, system: System, death: Death) -> None:
    """It is StreamBroken, not an end like any other."""
    caller = death.calls[manner]
    assert isinstance(caller.error, StreamBroken)
    assert caller.error.partial.text == caller.text
    assert caller.text.strip()
    assert {attempt.failure for attempt in caller.error.attempts} <= system.words.cut_streamed


@killed
def test_the_next_call_finds_nobody_and_is_answered_by_the_next(system: System, death: Death) -> None:
    """Without a pause: where nobody listens nobody has to be waited for."""
    assert death.next_call.text == BACKUP
    assert_attempts(death.next_call.message, f"{system}: connection", "backup: succeeded")


@pytest.mark.parametrize(("system", "other"), PAIRS, indirect=["system"])
def test_one_system_goes_on_where_another_was_killed(
    system: System, other: System, server: Server, fleet: Fleet, spec_of: SpecOf
) -> None:
    """The next of a chain may be any of them; the caller reads one reply."""
    with up(fleet[other]), up(server):
        caller = caller_of(system, Manner("astream", "continue"), spec_of, other, max_tokens=system.length)
        start([caller])
        server.signal(signal.SIGKILL)
        caller.join()
    (stitch,) = caller.facts["stitches"]
    assert caller.text[: stitch["at"]].strip()
    assert caller.text[stitch["at"] :].strip()
    assert_attempts(caller.message, f"{system}: stream_broken", f"{other}: succeeded")
