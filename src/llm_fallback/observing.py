"""LangChain callback handlers that are told of every call as it ends, with all there is to know of it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from llm_fallback.budget import Cap
from llm_fallback.events import CallEnded
from llm_fallback.outside import LEFT, CallUnderWay, chain_asked

_MOST_UNDER_WAY = 10_000
"""LangChain tells no handler how a cancelled `ainvoke` ends; calls that stay open are forgotten beyond so many."""


class CallObserver(BaseCallbackHandler):
    """Books every call of the runs it is attached to, once each. Threads may share it.

    Of our own models the model itself tells how a call ended, also one that its caller left; of others LangChain does.
    """

    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_retry = True
    cap: Cap | None = None
    """What our own models may spend while this handler is attached."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._under_way: OrderedDict[UUID, CallUnderWay] = OrderedDict()

    def admit(self, call: CallUnderWay) -> None:
        """A call is about to begin; raising stops it where `raise_error` is set."""

    def book(self, event: CallEnded) -> None:
        """A call has ended."""
        raise NotImplementedError

    def on_call_ended(self, event: CallEnded) -> None:
        """A model of ours tells how a call ended. Only calls that LangChain told of before count."""
        call = self._end(UUID(event.run_id))
        if call is not None:
            self.book(replace(event, tags=tuple(call.tags), metadata=call.metadata))

    # What LangChain tells.

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs)

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._begin(run_id, parent_run_id, kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._under_way.get(run_id)
        if call is not None and token and call.first_token_at is None:
            call.first_token_at = time.perf_counter()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._end(run_id)
        # One of ours that still counts as under way was never made: the reply is from LangChain's cache.
        event = None if call is None or call.chain else call.answered(response)
        if event is not None:
            self.book(event)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._under_way.get(run_id)
        if call is not None and call.chain and isinstance(error, LEFT):
            return  # The model tells what it came to when the request is dropped, which is after this.
        if self._end(run_id) is not None and call is not None:
            self.book(call.failed(error, kwargs.get("response")))

    def _begin(self, run_id: UUID, parent_run_id: UUID | None, told: Mapping[str, Any]) -> None:
        tags, metadata = told.get("tags") or (), told.get("metadata") or {}
        call = CallUnderWay(run_id, parent_run_id, tags, metadata, chain_asked(told), time.perf_counter())
        self.admit(call)
        with self._lock:
            self._under_way[run_id] = call
            if len(self._under_way) > _MOST_UNDER_WAY:
                self._under_way.popitem(last=False)

    def _end(self, run_id: UUID) -> CallUnderWay | None:
        with self._lock:
            return self._under_way.pop(run_id, None)
