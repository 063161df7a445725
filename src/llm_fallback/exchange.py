"""What passes between the engine and a deployment: one request, and the pieces of its answer.

A transport is anything that opens exchanges. It never lets an exception of somebody else's out: what went wrong
comes back as a `Fault`, so no traceback with credentials in its frames can travel up from here.

What is made for every call or chunk is a named tuple here: as immutable as a frozen dataclass, made in a third of the
time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pydantic import SecretStr

from llm_fallback.events import Usage
from llm_fallback.faults import Fault
from llm_fallback.plan import Target

REFUSED_FINISH = "content_filter"
"""The finish reason of a reply that a safety system ended."""

UNFINISHED = frozenset({None, "abort", "error"})
"""Finish reasons that are none: the server stopped in the middle."""


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A part of a streamed tool call, or a whole one of a plain reply."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Piece(NamedTuple):
    """One chunk of a stream."""

    raw: Any
    """The chunk as the caller gets it."""
    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCallPart] = ()
    finish: str | None = None
    usage: Usage | None = None

    @property
    def has_content(self) -> bool:
        """Whether it brings something of the reply itself; roles, keep-alives and white space alone do not."""
        return bool(self.tool_calls or self.text.strip() or self.reasoning.strip())


class Reply(NamedTuple):
    """A whole plain reply."""

    raw: Any
    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCallPart] = ()
    finish: str | None = None
    """The server's own word; None if it gave none."""
    usage: Usage | None = None


class End(NamedTuple):
    """The stream is over."""

    finish: str | None
    """The server's own word; None if it gave none, which means the reply is not whole."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """This deployment cannot take the request; nothing was sent."""

    parameters: tuple[str, ...]


@dataclass(slots=True)
class Transcript:
    """What came of a reply so far."""

    text: str = ""
    reasoning: str = ""
    tool_calls: dict[int, ToolCallPart] = field(default_factory=dict)
    finish: str | None = None
    usage: Usage | None = None

    def add(self, piece: Piece | Reply) -> None:
        self.text += piece.text
        self.reasoning += piece.reasoning
        for part in piece.tool_calls:
            known = self.tool_calls.get(part.index)
            self.tool_calls[part.index] = part if known is None else _joined(known, part)
        self.finish = piece.finish or self.finish
        self.usage = piece.usage or self.usage

    @property
    def tool_characters(self) -> int:
        return sum(len(part.name or "") + len(part.arguments) for part in self.tool_calls.values())

    @property
    def is_empty(self) -> bool:
        return not (self.text.strip() or self.reasoning.strip() or self.tool_calls)


def _joined(known: ToolCallPart, part: ToolCallPart) -> ToolCallPart:
    return ToolCallPart(known.index, known.id or part.id, known.name or part.name, known.arguments + part.arguments)


class Exchange(Protocol):
    """One request to one deployment."""

    @property
    def dropped_params(self) -> tuple[str, ...]:
        """Sampling parameters the deployment does not take and was not sent."""
        ...

    async def reply(self) -> Reply | Fault | Unsupported:
        """Send the request and wait for the whole reply."""
        ...

    async def next(self) -> Piece | End | Fault | Unsupported:
        """The next chunk; the first call sends the request."""
        ...

    def rewritten(self, piece: Piece, text: str) -> Piece:
        """The piece with that text in place of its own, and without its reasoning."""
        ...

    async def close(self) -> None:
        """Drop the connection if the answer is still under way. Never fails."""
        ...


class Transport(Protocol):
    """Opens exchanges with deployments."""

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        """An exchange that has not sent anything yet. Sockets must not give up before the engine, which keeps time."""
        ...
