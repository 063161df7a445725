"""The file that keeps what a day has cost: across restarts, between processes, and on disks that fail."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_fallback.engine.budget import Account, BudgetLimit, Reservation, Spender, reserve
from llm_fallback.engine.budget_file import DailySpendFile
from tests.disks import held_elsewhere, room_for
from tests.forks import in_child

DAY_S = 86_400.0
CENT = Decimal("0.01")


class Wall:
    """A clock on the wall, moved by hand."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "budget"


def budget_limit(path, limit="0.05", wall=None, owner="chain a", **settings):
    """A limit on what a day costs, kept in the file: what one process has of it."""
    account = Account("day", wall=wall or Wall(), store=DailySpendFile(path, owner), **settings)
    return BudgetLimit(Decimal(limit), account, owner)


def spend(one, cents=1, spender=None):
    """One attempt that costs what was thought, up with the file before and after it, as a call is; whether there was
    money for it."""
    one.account.sync()
    hold = reserve([one], spender or Spender(), cents * CENT)
    if isinstance(hold, Reservation):
        hold.settle(cents * CENT)
        one.account.sync()
    return isinstance(hold, Reservation)


JSON_LINES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["chain a", "0.01", "-1", "1e400", "NaN"])
    ),
    lambda parts: st.one_of(st.lists(parts, max_size=4), st.dictionaries(st.text(max_size=3), parts, max_size=2)),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


def lines_of_ours(path):
    """What the whole lines of chain a in the file come to."""
    whole = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith('"]')]
    return sum(Decimal(json.loads(line)[2]) for line in whole if line.startswith('["chain a", null, "0.0'))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestRestart:
    def test_what_a_day_has_cost_is_known_after_a_restart(self, path):
        """To the cent, and for each spender."""
        first = budget_limit(path, per="tenant")
        assert spend(first, 4, Spender(None, {"tenant": "acme"}))
        assert spend(first, 2)
        assert [line[1:] for line in lines(path)[1:]] == [["acme", "0.040000000000"], [None, "0.020000000000"]]
        second = budget_limit(path, per="tenant")
        assert not spend(second, 2, Spender(None, {"tenant": "acme"}))
        assert spend(second, 1, Spender(None, {"tenant": "acme"}))
        assert spend(second, 3)
        assert not spend(second, 1)

    def test_the_file_holds_one_day(self, path):
        """The first amount of a new day takes the place of the old ones, which nobody asks for any more."""
        wall = Wall(0)
        one = budget_limit(path, wall=wall)
        assert spend(one, 5)
        wall.now = DAY_S
        assert spend(one, 2)
        assert lines(path) == [{"llm_fallback_budget": "1970-01-02"}, ["chain a", None, "0.020000000000"]]
        assert not spend(budget_limit(path, wall=wall), 4)
        assert spend(budget_limit(path, wall=Wall(2 * DAY_S)), 5)

    def test_yesterdays_attempts_do_not_count_today(self, path):
        """Neither in the file nor in memory."""
        wall = Wall(DAY_S - 1)
        one = budget_limit(path, wall=wall)
        hold = reserve([one], Spender(), CENT)
        wall.now = DAY_S
        assert spend(one)
        hold.settle(3 * CENT)
        one.account.sync()
        assert sum(Decimal(line[2]) for line in lines(path)[1:]) == CENT

    def test_several_chains_may_keep_their_books_in_one_file(self, path):
        """Each has its own limit."""
        one, other = budget_limit(path), budget_limit(path, owner="chain b")
        assert spend(one, 5)
        assert spend(other, 4)
        assert not spend(budget_limit(path, owner="chain b"), 2)
        assert spend(budget_limit(path, owner="chain b"), 1)


def _work(path, barrier, results):
    one = budget_limit(path, "0.50", wall=Wall(7 * DAY_S))
    barrier.wait()
    results.put(sum(spend(one) for _ in range(40)))


