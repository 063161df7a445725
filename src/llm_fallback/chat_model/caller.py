"""Who makes a call: where its facts go, and whose money it spends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event

from llm_fallback.callbacks.observer import CallObserver
from llm_fallback.callbacks.root_run import root_of_handlers
from llm_fallback.engine.budget import Spender
from llm_fallback.engine.retry import FAILURES
from llm_fallback.events import AttemptFailed, BreakerOpened, CallEnded, Event, FellBack

logger = logging.getLogger("llm_fallback")


Listener = Callable[[Event], None]


@dataclass(eq=False)
class CallContext:
    """The call as its caller sees it: its run, its tags, and where its facts go."""

    listeners: Sequence[Listener] = ()
    run_id: UUID | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    find_handlers: Callable[[], CallbackManager | Sequence[BaseCallbackHandler]] = tuple
    """Asked only once."""
    thread: Any = None
    """The conversation that the call belongs to, as its config names it."""
    reader_is_timed: bool = False
    """Whether `held_s` is kept; else the driver goes by its own clock, LangChain's part in it included."""
    held_s: float = 0.0
    """For how many seconds in all the reader has held chunks; none of a reply that is handed over as a whole."""
    # Worked out by hand, because a cached_property takes a lock for each caller.
    _handlers: list[BaseCallbackHandler] | None = field(default=None, init=False)
    _observers: list[CallObserver] | None = field(default=None, init=False)

    @property
    def root_run_id(self) -> UUID | None:
        """The outermost run this is a part of."""
        root = root_of_handlers(self.handlers)
        return self.run_id if root is None else root

    def spender(self) -> Spender:
        """Whose money the call spends."""
        root, observers = self.root_run_id, self.observers
        limits = [observer.limit for observer in observers if observer.limit is not None] if observers else []
        return Spender(None if root is None else str(root), self.metadata, limits)

    @property
    def handlers(self) -> list[BaseCallbackHandler]:
        if self._handlers is None:
            handlers = self.find_handlers()
            self._handlers = list(handlers.handlers if isinstance(handlers, CallbackManager) else handlers)
        return self._handlers

    @property
    def observers(self) -> list[CallObserver]:
        if self._observers is None:
            self._observers = [handler for handler in self.handlers if isinstance(handler, CallObserver)]
        return self._observers

    @property
    def has_observers(self) -> bool:
        """Whether anybody wants to know how the call ended."""
        return bool(self.listeners or self.observers) or logger.isEnabledFor(logging.DEBUG)

    def emit(self, event: Event) -> None:
        """Hand a fact to the log, to listeners, observers and, as a custom event, to LangChain's handlers."""
        custom = self._emit(event)
        if custom is not None:
            handle_event(self.handlers, "on_custom_event", "ignore_custom_event", *custom, **self._origin)

    async def aemit(self, event: Event) -> None:
        """Like emit."""
        custom = self._emit(event)
        if custom is not None:
            await ahandle_event(self.handlers, "on_custom_event", "ignore_custom_event", *custom, **self._origin)

    def _emit(self, event: Event) -> tuple[str, dict[str, Any]] | None:
        """All of it but the custom event, which is returned if there is one."""
        _log(event)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("listener %r failed on %s", listener, event.name)
        if isinstance(event, CallEnded) and event.run_id is not None:
            for observer in self.observers:
                observer.on_call_ended(event)
        if self.run_id is not None and isinstance(event, AttemptFailed | FellBack):
            return _custom(event)
        return None

    @property
    def _origin(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "tags": list(self.tags), "metadata": self.metadata}


current_caller: ContextVar[CallContext | None] = ContextVar("llm_fallback_caller", default=None)
"""Who makes the call that is being started in this context."""


class CallingAs:
    """Name who makes the call that is started inside. Around a first step only: a generator would leak it."""

    def __init__(self, caller: CallContext) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        self._token = current_caller.set(self._caller)

    def __exit__(self, *error: object) -> None:
        current_caller.reset(self._token)


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
            needs_somebody = attempt.failure is not None and FAILURES[attempt.failure].breaker == "opens"
            level = logging.WARNING if needs_somebody else logging.DEBUG
            logger.log(level, "chain %s: %s", chain, attempt)
        case FellBack(chain, source, target, failure):
            logger.info("chain %s: fell back from %s to %s (%s)", chain, source, target, failure)
        case BreakerOpened(chain, deployment, failure, retry_in_s, source):
            by = failure if source == "requests" else f"{failure}, as other processes report"
            logger.warning("chain %s: breaker of %s opened for %.1f s (%s)", chain, deployment, retry_in_s, by)
