"""What passes between the engine and a deployment: one request, and its answer, whole or in chunks.

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

from llm_fallback.events import Failure, Usage
from llm_fallback.plan.plan import Target


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt failed."""

    failure: Failure
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    cause: BaseException | None = field(default=None, compare=False)
    """The upstream exception, cleaned of secrets."""

    @property
    def was_refused_here(self) -> bool:
        """Whether the request could not be translated or encoded: nothing was sent, and no server said a word."""
        return self.failure == "bad_request" and self.status is None

    @property
    def was_not_sent(self) -> bool:
        """Whether nothing was sent, for want of a key or of a request that could be."""
        return self.was_refused_here or (self.failure == "auth" and self.status is None)


class UpstreamError(Exception):
    """What an upstream library said, without what it held: no traceback, request, response or headers."""

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        self.kind, self.message, self.status = kind, message, status
        super().__init__(kind, message, status)

    def __str__(self) -> str:
        status = f" ({self.status})" if self.status else ""
        return f"{self.kind}{status}: {self.message}"


REFUSED_FINISH = "content_filter"
"""The finish reason of a reply that a safety system ended."""

FULL_WINDOW = "model_context_window_exceeded"
"""The finish reason of a reply for which there was no more room in the model's window, or none at all."""

CUT_FINISHES = frozenset({"length", FULL_WINDOW})
"""Finish reasons of a reply that is as long as it may be, and perhaps breaks off in a word."""

FINISHES = frozenset({"stop", "length", "tool_calls", REFUSED_FINISH, FULL_WINDOW})
"""Finish reasons by which a reply has ended. By any other, or none, the server stopped in the middle."""


def is_told_whole(finish: str | None, *, is_empty: bool, goes_on: bool) -> bool:
    """Whether a reply is whole by its server's word alone, however its stream ends. Some gateways say "stop" with every
    chunk, or with empty ones while the model still thinks: not where content came behind it (`goes_on`), or none came.
    With calls it is "tool_calls"; no other word is said so."""
    if finish in ("stop", "tool_calls"):
        return not goes_on and not (finish == "stop" and is_empty)
    return finish in FINISHES


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A part of a streamed tool call, or a whole one of a plain reply."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class _Content(NamedTuple):
    """What a chunk of a reply and a whole one have in common."""

    raw: Any
    """It as the caller gets it: a document in the form of OpenAI's chat completions."""
    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCallPart] = ()
    finish: str | None = None
    """The server's own word; None if it gave none."""
    usage: Usage | None = None
    has_media: bool = False
    """Whether it brings sound or pictures."""

    @property
    def has_content(self) -> bool:
        """Whether it brings something of the reply itself; roles, keep-alives and white space alone do not."""
        return bool(self.tool_calls or self.has_media or self.text.strip() or self.reasoning.strip())


_REASONING = ("reasoning_content", "thinking_blocks")
_PROBABILITIES = "provider_specific_fields"
"""Of a chunk, beside its choices, nothing else stands there."""


class Chunk(_Content):
    """One chunk of a stream."""

    __slots__ = ()

    @classmethod
    def of_text(cls, text: str) -> Chunk:
        """A chunk with that text and nothing else."""
        return cls({"choices": [{"delta": {"content": text}, "finish_reason": None}]}, text=text)

    def with_text(self, text: str) -> Chunk:
        """The chunk with that text in place of its own, without its reasoning, and without the probabilities of tokens
        that are not those of the text any more."""
        choice = self.raw["choices"][0]
        delta = {name: value for name, value in choice["delta"].items() if name not in _REASONING}
        beside = {name: value for name, value in self.raw.items() if text == self.text or name != _PROBABILITIES}
        raw = {**beside, "choices": [{**choice, "delta": {**delta, "content": text}}]}
        return self._replace(raw=raw, text=text, reasoning="")

    @property
    def is_bare(self) -> bool:
        """Whether it brings nothing, of the reply or beside it, as its sources are."""
        if self.text or self.tool_calls or self.finish or self.usage:
            return False
        return set(self.raw) == {"choices"} and set(self.raw["choices"][0]["delta"]) == {"content"}


class Reply(_Content):
    """A whole plain reply."""

    __slots__ = ()


