"""Runs a call's engine steps from the caller's thread or task, and emits its events there.

Both drivers do the same: take the next item, tell facts, answer questions, hand on chunks, and close the engine when
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
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial
from typing import Any

from llm_fallback.chat_model.caller import CallContext
from llm_fallback.chat_model.portal import Portal, may_wait, portal
from llm_fallback.engine.engine import Answered, CallerQuestion, Failed, OverBudget, StreamBrokeOff
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.transport import Chunk
from llm_fallback.events import CallEnded, Record, Unanswered

logger = logging.getLogger("llm_fallback")


def drive(execution: CallExecution, caller: CallContext) -> Generator[Chunk, None, None]:
    """Run a call from a thread; the engine's steps run on the portal."""
    steps, context, own = execution.steps(), contextvars.copy_context(), portal()
    now = execution.engine.clock.now
    step = _first_step(steps, partial(_drop, own, context, execution, caller))
    try:
        while (item := own.run(step, context)) is not None:
            answer: Any = None
            if isinstance(item, Chunk):
                given_at, held_s = now(), caller.held_s
                yield item
                answer = caller.held_s - held_s if caller.reader_is_timed else now() - given_at
            elif isinstance(item, CallerQuestion):
                answer = answer_question(item)
            else:
                caller.emit(item)
            step = _step(steps, answer)
    finally:
        if not own.is_ours():
            pass  # A forked child's copy of its parent's call, which the parent ends and tells of.
        elif execution.end is not None:
            _emit_end(execution, caller)
        elif may_wait():
            try:
                own.run(_close(steps), context)
            finally:
                _emit_end(execution, caller)
        # Else this is dropped, and its steps with it: `_drop` sees to both.


async def adrive(execution: CallExecution, caller: CallContext) -> AsyncGenerator[Chunk, None]:
    """Run a call from a task; the engine's steps run in it."""
    steps, now = execution.steps(), execution.engine.clock.now
    answer: Any = None
    try:
        while True:
            try:
                item = await steps.asend(answer)
            except StopAsyncIteration:
                break
            answer = None
            if isinstance(item, Chunk):
                given_at, held_s = now(), caller.held_s
                yield item
                answer = caller.held_s - held_s if caller.reader_is_timed else now() - given_at
            elif isinstance(item, CallerQuestion):
                answer = await aanswer_question(item)
            else:
                await caller.aemit(item)
    finally:
        if execution.end is None:
            execution.release()
        try:  # Before anything is waited for, as a caller may be cancelled again while it leaves.
            if caller.has_observers:
                await caller.aemit(_call_ended(execution, caller))
        finally:
            if execution.end is None:
                await steps.aclose()


async def _step(steps: AsyncGenerator[Any, Any], answer: Any) -> Any:
    """The next step; None when the call has ended."""
    return await _next_step(steps.asend(answer))


async def _first_step(steps: AsyncGenerator[Any, Any], drop: Callable[[AsyncGenerator[Any, Any]], None]) -> Any:
    """The first step. `drop` is called should the generator be dropped before its end, in place of the loop's
    own hook: that closes it, but tells nobody."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=drop)
    first = steps.asend(None)  # This is where a generator takes its hooks.
    sys.set_asyncgen_hooks(*hooks)
    return await _next_step(first)


async def _next_step(coming: Awaitable[Any]) -> Any:
    try:
        return await coming
    except StopAsyncIteration:
        return None


def answer_question(question: CallerQuestion) -> Any:
    """What the caller's side says, from a thread. What is async there runs on the portal, whose loop lasts, so that
    clients which belong to a loop can be kept from one call to the next."""
    try:
        answer = question.ask()
        return portal().run(_awaited(answer), contextvars.copy_context()) if inspect.isawaitable(answer) else answer
    except Exception as error:
        if not question.is_fallible:
            raise
        return _failed(question, error)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


async def aanswer_question(question: CallerQuestion) -> Any:
    """What the caller's side says, from a task."""
    try:
        answer = question.ask()
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        if not question.is_fallible:
            raise
        return _failed(question, error)


def _failed(question: CallerQuestion, error: Exception) -> Exception:
    if question.on_failure_skip:
        logger.warning("going on without %s: %r", question.on_failure_skip, error)
    return error


async def _close(steps: AsyncGenerator[Any, Any]) -> None:
    await steps.aclose()


def _drop(
    closer: Portal,
    context: contextvars.Context,
    execution: CallExecution,
    caller: CallContext,
    steps: AsyncGenerator[Any, Any],
) -> None:
    """Have the portal close a call that nobody holds any more. Waits for nothing, because a finaliser calls it."""
    closer.send(_close_dropped(steps, execution, caller), context)


async def _close_dropped(steps: AsyncGenerator[Any, Any], execution: CallExecution, caller: CallContext) -> None:
    await steps.aclose()
    if caller.has_observers:
        # Not emitted here, where a listener that asks a model would wait for itself, nor where the collector came by.
        # No daemon, as the portal is one: the interpreter waits until ledgers and logs have it.
        emit = partial(contextvars.copy_context().run, _emit_end, execution, caller)
        threading.Thread(target=emit, name="llm_fallback dropped stream", daemon=False).start()


def _emit_end(execution: CallExecution, caller: CallContext) -> None:
    if caller.has_observers:
        caller.emit(_call_ended(execution, caller))


def _call_ended(execution: CallExecution, caller: CallContext) -> CallEnded:
    record, failure = _outcome(execution)
    run_id, root_id = caller.run_id, caller.root_run_id
    return CallEnded(
        chain=record.chain,
        record=record,
        failure=failure,
        streamed=execution.call.streamed,
        at=time.time(),
        run_id=None if run_id is None else str(run_id),
        root_run_id=None if root_id is None else str(root_id),
        tags=tuple(caller.tags),
        metadata=caller.metadata,
    )


def _outcome(execution: CallExecution) -> tuple[Record, Unanswered | None]:
    match execution.end:
        case None:
            return execution.record(), "cancelled"
        case Answered(record=record):
            return record, None
        case StreamBrokeOff(record=record, fault=fault):
            return record, fault.failure
        case Failed(record=record, failure=failure):
            return record, failure
        case OverBudget(record=record):
            return record, "budget"
