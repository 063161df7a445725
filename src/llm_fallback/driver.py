"""Who makes a call, and how the engine's steps are driven from there, in a thread or in a task.

Both drivers do the same: take the next item, tell facts, answer questions, hand on pieces, and close the engine when
the caller leaves. Whatever is the user's (listeners, handlers, predicates, logging) runs here, at the caller's; only
the end of a stream that the garbage collector found is told from a thread of its own.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event

from llm_fallback.breaker import LASTING
from llm_fallback.budget import Payer
from llm_fallback.engine import Answered, Broke, Failed, Question, Unaffordable
from llm_fallback.events import AttemptFailed, BreakerOpened, CallEnded, Event, FellBack, Record, Unanswered
from llm_fallback.exchange import Piece
from llm_fallback.lineage import root_among
from llm_fallback.observing import CallObserver
from llm_fallback.portal import Portal, may_wait, portal
from llm_fallback.run import Run

logger = logging.getLogger("llm_fallback")

Listener = Callable[[Event], None]


@dataclass(eq=False)
class Caller:
    """Where facts of a call go: LangChain's handlers of the run, the model's listeners, the log."""

    listeners: Sequence[Listener] = ()
    run_id: UUID | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    find_handlers: Callable[[], CallbackManager | Sequence[BaseCallbackHandler]] = tuple
    """Asked only once."""
    answer: AsyncGenerator[Any, None] | None = None
    """The answer under way, for whoever has to close it."""
    _handlers: list[BaseCallbackHandler] | None = field(default=None, init=False)

    @property
    def root_run_id(self) -> UUID | None:
        """The outermost run this is a part of."""
        root = root_among(self.handlers)
        return self.run_id if root is None else root

    def payer(self) -> Payer:
        """Whose money the call spends."""
        root, caps = self.root_run_id, [observer.cap for observer in self.observers if observer.cap is not None]
        return Payer(None if root is None else str(root), self.metadata, caps)

    @property
    def handlers(self) -> list[BaseCallbackHandler]:
        # By hand, because a cached_property takes a lock for each caller.
        if self._handlers is None:
            found = self.find_handlers()
            self._handlers = list(found.handlers if isinstance(found, CallbackManager) else found)
        return self._handlers

    @property
    def observers(self) -> list[CallObserver]:
        return [handler for handler in self.handlers if isinstance(handler, CallObserver)]

    @property
    def cares(self) -> bool:
        """Whether anybody wants to know how the call ended."""
        return bool(self.listeners or self.observers) or logger.isEnabledFor(logging.DEBUG)

    def tell(self, event: Event) -> None:
        _log(event)
        self._tell_listeners(event)
        self._tell_observers(event)
        if self.run_id is not None and isinstance(event, AttemptFailed | FellBack):
            handle_event(self.handlers, "on_custom_event", "ignore_custom_event", *_custom(event), **self._origin)

    async def atell(self, event: Event) -> None:
        _log(event)
        self._tell_listeners(event)
        self._tell_observers(event)
        if self.run_id is not None and isinstance(event, AttemptFailed | FellBack):
            await ahandle_event(
                self.handlers, "on_custom_event", "ignore_custom_event", *_custom(event), **self._origin
            )

    @property
    def _origin(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "tags": list(self.tags), "metadata": self.metadata}

    def _tell_listeners(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("listener %r failed on %s", listener, event.name)

    def _tell_observers(self, event: Event) -> None:
        if isinstance(event, CallEnded) and event.run_id is not None:
            for observer in self.observers:
                observer.on_call_ended(event)


def drive(run: Run, caller: Caller) -> Generator[Piece, None, None]:
    """Run a call from a thread; the engine's steps run on the portal."""
    items, context = run.items(), contextvars.copy_context()
    step = _first_step(items, partial(_drop, portal(), context, run, caller))
    try:
        while (item := portal().run(step, context)) is not None:
            answer: Any = None
            if isinstance(item, Piece):
                yield item
            elif isinstance(item, Question):
                answer = asked(item)
            else:
                caller.tell(item)
            step = _step(items, answer)
    finally:
        if run.end is not None:
            _tell_end(run, caller)
        elif may_wait():
            try:
                portal().run(_close(items), context)
            finally:
                _tell_end(run, caller)
        # Else this is dropped, and its items with it: `_drop` sees to both.


