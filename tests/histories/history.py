"""A history: processes with whole models in a world of virtual time; their engine is the one of production."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

from langchain_core.messages import AIMessage

from llm_fallback.chat_model import runtime as runtime_module
from llm_fallback.chat_model.runtime import Adapter
from llm_fallback.engine import bookkeeper as bookkeeper_module
from llm_fallback.engine import budget as budget_module
from llm_fallback.engine import clock as clock_module
from llm_fallback.engine.clock import RealClock
from llm_fallback.engine.engine import Engine
from llm_fallback.events import AttemptFailed, BreakerOpened, CallEnded, Event, FellBack
from llm_fallback.fleet import exchanger as exchanger_module
from llm_fallback.plan.resolve import resolve_spec
from tests.histories.callers import Caller
from tests.histories.calls import Call, current_call
from tests.histories.connections import Disk, SharedStore
from tests.histories.keys import Keys
from tests.histories.loop import SeededLoop, Stuck
from tests.histories.plans import SETTLED_S, Ask, Close, Mishap, Plan, Reload
from tests.histories.process import SimulatedProcess, is_of_a_dead_process
from tests.histories.servers import LAST, NONSENSE, SimulatedServers, Trouble
from tests.histories.store import LEASE_S
from tests.histories.threads import Abandoned, Threads
from tests.histories.world import BrokenPromise, World
from tests.plans import DeclaredCatalogue

STARTS_AT = 1000.0
MINUTE_S = 60.0
DAY_S = 86_400
CAUGHT_UP_S = 1.5
"""Until the processes of a fleet have exchanged what they know."""
_MOST_TURNS = 15
"""Calls by which each finds that all is well again: one asks for the lease of a probe, a later one that comes by there
sends it."""


def is_sense(message: AIMessage) -> bool:
    """What a chain accepts."""
    return NONSENSE not in message.text


class SimulatedClock(RealClock):
    """The clock of production, over the loop's time."""

    def __init__(self, world: World, midnight_in_s: float) -> None:
        self._world, self._off_s = world, 20_000 * DAY_S - STARTS_AT - midnight_in_s
        self.now = lambda: world.now  # type: ignore[misc, assignment]
        self.wall = lambda: world.now + self._off_s  # type: ignore[misc, assignment]


