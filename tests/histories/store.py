"""A fleet's store with what may befall it: gone, slow, emptied, restored from an old copy, a clock that jumps."""

from __future__ import annotations

import math
from collections import deque
from random import Random
from typing import Any

from llm_fallback.fleet.messages import Overtaken, Request, Response, in_ms
from llm_fallback.fleet.schedule import Schedule
from llm_fallback.fleet.state import FleetState
from tests.histories.world import World

LEASE_S = Schedule(Random(0)).lease_s
_COPIED_EVERY_S = 5.0


class SimulatedStore:
    """The store of one fleet."""

    def __init__(self, world: World) -> None:
        self.world, self.state = world, FleetState()
        self.clock_off_s = 1_700_000_000.0
        self.skipped: list[tuple[float, float]] = []
        """When its clock jumped ahead by less than a lease lasts, which is taken for time that has passed; how far."""
        self.lost_at = -math.inf
        """When it lost everything."""
        self._gone_until = 0.0
        self._copies: deque[tuple[float, Any]] = deque(maxlen=8)
        self._rng = world.rng("store")

    @property
    def is_up(self) -> bool:
        return self.world.now >= self._gone_until

    def exchange(self, request: Request) -> Response | None:
        """None: no answer will come."""
        if not self.is_up:
            return None
        self._copy_now_and_then()
        try:
            return self.state.exchange(request, in_ms(self.world.now + self.clock_off_s))
        except Overtaken:
            return None

    def go_away(self, seconds: float) -> None:
        self.world.note(f"the store is gone for {seconds:.1f} s")
        self._gone_until = max(self._gone_until, self.world.now + seconds)

    def lose_everything(self) -> None:
        self.world.note("the store loses everything")
        self.state, self.lost_at = FleetState(), self.world.now

    def go_back(self) -> None:
        """Be started anew from an old copy."""
        at, copy = self._rng.choice(self._copies or [(self.world.now, FleetState().as_data())])
        self.world.note(f"the store is restored from a copy of {at:.1f}")
        self.state = FleetState.from_data(copy)
        # A server that is started from a copy is away for longer than a lease lasts.
        self.go_away(1.5)

    def jump(self, seconds: float) -> None:
        self.world.note(f"the store's clock jumps by {seconds:.0f} s")
        self.clock_off_s += seconds
        if 0 < seconds < LEASE_S:
            self.skipped.append((self.world.now, seconds))

    def passed_s(self, begin: float, end: float) -> float:
        """The time between two moments as the store takes it to have passed, but for losses of data."""
        return end - begin + sum(seconds for at, seconds in self.skipped if begin <= at <= end)

    def _copy_now_and_then(self) -> None:
        if not self._copies or self.world.now >= self._copies[-1][0] + _COPIED_EVERY_S:
            self._copies.append((self.world.now, FleetState.from_data(self.state.as_data()).as_data()))
