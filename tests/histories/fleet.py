"""A fleet in a world: processes that call a primary and a backup, what befalls them, and the promises they keep.

A process is the engine's own health, breakers, limits and budget, with a real `Member` of the fleet. A call is made
step by step here, without a transport, so that hundreds a second cost little; `history.py` has fleets of whole models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from llm_fallback.engine.budget import Account, BudgetLimit, Reservation, Spender, reserve
from llm_fallback.engine.circuit_breaker import Permit
from llm_fallback.engine.health import Health
from llm_fallback.events import Failure
from llm_fallback.fleet.deployment import DeploymentNames
from llm_fallback.fleet.evidence import decode_evidence
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import News, Request, Response
from llm_fallback.fleet.names import Names
from llm_fallback.fleet.schedule import INTERVAL_S
from llm_fallback.spec import Breaker, Limits
from tests.histories.store import SimulatedStore
from tests.histories.world import Actor, BrokenPromise, World
from tests.plans import target

PRIMARY, BACKUP = "primary", "backup"
COOLDOWN_S = 4.0
COST = Decimal("0.001")
_NAMES = Names("secret of the fleet")
_RECOVERED_S = 8.0
"""After trouble with the store: until the last process has come back to it."""
MINUTE_S = 60.0
PUSHED_S = 0.01
"""What the store sends on is heard within this time."""


@dataclass(eq=False)
class Setting:
    """What a fleet is made of."""

    processes: int = 4
    calls_per_s: float = 4.0
    rpm: int | None = None
    max_parallel: int | None = None
    usd_per_day: Decimal | None = None
    answers_in_s: float = 0.2
    sends_news: bool = True
    """Whether the store sends on what one tells that the others had better hear of at once."""


@dataclass(slots=True)
class Sent:
    """A request to the primary."""

    at: float
    process: str
    kind: str


class SimulatedProcess(Actor):
    """One process that makes calls."""

    def __init__(self, fleet: SimulatedFleet, name: str) -> None:
        super().__init__(fleet.world, name)
        self.fleet = fleet
        setting = fleet.setting
        limits = Limits(rpm=setting.rpm, max_parallel=setting.max_parallel)
        is_limited = setting.rpm is not None or setting.max_parallel is not None
        breaker = Breaker(failures=3, failure_ratio=0.5, window_s=60, cooldown_s=COOLDOWN_S)
        targets = [
            target(PRIMARY, policy=breaker, limits=limits if is_limited else None),
            target(BACKUP, policy=breaker),
        ]
        self.health = Health.of_targets(targets)
        self._rng = self.world.rng(name)
        self.clock_off_s = 0.0
        self.member = Member(_NAMES, lambda: self.world.now, self._rng)
        self.member.called_at = math.inf  # A process without a call for a while is one all the same.
        self.member.hurry = self._hurry
        names = {
            each.name: DeploymentNames(_NAMES.of(each.name), _NAMES.of(each.name, "key"), partial(_NAMES.of, each.name))
            for each in targets
        }
        self.member.share(self.health, names)
        self.limits: tuple[BudgetLimit, ...] = ()
        if setting.usd_per_day is not None:
            account = Account("day", wall=lambda: self.world.now + self.clock_off_s)
            self.limits = (BudgetLimit(setting.usd_per_day, account, "chain assistant, per day"),)
            self.member.share_account(account, "assistant")
            with account.lock:
                account.shared(self.limits[0], account.of(Spender()))  # type: ignore[misc]
        self.is_cut_off = self.is_sick = False
        self._turn = 0
        self._is_hurrying = self._was_lost = False
        self._paused = (0, 0.0)
        self.after(self._rng.uniform(0, INTERVAL_S), self._exchange)
        if setting.calls_per_s:
            self.after(self._rng.expovariate(setting.calls_per_s), self._call)

    # Exchanges, as `Exchanger` makes them.

    def _exchange(self) -> None:
        self._turn += 1
        turn, sent_at, request = self._turn, self.world.now, self.member.request()
        there_s, back_s = (self._rng.uniform(0.0005, 0.01) for _ in range(2))
        self._was_lost, may_be_lost = False, not self._was_lost  # Two in a row would be a store that is gone.
        if may_be_lost and self._rng.random() < 0.01:
            self._was_lost = True
            there_s = self._rng.uniform(0.4, 3.0)  # Stuck somewhere; the next one overtakes it.
        self.world.after(there_s, partial(self._arrives, turn, sent_at, request, back_s, may_be_lost=may_be_lost))
        self.after(self.member.schedule.patience_s, partial(self._give_up, turn))

    def _arrives(self, turn: int, sent_at: float, request: Request, back_s: float, *, may_be_lost: bool) -> None:
        if self.is_cut_off:
            return
        response = self.fleet.store.exchange(request)
        if response is not None and decode_evidence(request.evidence).facts:
            self.fleet.reported.setdefault(self.name, self.world.now)
        if response is not None and request.is_news and self.fleet.setting.sends_news:
            news = News(request.member, request.evidence)
            for other in self.fleet.alive:
                if other is not self and not other.is_cut_off:
                    other.after(self._rng.uniform(0.001, PUSHED_S), partial(other.member.hear, news))
        if may_be_lost and self._rng.random() < 0.01:
            self._was_lost = True
        elif response is not None:
            self.after(back_s, partial(self._receive, turn, sent_at, request, response))

    def _receive(self, turn: int, sent_at: float, request: Request, response: Response) -> None:
        if turn != self._turn:
            return
        self.member.receive(request, sent_at, response)
        self._next(turn)

    def _give_up(self, turn: int) -> None:
        if turn == self._turn:
            self.member.lost()
            self._next(turn)

    def _next(self, turn: int) -> None:
        self._turn += 1
        self._is_hurrying, self._paused = False, (self._turn, self.world.now)
        self.after(self.member.pause_s(), partial(self._exchange_if, self._turn))

    def _exchange_if(self, turn: int) -> None:
        if turn == self._turn:
            self._exchange()

    def _hurry(self) -> None:
        if self._is_hurrying or self.member.schedule.failures:
            return
        self._is_hurrying = True
        turn, since = self._paused
        if turn == self._turn:
            self.at(since + 0.03, partial(self._exchange_if, turn))

    # Calls.

    def _call(self) -> None:
        self.after(self._rng.expovariate(self.fleet.setting.calls_per_s), self._call)
        now = self.world.now
        for name in (PRIMARY, BACKUP):
            if self.health[name].unavailable(now) is None:
                reservation = reserve(self.limits, Spender(), COST) if self.limits else Reservation()
                if isinstance(reservation, Reservation):
                    self._send(name, reservation)
                return

    def _send(self, name: str, reservation: Reservation) -> None:
        now = self.world.now
        permit = self.health[name].begin(now)
        if name == PRIMARY:
            self.fleet.sent.append(Sent(now, self.name, permit.kind))
        failure = self.fleet.failure(self) if name == PRIMARY else None
        if self.limits:
            self.fleet.spend(self, COST)
        seconds = self._rng.uniform(0.5, 1.5) * (0.02 if failure else self.fleet.setting.answers_in_s)
        self.fleet.in_flight[self] = self.fleet.in_flight.get(self, 0) + (name == PRIMARY)
        self.after(seconds, partial(self._end, name, permit, reservation, failure))

    def _end(self, name: str, permit: Permit, reservation: Reservation, failure: Failure | None) -> None:
        now, health = self.world.now, self.health[name]
        reservation.settle(COST)
        self.fleet.in_flight[self] -= name == PRIMARY
        if failure is None:
            health.succeeded(permit, now)
        elif health.failed(permit, now, failure, self.fleet.retry_after_s if failure == "rate_limited" else None):
            self.world.note(f"{self.name} opens {name}: {failure}")
            self.fleet.opened.append((now, self.name, permit.kind))

    def state(self, name: str = PRIMARY) -> str:
        return self.health[name].breaker.state(self.world.now)


class SimulatedFleet:
    """Some processes, a store and a primary, and what they did."""

    def __init__(self, seed: int, setting: Setting) -> None:
        self.world, self.setting = World(seed), setting
        self.store = SimulatedStore(self.world)
        self.sent: list[Sent] = []
        self.opened: list[tuple[float, str, str]] = []
        self.reported: dict[str, float] = {}
        """When each process had first told the store that it has left the primary alone."""
        self.spent: dict[str, Decimal] = {}
        self.in_flight: dict[SimulatedProcess, int] = {}
        self.down: Failure | None = None
        """How the primary fails; None while it answers."""
        self.retry_after_s: float | None = None
        self.troubled_until = 0.0
        """Until when the store may not have answered everybody."""
        self.troubles: list[tuple[float, float]] = []
        self._names = (f"p{number}" for number in range(1000))
        self.processes: list[SimulatedProcess] = []
        for _ in range(setting.processes):
            self.add()

    def add(self) -> SimulatedProcess:
        process = SimulatedProcess(self, next(self._names))
        self.processes.append(process)
        return process

    @property
    def alive(self) -> list[SimulatedProcess]:
        return [process for process in self.processes if process.is_alive]

    def failure(self, process: SimulatedProcess) -> Failure | None:
        return "connection" if process.is_sick else self.down

    def spend(self, process: SimulatedProcess, usd: Decimal) -> None:
        day = str(int((self.world.now + process.clock_off_s) // 86_400))
        self.spent[day] = self.spent.get(day, Decimal(0)) + usd

    def trouble(self, seconds: float) -> None:
        """Remember that the store does not answer everybody for a while."""
        self.troubles.append((self.world.now, self.world.now + seconds + _RECOVERED_S))

    def broke(self, promise: str) -> BrokenPromise:
        return BrokenPromise(self.world, promise)
