"""What the processes of a history share, and how each reaches it: a fleet's store, the disk with a budget's file."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections import deque
from collections.abc import Coroutine, Mapping
from contextvars import Context
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from llm_fallback.engine.bookkeeper import Amount
from llm_fallback.engine.budget_file import DailySpendFile
from llm_fallback.engine.clock import Clock
from llm_fallback.fleet.exchanger import Exchanger
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import News, Request, Response
from llm_fallback.fleet.names import Names
from llm_fallback.plan.plan import FleetPlan
from tests.histories import threads
from tests.histories.loop import SeededLoop
from tests.histories.process import SimulatedProcess, this_process
from tests.histories.store import SimulatedStore
from tests.histories.world import World

_PUSHED_S = 0.01
"""What the store sends on is heard within this time."""
_RECOVERED_S = 8.0
"""After trouble with the store: until the last process has come back to it."""


class SharedStore:
    """A fleet's store, and the processes that are connected with it."""

    def __init__(self, world: World, loop: SeededLoop) -> None:
        self.store = SimulatedStore(world)
        self._world, self._loop = world, loop
        self._connections: list[StoreConnection] = []
        self.cut_off: set[str] = set()
        """Processes that do not reach it."""
        self.keeps_money = True
        """Whether what all have spent can be known: the store has answered everybody, and lost no data together with
        the process that alone knew what it had spent."""
        self._troubles: list[tuple[float, float]] = []

    def trouble(self, seconds: float) -> None:
        """Remember that the store does not answer everybody for a while. Each goes on by the members it has seen."""
        self.keeps_money = False
        self._troubles.append((self._world.now, self._world.now + seconds + _RECOVERED_S))

    def answered(self, begin: float, end: float) -> bool:
        """Whether it answered everybody in that time, and knew all."""
        return not any(begin < until and end > since for since, until in self._troubles)

    def join(self, fleet: FleetPlan, clock: Clock, portal: object) -> Exchanger:
        """A member of the fleet, as `llm_fallback.fleet.join` makes it."""
        process = this_process()
        assert process is not None
        rng = self._world.rng(f"member {process.name}")
        member = Member(Names(fleet.secret), clock.now, rng, fleet.processes)

        def connect() -> StoreConnection:
            connection = StoreConnection(self, process, rng)
            self._connections.append(connection)
            return connection

        def background(task: Coroutine[Any, Any, None]) -> None:
            self._loop.create_task(task, context=process.context)

        return Exchanger(member, connect, "memory", background)

    def tell(self, news: News, teller: StoreConnection) -> None:
        """Send on what the others had better hear of at once."""
        for other in self._connections:
            if other is not teller and other.process.name not in self.cut_off:
                # It is the store's to send it, whatever becomes of who told it.
                self._loop.call_later(other.rng.uniform(0.001, _PUSHED_S), other.hear, news, context=Context())


class StoreConnection:
    """How one process reaches the store: its answers take a while, and now and then one is lost."""

    def __init__(self, shared: SharedStore, process: SimulatedProcess, rng: Random) -> None:
        self._shared, self.process, self.rng = shared, process, rng
        self._news: deque[News] = deque()
        self._came = asyncio.Event()
        self._was_lost = False

    async def exchange(self, request: Request) -> Response:
        there_s, back_s = (self.rng.uniform(0.0005, 0.01) for _ in range(2))
        may_be_lost, self._was_lost = not self._was_lost, False  # Two in a row would be a store that is gone.
        await asyncio.sleep(there_s)
        response = None if self.process.name in self._shared.cut_off else self._shared.store.exchange(request)
        if response is not None and request.is_news:
            self._shared.tell(News(request.member, request.evidence), self)
        if response is not None and may_be_lost and self.rng.random() < 0.01:
            self._was_lost, response = True, None
        if response is None:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody answers")
        await asyncio.sleep(back_s)
        return response

    async def news(self) -> News:
        while not self._news:
            self._came.clear()
            await self._came.wait()
        return self._news.popleft()

    def hear(self, news: News) -> None:
        if self.process.is_alive:
            self._news.append(news)
            self._came.set()

    async def close(self) -> None:
        """It holds nothing."""


class Appended(NamedTuple):
    """An amount that was written into a budget's file."""

    at: float
    owner: str
    day: str
    usd: Decimal


class Disk:
    """The disk that the processes share."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng("disk")
        self.appended: list[Appended] = []
        self.is_full, self.takes_s = False, 0.0
        self._folder: Path | None = None

    @property
    def is_used(self) -> bool:
        return self._folder is not None

    @property
    def path(self) -> Path:
        """Of the file."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="histories"))
        return self._folder / "spent-today"

    def tear_a_line(self) -> None:
        """What somebody leaves who is killed while it writes."""
        with self.path.open("ab") as file:
            file.write(b'["chain main", null, "0.0')

    def budget_file(self, path: Path, owner: str) -> FileOnDisk:
        return FileOnDisk(self, path, owner)

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder)


class FileOnDisk(DailySpendFile):
    """The real file. Its exchanges take their time, and fail while the disk is full."""

    def __init__(self, disk: Disk, path: Path, owner: str) -> None:
        super().__init__(path, owner)
        self._disk = disk

    def exchange(self, day: str, amounts: Mapping[str | None, Decimal]) -> list[Amount]:
        disk = self._disk
        threads.sleep(disk.takes_s + disk.rng.choice([0.0, 0.0, 0.001, 0.01]))
        if disk.is_full and amounts:
            raise OSError(errno.ENOSPC, "the disk is full")
        news = super().exchange(day, amounts)
        disk.appended += [Appended(disk.world.now, self.owner, day, usd) for usd in amounts.values()]
        threads.sleep(disk.rng.choice([0.0, 0.0, 0.001, 0.01]))
        return news
