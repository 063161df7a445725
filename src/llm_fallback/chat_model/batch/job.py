"""A batch under way: rows are started as deployments have room, and each answer is written when it is there."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from types import FrameType
from typing import Any, Protocol, TypedDict

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config
from pydantic import BaseModel

from llm_fallback.chat_model.batch.journal import Journal
from llm_fallback.chat_model.batch.prompts import NoPrompt, column_of, messages_of
from llm_fallback.chat_model.batch.rows import Row, as_line
from llm_fallback.chat_model.batch.survey import (
    BatchRequest,
    Survey,
    Tally,
    check_paths,
    drop_failed,
    source_rows,
    survey,
)
from llm_fallback.chat_model.batch.tables import write_table
from llm_fallback.engine.admission import Start, next_start
from llm_fallback.engine.engine import Engine
from llm_fallback.errors import BudgetExceeded, ChainExhausted, LLMFallbackError, StreamBroken
from llm_fallback.events import Attempt, Record, Skip, Unanswered
from llm_fallback.plan.plan import ChainPlan

_SYNC_EVERY = 256
"""Lines that may be lost with the machine's power; with the process none is."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
"""Between two rows while every breaker of the chain is open."""

_THROTTLED_ASKS, _LATELY_S = 3, 30.0
"""How often a row is asked again that was refused by 429, while others were answered so many seconds ago."""


class BatchResult(TypedDict):
    """What became of a batch, earlier runs of it included."""

    rows: int
    """Of the source."""
    answered: int
    failed: int
    cost_usd: float | None
    """None: the cost of some row is not known."""
    seconds: float
    """Of this run."""
    complete: bool
    """Whether every row of the source is in the target, answered or failed."""


class Answerer(Protocol):
    """Who answers rows: a chat model, or one that keeps to a form."""

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any: ...


