"""The steps of a script: what a fake deployment does about each request it receives.

The same steps drive the HTTP server and the model in the process. A step says what a client sees, not how that is
done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from llm_fallback.events import Failure
from llm_fallback.testing.recordings import Recorded, Tape

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

CutHow = Literal["reset", "close", "done", "error_frame", "overload_frame", "bad_frame", "abort", "error"]
GarbageKind = Literal["html", "no_choices", "truncated", "null", "not_json"]

_NOT_FROM_A_SERVER = {
    "rejected": "no server causes it; give the chain an `accept` that refuses a Reply",
    "cancelled": "no server causes it; leave the stream or cancel the task that reads it",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    `text=None` lets the fake make up a sensible answer: it calls a bound tool, fills a requested schema or echoes the
    prompt. A text is sent exactly as it is, whatever `stop` or `max_tokens` ask for.
    """

    text: str | None = ""
    _: KW_ONLY
    tool_calls: Sequence[Mapping[str, Any]] | None = ()
    """Each `{"name": ..., "args": {...}}`, with an `"id"` if it matters; args that are a text are sent as they are.
    None is none."""
    usage: Mapping[str, Any] | tuple[int, int] | None = None
    """OpenAI's usage object or (prompt tokens, completion tokens); None: counted."""
    delay_s: float = 0.0
    """Seconds of silence before the first byte."""
    chunks: Sequence[str] | int | None = None
    """The texts of a stream's chunks, or their number; None: a chunk for each word. Texts replace `text`."""
    reasoning: str | None = None
    """Sent as `reasoning_content`, before the text."""
    finish: str | None = None
    """Finish reason; None: "tool_calls" with tool calls, "stop" without."""
    chunk_delay_s: float = 0.0
    """Seconds between two chunks of a stream."""
    model: str | None = None
    """The model the answer claims to come from; None: the one asked for."""
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.tool_calls is None:
            object.__setattr__(self, "tool_calls", ())
        for call in self.tool_calls or ():
            _check_call(call)

    @property
    def is_open(self) -> bool:
        """Whether the fake makes up the answer."""
        return self.text is None and not self.tool_calls and (self.chunks is None or isinstance(self.chunks, int))


@dataclass(frozen=True, slots=True)
class Fail:
    """A failure: an HTTP status from 400 to 599, or a word of `llm_fallback.events.Failure`."""

    failure: int | str
    _: KW_ONLY
    retry_after: float | str | None = None
    """Retry-After: seconds, or a date as HTTP writes it."""
    body: Mapping[str, Any] | str | None = None
    """Replaces the usual body. A mapping is sent as JSON, a text as HTML if it begins with "<"."""
    headers: Mapping[str, str] | None = None
    delay_s: float = 0.0
    """Seconds of silence before it."""

    def __post_init__(self) -> None:
        if isinstance(self.failure, int):
            _check_status(self.failure)
        else:
            _check_word(self.failure)


@dataclass(frozen=True, slots=True)
class Stall:
    """A stream that stops sending after some chunks, without an end; without streaming, no answer at all."""

    after_chunks: int = 0
    """Chunks with content, reasoning or tool calls; the role chunk before them does not count."""
    _: KW_ONLY
    keep_alive: Literal["comments", "roles"] | None = None
    """What is still sent every 50 ms: SSE comments, or chunks without content."""
    reply: Reply | str | None = None
    """The reply that breaks off; None: a text that is long enough."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A reply that ends early.

    `reset`: the connection is reset. `close`: the body just ends. `done`: `[DONE]` without a finish reason.
    `error_frame`, `overload_frame`: an error inside the stream. `bad_frame`: one frame does not parse, the rest is
    fine. `abort`, `error`: vLLM's finish reasons of replies that are not finished. `after_chunks=0` sends the status
    and no chunk, not even the role. Without streaming, the nearest equivalent: half a body, an error status, or a body
    with that finish reason.
    """

    after_chunks: int = 2
    """Chunks with content, reasoning or tool calls."""
    _: KW_ONLY
    how: CutHow = "reset"
    reply: Reply | str | None = None
    """The reply that breaks off; None: a text that is long enough."""

    def __post_init__(self) -> None:
        _check_choice("how", self.how, get_args(CutHow))


