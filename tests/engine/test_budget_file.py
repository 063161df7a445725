"""The file that keeps what a day has cost: across restarts, between processes, and on disks that fail."""

from __future__ import annotations

import json
import logging
import multiprocessing
import resource
from contextlib import contextmanager
from decimal import Decimal

import pytest

from llm_fallback.engine.budget import Account, BudgetLimit, Reservation, Spender, reserve
from llm_fallback.engine.budget_file import DailySpendFile

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
    account = Account("day", wall=wall or Wall(), file=DailySpendFile(path, owner), **settings)
    return BudgetLimit(Decimal(limit), account, owner)


def spend(one, cents=1, spender=None):
    """One attempt that costs what was thought; whether there was money for it."""
    one.account.sync()
    hold = reserve([one], spender or Spender(), cents * CENT)
    if isinstance(hold, Reservation):
        hold.settle(cents * CENT)
    return isinstance(hold, Reservation)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def room_for(size):
    """No file of this process can grow beyond so many bytes: what is written at the edge is written in part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestRestart:
    def test_what_a_day_has_cost_is_known_after_a_restart(self, path):
        """To the cent, and for each spender."""
        first = budget_limit(path, per="tenant")
        assert spend(first, 4, Spender(None, {"tenant": "acme"}))
        assert spend(first, 2)
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
        assert not spend(one, 1)


class TestAccidents:
    @pytest.mark.parametrize("content", ["no budget\nat all\n", "{}\n", "[1]\n", "\x00\x01", "x" * 5000])
    def test_what_is_no_budget_file_is_kept_aside_with_a_warning(self, path, content, caplog):
        """Today begins at nothing; nobody's file is overwritten for a wrong path."""
        path.write_text(content, encoding="utf-8")
        one = budget_limit(path)
        assert spend(one, 5)
        assert not spend(budget_limit(path), 1)
        assert path.with_name("budget.unreadable").read_text(encoding="utf-8") == content
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert str(path) in caplog.text

    def test_a_line_that_is_none_is_passed_over_with_a_warning(self, path, caplog):
        """A process was killed while it wrote; what it had written before counts, and what comes after."""
        assert spend(budget_limit(path), 2)
        caplog.clear()
        with path.open("a") as file:
            file.write('["chain a", nul')
        one = budget_limit(path)
        assert str(path) in caplog.text
        assert spend(one, 1)
        assert spend(budget_limit(path), 2)
        assert not spend(budget_limit(path), 1)

    @pytest.mark.parametrize("line", ["7", "null", '["chain a", null]', '["chain a", null, "much"]', "[[], {}, []]"])
    def test_any_line_may_be_wrong(self, path, line):
        """And costs nothing."""
        assert spend(budget_limit(path), 1)
        with path.open("a") as file:
            file.write(line + "\n")
        assert spend(budget_limit(path), 4)
        assert not spend(budget_limit(path), 1)
        assert lines(path)[0] == {"llm_fallback_budget": "1970-01-01"}

    def test_a_file_that_is_not_there_is_told(self, path, caplog):
        """It may be the first start, or a disk that was not mounted."""
        budget_limit(path)
        assert f"budget file {path} is not there" in caplog.text

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

    def test_a_full_disk_leaves_no_half_line(self, path, caplog):
        """What did not fit is taken back, and written later."""
        one = budget_limit(path)
        assert spend(one, 1)
        before = path.read_bytes()
        with room_for(len(before) + 10):
            assert spend(one, 1)
        assert path.read_bytes() == before
        assert "the disk is full" in caplog.text
        assert spend(one, 1)
        assert not spend(budget_limit(path), 3)
        assert spend(budget_limit(path), 2)

    def test_a_file_that_was_deleted_is_begun_anew(self, path):
        """What this process knows it keeps counting."""
        one = budget_limit(path)
        assert spend(one, 3)
        path.unlink()
        assert spend(one, 1)
        assert not spend(one, 2)
        assert not spend(budget_limit(path), 5)
