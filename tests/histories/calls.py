"""A call of a history: what came of it, and what was told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk

from llm_fallback.engine.engine import Engine
from llm_fallback.events import CallEnded, Event
from llm_fallback.plan.plan import ChainPlan, Target
from tests.histories.plans import Ask
from tests.histories.servers import Request

if TYPE_CHECKING:
    from tests.histories.process import SimulatedProcess


@dataclass(eq=False)
class Call:
    """A call, what came of it, and what was told of it."""

    ask: Ask
    process: SimulatedProcess
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
    asked_s: float = 0.0
    """For which it was asked for keys."""
    reply: AIMessage | None = None
    chunks: list[AIMessageChunk] = field(default_factory=list)
    error: BaseException | None = None
    requests: list[Request] = field(default_factory=list)
    keys: dict[str, list[str | Exception]] = field(default_factory=dict)
    """What its deployments' key functions said, each time they were asked."""
    told: list[Event] = field(default_factory=list)
    traced: Counter[str] = field(default_factory=Counter)
    got_first_content_at: float | None = None
    has_left: bool = False
    """Whether its caller left before its end."""
    was_killed: bool = False
    """Whether its process was, under way."""

    @property
    def name(self) -> str:
        return self.ask.name

    @property
    def message(self) -> AIMessage | None:
        """What the caller has got, in one piece."""
        if not self.ask.streamed:
            return self.reply
        return reduce(lambda one, next_: one + next_, self.chunks) if self.chunks else None

    @property
    def text(self) -> str:
        """The text the caller has got."""
        return (
            "".join(chunk.text for chunk in self.chunks) if self.ask.streamed else self.reply.text if self.reply else ""
        )

    @property
    def has_content(self) -> bool:
        """Whether the caller has got text or a part of a tool call."""
        return bool(self.text) or any(chunk.tool_call_chunks for chunk in self.chunks)

    @property
    def total_s(self) -> float:
        return self.chain.total_s if self.ask.total_s is None else self.ask.total_s

    @property
    def took_s(self) -> float:
        """For how long its caller was kept waiting, but by itself."""
        return self.ended - self.began - self.held_s - self.asked_s

    def target(self, deployment: str) -> Target:
        """The deployment, as it was when the call began."""
        return self.targets[deployment]

    @property
    def end(self) -> CallEnded | None:
        return next((event for event in self.told if isinstance(event, CallEnded)), None)


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call that runs here, in whichever of its tasks or threads."""


class AsyncTracer(AsyncCallbackHandler):
    """Counts what LangChain tells its handlers."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    async def on_chat_model_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.counts["start"] += 1

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts["end"] += 1

    async def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.counts["end"] += 1


class Tracer(BaseCallbackHandler):
    """The same, for calls from threads."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def on_chat_model_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.counts["start"] += 1

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts["end"] += 1

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.counts["end"] += 1