class BatchJob:
    """One run of a batch, in the event loop that calls `run`."""

    def __init__(
        self,
        request: BatchRequest,
        answerer: Answerer,
        chain: ChainPlan,
        engine: Engine,
        *,
        config: RunnableConfig | None = None,
        words: Mapping[str, Any] | None = None,
        on_progress: Callable[[Tally], None] = lambda tally: None,
        flaw_of: Callable[[Sequence[BaseMessage]], Exception | None] = lambda messages: None,
    ) -> None:
        """`words` are what each call says beside its messages; `on_progress` is called after each row; `flaw_of` tells
        why messages can be written for nobody, if they cannot."""
        self.request, self.tally = request, Tally()
        self.stopped_by: BudgetExceeded | None = None
        """The budget that stopped it."""
        self.was_finished = False
        """Whether an earlier run had left no row to ask."""
        self._answerer, self._chain, self._engine = answerer, chain, engine
        self._config, self._words, self._on_progress = config, dict(words or {}), on_progress
        self._flaw_of = flaw_of
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._is_stopped = False
        self._woken = asyncio.Event()
        self._pause_s = 0.0
        self._syncing: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began, self._answered_at = engine.clock.now(), -math.inf

    def stop(self) -> None:
        """Start no more rows; `run` returns when those under way are through. From whichever thread."""
        self._is_stopped = True
        self._wake()

    @property
    def result(self) -> BatchResult:
        """What became of it so far."""
        return BatchResult(
            rows=self.tally.rows,
            answered=self.tally.answered,
            failed=self.tally.failed,
            cost_usd=None if self.tally.cost_usd is None else float(self.tally.cost_usd),
            seconds=round(self._engine.clock.now() - self._began, 3),
            complete=self.tally.left == 0,
        )

    async def run(self) -> BatchResult:
        """Answer what is left. Raises BatchRefused, with nothing sent, if source and target are not as they must be;
        whatever a listener or `accept` raises that is no failure of a row; OSError if a row cannot be written."""
        check_paths(self.request)
        self._loop = asyncio.get_running_loop()
        with Journal(self.request.journal) as journal:
            if not self.request.resume:
                journal.clear()
            try:
                found = await asyncio.to_thread(survey, self.request, journal)
            except BaseException:
                journal.discard_empty()
                raise
            self.tally = found.tally
            await asyncio.to_thread(drop_failed, self.request, journal, found)
            self.was_finished = not self.tally.left
            await self._answer_rows(found, journal)
            if journal.path != self.request.target:
                await asyncio.to_thread(self._finish_table, journal, is_complete=self.tally.left == 0)
        return self.result

    def _finish_table(self, journal: Journal, *, is_complete: bool) -> None:
        """Write the table, once every row is there; a journal that it has taken over is of no more use."""
        if is_complete and not (journal.is_empty and self.request.target.exists()):
            journal.sync()
            write_table(self.request.source, journal.path, self.request.target)
        if is_complete or journal.is_empty:
            journal.path.unlink()

    async def _answer_rows(self, found: Survey, journal: Journal) -> None:
        config = ensure_config(self._config)
        with ExitStack() as finding:
            if self.request.concurrency == "auto":
                members = (member.name for member in self._chain.members)
                finding.enter_context(self._engine.health.finding_limits(members))
            try:
                if self.tally.left:
                    await self._start_rows(found, journal, config)
                while self._tasks:
                    await asyncio.wait([*self._tasks])
            finally:
                await self._leave()
        if self._error is not None:
            raise self._error

    async def _start_rows(self, found: Survey, journal: Journal, config: RunnableConfig) -> None:
        for number, row in source_rows(self.request):
            if found.is_done(number):
                continue
            await self._wait_for_room()
            if self._is_stopped:
                return
            task = asyncio.create_task(self._answer_row(number, row, journal, config))
            self._tasks.add(task)
            self.tally.in_flight = len(self._tasks)
            task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.tally.in_flight = len(self._tasks)
        self._woken.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._error = self._error or error
            self.stop()

    async def _leave(self) -> None:
        """Drop what is under way, if somebody left before its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._syncing is not None:
            await asyncio.wait([self._syncing])

    # When the next row may start.

    async def _wait_for_room(self) -> None:
        clock, health = self._engine.clock, self._engine.health
        while not self._is_stopped:
            self._woken.clear()
            with health.lock:
                start = self._next_start(clock.now())
                if start.at > clock.now():
                    health.add_waiter(self._wake)
            if start.at <= clock.now():
                await self._pause(is_outage=start.is_outage)
                return
            try:
                await self._wait(start.at)
            finally:
                health.remove_waiter(self._wake)

    def _next_start(self, now: float) -> Start:
        most = math.inf if self.request.concurrency == "auto" else self.request.concurrency
        if len(self._tasks) >= most:
            return Start(math.inf)
        return next_start(self._chain, self._engine.health, now, len(self._tasks))

    def _wake(self) -> None:
        """Have the next row looked after again."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def _wait(self, until: float) -> None:
        if math.isinf(until):
            await self._woken.wait()
            return
        with suppress(TimeoutError):
            async with self._engine.clock.deadline(until, for_others=True):
                await self._woken.wait()

    async def _pause(self, *, is_outage: bool) -> None:
        """In an outage each row waits longer than the one before: else it would be the end of all rows."""
        if is_outage and self._pause_s:
            await self._engine.clock.sleep(self._pause_s)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S) if is_outage else 0.0

    # One row.

    async def _answer_row(self, number: int, row: Row, journal: Journal, config: RunnableConfig) -> None:
        began = self._engine.clock.now()
        try:
            column = column_of(row.fields, self.request.prompt, row.place)
            added = _answer_of(await self._ask_checked(messages_of(row.fields, column), config))
        except NoPrompt as error:
            added = self._failed("bad_request", str(error), (), (), began)
        except ChainExhausted as error:
            added = self._failed(error.failure, str(error), error.attempts, error.skipped, began)
        except StreamBroken as error:
            added = self._failed(error.attempts[-1].failure or "stream_broken", str(error), error.attempts, (), began)
        except BudgetExceeded as error:
            if not _is_of_one_row(error, config):
                self.stopped_by = error
                self.stop()
                return
            added = self._failed("budget", str(error), error.attempts, error.skipped, began)
        written = {**row.fields, "row": number, **added}
        journal.append(as_line(written))
        self.tally.add(written)
        if "error" not in added:
            self._answered_at = self._engine.clock.now()
        self._sync(journal)
        self._on_progress(self.tally)

    async def _ask_checked(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Any:
        """The reply. Raises NoPrompt for messages with a part that LangChain or ChatLiteLLM cannot write."""
        try:
            return await self._ask(messages, config)
        except Exception as error:
            flaw = None if isinstance(error, LLMFallbackError) else self._flaw_of(messages)
            if flaw is None:
                raise
            raise NoPrompt(f"its messages cannot be written ({type(flaw).__name__}: {flaw})") from None

    async def _ask(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Any:
        """The reply; asked again where there were only too many at once, as others were answered lately."""
        for _ in range(_THROTTLED_ASKS):
            try:
                return await self._answerer.ainvoke(messages, config, **self._words)
            except ChainExhausted as error:
                if error.failure != "rate_limited" or self._engine.clock.now() > self._answered_at + _LATELY_S:
                    raise
        return await self._answerer.ainvoke(messages, config, **self._words)

    def _failed(
        self, failure: Unanswered, message: str, attempts: Sequence[Attempt], skipped: Sequence[Skip], began: float
    ) -> dict[str, Any]:
        took_s = self._engine.clock.now() - began
        record = Record(self._chain.name, None, None, False, tuple(attempts), tuple(skipped), took_s, None)
        return {
            "answer": None,
            "llm_fallback": record.as_metadata(),
            "error": {"failure": failure, "message": message},
        }

    def _sync(self, journal: Journal) -> None:
        if journal.unsynced >= _SYNC_EVERY and (self._syncing is None or self._syncing.done()):
            self._syncing = asyncio.get_running_loop().run_in_executor(None, journal.sync)


def _answer_of(reply: Any) -> dict[str, Any]:
    """What a reply adds to its row: of a plain model its text, of one that keeps to a form the object."""
    if isinstance(reply, AIMessage):
        return {"answer": str(reply.text), "llm_fallback": reply.response_metadata["llm_fallback"]}
    raw, parsed, error = reply["raw"], reply["parsed"], reply["parsing_error"]
    facts = raw.response_metadata["llm_fallback"]
    answer = {
        "answer": parsed.model_dump(mode="json") if isinstance(parsed, BaseModel) else parsed,
        "llm_fallback": facts,
    }
    try:
        as_line(answer)
    except ValueError as no_json:  # Python reads NaN as a number, and the form may have one there.
        error = error or no_json
    if error is not None:
        return {"answer": None, "llm_fallback": facts, "error": {"failure": "rejected", "message": str(error)}}
    return answer


def _is_of_one_row(error: BudgetExceeded, config: RunnableConfig) -> bool:
    """Whether the budget is one that the next row has anew: of the call, or of a run that the row is by itself."""
    callbacks = config.get("callbacks")
    is_part_of_run = isinstance(callbacks, BaseCallbackManager) and callbacks.parent_run_id is not None
    return ", per call" in error.scope or (", per run" in error.scope and not is_part_of_run)


# From a thread.


def run_in_thread(job: BatchJob, on_interrupt: Callable[[], None] = lambda: None) -> BatchResult:
    """Run a job in this thread, or beside it where an event loop runs here already.

    Ctrl-C once has the rows under way come to their end, and raises KeyboardInterrupt then; twice, at once.
    `on_interrupt` is called at the first.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with _stopping_at_interrupt(job, on_interrupt) as interrupts:
            result = asyncio.run(job.run())
        if interrupts:
            raise KeyboardInterrupt from None
        return result
    return _run_beside(job)


def _run_beside(job: BatchJob) -> BatchResult:
    """Run a job in a thread of its own, with the caller's context variables, and wait for it."""
    done: Future[BatchResult] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(job.run()))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            done.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name="llm_fallback batch", daemon=True).start()
    try:
        return done.result()
    except KeyboardInterrupt:
        job.stop()
        done.exception()
        raise


@contextmanager
def _stopping_at_interrupt(job: BatchJob, on_interrupt: Callable[[], None]) -> Iterator[list[int]]:
    """Have the first Ctrl-C stop the job, and the second one end everything; the list has those that came. A program
    that takes Ctrl-C for something else keeps its own meaning of it."""
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:
            raise KeyboardInterrupt
        job.stop()
        on_interrupt()

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
