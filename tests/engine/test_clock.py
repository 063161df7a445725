"""The clocks: one that waits and one that jumps, alike in what they promise."""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from llm_fallback.engine.clock import RealClock
from llm_fallback.engine.virtual_clock import JumpingClock

CLOCKS = [JumpingClock, RealClock]


def test_an_hour_of_sleep_takes_no_time_and_passes_exactly():
    """A sleeper wakes at its moment, however far away."""

    async def nap(clock):
        await clock.sleep(3600)
        return clock.now()

    assert asyncio.run(nap(JumpingClock(start=5.0))) == 3605.0


async def test_sleepers_wake_in_the_order_of_their_moments():
    """Whoever waits for an earlier moment goes first, whoever asked first among equals."""
    clock, woken = JumpingClock(), []

    async def sleeper(name, seconds):
        await clock.sleep(seconds)
        woken.append((name, clock.now()))

    await asyncio.gather(*(sleeper(*who) for who in [("c", 3), ("a", 1), ("b", 2), ("b2", 2), ("d", 3.5)]))
    assert woken == [("a", 1), ("b", 2), ("b2", 2), ("c", 3), ("d", 3.5)]


async def test_sleeping_for_no_time_lets_others_run_and_time_stand_still():
    """`sleep(0)` is a turn, not a jump."""
    clock = JumpingClock(start=7.0)
    await clock.sleep(0)
    assert clock.now() == 7.0


async def test_time_stands_still_while_others_still_have_something_to_do():
    """A task that works over several turns of the loop is not jumped over by another's sleep."""
    clock, seen = JumpingClock(), []

    async def works():
        for _ in range(8):
            await asyncio.sleep(0)
            seen.append(clock.now())

    await asyncio.gather(clock.sleep(100), works())
    assert seen == [0.0] * 8
    assert clock.now() == 100


async def test_a_deadline_ends_what_still_waits_at_its_moment():
    """TimeoutError comes at the deadline, not later."""
    clock = JumpingClock()
    with pytest.raises(TimeoutError):
        async with clock.deadline(2.5):
            await clock.sleep(1000)
    assert clock.now() == 2.5


@pytest.mark.parametrize(("inner", "outer", "expected"), [(1.0, 2.0, "inner"), (2.0, 1.0, "outer")])
async def test_of_nested_deadlines_the_earlier_one_ends_its_own_body(inner, outer, expected):
    """The inner one leaves the outer body running; the outer one ends both."""
    clock, ended = JumpingClock(), []
    try:
        async with clock.deadline(outer):
            try:
                async with clock.deadline(inner):
                    await clock.sleep(1000)
            except TimeoutError:
                ended.append("inner")
    except TimeoutError:
        ended.append("outer")
    assert ended == [expected]
    assert clock.now() == min(inner, outer)


async def test_an_outer_deadline_at_the_same_moment_is_not_lost_in_the_inner_one():
    """Both are over: the outer body must not go on, although the inner timeout is caught."""
    clock = JumpingClock()
    with pytest.raises(TimeoutError):
        async with clock.deadline(1.0):
            try:
                async with clock.deadline(1.0):
                    await clock.sleep(1000)
            except TimeoutError:
                pass
            await clock.sleep(1000)
    assert clock.now() == 1.0


async def test_two_tasks_keep_deadlines_of_their_own():
    """One task's timeout is none of the other's business."""
    clock = JumpingClock()

    async def within(at, seconds):
        try:
            async with clock.deadline(at):
                await clock.sleep(seconds)
        except TimeoutError:
            return "late", clock.now()
        return "done", clock.now()

    assert await asyncio.gather(within(2, 10), within(5, 3)) == [("late", 2), ("done", 3)]


@pytest.mark.parametrize("kind", CLOCKS)
async def test_a_deadline_already_past_ends_the_first_wait(kind):
    """There is no time left to wait in."""
    clock = kind()
    with pytest.raises(TimeoutError):
        async with clock.deadline(clock.now() - 1):
            await clock.sleep(1000)


@pytest.mark.parametrize("kind", CLOCKS)
async def test_an_idle_timer_that_is_late_already_brings_nothing(kind):
    """Not even what is there: who always has the next piece ready would never be stopped."""

    async def ready():
        return "here"

    clock = kind()
    timer = clock.idle_timer()
    assert await timer.limit(ready, clock.now() + 10) == "here"
    with pytest.raises(TimeoutError):
        await timer.limit(ready, clock.now())
    timer.stop()


@pytest.mark.parametrize("kind", CLOCKS)
async def test_a_body_that_never_waits_is_through_before_any_deadline(kind):
    """And leaves nothing behind: the task's next wait is not cancelled for it."""
    clock = kind()
    async with clock.deadline(clock.now() - 1):
        done = True
    await asyncio.sleep(0)
    await clock.sleep(0)
    assert done