async def adrive(run: Run, caller: Caller) -> AsyncGenerator[Piece, None]:
    """Run a call from a task; the engine's steps run in it."""
    items = run.items()
    answer: Any = None
    try:
        while True:
            try:
                item = await items.asend(answer)
            except StopAsyncIteration:
                break
            answer = None
            if isinstance(item, Piece):
                yield item
            elif isinstance(item, Question):
                answer = await aasked(item)
            else:
                await caller.atell(item)
    finally:
        if run.end is None:
            run.leave()
        try:  # Before anything is waited for, as a caller may be cancelled again while it leaves.
            if caller.cares:
                await caller.atell(_ended(run, caller))
        finally:
            if run.end is None:
                await items.aclose()


async def _step(items: AsyncGenerator[Any, Any], answer: Any) -> Any:
    """The engine's next item; None when the call has ended."""
    return await _next_item(items.asend(answer))


async def _first_step(items: AsyncGenerator[Any, Any], drop: Callable[[AsyncGenerator[Any, Any]], None]) -> Any:
    """The engine's first item. `drop` is called should the generator be dropped before its end, in place of the loop's
    own hook: that closes it, but tells nobody."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=drop)
    first = items.asend(None)  # This is where a generator takes its hooks.
    sys.set_asyncgen_hooks(*hooks)
    return await _next_item(first)


async def _next_item(coming: Awaitable[Any]) -> Any:
    try:
        return await coming
    except StopAsyncIteration:
        return None


def asked(question: Question) -> Any:
    """What the caller's side says, from a thread."""
    try:
        answer = question.ask()
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError(
                "an async predicate or key function cannot be asked from a sync call; use ainvoke or astream"
            )
        return answer
    except Exception as error:
        if not question.without:
            raise
        return _missed(question, error)


async def aasked(question: Question) -> Any:
    """What the caller's side says, from a task."""
    try:
        answer = question.ask()
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        if not question.without:
            raise
        return _missed(question, error)


def _missed(question: Question, error: Exception) -> Exception:
    logger.warning("going on without %s: %r", question.without, error)
    return error


async def _close(items: AsyncGenerator[Any, Any]) -> None:
    await items.aclose()


def _drop(own: Portal, context: contextvars.Context, run: Run, caller: Caller, items: AsyncGenerator[Any, Any]) -> None:
    """Have the portal close a call that nobody holds any more. Waits for nothing, because a finaliser calls it."""
    own.send(_close_dropped(items, run, caller), context)


async def _close_dropped(items: AsyncGenerator[Any, Any], run: Run, caller: Caller) -> None:
    await items.aclose()
    if caller.cares:
        # Not told here, where a listener that asks a model would wait for itself, nor where the collector came by.
        # No daemon, as the portal is one: the interpreter waits until books and logs have it.
        tell = partial(contextvars.copy_context().run, _tell_end, run, caller)
        threading.Thread(target=tell, name="llm_fallback dropped stream", daemon=False).start()


def _tell_end(run: Run, caller: Caller) -> None:
    if caller.cares:
        caller.tell(_ended(run, caller))


def _ended(run: Run, caller: Caller) -> CallEnded:
    record, failure = _outcome(run)
    run_id, root_id = caller.run_id, caller.root_run_id
    return CallEnded(
        chain=record.chain,
        record=record,
        failure=failure,
        streamed=run.call.streamed,
        at=time.time(),
        run_id=None if run_id is None else str(run_id),
        root_run_id=None if root_id is None else str(root_id),
        tags=tuple(caller.tags),
        metadata=caller.metadata,
    )


def _outcome(run: Run) -> tuple[Record, Unanswered | None]:
    match run.end:
        case None:
            return run.record(), "cancelled"
        case Answered(record=record):
            return record, None
        case Broke(record=record, fault=fault):
            return record, fault.failure
        case Failed(record=record, failure=failure):
            return record, failure
        case Unaffordable(record=record):
            return record, "budget"


def _custom(event: AttemptFailed | FellBack) -> tuple[str, dict[str, Any]]:
    if isinstance(event, AttemptFailed):
        return event.name, {"chain": event.chain, **event.attempt.as_metadata()}
    return event.name, {
        "chain": event.chain,
        "from": event.source,
        "to": event.target,
        "failure": event.failure,
    }


def _log(event: Event) -> None:
    match event:
        case CallEnded(chain, record):
            logger.debug("chain %s: ended after %.3f s, %d attempts", chain, record.latency_s, len(record.attempts))
        case AttemptFailed(chain, attempt):
            level = logging.WARNING if attempt.failure in LASTING else logging.DEBUG
            logger.log(level, "chain %s: %s", chain, attempt)
        case FellBack(chain, source, target, failure):
            logger.info("chain %s: fell back from %s to %s (%s)", chain, source, target, failure)
        case BreakerOpened(chain, deployment, failure, retry_in_s):
            logger.warning("chain %s: breaker of %s opened for %.1f s (%s)", chain, deployment, retry_in_s, failure)