class StreamEnd(NamedTuple):
    """The stream is over."""

    finish: str | None
    """The server's own word; None if it gave none, which means the reply is not whole."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """This deployment cannot take the request; nothing was sent."""

    parameters: tuple[str, ...]


class Provenance(NamedTuple):
    """The names by which a provider knows what it sent, for who asks it about one. None: it told none."""

    request_id: str | None = None
    """Of the request, from the headers of the response; errors have one, too."""
    reply_id: str | None = None
    system_fingerprint: str | None = None
    """Of the configuration that made the reply."""

    def as_metadata(self) -> dict[str, str]:
        """What of it stands in `response_metadata`; the id of the request is its attempt's."""
        told: dict[str, str] = {}
        if self.reply_id is not None:
            told["id"] = self.reply_id
        if self.system_fingerprint is not None:
            told["system_fingerprint"] = self.system_fingerprint
        return told


NO_PROVENANCE = Provenance()


class PartialReply:
    """What came of a reply so far.

    Parts are kept apart until somebody reads them: a text that grew by addition would be copied for every chunk.
    """

    __slots__ = ("_calls", "_has_content", "_reasoning", "_text", "finish", "usage")

    def __init__(self, *came: Chunk | Reply) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _GrowingToolCall] = {}
        self._has_content = False
        self.finish: str | None = None
        self.usage: Usage | None = None
        for chunk in came:
            self.add(chunk)

    def add(self, came: Chunk | Reply) -> None:
        if came.text:
            self._text.append(came.text)
        if came.reasoning:
            self._reasoning.append(came.reasoning)
        for part in came.tool_calls:
            call = self._calls.get(part.index)
            if call is None:
                call = self._calls[part.index] = _GrowingToolCall()
            call.add(part)
        self._has_content = self._has_content or came.has_content
        self.finish = came.finish or self.finish
        self.usage = came.usage or self.usage

    @property
    def text(self) -> str:
        return _merge_parts(self._text)

    @property
    def reasoning(self) -> str:
        return _merge_parts(self._reasoning)

    @property
    def tool_calls(self) -> dict[int, ToolCallPart]:
        """The calls as far as they came, by their index."""
        return {index: call.as_part(index) for index, call in self._calls.items()}

    @property
    def has_tool_calls(self) -> bool:
        return bool(self._calls)

    @property
    def output_characters(self) -> int:
        """Of text, reasoning, and names and arguments of tool calls."""
        calls = sum(len(call.name or "") + len(_merge_parts(call.arguments)) for call in self._calls.values())
        return len(self.text) + len(self.reasoning) + calls

    @property
    def is_empty(self) -> bool:
        """Whether nothing came of the reply itself; white space alone is nothing."""
        return not self._has_content


class _GrowingToolCall:
    """A streamed tool call: its id comes once, its name and its arguments in parts."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []

    def add(self, part: ToolCallPart) -> None:
        self.id = self.id or part.id
        if part.name:
            self.name = (self.name or "") + part.name
        self.arguments.append(part.arguments)

    def as_part(self, index: int) -> ToolCallPart:
        return ToolCallPart(index, self.id, self.name, _merge_parts(self.arguments))


def _merge_parts(parts: list[str]) -> str:
    if len(parts) > 1:
        parts[:] = ["".join(parts)]
    return parts[0] if parts else ""


class Exchange(Protocol):
    """One request to one deployment."""

    @property
    def dropped_params(self) -> tuple[str, ...]:
        """Sampling parameters the deployment does not take and was not sent."""
        ...

    @property
    def provenance(self) -> Provenance:
        """As far as the server told it, which may have echoed a secret in it."""
        ...

    async def reply(self) -> Reply | Fault | Unsupported:
        """Send the request and wait for the whole reply."""
        ...

    async def next(self) -> Chunk | StreamEnd | Fault | Unsupported:
        """The next chunk; the first call sends the request."""
        ...

    async def close(self) -> None:
        """Drop the connection if the answer is still under way. Never fails."""
        ...


class RefusedExchange:
    """An exchange that sends nothing, because of something known before."""

    dropped_params: tuple[str, ...] = ()
    provenance = NO_PROVENANCE

    def __init__(self, refusal: Fault | Unsupported) -> None:
        self._refusal = refusal

    async def reply(self) -> Fault | Unsupported:
        return self._refusal

    async def next(self) -> Fault | Unsupported:
        return self._refusal

    async def close(self) -> None:
        """There is no connection."""


class Transport(Protocol):
    """Opens exchanges with deployments."""

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> Exchange:
        """An exchange that has not sent anything yet. Sockets must not give up before the engine, which keeps time."""
        ...
