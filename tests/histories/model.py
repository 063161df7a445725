"""A whole model in a world of virtual time: callers, servers, reloads; its engine is the one of production."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk

from llm_fallback.chat_model.runtime import Adapter, ModelRuntime
from llm_fallback.engine import clock as engine_clock
from llm_fallback.engine.clock import RealClock
from llm_fallback.engine.engine import Engine
from llm_fallback.events import AttemptFailed, BreakerOpened, CallEnded, Event, FellBack
from llm_fallback.plan.plan import ChainPlan, Target
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import load_spec
from llm_fallback.testing.deployments import FakeDeployments
from llm_fallback.testing.model import FakeChatModel
from tests.histories.loop import SeededLoop, Stuck
from tests.histories.plans import SETTLED_S, Ask, Close, Plan, Reload
from tests.histories.servers import LAST, NONSENSE, Request, SimulatedServers, Trouble, question
from tests.histories.world import BrokenPromise, World
from tests.plans import DeclaredCatalogue

STARTS_AT = 1000.0
DAY_S = 86_400
MAX_TOKENS = 64
"""More than any answer has."""


def is_sense(message: AIMessage) -> bool:
    """What a chain accepts."""
    return NONSENSE not in message.text


class SimulatedClock(RealClock):
    """The clock of production, over the loop's time."""

    def __init__(self, world: World, midnight_in_s: float) -> None:
        self._world, self._off_s = world, 20_000 * DAY_S - STARTS_AT - midnight_in_s
        self.now = lambda: world.now  # type: ignore[misc, assignment]
        self.wall = lambda: world.now + self._off_s  # type: ignore[misc, assignment]


@dataclass(eq=False)
class Call:
    """A call, what came of it, and what was told of it."""

    ask: Ask
    chain: ChainPlan
    engine: Engine
    targets: Mapping[str, Target]
    zones: frozenset[str] | None
    """Where its prompt may go, by the spec and the call; None: to all."""
    most_requests: int
    began: float
    ended: float = 0.0
    held_s: float = 0.0
    """For which its reader held chunks."""
    task: asyncio.Task[Any] | None = None
    reply: AIMessage | None = None
    chunks: list[AIMessageChunk] = field(default_factory=list)
    error: BaseException | None = None
    requests: list[Request] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    traced: Counter[str] = field(default_factory=Counter)
    got_first_text_at: float | None = None
    has_left: bool = False
    """Whether its caller left before its end."""

    @property
    def name(self) -> str:
        return self.ask.name

    @property
    def text(self) -> str:
        """What the caller has got."""
        return (
            "".join(chunk.text for chunk in self.chunks) if self.ask.streamed else self.reply.text if self.reply else ""
        )

    @property
    def total_s(self) -> float:
        return self.chain.total_s if self.ask.total_s is None else self.ask.total_s

    def target(self, deployment: str) -> Target:
        """The deployment, as it was when the call began."""
        return self.targets[deployment]

    @property
    def end(self) -> CallEnded | None:
        return next((event for event in self.told if isinstance(event, CallEnded)), None)


_call_name: ContextVar[str] = ContextVar("call_name", default="")


