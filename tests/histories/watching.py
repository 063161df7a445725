"""What must hold at every moment of a history: before each request, with it, and whenever nobody has anything to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from llm_fallback.engine.circuit_breaker import Permit
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.events import BreakerOpened, Event
from llm_fallback.plan.plan import RETRY_FLOOR, RETRY_SHARE
from tests.histories.breakers import Breakers, healed_by
from tests.histories.calls import Call, current_call
from tests.histories.history import History
from tests.histories.keys import given_key
from tests.histories.members import Members, days
from tests.histories.process import SimulatedProcess
from tests.histories.route import Route
from tests.histories.servers import Request
from tests.histories.world import BrokenPromise

_EXACT = 1e-6


@contextmanager
def watched(history: History) -> Iterator[None]:
    """Check what can only be seen while a history is played; raises BrokenPromise in the middle of it."""
    watch = _Watch(history)
    begin = DeploymentHealth.begin

    def watched_begin(health: DeploymentHealth, now: float, tokens: int = 0) -> Permit:
        has_others = watch.before_request(health, now, tokens)
        permit = begin(health, now, tokens)
        if permit.kind == "probe" and has_others:
            watch.probes(health)
        return permit

    history.servers.on_request, history.on_event = watch.on_request, watch.hear
    history.loop.before_time_passes = watch.at_rest
    with patch.object(DeploymentHealth, "begin", watched_begin):
        yield
    watch.raise_broken()


class _Watch:
    """Looks on."""

    def __init__(self, history: History) -> None:
        self.history, self.world = history, history.world
        self.broken: BrokenPromise | None = None
        self.seen: dict[DeploymentHealth, str] = {}
        """Of every spec there was."""
        self._open: list[Request] = []
        self._looked_at = 0
        """How much of the history there was at the last rest."""
        self._breakers: dict[SimulatedProcess, Breakers] = {}
        self._members = Members(history)
        self._extra_at: dict[SimulatedProcess, list[float]] = {}
        """When each sent a repeat or a hedge."""

    def break_(self, promise: str) -> None:
        """Note a breach: an exception here would be the engine's to handle."""
        if self.broken is None:
            self.broken = BrokenPromise(self.world, promise)

    def raise_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    def hear(self, call: Call, event: Event) -> None:
        breakers = self._breakers.setdefault(call.process, Breakers(self.history))
        if wrong := breakers.hear(call, event):
            self.break_(f"{call.name}: {wrong}")
        self._members.hear(call, event)
        if self._members.are_a_fleet:
            self._tell_others(call.process, event)

    def _tell_others(self, process: SimulatedProcess, event: Event) -> None:
        healed = healed_by(event)
        for other in self.history.processes:
            if other is not process:
                theirs = self._breakers.setdefault(other, Breakers(self.history))
                if isinstance(event, BreakerOpened):
                    theirs.opened_elsewhere(event.deployment)
                elif healed is not None:
                    theirs.healed_elsewhere(healed)

    # Before a request.

    def before_request(self, health: DeploymentHealth, now: float, tokens: int) -> bool:
        """Returns whether the call could ask others."""
        name, call = self._name(health), current_call.get()
        if call is None:
            self.break_(f"a request to {name} that belongs to no call")
            return False
        route, blocked = Route(call), health.unavailable(now, tokens)
        is_outage = route.is_outage(name, now)
        if blocked is not None and not (blocked.reason == "breaker_open" and is_outage):
            self.break_(f"{call.name} asks {name}, which is passed over: {blocked.reason}")
        if untried := route.untried(name, now, tokens):
            self.break_(f"{call.name} asks {name} again before {untried}")
        if not is_outage and (why := self._members.left_alone(call, name)):
            self.break_(f"{call.name} asks {name}, {why}")
        if wrong := self._members.unread(call):
            self.break_(f"{call.name} asks {name} {wrong}")
        return not is_outage

    def probes(self, health: DeploymentHealth) -> None:
        """A probe is sent, of a call that could ask others."""
        call, name = current_call.get(), self._name(health)
        assert call is not None
        if why := self._members.probed(call, name):
            self.break_(f"{call.name} probes {name}, {why}")

    def _name(self, health: DeploymentHealth) -> str:
        if health not in self.seen:
            self.seen |= {health: name for process in self.history.processes for name, health in process.deployments}
        return self.seen[health]

    # When a request is sent.

    def on_request(self, request: Request) -> None:
        call = self.history.calls[request.call]
        call.requests.append(request)
        if call.ended and call.ended < self.world.now:
            self.break_(f"{call.name} asks {request.deployment} after its end")
        target = call.target(request.deployment)
        if call.zones is not None and target.zone not in call.zones:
            self.break_(f"{call.name} asks {request.deployment} in {target.zone}, outside of {sorted(call.zones)}")
        if target.credential.is_callable and request.api_key != given_key(call, target.name):
            self.break_(f"{call.name} asks {target.name} by {request.api_key}, and was told {call.keys}")
        self._count_extra(call, request)
        self._open.append(request)
        if wrong := self._members.over_rate(call, request):
            self.break_(wrong)

    def _count_extra(self, call: Call, request: Request) -> None:
        """Of the requests beyond the first: a repeat goes where one of the call was before, a hedge beside one."""
        if call.target(request.deployment).cold_start:
            return  # Asking again whether it is up is neither.
        if any(
            other is not request and (other.deployment == request.deployment or other.is_open)
            for other in call.requests
        ):
            extra_at, now = self._extra_at.setdefault(call.process, []), self.world.now
            extra_at.append(request.at)
            # Counted by slices of five seconds.
            extra = sum(at > now - 55 for at in extra_at)
            calls = sum(
                other.process is call.process and other.began > now - 65 for other in self.history.calls.values()
            )
            if extra > max(RETRY_FLOOR, RETRY_SHARE * calls):
                self.break_(f"{extra} repeats and hedges of {calls} calls in a minute")

    # Whenever nobody has anything to do.

    def at_rest(self) -> None:
        self.raise_broken()
        if len(self.world.history) == self._looked_at:
            return  # Nothing has happened but exchanges with a store.
        self._looked_at = len(self.world.history)
        self._open = [request for request in self._open if request.is_open]
        held: Counter[tuple[SimulatedProcess, str]] = Counter()
        for process in self.history.alive:
            for health, name in {
                engine.health[name]: name for engine in process.engines for name in engine.health
            }.items():
                held[process, name] += health.in_flight
                if health.in_flight < 0:
                    self.break_(f"{health.in_flight} requests under way at {name}")
            if process.is_built:
                self._check_budgets(process)
        open_requests = Counter((self.history.calls[each.call].process, each.deployment) for each in self._open)
        for (process, name), count in open_requests.items():
            if count > held[process, name]:
                self.break_(f"{count} requests are open at {name}, of which {held[process, name]} hold a place")
        if wrong := self._members.over_places(self._open) or self._members.overspent():
            self.break_(wrong)
        self.raise_broken()

    def _check_budgets(self, process: SimulatedProcess) -> None:
        for name, limit, balance in days(process):
            if balance.reserved < 0 or (limit is not None and balance.total > limit):
                self.break_(f"{name} has spent {balance.spent} and reserved {balance.reserved} of {limit}")