@dataclass(frozen=True, slots=True)
class Garbage:
    """Status 200 with a body that cannot be read as a reply."""

    kind: GarbageKind = "html"

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(GarbageKind))


@dataclass(frozen=True, slots=True)
class Empty:
    """A valid reply without content."""

    _: KW_ONLY
    finish: str = "stop"
    content: Literal[""] | None = ""
    """The content of a reply that is not streamed."""


Step: TypeAlias = Reply | Fail | Stall | Cut | Garbage | Empty | Recorded
Written: TypeAlias = Step | str | Callable[[list["BaseMessage"]], Step | str | None]
"""A step, or a function that looks at the messages of the request and says which; None of it: a sensible answer."""
Scripted: TypeAlias = Written | Sequence[Written] | Tape | None
"""A list is played once, a single step for ever; None: sensible answers. A tape is what `recorded` returns."""


class Script:
    """The steps of one deployment, one for each request. Threads may share it."""

    def __init__(self, scripted: Scripted = None) -> None:
        self._once: deque[Step | Chooser] = deque()
        self._repeated: Step | Chooser | None = None
        if isinstance(scripted, Tape):
            self._once.extend(scripted.exchanges)
            self._repeated = Fail(400, body=scripted.is_over)
        elif isinstance(scripted, Sequence) and not isinstance(scripted, str):
            self._once.extend(map(step, scripted))
        elif scripted is not None:
            self._repeated = step(scripted)

    def next(self, messages: Sequence[Any]) -> Step | None:
        """The step for the next request, which has these messages; None: a sensible answer."""
        try:
            written: Step | Chooser | None = self._once.popleft()
        except IndexError:
            written = self._repeated
        return written.choose(messages) if isinstance(written, Chooser) else written


@dataclass(frozen=True, slots=True)
class Chooser:
    """A function of the test's that looks at a request."""

    function: Callable[[list[BaseMessage]], Step | str | None]

    def choose(self, messages: Sequence[Any]) -> Step | None:
        """The step it says. TypeError for what is no step."""
        from langchain_core.messages import convert_to_messages  # Scripts are written without LangChain, too.

        chosen = self.function(convert_to_messages(messages))
        return None if chosen is None else _plain(chosen)


def step(word: object) -> Step | Chooser:
    """One step of a script; a text is a `Reply`, a function says which. TypeError for anything that is no step."""
    if isinstance(word, Step | str) or not callable(word):
        return _plain(word)
    return Chooser(word)


def _plain(word: object) -> Step:
    if isinstance(word, str):
        return Reply(word)
    if isinstance(word, Step):
        return word
    raise TypeError(
        f"{word!r} is no step of a script; write a str, Reply, Fail, Stall, Cut, Garbage, Empty, or a function that "
        "takes the messages and returns one of them"
    )


def _check_call(call: Mapping[str, Any]) -> None:
    if not isinstance(call.get("name"), str) or not isinstance(call.get("args", {}), Mapping | str):
        raise ValueError(f'tool_calls has {call!r}; write {{"name": "...", "args": {{...}}}}')


def _check_status(status: int) -> None:
    if not 400 <= status <= 599:
        raise ValueError(f"Fail({status}): no HTTP error status; for a bad reply with status 200 use Garbage()")


def _check_word(word: str) -> None:
    if word in _NOT_FROM_A_SERVER:
        raise ValueError(f"Fail({word!r}): {_NOT_FROM_A_SERVER[word]}")
    _check_choice("failure", word, [known for known in get_args(Failure) if known not in _NOT_FROM_A_SERVER])


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value in choices:
        return
    from llm_fallback.errors import did_you_mean  # It loads LangChain, which a script may not need.

    remedy = did_you_mean(value, choices, f"use one of {', '.join(choices)}")
    raise ValueError(f"{field}={value!r} is not known; {remedy}")