class TestProcesses:
    def test_processes_that_share_a_file_share_the_budget_and_lose_no_amount(self, path):
        """Four of them, at the same time: what each settles the others know before their next attempt. Together they
        go over by less than one attempt each."""
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(4), context.Queue()
        workers = [context.Process(target=_work, args=(path, barrier, results)) for _ in range(4)]
        for worker in workers:
            worker.start()
        went = sum(results.get(timeout=60) for _ in workers)
        for worker in workers:
            worker.join()
        assert 50 <= went <= 53
        assert sum(Decimal(line[2]) for line in lines(path)[1:]) == went * CENT

    def test_one_process_knows_what_another_has_settled(self, path):
        """Not what it still has under way."""
        one, other = budget_limit(path), budget_limit(path)
        assert spend(one, 4)
        assert not spend(other, 2)
        held = reserve([one], Spender(), CENT)
        assert spend(other, 1)
        held.settle(CENT)
        one.account.sync()
        assert not spend(other, 1)


WAITS_FOR_THE_FILE = """
import os, sys, threading, time
from decimal import Decimal
from pathlib import Path
from llm_fallback.engine.budget import Account
from llm_fallback.engine.budget_file import DailySpendFile

account = Account("day", wall=lambda: 0.0, store=DailySpendFile(Path(sys.argv[1]), "chain a"))
print("behind", flush=True)
child = os.fork()
if not child:
    opened = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    os.write(1, f"{os.getpid()} {sys.argv[1] in opened}\\n".encode())
    time.sleep(60)
sys.stdin.read()
os._exit(0)
"""


class TestForks:
    def test_a_child_reads_the_day_anew(self, path):
        """What its parent wrote and knew as well: the child's account counts by what the file says."""
        one = DailySpendFile(path, "chain a")
        one.exchange("1970-01-01", {None: CENT})
        assert in_child(lambda: one.exchange("1970-01-01", {}) == [(None, CENT)])
        assert one.exchange("1970-01-01", {}) == []

    def test_a_child_has_no_file_open_that_its_parent_waits_for(self, path):
        """It would hold what its parent gives back."""
        one = DailySpendFile(path, "chain a")

        def has_it_open():
            return str(path) in [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]

        with held_elsewhere(path):
            waiting = threading.Thread(target=one.exchange, args=("1970-01-01", {None: CENT}))
            waiting.start()
            end = time.monotonic() + 10
            while not has_it_open() and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(0.05)  # Until the file that is open is known as such.
            assert in_child(lambda: not has_it_open())
        waiting.join()

    def test_a_child_that_is_forked_while_the_file_is_in_use_does_not_keep_it(self, path):
        """It lets go of what its parent waits for."""
        path.write_text("begun", encoding="utf-8")
        command = [sys.executable, "-c", WAITS_FOR_THE_FILE, str(path)]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent,
            held_elsewhere(path),
        ):
            assert parent.stdout.readline() == "behind\n"
            child, has_it_open = parent.stdout.readline().split()
        try:
            assert has_it_open == "False"
            assert spend(budget_limit(path), 1)
        finally:
            os.kill(int(child), signal.SIGKILL)

    def test_a_parents_turn_ends_though_a_child_is_forked_in_the_middle_of_it(self, path):
        """The child's copy of the open file would hold the lock for as long as it lives."""
        one, other = budget_limit(path), budget_limit(path)
        children, is_over = [], threading.Event()

        def spend_on():
            while not is_over.is_set():
                spend(one, 0)
                one.account._bookkeeper.settle("1970-01-01", None, Decimal("1e-9"))

        worker = threading.Thread(target=spend_on)
        worker.start()
        try:
            for _ in range(20):
                child = os.fork()
                if not child:
                    time.sleep(60)
                    os._exit(0)
                children.append(child)
                began = time.monotonic()
                assert spend(other, 0)
                other.account.sync()
                assert time.monotonic() - began < 0.9
        finally:
            is_over.set()
            worker.join()
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


