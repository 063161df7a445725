"""A world of its own time: processes, servers and a store, where everything that happens follows from one seed.

Things happen at times on a heap, one after another; nothing sleeps and nothing runs beside it. What happened is kept as
a history, to be read when a promise was broken. What lives in here is up to who builds it: `tests/histories/fleet.py`
has processes that share a store.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random


class World:
    """Time, chance and history."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.history: list[str] = []
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Callable[[], None]]] = []

    def rng(self, what: str) -> Random:
        """Random numbers for one thing, so that more of it in one place changes nothing elsewhere."""
        return Random(f"{self.seed}/{what}")

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Have something happen at that time, or now if it is over."""
        heapq.heappush(self._coming, (max(when, self.now), next(self._order), do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.now + seconds, do)

    def note(self, what: str) -> None:
        """Keep what happened."""
        self.history.append(f"{self.now:9.3f}  {what}")

    def run(self, until: float) -> None:
        """Let everything happen up to that time."""
        while self._coming and self._coming[0][0] <= until:
            self.now, _, do = heapq.heappop(self._coming)
            do()
        self.now = until


class BrokenPromise(AssertionError):
    """A promise did not hold. Its text is the history up to there."""

    def __init__(self, world: World, promise: str) -> None:
        last = "\n".join(world.history[-60:])
        super().__init__(f"seed {world.seed}, at {world.now:.3f} s: {promise}\n{last}")


class Actor:
    """What lives in a world and can be paused and killed: what it has to do waits meanwhile, or never happens."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.is_alive, self._resumes_at = True, 0.0

    @property
    def is_running(self) -> bool:
        return self.is_alive and self.world.now >= self._resumes_at

    def at(self, when: float, do: Callable[[], None]) -> None:
        def unless_gone() -> None:
            if self.is_alive:
                if self.world.now < self._resumes_at:
                    self.at(self._resumes_at, do)
                else:
                    do()

        self.world.at(when, unless_gone)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.world.now + seconds, do)

    def pause(self, seconds: float) -> None:
        self.world.note(f"{self.name} is paused for {seconds:.1f} s")
        self._resumes_at = max(self._resumes_at, self.world.now + seconds)

    def kill(self) -> None:
        self.world.note(f"{self.name} is killed")
        self.is_alive = False