class _Tracer(AsyncCallbackHandler):
    """Counts what LangChain tells its handlers."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    async def on_chat_model_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.counts["start"] += 1

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts["end"] += 1

    async def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.counts["end"] += 1


class SimulatedModel:
    """The history of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.world = plan, World(plan.seed)
        self.world.now = STARTS_AT
        self.loop = SeededLoop(self.world, in_order=plan.in_order)
        # The plan's times begin at 0.
        troubles = [action for action in plan.actions if isinstance(action, Trouble)]
        self.servers = SimulatedServers(self.world, [_shifted(trouble) for trouble in troubles], plan.closes_in_s)
        self.clock = SimulatedClock(self.world, plan.midnight_in_s)
        adapter = Adapter(
            resolve=lambda spec: resolve_spec(spec, {}),
            transport=lambda redactor: self.servers,
            catalogue=DeclaredCatalogue,
            clock=self.clock,
            rng=lambda: self.world.rng("engine"),
        )
        self._document: dict[str, Any] = deepcopy(dict(plan.spec))
        spec = load_spec(self._document)
        runtime = ModelRuntime(spec, adapter, {})
        self.model = FakeChatModel(spec=spec, runtime=runtime, fakes=FakeDeployments({}), listeners=[self._hear])
        self.calls: dict[str, Call] = {}
        self.engines: list[Engine] = [runtime.engine]
        """Those of former specs too."""
        self.on_event: Callable[[Call, Event], None] = lambda call, event: None
        self.logged: list[str] = []
        self.is_closed = False

    @property
    def engine(self) -> Engine:
        return self.engines[-1]

    def _hear(self, event: Event) -> None:
        call = self.calls.get(event.metadata.get("call", "")) if isinstance(event, CallEnded) else self.current()
        if call is not None:
            call.told.append(event)
            self.world.note(f"{call.name} tells {event.name}: {_told(event)}")
            self.on_event(call, event)

    def current(self) -> Call | None:
        """The call that runs now, in whichever of its tasks."""
        return self.calls.get(_call_name.get())

    # Playing.

    async def play(self) -> None:
        """All that is planned, and then a last call of each chain, with all at rest."""
        tasks = [
            self.loop.create_task(self._at(action)) for action in self.plan.actions if not isinstance(action, Trouble)
        ]
        await asyncio.gather(*tasks)
        await asyncio.sleep(1.0)
        if not self.is_closed:
            await asyncio.sleep(SETTLED_S)
            for chain in self.model.spec.chains:
                await self._ask(Ask(0.0, f"{LAST}_{chain}", chain, streamed=True, words=3))
            await self.model.aclose()

    async def _at(self, action: Ask | Reload | Close) -> None:
        await asyncio.sleep(action.at)
        if self.is_closed and not isinstance(action, Ask):
            return
        match action:
            case Ask():
                await self._ask(action)
            case Reload():
                self.world.note(f"reload: {action.changes}")
                _merge(self._document, action.changes)
                self.model.reload(load_spec(deepcopy(self._document)))
                self.engines.append(self.model.runtime.engine)
            case Close():
                self.world.note("close")
                self.is_closed = True
                await self.model.aclose()

    async def _ask(self, ask: Ask) -> None:
        chain = self.model.runtime.plan.chains[ask.chain]
        plan, explained = self.model.runtime.plan, self.model.explain(chain=ask.chain)
        declared = self._document["chains"][ask.chain].get("zones")
        given = [frozenset(zones) for zones in (declared, ask.zones) if zones is not None]
        zones = frozenset.intersection(*given) if given else None
        chain, most = chain.within(zones), explained["max_requests"]
        call = self.calls[ask.name] = Call(ask, chain, self.engine, plan.targets, zones, most, self.world.now)
        self.world.note(f"{ask.name} begins")
        call.task = self.loop.create_task(self._stream(call) if ask.streamed else self._invoke(call))
        if ask.leaving in ("cancels", "cancels twice"):
            await self._cancel(call)
        await asyncio.wait([call.task])
        call.ended = self.world.now
        with suppress(BaseException):
            call.task.result()
        call.task = None
        error = "" if call.error is None else f": {type(call.error).__name__}: {str(call.error).partition(chr(10))[0]}"
        self.world.note(f"{ask.name} ends with {call.text!r}{error}")

    async def _cancel(self, call: Call) -> None:
        assert call.task is not None
        await asyncio.wait([call.task], timeout=call.ask.leaves_after)
        for _ in range(2 if call.ask.leaving == "cancels twice" else 1):
            if not call.task.done():
                self.world.note(f"{call.name} is cancelled")
                call.has_left = True
                call.task.cancel()
                await asyncio.sleep(0)

    def _words(self, call: Call) -> dict[str, Any]:
        ask = call.ask
        words: dict[str, Any] = {"chain": ask.chain, "max_tokens": MAX_TOKENS}
        words["config"] = {"configurable": {}, "metadata": {"call": ask.name}}
        if ask.thread is not None:
            words["config"]["configurable"]["thread_id"] = ask.thread
        if ask.is_traced:
            words["config"]["callbacks"] = [_Tracer(call.traced)]
        if ask.total_s is not None:
            words["timeout"] = ask.total_s
        if ask.zones is not None:
            words["zones"] = list(ask.zones)
        return words

    async def _invoke(self, call: Call) -> None:
        _call_name.set(call.name)
        try:
            async with asyncio.timeout(call.ask.leaves_after if call.ask.leaving == "times out" else None) as limit:
                call.reply = await self.model.ainvoke(question(call.name, call.ask.words), **self._words(call))
        except BaseException as error:
            call.error, call.has_left = error, call.has_left or limit.expired()

    async def _stream(self, call: Call) -> None:
        _call_name.set(call.name)
        ask = call.ask
        stream = self.model.astream(question(call.name, ask.words), **self._words(call))
        try:
            async with asyncio.timeout(ask.leaves_after if ask.leaving == "times out" else None) as limit:
                while ask.leaving not in ("closes", "drops") or len(call.chunks) < ask.leaves_after:
                    chunk = await anext(stream, None)
                    if chunk is None:
                        return
                    call.chunks.append(chunk)  # type: ignore[arg-type]
                    self.world.note(f"{call.name} gets {chunk.text!r}")
                    if chunk.text and call.got_first_text_at is None:
                        call.got_first_text_at = self.world.now
                    if ask.pause_s:
                        await self._hold(call)
                self.world.note(f"{call.name} {ask.leaving} its stream")
                call.has_left = True
                if ask.leaving == "closes":
                    await stream.aclose()  # type: ignore[attr-defined]
        except BaseException as error:
            call.error, call.has_left = error, call.has_left or limit.expired()
            await stream.aclose()  # type: ignore[attr-defined]

    async def _hold(self, call: Call) -> None:
        since = self.world.now
        try:
            await asyncio.sleep(call.ask.pause_s)
        finally:
            call.held_s += self.world.now - since


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
        case BreakerOpened(deployment=deployment, retry_in_s=seconds):
            return f"{deployment} for {seconds:g} s"


@contextmanager
def _virtual_time(world: World) -> Iterator[None]:
    """The engine's clock asks the world for the time, and not the operating system."""
    with patch.object(engine_clock, "time", SimpleNamespace(monotonic=lambda: world.now)):
        yield


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


def play(plan: Plan, watch: Callable[[SimulatedModel], Any]) -> SimulatedModel:
    """Play a plan to its end, watched from its beginning."""
    simulated = SimulatedModel(plan)
    with _virtual_time(simulated.world), _logged(simulated.logged), watch(simulated):
        try:
            simulated.loop.run_until_complete(simulated.play())
        except Stuck as stuck:
            raise BrokenPromise(simulated.world, f"{stuck}: {simulated.loop.waiting()}") from stuck
    return simulated