class TestAccidents:
    @pytest.mark.parametrize("content", ["no budget\nat all\n", "{}\n", "[1]\n", "\x00\x01", "x" * 5000])
    def test_what_is_no_budget_file_is_kept_aside_with_a_warning(self, path, content, caplog):
        """Today begins at nothing; nobody's file is overwritten for a wrong path."""
        path.write_text(content, encoding="utf-8")
        one = budget_limit(path)
        assert spend(one, 5)
        assert not spend(budget_limit(path), 1)
        assert path.with_name("budget.unreadable").read_text(encoding="utf-8") == content
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (
                logging.WARNING,
                f"budget file {path} is unreadable; it is begun anew, and kept as {path}.unreadable",
            )
        ]

    def test_nothing_and_a_million_millions_are_amounts(self, path, caplog):
        """Neither is odd, though we write none of them."""
        assert spend(budget_limit(path), 1)
        with path.open("a") as file:
            file.write('["chain a", null, "0"]\n["chain a", null, "1000000000000"]\n')
        caplog.clear()
        [known] = budget_limit(path).account.balances()
        assert (known.spent, caplog.records) == (10**12 + CENT, [])

    def test_a_line_that_another_is_about_to_write_is_read_when_it_is_whole(self, path, caplog):
        """Whoever only reads waits for its end."""
        one = budget_limit(path)
        assert spend(one, 1)
        caplog.clear()
        for piece in ('["chain a", null, "0.0', '3"]\n'):
            with path.open("a") as file:
                file.write(piece)
            one.account.sync()
        assert caplog.records == []
        assert not spend(one, 2)
        assert spend(one, 1)

    def test_a_line_that_is_none_is_passed_over_with_a_warning(self, path, caplog):
        """A process was killed while it wrote; what it had written before counts, and what comes after."""
        assert spend(budget_limit(path), 2)
        caplog.clear()
        with path.open("a") as file:
            file.write('["chain a", nul')
        assert spend(budget_limit(path), 1)
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (
                logging.WARNING,
                f"budget file {path}: passed over what is no amount, in 1 lines: " + repr(b'["chain a", nul'),
            )
        ]
        assert spend(budget_limit(path), 2)
        assert not spend(budget_limit(path), 1)

    @pytest.mark.parametrize(
        "line",
        [
            *("7", "null", "[]", "{}", '"text"', "", "[" * 1000, "[" * 100_000, '{"a":' * 1000, "\x00" * 9),
            *('["chain a", null]', '["chain a", null, "much"]', "[[], {}, []]", '["chain a", null, null]'),
            *('["chain a", null, NaN]', '["chain a", null, "NaN"]', '["chain a", null, "sNaN"]'),
            *('["chain a", null, Infinity]', '["chain a", null, "-Infinity"]', '["chain a", null, "1E+999999"]'),
            *('["chain a", null, "-100"]', '["chain a", null, -100]', '["chain a", null, true]'),
            *('["chain a", null, [0, [1], 0]]', '["chain a", [], "0.01"]', '["chain a", {}, "0.01"]'),
            *('["chain a", 7, "0.01"]', '[["chain a"], null, "0.01"]', f'["chain a", null, "{"9" * 5000}"]'),
        ],
    )
    def test_any_line_may_be_wrong(self, path, line, caplog):
        """It costs nothing, and is told once; what stands before and behind it counts."""
        first, other = budget_limit(path), budget_limit(path, per="tenant")
        assert spend(first, 1)
        with path.open("a") as file:
            file.write(line + "\n")
        caplog.clear()
        assert spend(first, 1)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert str(path) in caplog.text
        assert spend(other, 1)
        assert spend(budget_limit(path), 2)
        assert not spend(budget_limit(path), 1)
        assert lines_of_ours(path) == 5 * CENT

    @given(st.lists(st.one_of(st.binary(max_size=40), JSON_LINES), max_size=6), st.binary(max_size=20))
    @example([b"\r", b'["chain a", null, "0.01"]\r'], b'["chain a", null, "0.01"]')
    def test_whatever_the_file_holds_what_we_spend_is_counted(self, tmp_path_factory, odd, torn):
        """Lines of anything, the last of them unfinished: our own cents are read again, and no call fails."""
        path = tmp_path_factory.mktemp("odd") / "budget"
        one = budget_limit(path, "1e20")
        assert spend(one, 1)
        with path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in odd) + torn)
        assert spend(one, 2)
        with path.open("ab") as file:
            file.write(torn)
        assert spend(one, 3)
        again = budget_limit(path, "1e20")
        [known], [read] = one.account.balances(), again.account.balances()
        assert read.spent >= 6 * CENT
        assert read.spent == known.spent

    def test_a_file_that_is_not_there_is_told(self, path, caplog):
        """It may be the first start, or a disk that was not mounted."""
        budget_limit(path)
        assert [record.getMessage() for record in caplog.records] == [
            f"budget file {path} is not there; what chain a has cost today begins at nothing"
        ]

    @pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/zero"])
    def test_what_is_no_regular_file_is_not_read(self, device, caplog):
        """Some never end."""
        one = budget_limit(Path(device))
        assert spend(one, 5)
        assert not spend(one, 1)
        assert f"budget file {device} cannot be written (it is no regular file)" in caplog.text

    def test_a_file_of_a_day_to_come_is_left_alone(self, path, caplog):
        """Our clock goes behind that of whoever wrote it; nothing of theirs is lost."""
        assert spend(budget_limit(path, wall=Wall(9 * DAY_S)), 4)
        before = path.read_bytes()
        one = budget_limit(path)
        assert spend(one, 5)
        assert not spend(one, 1)
        assert path.read_bytes() == before
        assert f"budget file {path} cannot be written (it is of 1970-01-10, a day to come)" in caplog.text

    def test_an_attempt_that_ends_after_midnight_takes_nothing_from_the_new_day(self, path):
        """Another process has begun it meanwhile."""
        wall = Wall(DAY_S - 1)
        one, other = budget_limit(path, wall=wall), budget_limit(path, wall=wall)
        assert spend(one, 1)
        hold = reserve([one], Spender(), CENT)
        wall.now = DAY_S
        assert spend(other, 4)
        hold.settle(3 * CENT)
        one.account.sync()
        assert lines_of_ours(path) == 4 * CENT
        assert not spend(one, 2)

    def test_where_nothing_can_be_written_it_counts_in_memory_and_says_so_once(self, tmp_path, caplog):
        """No call is lost for it."""
        path = tmp_path / "none" / "budget"
        one = budget_limit(path)
        caplog.clear()
        assert spend(one, 3)
        assert spend(one, 2)
        assert not spend(one, 1)
        assert caplog.text.count("cannot be written") == 1
        assert str(path) in caplog.text

    def test_what_could_not_be_written_is_written_with_the_next_that_can(self, tmp_path):
        """The disk is back."""
        path = tmp_path / "none" / "budget"
        one = budget_limit(path)
        assert spend(one, 3)
        path.parent.mkdir()
        assert spend(one, 1)
        assert not spend(budget_limit(path), 2)

    def test_amounts_that_waited_for_the_disk_are_lines_of_their_own(self, tmp_path):
        """One for each spender."""
        path = tmp_path / "none" / "budget"
        one = budget_limit(path, per="tenant")
        assert spend(one, 1, Spender(None, {"tenant": "acme"}))
        assert spend(one, 2)
        path.parent.mkdir()
        one.account.sync()
        assert lines(path)[1:] == [["chain a", "acme", "0.010000000000"], ["chain a", None, "0.020000000000"]]

    def test_a_full_disk_leaves_no_half_line(self, path, caplog):
        """What did not fit is taken back, and written later."""
        one = budget_limit(path)
        assert spend(one, 1)
        before = path.read_bytes()
        with room_for(len(before) + 10):
            assert spend(one, 1)
        assert path.read_bytes() == before
        why = f"[Errno {errno.ENOSPC}] the disk is full"
        assert f"budget file {path} cannot be written ({why}); chain a counts on in memory" in caplog.text
        assert spend(one, 1)
        assert not spend(budget_limit(path), 3)
        assert spend(budget_limit(path), 2)

    @pytest.mark.parametrize("piece", ['["chain a", nul', '["chain a", null, "0.0', "["])
    def test_a_piece_that_a_full_disk_left_never_joins_the_next_line(self, path, piece):
        """Whoever writes next, of those who know the file and of those who do not."""
        known, late = budget_limit(path), budget_limit(path, owner="chain b")
        assert spend(known, 1)
        for one in (known, late, budget_limit(path)):
            with path.open("a") as file:
                file.write(piece)
            assert spend(one, 1)
        assert path.read_text(encoding="utf-8").splitlines()[2::2] == [piece] * 3
        assert lines_of_ours(path) == 3 * CENT

    def test_a_file_that_was_deleted_is_begun_anew(self, path):
        """What this process knows it keeps counting."""
        one = budget_limit(path)
        assert spend(one, 3)
        path.unlink()
        assert spend(one, 1)
        assert not spend(one, 2)
        assert not spend(budget_limit(path), 5)