class History:
    """The history of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.world = plan, World(plan.seed)
        self.world.now = STARTS_AT
        self.loop = SeededLoop(self.world, in_order=plan.in_order)
        self.loop.is_gone = is_of_a_dead_process
        self.threads = Threads(self.loop)
        # The plan's times begin at 0.
        troubles = [action for action in plan.actions if isinstance(action, Trouble)]
        self.servers = SimulatedServers(self.world, [_shifted(trouble) for trouble in troubles], plan.closes_in_s)
        self.clock = SimulatedClock(self.world, plan.midnight_in_s)
        self.store, self.disk = SharedStore(self.world, self.loop), Disk(self.world)
        self._document = self._made_ready(plan.spec)
        self.processes: list[SimulatedProcess] = []
        self.calls: dict[str, Call] = {}
        self.on_event: Callable[[Call, Event], None] = lambda call, event: None
        self.logged: list[str] = []
        self._killed_at = -math.inf

    def _made_ready(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The spec, with functions for the words that stand for them, and the path of the file there is."""
        document = deepcopy(dict(spec))
        keys = Keys(self.world, self.servers)
        for name, deployment in document["deployments"].items():
            if "api_key" in deployment:
                deployment["api_key"] = keys.function(name, deployment["api_key"])
        for chain in document["chains"].values():
            if "file" in chain.get("budget", ()):
                chain["budget"]["file"] = str(self.disk.path)
        return document

    def _process(self, number: int) -> SimulatedProcess | None:
        return self.processes[number] if number < len(self.processes) else None

    @property
    def alive(self) -> list[SimulatedProcess]:
        return [process for process in self.processes if process.is_alive]

    @property
    def engines(self) -> list[Engine]:
        """Of all processes, and of their former specs."""
        return [engine for process in self.processes for engine in process.engines]

    @property
    def is_reloaded(self) -> bool:
        """Whether any process has had more than one spec."""
        return any(len(process.engines) > 1 for process in self.processes)

    def _hear(self, process: SimulatedProcess, event: Event) -> None:
        call = self.calls.get(event.metadata.get("call", "")) if isinstance(event, CallEnded) else current_call.get()
        if call is not None and process.is_alive:
            call.told.append(event)
            self.world.note(f"{call.name} tells {event.name}: {_told(event)}")
            self.on_event(call, event)

    # Playing.

    async def play(self) -> None:
        """All that is planned, and then a last call of each chain, with all at rest."""
        for _ in range(self.plan.processes):
            await self._start()
        tasks = [
            self.loop.create_task(self._at(action)) for action in self.plan.actions if not isinstance(action, Trouble)
        ]
        await asyncio.gather(*tasks)
        await asyncio.sleep(1.0)
        await self._settle()
        for process in self.alive:
            if not process.is_closed:
                await self._ask_last(process, LAST)
        for process in [*self.alive, *self.alive]:  # What one still owes a file is written first.
            await self._in_thread(process, process.read_files)
        for process in self.alive:
            await self._in(process, process.model.aclose())
        await asyncio.sleep(1.0)

    async def _settle(self) -> None:
        """Let all that was learnt of former troubles become void."""
        if "fleet" not in self.plan.spec:
            await asyncio.sleep(SETTLED_S)
            return
        # As if all machines had been suspended: so much time of a fleet that exchanges would take long to play.
        self.world.now += SETTLED_S
        await asyncio.sleep(CAUGHT_UP_S)
        for turn in range(_MOST_TURNS):
            if all(process.is_closed or process.knows_that_all_is_well() for process in self.alive):
                break
            for process in self.alive:
                if not process.is_closed:
                    await self._ask_last(process, f"{LAST}_but_{_MOST_TURNS - turn}")
            await asyncio.sleep(CAUGHT_UP_S)

    async def _ask_last(self, process: SimulatedProcess, name: str) -> None:
        for chain in process.model.spec.chains:
            number = self.processes.index(process)
            await self._ask(Ask(0.0, f"{name}_{chain}_{number}", chain, streamed=True, words=3, process=number))

    async def _at(self, action: Ask | Reload | Close | Mishap) -> None:
        await asyncio.sleep(action.at)
        match action:
            case Ask():
                if any(process.is_built for process in self.alive if process is self._process(action.process)):
                    await self._ask(action)
            case Reload():
                self._reload(action)
            case Close():
                self.world.note("close")
                for process in self.alive:
                    process.is_closed = True
                    await self._in(process, process.model.aclose())
            case Mishap():
                await self._befall(action)

    async def _in(self, process: SimulatedProcess, work: Any) -> None:
        """Work in a process, until that has ended or its process has."""
        task = self.loop.create_task(work, context=process.context.copy())
        await asyncio.wait([task, process.died], return_when=asyncio.FIRST_COMPLETED)

    async def _in_thread(self, process: SimulatedProcess, work: Callable[[], object]) -> None:
        """The same in a thread, where it waits for a file; else at once."""
        if not self.disk.is_used:
            process.context.copy().run(work)
            return
        done = self.loop.create_future()

        def do() -> None:
            work()
            done.set_result(None)

        process.context.run(self.threads.start, do)
        await asyncio.wait([done, process.died], return_when=asyncio.FIRST_COMPLETED)

    async def _start(self) -> None:
        number = len(self.processes)
        process = SimulatedProcess(f"p{number}", self.loop.create_future())
        self.world.note(f"{process.name} starts")
        adapter = Adapter(
            resolve=lambda spec: resolve_spec(spec, {}),
            transport=lambda redactor: self.servers,
            catalogue=DeclaredCatalogue,
            clock=self.clock,
            rng=lambda: self.world.rng(f"engine {number}"),
            joins_fleets=True,
        )
        self.processes.append(process)
        # It reads a budget's file, which takes its time.
        await self._in_thread(process, lambda: process.build(self._document, adapter, self._hear))

    def _reload(self, action: Reload) -> None:
        self.world.note(f"reload: {action.changes}")
        _merge(self._document, action.changes)
        for process in self.alive:
            if process.is_built and not process.is_closed:
                process.context.copy().run(process.reload, self._document)

    async def _befall(self, mishap: Mishap) -> None:
        store, disk = self.store.store, self.disk
        self.world.note(str(mishap))
        match mishap.what:
            case "is killed":
                self._kill(mishap.process)
            case "starts":
                await self._start()
            case "is cut off from the store":
                name = f"p{mishap.process}"
                self.store.cut_off.add(name)
                self.store.trouble(mishap.lasts_s)
                await asyncio.sleep(mishap.lasts_s)
                self.store.cut_off.discard(name)
            case "the store goes away":
                store.go_away(mishap.lasts_s)
                self.store.trouble(mishap.lasts_s)
            case "the store loses everything":
                store.lose_everything()
                if self.world.now < self._killed_at + LEASE_S:
                    self.store.trouble(MINUTE_S)
            case "the store goes back":
                store.go_back()
                self.store.trouble(1.5)
            case "the disk is slow":
                disk.takes_s = 0.7
                await asyncio.sleep(mishap.lasts_s)
                disk.takes_s = 0.0
            case "the disk is full":
                disk.is_full = True
                await asyncio.sleep(mishap.lasts_s)
                disk.is_full = False
            case "a line is torn":
                disk.tear_a_line()

    def _kill(self, number: int) -> None:
        """Nothing of it goes on, and its connections are closed for it."""
        process = self._process(number)
        if process is None or not process.is_alive or len(self.alive) == 1:
            return
        self.world.note(f"{process.name} is killed")
        self._killed_at = self.world.now
        process.kill(asyncio.all_tasks(self.loop))
        for call in self.calls.values():
            if call.process is process:
                for request in call.requests:
                    request.end(self.world.now)

    async def _ask(self, ask: Ask) -> None:
        process = self.processes[ask.process]
        runtime = process.model.runtime
        chain, plan, explained = runtime.plan.chains[ask.chain], runtime.plan, process.model.explain(chain=ask.chain)
        declared = self._document["chains"][ask.chain].get("zones")
        given = [frozenset(zones) for zones in (declared, ask.zones) if zones is not None]
        zones = frozenset.intersection(*given) if given else None
        chain, most = chain.within(zones), explained["max_requests"]
        call = Call(ask, process, chain, process.engine, plan.targets, zones, most, self.world.now)
        self.calls[ask.name] = call
        self.world.note(f"{ask.name} begins in {process.name}")
        await Caller(self.world, self.loop, self.threads, call).make_it()
        error = "" if call.error is None else f": {type(call.error).__name__}: {str(call.error).partition(chr(10))[0]}"
        how = "is killed" if call.was_killed else "ends"
        self.world.note(f"{ask.name} {how} with {call.text!r}{error}")

    def bury(self) -> None:
        """End what waits for nothing any more: the work of processes that were killed, or all of a broken history."""
        self.loop.is_gone = lambda context: False
        self.loop.before_time_passes = lambda: None
        self.threads.interrupt(Abandoned())
        self.loop.end(lambda: not self.threads.alive)
        self.threads.abandon()
        self.disk.remove()


