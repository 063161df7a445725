"""The outermost run of LangChain that a call belongs to.

LangChain reports only the parent of a run. So every outermost run gets a handler that notes its id, and that all runs
below it inherit: the handlers of a call lead to its outermost run. docs/decisions/0012-money.md has the reasons.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from llm_fallback._forks import fork_safe_lock

_MAX_RUNS = 10_000
"""Runs whose outermost run a tracker remembers; the oldest are forgotten beyond this number."""


class RootRun(BaseCallbackHandler):
    """Carries the id of an outermost run to all runs below it."""

    run_inline = True
    ignore_llm = ignore_chat_model = ignore_retry = ignore_custom_event = True
    ignore_chain = ignore_agent = ignore_retriever = False

    run_id: UUID | None = None
    """None if the outermost run is a model's own call."""

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id)

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id)

    def _begin(self, run_id: UUID) -> None:
        """The first run is the outermost; runs below it need not be reported."""
        self.run_id = run_id
        self.ignore_chain = self.ignore_agent = self.ignore_retriever = True


def root_of_handlers(handlers: Iterable[BaseCallbackHandler]) -> UUID | None:
    """The outermost run that these handlers belong to; None if it is a model's own call."""
    for handler in handlers:
        if isinstance(handler, RootRun) and handler.run_id is not None:
            return handler.run_id
    return None


def current_root() -> UUID | None:
    """The outermost run that this code runs in, if LangChain's context has it."""
    callbacks = (var_child_runnable_config.get() or {}).get("callbacks")
    if callbacks is None:
        return None
    return root_of_handlers(callbacks if isinstance(callbacks, list) else callbacks.handlers)


class RootRunTracker:
    """The outermost run of each run whose beginning was reported. Threads may share it."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._roots: OrderedDict[UUID, UUID] = OrderedDict()

    def begin(self, run_id: UUID, parent_run_id: UUID | None) -> None:
        """A run begins, which others may follow below it."""
        root = self.root(run_id, parent_run_id)
        with self._lock:
            self._roots[run_id] = root
            if len(self._roots) > _MAX_RUNS:
                self._roots.popitem(last=False)

    def root(self, run_id: UUID, parent_run_id: UUID | None) -> UUID:
        """The outermost run, from LangChain's context, or else from the runs that began before."""
        above = run_id if parent_run_id is None else parent_run_id
        current = current_root()
        with self._lock:
            return self._roots.get(above, above) if current is None else current


class _NewRootRun:
    """In place of the context variable from which LangChain takes a handler to add: it returns a new one each time."""

    def get(self) -> RootRun:
        return RootRun()


register_configure_hook(cast("ContextVar[Any]", _NewRootRun()), inheritable=True, handle_class=RootRun)
