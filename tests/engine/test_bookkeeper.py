"""Between an account and a store: what is spent is owed until the store has it, and no event loop waits for that."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import subprocess
import sys
import threading
import time
from decimal import Decimal

import pytest

from llm_fallback.engine import bookkeeper
from llm_fallback.engine.bookkeeper import Bookkeeper
from llm_fallback.engine.clock import RealClock
from llm_fallback.engine.virtual_clock import JumpingClock
from tests.disks import held_elsewhere
from tests.forks import in_child

CENT = Decimal("0.01")
DAY = "2026-01-31"


class Shelf:
    """A store that can be shut: whoever exchanges then waits until it is open, or is told that it failed."""

    owner = "chain a"

    def __init__(self):
        self.is_open, self.error = threading.Event(), None
        self.is_open.set()
        self.kept, self.of_others, self.exchanges = [], [], 0

    def exchange(self, day, amounts):
        self.exchanges += 1
        assert self.is_open.wait(20)
        if self.error is not None:
            raise self.error
        self.kept += [(day, *amount) for amount in amounts.items()]
        news, self.of_others = self.of_others, []
        return news

    def __str__(self):
        return "the shelf"


@pytest.fixture
def shelf():
    own = Shelf()
    yield own
    own.error = None
    own.is_open.set()
    until(lambda: not bookkeepers_at_work())


def bookkeeper_of(store):
    """A bookkeeper, and what it has received."""
    received = []
    return Bookkeeper(store, lambda day, news: received.append((day, list(news)))), received


def bookkeeper_that_owes(shelf):
    """A bookkeeper with a cent that it could not write; now it could."""
    books, _ = bookkeeper_of(shelf)
    shelf.error = OSError("away")
    books.settle(DAY, None, CENT)
    books.wait(DAY)
    shelf.error = None
    return books


def bookkeepers_at_work():
    return [thread for thread in threading.enumerate() if thread.name == "llm_fallback bookkeeper"]


def until(is_so):
    """Wait for another thread to come that far."""
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end, "not so in ten seconds"
        time.sleep(0.001)


def test_what_is_settled_is_added_without_anybody_waiting_for_it(shelf):
    """Each amount once, with its spender, and nothing is left at work."""
    books, _ = bookkeeper_of(shelf)
    books.settle(DAY, "acme", CENT)
    until(lambda: shelf.kept)
    books.settle(DAY, None, 2 * CENT)
    books.wait(DAY)
    assert shelf.kept == [(DAY, "acme", CENT), (DAY, None, 2 * CENT)]
    until(lambda: not bookkeepers_at_work())


def test_its_thread_keeps_no_interpreter_from_ending(shelf):
    """It is a daemon, and there is one however much is settled."""
    books, _ = bookkeeper_of(shelf)
    shelf.is_open.clear()
    for _ in range(3):
        books.settle(DAY, None, CENT)
    assert [thread.daemon for thread in bookkeepers_at_work()] == [True]


def test_a_thread_waits_for_a_shut_store_for_a_moment(shelf, caplog, monkeypatch):
    """Then it goes on, and says so."""
    monkeypatch.setattr(bookkeeper, "LONGEST_WAIT_S", 0.05)
    books, _ = bookkeeper_of(shelf)
    shelf.is_open.clear()
    began = time.monotonic()
    books.wait(DAY)
    assert 0.05 <= time.monotonic() - began < 5
    assert [record.getMessage() for record in caplog.records] == [
        "the shelf cannot be written (no turn within 0.05 s: its disk is slow, or another process holds it); chain a "
        "counts on in memory, and what it owes is written later"
    ]


def test_what_is_owed_at_the_end_is_added_or_told(shelf, caplog, monkeypatch):
    """A store that is shut is waited for as long as ever."""
    monkeypatch.setattr(bookkeeper, "LONGEST_WAIT_S", 0.05)
    books, _ = bookkeeper_of(shelf)
    books.finish()
    assert shelf.exchanges == 0
    shelf.error = OSError("away")
    books.settle(DAY, "acme", CENT)
    books.settle(DAY, None, CENT)
    books.wait(DAY)
    shelf.error = None
    books.finish()
    assert sorted(shelf.kept, key=str) == [(DAY, "acme", CENT), (DAY, None, CENT)]
    shelf.is_open.clear()
    books.settle(DAY, None, 3 * CENT)
    caplog.clear()
    books.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "the shelf: 0.03 US dollars that chain a has cost are not in it"
    ]


def test_where_no_thread_can_be_started_what_is_owed_is_added_later(shelf, monkeypatch):
    """There are too many for now."""
    books, _ = bookkeeper_of(shelf)
    with monkeypatch.context() as patch:

        def refused(thread):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refused)
        books.settle(DAY, None, CENT)
    books.wait(DAY)
    assert shelf.kept == [(DAY, None, CENT)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_the_store_ends_one_exchange_and_not_the_next(shelf):
    """What was owed is added then."""
    books, _ = bookkeeper_of(shelf)
    shelf.error = ValueError("no such day")
    books.settle(DAY, None, CENT)
    until(lambda: shelf.exchanges == 1 and not bookkeepers_at_work())
    shelf.error = None
    books.wait(DAY)
    assert shelf.kept == [(DAY, None, CENT)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_owes_nothing_that_its_parent_owes(shelf):
    """The parent adds it, whatever it had under way."""
    books = bookkeeper_that_owes(shelf)

    def adds_its_own():
        books.settle(DAY, "child", CENT)
        books.wait(DAY)
        return shelf.kept == [(DAY, "child", CENT)]

    assert in_child(adds_its_own)
    books.wait(DAY)
    assert shelf.kept == [(DAY, None, CENT)]


def test_what_others_have_spent_is_known_when_the_wait_is_over(shelf):
    """Whoever waited reserves by it."""
    books, received = bookkeeper_of(shelf)
    shelf.of_others = [("acme", CENT)]
    books.wait(DAY)
    assert received == [(DAY, [("acme", CENT)])]


async def test_a_shut_store_is_waited_for_a_tenth_of_the_time_left_and_by_the_first_call_only(shelf, caplog):
    """It says so once. The event loop goes on meanwhile."""
    books, _ = bookkeeper_of(shelf)
    clock, turns = RealClock(), 0

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    other = asyncio.create_task(others())
    shelf.is_open.clear()
    began = clock.now()
    await books.keep_up(DAY, clock, began + 2)
    first = clock.now() - began
    await books.keep_up(DAY, clock, began + 2)
    second = clock.now() - began - first
    other.cancel()
    assert 0.19 < first < 1
    assert second < 0.1
    assert turns > 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the shelf cannot be written (no turn within 0.2 s" in caplog.text
    assert "chain a counts on in memory" in caplog.text


async def test_nobody_waits_longer_than_a_second_or_beyond_the_deadline(shelf):
    """Measured on a clock that jumps; a call that is out of time does not wait at all."""
    clock = JumpingClock(patience_s=0.01)
    shelf.is_open.clear()
    for left_s, waited_s in ((1000, 1.0), (5, 0.5), (0.01, 0.02), (0, 0.0), (-1, 0.0)):
        books, _ = bookkeeper_of(shelf)
        began = clock.now()
        await books.keep_up(DAY, clock, began + left_s)
        assert clock.now() - began == pytest.approx(waited_s)


async def test_a_virtual_clock_gives_the_store_real_time(shelf, caplog):
    """A file is written in a thread; to jump over that would be to find every disk slow."""
    books, _ = bookkeeper_of(shelf)
    clock = JumpingClock(patience_s=5)
    shelf.is_open.clear()
    opens = threading.Timer(0.1, shelf.is_open.set)
    opens.start()
    await books.keep_up(DAY, clock, 1000.0)
    opens.join()
    assert (clock.now(), caplog.records) == (0.0, [])


async def test_what_is_owed_is_added_once_the_store_is_open_again(shelf):
    """As one amount for each spender, however many there were meanwhile, and calls wait for it again."""
    books, _ = bookkeeper_of(shelf)
    shelf.is_open.clear()
    for spender in ("acme", "umbrella", "acme"):
        books.settle(DAY, spender, CENT)
        await books.keep_up(DAY, RealClock(), time.monotonic() + 0.2)
    assert shelf.kept == []
    shelf.is_open.set()
    until(lambda: len(shelf.kept) == 3)
    assert {spender: sum(usd for _, of, usd in shelf.kept if of == spender) for spender in ("acme", "umbrella")} == {
        "acme": 2 * CENT,
        "umbrella": CENT,
    }
    shelf.of_others = [(None, CENT)]
    await books.keep_up(DAY, RealClock(), math.inf)
    assert shelf.of_others == []


async def test_what_could_not_be_added_is_added_with_the_next_exchange(shelf, caplog):
    """A disk that failed is back. Each trouble is told once, the second one too."""
    books, _ = bookkeeper_of(shelf)
    for _ in range(2):
        shelf.error = OSError("the disk is full")
        books.settle(DAY, None, CENT)
        for _ in range(3):
            books.wait(DAY)
        shelf.error = None
        books.wait(DAY)
    assert shelf.kept == [(DAY, None, CENT)] * 2
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "the shelf cannot be written (the disk is full)"
    ] * 2


async def test_callers_who_leave_while_they_wait_take_nothing_from_others(shelf):
    """One of two is cancelled."""
    books, received = bookkeeper_of(shelf)
    shelf.is_open.clear()
    leaves, stays = (asyncio.create_task(books.keep_up(DAY, RealClock(), time.monotonic() + 10)) for _ in range(2))
    await asyncio.sleep(0.01)
    leaves.cancel()
    shelf.of_others = [(None, CENT)]
    shelf.is_open.set()
    await stays
    assert leaves.cancelled()
    assert (DAY, [(None, CENT)]) in received


def test_many_who_ask_at_once_are_served_by_few_exchanges(shelf):
    """Whoever comes while the store is busy shares the next one."""
    books, _ = bookkeeper_of(shelf)
    shelf.is_open.clear()
    asked = [books.exchange(DAY) for _ in range(100)]
    shelf.is_open.set()
    for exchange in asked:
        exchange.result(timeout=5)
    assert shelf.exchanges <= 2


def test_a_new_day_owes_nothing_of_the_old_one(shelf):
    """The store holds one day."""
    books = bookkeeper_that_owes(shelf)
    books.settle("2026-02-01", None, 2 * CENT)
    books.wait("2026-02-01")
    assert shelf.kept == [("2026-02-01", None, 2 * CENT)]


AT_EXIT = """
import sys
from decimal import Decimal
from pathlib import Path
from llm_fallback.engine.bookkeeper import Bookkeeper
from llm_fallback.engine.budget_file import DailySpendFile

books = Bookkeeper(DailySpendFile(Path(sys.argv[1]), "chain a"), print)
books.settle("2026-01-31", None, Decimal("0.01"))
print("settled", flush=True)
"""


def process_that_settles_and_ends(path):
    return subprocess.Popen(
        [sys.executable, "-c", AT_EXIT, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_what_is_owed_as_the_interpreter_ends_is_added_before(tmp_path):
    """Though another process still had its turn when the last call ended."""
    path = tmp_path / "budget"
    with held_elsewhere(path):
        ending = process_that_settles_and_ends(path)
        assert ending.stdout.readline() == "settled\n"
    assert ending.communicate(timeout=20)[1].count("\n") == 0
    assert ending.returncode == 0
    assert '["chain a", null, "0.01"]' in path.read_text(encoding="utf-8")


def test_what_cannot_be_added_before_the_interpreter_ends_is_told(tmp_path):
    """The process ends all the same, a second later."""
    path = tmp_path / "budget"
    with held_elsewhere(path):
        said = process_that_settles_and_ends(path).communicate(timeout=20)[1]
    assert said == f"budget file {path}: 0.01 US dollars that chain a has cost are not in it\n"
    assert path.read_bytes() == b""