def _shifted(trouble: Trouble) -> Trouble:
    return Trouble(trouble.at + STARTS_AT, trouble.until + STARTS_AT, trouble.deployment, trouble.word, trouble.share)


def _merge(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), dict):
            _merge(document[key], value)
        else:
            document[key] = value


def _told(event: Event) -> str:
    match event:
        case CallEnded(failure=failure, record=record):
            return f"{failure or 'answered'} by {record.deployment}, {len(record.attempts)} attempts"
        case AttemptFailed(attempt=attempt):
            return str(attempt)
        case FellBack(source=source, target=target):
            return f"{source} to {target}"
        case BreakerOpened(deployment=deployment, retry_in_s=seconds, source=source):
            return f"{deployment} for {seconds:g} s, by {source}"


class _Log(logging.Handler):
    """Errors of ours that were only logged."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def _logged(lines: list[str]) -> Iterator[None]:
    handler, logger = _Log(lines), logging.getLogger("llm_fallback")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


@contextmanager
def _in_this_world(history: History) -> Iterator[None]:
    """The library's time is the world's, its store, disk and threads are the history's, and nothing is left to do
    when the interpreter ends."""
    with ExitStack() as patches:
        world = history.world
        patches.enter_context(patch.object(clock_module, "time", SimpleNamespace(monotonic=lambda: world.now)))
        patches.enter_context(patch.object(runtime_module, "join", history.store.join))
        patches.enter_context(patch.object(budget_module, "DailySpendFile", history.disk.budget_file))
        patches.enter_context(patch.object(bookkeeper_module, "_bookkeepers", WeakSet()))
        patches.enter_context(patch.object(exchanger_module, "_exchangers", WeakSet()))
        patches.enter_context(history.threads.instead_of_real_ones())
        patches.enter_context(_logged(history.logged))
        patches.callback(history.bury)
        yield


def play(plan: Plan, watch: Callable[[History], Any], check: Callable[[History], object]) -> History:
    """Play a plan to its end, watched from its beginning and checked at its end."""
    history = History(plan)
    with _in_this_world(history), watch(history):
        try:
            history.loop.run_until_complete(history.play())
        except Stuck as stuck:
            raise BrokenPromise(history.world, f"{stuck}: {history.loop.waiting()}") from stuck
        check(history)
    return history
