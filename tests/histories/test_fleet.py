"""Random histories of a fleet on virtual time: each follows from its seed, and every promise holds in each.

A promise that breaks prints the seed and what happened up to there; `play(seed, ...)` plays it again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import pairwise
from random import Random

from llm_fallback.events import Failure
from tests.histories.fleet import COOLDOWN_S, MINUTE_S, PRIMARY, PUSHED_S, Setting, SimulatedFleet, SimulatedProcess
from tests.thinning import histories

AGREED_S = 1.0
"""Four exchanges."""
EXCHANGED_S = 1.25
"""A pause, an answer that is not waited for any longer, the pause after that, and the way there and back."""


LEARNT_S = 2.0
"""After a loss the store grants nothing for a lease time, in which those who are awake tell it what was used."""


# What befalls a fleet.


def cut_off(fleet: SimulatedFleet, rng: Random) -> None:
    process, seconds = rng.choice(fleet.alive), rng.uniform(1, 12)
    fleet.world.note(f"{process.name} is cut off from the store for {seconds:.1f} s")
    process.is_cut_off = True
    fleet.trouble(seconds)
    fleet.world.after(seconds, lambda: setattr(process, "is_cut_off", False))


def pause(fleet: SimulatedFleet, rng: Random) -> None:
    running = [process for process in fleet.alive if process.is_running]
    # Somebody stays who can tell a store that has lost it what was used, and is awake to do so.
    if len(running) > 2 and fleet.world.now > fleet.store.lost_at + LEARNT_S:
        rng.choice(running).pause(rng.uniform(0.5, 15))


def kill(fleet: SimulatedFleet, rng: Random) -> None:
    if sum(process.is_running for process in fleet.alive) > 2:
        rng.choice(fleet.alive).kill()
        if rng.random() < 0.5:
            fleet.add()


def outage(fleet: SimulatedFleet, rng: Random) -> None:
    seconds = rng.uniform(0.5, 12)
    fleet.store.go_away(seconds)
    fleet.trouble(seconds)


def flush(fleet: SimulatedFleet, rng: Random) -> None:
    fleet.store.lose_everything()


def restore(fleet: SimulatedFleet, rng: Random) -> None:
    fleet.store.go_back()
    fleet.trouble(1.5)


def jump(fleet: SimulatedFleet, rng: Random) -> None:
    fleet.store.jump(rng.choice([-3600, -60, -1, 1, 60, 3600]))


def set_a_wall_clock(fleet: SimulatedFleet, rng: Random) -> None:
    rng.choice(fleet.alive).clock_off_s = rng.choice([-3600, 3600, 0])


Trouble = Callable[[SimulatedFleet, Random], None]
EVERY_TROUBLE: tuple[Trouble, ...] = (cut_off, pause, kill, outage, flush, restore, jump, set_a_wall_clock)
LOSSES: tuple[Trouble, ...] = (pause, kill, flush, jump, set_a_wall_clock)
"""Troubles in which the store answers everybody."""


def play(
    seed: int, setting: Setting, troubles: Iterable[Trouble] = (), *, every_s: float = 8.0, until: float = 0.0
) -> SimulatedFleet:
    """A fleet that is befallen by one of the troubles every so often."""
    fleet, troubles = SimulatedFleet(seed, setting), tuple(troubles)
    rng, at = fleet.world.rng("troubles"), 0.0
    while troubles and (at := at + rng.expovariate(1 / every_s)) < until:
        fleet.world.at(at, lambda: rng.choice(troubles)(fleet, rng))
    return fleet


# Limits.


def most_in_a_minute(times: list[float], between: Callable[[float, float], bool]) -> int:
    """The most requests in a window of a minute, of those windows that count."""
    return max(
        (
            index - begin + 1
            for index, at in enumerate(times)
            if between(times[begin := bisect_right(times, at - MINUTE_S)], at)
        ),
        default=0,
    )


def store_answered(fleet: SimulatedFleet) -> Callable[[float, float], bool]:
    return lambda begin, end: not any(begin < until and end > since for since, until in fleet.troubles)


@histories(4, 1400)
def test_the_sum_of_all_keeps_to_a_limit_in_every_window_while_the_store_answers(seed):
    """Three processes want twice as much as they may have; they are paused, killed, and the store loses its data."""
    fleet = play(seed, Setting(processes=3, calls_per_s=2.0, rpm=120), LOSSES, until=80)
    fleet.world.run(80)
    sent = [request.at for request in fleet.sent]
    if most_in_a_minute(sent, store_answered(fleet)) > 120:
        raise fleet.broke("more than 120 requests in a minute")


@histories(2, 800)
def test_the_sum_of_all_keeps_to_a_limit_again_when_the_store_is_back(seed):
    """Windows after all trouble hold the limit, whatever was sent without the store before."""
    fleet = play(seed, Setting(processes=3, calls_per_s=2.0, rpm=120), EVERY_TROUBLE, until=30)
    fleet.world.run(110)
    sent = [request.at for request in fleet.sent if request.at > 45]
    if most_in_a_minute(sent, store_answered(fleet)) > 120:
        raise fleet.broke("more than 120 requests in a minute")


@histories(1, 100)
def test_the_limit_is_used(seed):
    """Under twice the demand most of it goes out: leases are not hoarded."""
    fleet = play(seed, Setting(processes=4, calls_per_s=2.0, rpm=240))
    fleet.world.run(130)
    if (used := sum(request.at > 10 for request in fleet.sent)) < 0.85 * 2 * 240:
        raise fleet.broke(f"only {used} of 480 requests in two minutes")


@histories(2, 1700)
def test_requests_under_way_keep_to_max_parallel_while_the_store_answers(seed):
    """In sum over all processes that run, at every moment a request is sent."""
    fleet = play(seed, Setting(processes=3, calls_per_s=4.0, max_parallel=3, answers_in_s=1.0), (kill, flush, jump))
    counts: list[int] = []

    def watch(process: SimulatedProcess) -> None:
        begin = process.health[PRIMARY].begin

        def counted(now: float, tokens: int = 0) -> object:
            permit = begin(now, tokens)
            counts.append(sum(other.health[PRIMARY].in_flight for other in fleet.alive))
            return permit

        process.health[PRIMARY].begin = counted  # type: ignore[method-assign, assignment]

    for process in fleet.processes:
        watch(process)
    fleet.world.run(25)
    if max(counts) > 3:
        raise fleet.broke(f"{max(counts)} requests under way")
    assert len(counts) > 20


# Breakers.


def die(fleet: SimulatedFleet, how: Failure, *, at: float, until: float) -> None:
    def fail(failure: Failure | None) -> None:
        fleet.world.note(f"the primary fails: {failure}")
        fleet.down = failure

    fleet.world.at(at, lambda: fail(how))
    fleet.world.at(until, lambda: fail(None))


def after_two_reports(fleet: SimulatedFleet) -> list[float]:
    """How many seconds after two processes had reported a dead primary requests went there still."""
    if len(fleet.reported) < 2:
        return []  # One was so early, and the traffic is so small, that nobody else has met it three times.
    second = sorted(fleet.reported.values())[1]
    return [request.at - second for request in fleet.sent if request.at > second and request.kind != "probe"]


@histories(3, 1400)
def test_what_two_have_met_nobody_else_has_to_meet(seed):
    """Two have reported a dead primary: when that has been sent on, 10 ms later, not a request more goes there,
    whatever the traffic and whichever answers of the store are lost. Until then, at two calls/s, four at most."""
    calls_per_s = 20.0 if seed % 2 else 2.0
    fleet = play(seed, Setting(processes=8, calls_per_s=calls_per_s))
    die(fleet, "connection", at=5, until=40)
    fleet.world.run(14)
    late = after_two_reports(fleet)
    if max(late, default=0.0) > PUSHED_S or (len(late) > 4 and calls_per_s == 2.0):
        raise fleet.broke(f"requests after two had reported: {late}")
    if fleet.reported and any(process.state() == "closed" for process in fleet.alive):
        raise fleet.broke("somebody does not know")


@histories(1, 500)
def test_where_nothing_is_sent_on_the_next_exchange_tells(seed):
    """As in a file: each knows by its next exchange, or by the one after an answer that was lost."""
    fleet = play(seed, Setting(processes=8, calls_per_s=4.0, sends_news=False))
    die(fleet, "connection", at=5, until=40)
    fleet.world.run(14)
    if max(after_two_reports(fleet), default=0.0) > EXCHANGED_S:
        raise fleet.broke(f"requests after two had reported: {after_two_reports(fleet)}")


DEAD_UNTIL = 20.0


@histories(2, 900)
def test_a_dead_primary_is_probed_once_a_cooldown_by_all_together(seed):
    """While the store answers. Once it is well, the probe heals it for all within four exchanges."""
    fleet = play(seed, Setting(processes=5, calls_per_s=4.0), (pause, flush, jump), until=20, every_s=8)
    die(fleet, "server_error", at=5, until=DEAD_UNTIL)
    fleet.world.run(DEAD_UNTIL)
    probes = [request.at for request in fleet.sent if request.kind == "probe"]
    near = [(one, next_) for one, next_ in pairwise(probes) if fleet.store.passed_s(one, next_) < COOLDOWN_S]
    if near:
        raise fleet.broke(f"two probes within a cooldown: {near}")
    fleet.world.run(DEAD_UNTIL + 8 * COOLDOWN_S)
    healed = [request.at for request in fleet.sent if request.at > DEAD_UNTIL and request.kind == "probe"]
    if not healed:
        raise fleet.broke("nobody has probed it")
    fleet.world.run(fleet.world.now + 15 + AGREED_S)
    if any(process.state() != "closed" for process in fleet.alive):
        raise fleet.broke("somebody does not know that it is well")


@histories(3, 1100)
def test_one_that_is_sick_opens_nobody_else_s_breaker(seed):
    """Its own trouble is its own: the others send single requests until one succeeded, and then as ever."""
    fleet = play(seed, Setting(processes=5, calls_per_s=3.0), (pause, flush, jump, cut_off, outage), until=35)
    sick, *others = fleet.processes
    fleet.world.at(5, lambda: setattr(sick, "is_sick", True))
    fleet.world.run(35)
    opened = [name for _, name, _ in fleet.opened if name != sick.name]
    adopted = [other.name for other in others if other.state() != "closed"]
    if opened or adopted:
        raise fleet.broke(f"opened elsewhere: {opened}, {adopted}")
    assert any(name == sick.name for _, name, _ in fleet.opened)


@histories(2, 900)
def test_an_account_s_trouble_holds_for_all_at_once(seed):
    """A 429 with Retry-After: all know within one exchange, and nobody asks before the time."""
    fleet = play(seed, Setting(processes=5, calls_per_s=4.0))
    fleet.retry_after_s = 20.0
    fleet.world.at(5, lambda: setattr(fleet, "down", "rate_limited"))
    fleet.world.run(24)
    first = min(at for at, _, _ in fleet.opened)
    late = [request for request in fleet.sent if first + 0.32 < request.at < first + 19.9]
    if late:
        raise fleet.broke(f"asked again {len(late)} times, at {late[0].at:.3f}; opened at {first:.3f}")


# Money.


def spent(fleet: SimulatedFleet) -> Decimal:
    return max(fleet.spent.values(), default=Decimal(0))


@histories(3, 800)
def test_a_day_s_budget_is_never_exceeded_while_the_store_answers(seed):
    """Killed, paused, flushed: what was spent is known to the others, and what a dead one held counts as spent."""
    fleet = play(seed, Setting(processes=4, calls_per_s=8.0, usd_per_day=Decimal("0.5")), LOSSES, until=30)
    fleet.world.run(30)
    if spent(fleet) > Decimal("0.5"):
        raise fleet.broke(f"{spent(fleet)} of 0.5 are spent")


@histories(1, 200)
def test_a_day_s_budget_is_used_to_its_end(seed):
    """Of 8 processes three are killed, and still 97 % are spent."""
    fleet = play(seed, Setting(processes=8, calls_per_s=6.0, usd_per_day=Decimal(1)))
    rng = fleet.world.rng("kills")
    for at in (5, 8, 11):
        fleet.world.at(at, lambda: kill(fleet, rng))
    fleet.world.run(55)
    if not Decimal("0.97") <= spent(fleet) <= Decimal(1):
        raise fleet.broke(f"{spent(fleet)} of 1 are spent")


@histories(2, 200)
def test_a_day_s_budget_holds_while_the_store_is_gone_for_all(seed):
    """Each spends its part of what was left; when the store is back, the sums are right again."""
    fleet = play(seed, Setting(processes=4, calls_per_s=8.0, usd_per_day=Decimal("0.6")))
    at = fleet.world.rng("outage").uniform(3, 12)
    fleet.world.at(at, lambda: fleet.store.go_away(20))
    fleet.world.run(50)
    if spent(fleet) > Decimal("0.6"):
        raise fleet.broke(f"{spent(fleet)} of 0.6 are spent")
    if spent(fleet) < Decimal("0.55"):
        raise fleet.broke(f"only {spent(fleet)} of 0.6 could be spent")


# The same seed.


def test_a_seed_plays_the_same_history_each_time():
    """Else a failing one could not be looked into."""
    setting = Setting(processes=3, calls_per_s=4.0, rpm=60)
    first, second = (play(7, setting, EVERY_TROUBLE, until=30) for _ in range(2))
    for fleet in (first, second):
        fleet.world.run(30)
    assert first.world.history == second.world.history
    assert [request.at for request in first.sent] == [request.at for request in second.sent]
    assert first.world.history