@pytest.mark.parametrize("kind", CLOCKS)
async def test_a_caller_that_leaves_inside_a_deadline_is_cancelled_and_not_timed_out(kind):
    """CancelledError stays what it is."""
    clock = kind()

    async def waits():
        async with clock.deadline(clock.now() + 1000):
            await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_at_the_moment_of_the_deadline_is_not_swallowed():
    """Whoever cancels a task ends it, even if its deadline comes at the same moment."""
    clock = JumpingClock()

    async def waits():
        async with clock.deadline(5):
            await clock.sleep(1000)

    task = asyncio.ensure_future(waits())
    while clock.now() < 5:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_inside_a_deadline_comes_out_as_it_is():
    """A deadline changes nothing but what is late."""
    with pytest.raises(KeyError):
        async with JumpingClock().deadline(10):
            raise KeyError("mine")


async def test_time_does_not_jump_to_a_deadline_that_was_kept():
    """What nobody waits for any more does not move time: else a breaker would reopen between two calls."""
    clock = JumpingClock()
    async with clock.deadline(300):
        await clock.sleep(1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert clock.now() == 1


async def test_time_does_not_jump_to_where_a_cancelled_sleeper_would_have_woken():
    """A sleep that was given up is forgotten."""
    clock = JumpingClock()
    sleeper = asyncio.ensure_future(clock.sleep(500))
    await asyncio.sleep(0)
    sleeper.cancel()
    for _ in range(100):
        await asyncio.sleep(0)
    assert clock.now() == 0


async def test_time_can_be_let_pass_by_hand():
    """A slow reader's pause is a hand on the clock; sleepers whose moment is past wake at once."""
    clock = JumpingClock()
    sleeper = asyncio.ensure_future(clock.sleep(3))
    await asyncio.sleep(0)
    clock.advance(10)
    await sleeper
    assert clock.now() == 10


def test_one_clock_serves_one_event_loop_after_the_other():
    """A loop that ended while somebody waited does not stop time for the next."""
    clock, left_behind = JumpingClock(), []

    async def leaves_a_sleeper_behind():
        left_behind.append(asyncio.ensure_future(clock.sleep(100)))
        await clock.sleep(1)

    for _ in range(2):
        asyncio.run(leaves_a_sleeper_behind())
    assert clock.now() == 2


async def test_the_real_clock_ends_a_body_at_its_deadline():
    """A few milliseconds of real time, so that the real one is known to work at all."""
    clock = RealClock()
    began = clock.now()
    with pytest.raises(TimeoutError):
        async with clock.deadline(began + 0.02):
            await clock.sleep(30)
    assert 0.015 <= clock.now() - began < 5


async def test_the_real_clock_lets_through_what_is_in_time():
    """No deadline, no error."""
    clock = RealClock()
    async with clock.deadline(clock.now() + 30):
        await clock.sleep(0)


async def forever():
    await asyncio.get_running_loop().create_future()


class TestAlarms:
    @pytest.mark.parametrize("kind", CLOCKS)
    async def test_a_wait_that_ends_in_time_brings_its_result(self, kind):
        """One after another, also with deadlines that come sooner than the last one's."""
        clock = kind()
        timer = clock.idle_timer()
        for seconds in (60.0, 0.5, 60.0, math.inf):
            assert await timer.limit(lambda: clock.sleep(0), clock.now() + seconds) is None
        timer.stop()

    @pytest.mark.parametrize("kind", CLOCKS)
    async def test_each_wait_has_its_own_deadline(self, kind):
        """A timer set for an earlier wait ends no later one before its time, and a later one does end."""
        clock = kind()
        timer = clock.idle_timer()
        with pytest.raises(TimeoutError):
            await timer.limit(forever, clock.now() + 0.02)
        began = clock.now()
        await timer.limit(lambda: clock.sleep(0), began + 0.01)
        await timer.limit(lambda: clock.sleep(0.03), began + 30)
        with pytest.raises(TimeoutError):
            await timer.limit(forever, began + 0.05)
        assert clock.now() >= began + 0.05
        timer.stop()

    @pytest.mark.parametrize("kind", CLOCKS)
    async def test_a_deadline_that_has_passed_ends_a_wait_at_once(self, kind):
        """But one that needs no waiting still brings its result."""
        clock = kind()
        timer = clock.idle_timer()
        with pytest.raises(TimeoutError):
            await timer.limit(forever, clock.now() - 1)
        timer.stop()

    @pytest.mark.parametrize("kind", CLOCKS)
    async def test_a_cancelled_caller_stays_cancelled(self, kind):
        """Who cancels the task is not told that time was up."""
        clock = kind()
        timer = clock.idle_timer()
        task = asyncio.create_task(timer.limit(forever, clock.now() + 3600))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        timer.stop()

    @pytest.mark.parametrize("kind", CLOCKS)
    async def test_inside_a_timeout_the_earlier_of_the_two_counts(self, kind):
        """An outer deadline goes on outwards; afterwards the task counts as not cancelled."""
        clock = kind()
        timer = clock.idle_timer()
        with pytest.raises(TimeoutError):
            async with clock.deadline(clock.now() + 0.01):
                await timer.limit(forever, clock.now() + 3600)
        with pytest.raises(TimeoutError):
            async with clock.deadline(clock.now() + 3600):
                await timer.limit(forever, clock.now() + 0.01)
        assert asyncio.current_task().cancelling() == 0
        timer.stop()

    async def test_a_cancellation_at_the_moment_of_the_alarm_is_not_swallowed(self):
        """Both come before the task has its turn, and it is the caller's that counts."""
        timer = RealClock().idle_timer()
        at = RealClock().now() + 0.01
        task = asyncio.create_task(timer.limit(forever, at))
        await asyncio.sleep(0)
        while RealClock().now() < at + 0.01:
            pass  # The alarm is due, and has not had its turn.
        asyncio.get_running_loop().call_later(0, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()
        timer.stop()

    async def test_an_alarm_that_is_off_leaves_no_timer(self):
        """Of a call nothing stays behind in the loop."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):
            pytest.skip("another loop than asyncio's own does not show its timers")
        timer = RealClock().idle_timer()
        await timer.limit(lambda: asyncio.sleep(0), RealClock().now() + 3600)
        timer.stop()
        assert all(timer.cancelled() for timer in loop._scheduled)


def test_loops_of_several_threads_share_a_clock():
    """Each wakes its own sleepers, at their moments and in their order; all see one time."""
    clock = JumpingClock()

    async def naps():
        moments = []
        for seconds in (1, 2, 3):
            began = clock.now()
            await clock.sleep(seconds)
            moments.append(clock.now() - began >= seconds)
        return moments

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: asyncio.run(naps()), range(8)))
    assert done == [[True] * 3] * 8
    assert clock.now() >= 6


def test_a_loop_does_not_jump_over_an_earlier_moment_of_another():
    """Each goes when its moment is the next of all, so that what is quick is not late for what is slow."""
    clock, begun = JumpingClock(patience_s=30), threading.Event()

    async def quick():
        asyncio.get_running_loop().call_soon(begun.set)
        moments = [clock.now()]
        for _ in range(300):
            await clock.sleep(1)
            moments.append(clock.now())
        return {after - before for before, after in pairwise(moments)}

    with ThreadPoolExecutor(2) as pool:
        naps = pool.submit(asyncio.run, quick())
        begun.wait()
        slow = pool.submit(asyncio.run, clock.sleep(1000))
        assert naps.result() == {1}
        slow.result()
    assert clock.now() >= 1000


async def test_a_loop_that_does_not_get_on_is_jumped_over_after_a_while():
    """Or one that is blocked until the other is through would block both for ever."""
    clock = JumpingClock(patience_s=0.01)
    sleeper = asyncio.ensure_future(clock.sleep(1))
    await asyncio.sleep(0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, clock.sleep(100)).result()
    assert clock.now() == 100
    await sleeper


class TestPatience:
    async def test_it_leaves_others_the_time_to_do_what_is_waited_for(self):
        """A thread takes real time, and the clock's does not pass for it."""
        clock, loop = JumpingClock(patience_s=30), asyncio.get_running_loop()
        done, begun = loop.create_future(), threading.Event()

        def work():
            begun.wait()
            loop.call_soon_threadsafe(done.set_result, "done")

        working = loop.run_in_executor(None, work)
        async with clock.deadline(5, for_others=True):
            loop.call_later(0.005, begun.set)
            assert await done == "done"
        await working
        assert clock.now() == 0

    async def test_what_comes_before_its_end_is_jumped_to_at_once(self):
        """It may be what the others wait for."""
        clock = JumpingClock(patience_s=30)
        done = asyncio.get_running_loop().create_future()

        async def other():
            await clock.sleep(3)
            done.set_result(clock.now())

        task = asyncio.ensure_future(other())
        async with clock.deadline(5, for_others=True):
            assert await done == 3
        await task

    @pytest.mark.parametrize("clock", [JumpingClock(patience_s=0.005), RealClock()], ids=["jumps", "waits"])
    async def test_it_has_an_end(self, clock):
        """If nobody does anything it is a deadline."""
        # uvloop counts whole milliseconds.
        early_s = 0.001 if type(asyncio.get_running_loop()).__module__.startswith("uvloop") else 0.0
        began = clock.now()
        with pytest.raises(TimeoutError):
            async with clock.deadline(began + 0.02, for_others=True):
                await forever()
        assert clock.now() >= began + 0.02 - early_s


def test_a_loop_that_was_closed_in_mid_sleep_is_forgotten():
    """Its moments are nobody's any more."""
    clock = JumpingClock()

    async def leave():
        asyncio.get_running_loop().create_task(clock.sleep(50))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(clock.sleep(1))
    assert clock.now() == 1


async def test_a_wait_that_begins_after_its_end_is_over():
    """Also where what it waits for is there: a server that always has more ready never lets an alarm find a wait."""
    timer = RealClock().idle_timer()
    with pytest.raises(TimeoutError):
        await timer.limit(lambda: asyncio.sleep(0), RealClock().now() - 0.01)
