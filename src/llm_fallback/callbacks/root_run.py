"""Which outermost run of LangChain a call belongs to.

LangChain tells a run only its parent. So every outermost run gets a handler of its own, which does nothing but note
that run's id and which all runs below inherit: whoever sees the handlers of a call knows the run it all began with.
docs/decisions/0012-money.md says why it is done so.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

_MOST_RUNS = 10_000
"""Whose lineage a handler remembers; the oldest are forgotten beyond so many."""


class RootRun(BaseCallbackHandler):
    """Stands for an outermost run in everything that comes of it."""

    run_inline = True
    ignore_llm = ignore_chat_model = ignore_retry = ignore_custom_event = True
    ignore_chain = ignore_agent = ignore_retriever = False

    run_id: UUID | None = None
    """None if the outermost run is a model's own, which needs nobody to stand for it."""

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id)

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._begin(run_id)

    def _begin(self, run_id: UUID) -> None:
        """The first run is the outermost; of the ones below nothing need be told any more."""
        self.run_id = run_id
        self.ignore_chain = self.ignore_agent = self.ignore_retriever = True


def root_of_handlers(handlers: Iterable[BaseCallbackHandler]) -> UUID | None:
    """The outermost run whose handlers these are; None if it is a model's own."""
    roots = (handler.run_id for handler in handlers if isinstance(handler, RootRun))
    return next((run_id for run_id in roots if run_id is not None), None)


def current_root() -> UUID | None:
    """The outermost run this code runs in, where LangChain's context tells."""
    around = (var_child_runnable_config.get() or {}).get("callbacks")
    if around is None:
        return None
    return root_of_handlers(around if isinstance(around, list) else around.handlers)


class RootRunTracker:
    """The outermost run of each run that one handler has seen begin. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roots: OrderedDict[UUID, UUID] = OrderedDict()

    def begin(self, run_id: UUID, parent_run_id: UUID | None) -> None:
        """A run begins that may have others below it."""
        root = self.root(run_id, parent_run_id)
        with self._lock:
            self._roots[run_id] = root
            if len(self._roots) > _MOST_RUNS:
                self._roots.popitem(last=False)

    def root(self, run_id: UUID, parent_run_id: UUID | None) -> UUID:
        """As LangChain's context tells it, else as the runs above were seen to begin."""
        above = run_id if parent_run_id is None else parent_run_id
        around = current_root()
        with self._lock:
            return self._roots.get(above, above) if around is None else around


class _NewRootRun:
    """Stands where LangChain looks for a handler to add: for a run without one it finds a new one each time."""

    def get(self) -> RootRun:
        return RootRun()


register_configure_hook(cast("ContextVar[Any]", _NewRootRun()), inheritable=True, handle_class=RootRun)
