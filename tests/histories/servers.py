"""Simulated servers behind the engine: what each sends, byte by byte, how it fails, and what it has on its bill.

To one question every server has the same answer, of which no two words are alike. So whoever reads a reply can tell
whether a part of it is missing, stands there twice, or was sent by nobody.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from pydantic import SecretStr

from llm_fallback.engine.continuation import INSTRUCTION
from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.response import Response, as_stream_fault
from llm_fallback.engine.transport import Chunk, Fault, Provenance, Reply, StreamEnd
from llm_fallback.events import Failure
from llm_fallback.plan.plan import Target
from llm_fallback.spec.secrets import Redactor
from llm_fallback.testing import Fail
from llm_fallback.testing.answers.answer import Answer, ToolCall
from llm_fallback.testing.openai_responses import (
    COMMENT,
    DONE,
    Envelope,
    chunk,
    closings,
    completion,
    deltas,
    encode,
    error_body,
    frame,
    openings,
    refusal_of,
)
from tests.histories.world import World

TICK_S = 0.05
"""Servers send at multiples of it, as limits end, so that things often happen at the same moment."""
PROMPT_TOKENS = 5
"""What each has on its bill for a prompt; fewer than the engine reckons with."""
NONSENSE = "nonsense?"
LAST = "last"
"""How calls are named that are made when all is well again."""
_CHARACTERS_PER_TOKEN = 4

Word = str
"""How a server treats a request."""

REFUSALS: tuple[Word, ...] = (
    *("rate_limited", "quota_exhausted", "auth", "not_found", "server_error", "overloaded"),
    *("bad_request", "context_window", "content_policy"),
)
FAILURES: Mapping[Word, frozenset[Failure]] = {
    **{word: frozenset({word}) for word in REFUSALS},  # type: ignore[arg-type]
    "answer": frozenset(),
    "slow": frozenset(),
    "short": frozenset(),
    "document": frozenset(),
    "nonsense": frozenset({"rejected"}),
    "reset": frozenset({"connection"}),
    "hang": frozenset(),
    "keep_alive": frozenset(),
    "stall": frozenset({"stream_broken"}),
    "cut": frozenset({"stream_broken", "connection", "invalid_response", "empty_response"}),
    "end_early": frozenset({"stream_broken", "invalid_response", "empty_response"}),
    "no_finish": frozenset({"stream_broken", "invalid_response", "empty_response"}),
    "error_frame": frozenset({"stream_broken", "server_error", "invalid_response"}),
    "bad_frame": frozenset({"stream_broken", "invalid_response"}),
    "html": frozenset({"invalid_response"}),
    "empty": frozenset({"empty_response"}),
    "filtered": frozenset({"content_policy"}),
}
"""Every way to treat a request, and as what the caller may take it; besides, a limit of time may have ended it."""
KEY_TROUBLES: tuple[Word, ...] = ("no key", "slow key")
"""What a deployment's key function does instead of answering at once."""
LIMITS: frozenset[Failure] = frozenset({"timeout", "first_token_timeout", "idle_timeout", "stream_broken"})


def answer_to(call: str, words: int) -> str:
    """The one right answer."""
    return "".join(f"{call}w{number:02} " for number in range(words))


def tool_calls_of(request: Request) -> list[ToolCall]:
    """The tool calls of the reply to a request; no two requests have the same."""
    return [
        ToolCall("look_up", {"of": request.number, "words": [f"{request.call}t{at}n{n}" for n in range(at + 2)]}, id_)
        for at in range(request.tools)
        for id_ in [f"call_{request.number}_{at}"]
    ]


def question(call: str, words: int, tools: int) -> str:
    return f"Tell me {words} words about {call} and call {tools} tools, whatever becomes of the servers that are asked."


_QUESTION = re.compile(r"Tell me (\d+) words about (\w+) and call (\d+) tools,")


@dataclass(eq=False)
class Request:
    """One request, as its server knows it."""

    call: str
    deployment: str
    at: float
    word: Word
    streamed: bool
    number: int
    """Of all requests of the history."""
    begins_at: int
    """At which character of the answer it begins, to go on with what others have delivered."""
    tools: int
    """How many tool calls follow its text."""
    api_key: str | None
    retry_after_s: float | None = None
    sent: str = ""
    """The text that has gone out, a continuation's repetitions included."""
    sent_arguments: dict[int, str] = field(default_factory=dict)
    """Of each tool call that has gone out: so much of its arguments."""
    told_usage: tuple[int, int] | None = None
    """Tokens in and out, as far as the caller was told."""
    is_finished: bool = False
    """Whether the reply has gone out to its end."""
    ended_at: float = math.inf
    """When the server had nothing more to send, or the client left."""
    is_closed: bool = False

    @property
    def is_open(self) -> bool:
        return math.isinf(self.ended_at)

    @property
    def has_sent(self) -> bool:
        """Whether text or a part of a tool call has gone out; white space alone is none."""
        return bool(self.sent.strip() or self.sent_arguments)

    def end(self, now: float) -> None:
        """The server has nothing more to send, or the client left."""
        self.ended_at = min(self.ended_at, now)

    def __str__(self) -> str:
        usage = "" if self.told_usage is None else f", bills {self.told_usage}"
        return f"{self.at:.3f} {self.call} to {self.deployment}: {self.word}, sent {self.sent!r}{usage}"


class Head(NamedTuple):
    status: int
    headers: Mapping[str, str]


class Reset(NamedTuple):
    """The connection is reset."""


class Act(NamedTuple):
    """What a server does next."""

    after_s: float
    """Infinite: never."""
    what: Head | Reset | bytes
    text: str = ""
    """Of the answer, that is out with these bytes."""
    arguments: Mapping[int, str] = {}
    """Of tool calls, that are out with them."""
    usage: tuple[int, int] | None = None
    """That is out with them."""
    is_end: bool = False
    """Whether the reply is whole with them."""


@dataclass(frozen=True)
class Trouble:
    """A deployment treats a share of its requests so, for a while."""

    at: float
    until: float
    deployment: str
    word: Word
    share: float

    def __str__(self) -> str:
        return f"{self.at:7.2f}  {self.deployment}: {self.share:.0%} {self.word} until {self.until:g}"


@dataclass
class SimulatedServers:
    """All servers of a history, and the transport to them."""

    world: World
    troubles: list[Trouble]
    closes_in_s: float = 0.0
    requests: list[Request] = field(default_factory=list)
    on_request: Callable[[Request], None] = lambda request: None

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> SimulatedExchange:
        return SimulatedExchange(self, target, request, api_key)

    def has_trouble(self, deployment: str, word: Word) -> bool:
        """Whether a deployment has that trouble now, of those that are not its server's."""
        now = self.world.now
        return any(t.deployment == deployment and t.word == word and t.at <= now < t.until for t in self.troubles)

    def begin(
        self, target: Target, body: Mapping[str, Any], api_key: SecretStr | None
    ) -> tuple[Request, Iterator[Act]]:
        """Receive a request."""
        asked = next(message for message in body["messages"] if message["role"] == "user")
        found = _QUESTION.match(asked["content"])
        assert found is not None
        words, call, tools = int(found[1]), found[2], int(found[3])
        again = sum(request.call == call and request.deployment == target.name for request in self.requests)
        rng = self.world.rng(f"{call}/{target.name}/{again}")
        delivered, is_prefill = _delivered(body["messages"])
        whole = answer_to(call, words)
        request = Request(
            *(call, target.name, self.world.now, self._word(target.name, rng), bool(body.get("stream"))),
            number=len(self.requests),
            begins_at=_goes_on_at(whole, delivered, rng, is_prefill=is_prefill),
            tools=tools,
            api_key=None if api_key is None else api_key.get_secret_value(),
        )
        if request.word == "rate_limited" and rng.random() < 0.7:
            request.retry_after_s = float(rng.choice([0, 1, 2, 5, 30]))
        self.requests.append(request)
        self.world.note(f"{call} asks {target.name}: {request.word}" + (" (goes on)" if delivered else ""))
        self.on_request(request)
        text, repeats = whole[request.begins_at :], 0 < request.begins_at < len(delivered)
        return request, _Acts(request, text, target.model_name, rng, repeats=repeats).acts()

    def _word(self, deployment: str, rng: Random) -> Word:
        for trouble in self.troubles:
            is_on = trouble.deployment == deployment and trouble.at <= self.world.now < trouble.until
            if is_on and trouble.word in FAILURES and rng.random() < trouble.share:
                return trouble.word
        return "answer"

    async def get_page(self, target: Target, url: str, api_key: SecretStr | None) -> None:
        """There is no page."""

    def close(self) -> None:
        """Nothing is held."""

    async def aclose(self) -> None:
        """Nothing is held."""


def _delivered(messages: list[Mapping[str, Any]]) -> tuple[str, bool]:
    """The part of the answer that a request hands over, and whether as the beginning of the reply."""
    if messages[-1]["role"] == "assistant":
        return messages[-1]["content"], True
    if messages[-1]["content"] == INSTRUCTION:
        return messages[-2]["content"], False
    return "", False


def _goes_on_at(whole: str, delivered: str, rng: Random, *, is_prefill: bool) -> int:
    """Where a server goes on: where the delivered part ends, or, as many do, with some or all of it once more."""
    assert whole.startswith(delivered), f"handed over {delivered!r}"
    how = "exactly" if is_prefill else rng.choice(["exactly", "exactly", "repeats", "anew"])
    if how == "anew":
        return 0
    starts = [match.start() for match in re.finditer(r"\w+", delivered) if match.start() < len(delivered) - 3]
    return rng.choice(starts) if how == "repeats" and starts else len(delivered)


class _Acts:
    """What a server does about one request."""

    def __init__(self, request: Request, text: str, model: str, rng: Random, *, repeats: bool) -> None:
        """`repeats`: the text begins with a part, not all, of what was delivered."""
        self._request, self._text, self._rng, self._repeats = request, text, rng, repeats
        self._envelope = Envelope(f"r{request.call}", model, 0)
        self._is_quick = request.call.startswith(LAST)
        self._first_s = self._ticks(0, 6)
        if request.word == "slow":
            self._first_s = self._ticks(20, 200)

    def _ticks(self, least: int, most: int) -> float:
        return 0.0 if self._is_quick else TICK_S * self._rng.randint(least, most)

    def acts(self) -> Iterator[Act]:
        word, request = self._request.word, self._request
        if word in REFUSALS:
            refusal = refusal_of(Fail(word, retry_after=request.retry_after_s), self._envelope.model)
            yield Act(self._first_s, Head(refusal.status, refusal.headers))
            yield Act(0.0, refusal.body)
        elif word == "reset":
            yield Act(self._first_s, Reset())
        elif word == "hang":
            yield Act(math.inf, b"")
        elif word == "html":
            yield Act(self._first_s, Head(200, {}))
            yield Act(0.0, b"<html><h1>Welcome</h1></html>")
        elif request.streamed and word != "document":
            yield Act(self._first_s, Head(200, {}))
            yield from self._broken(list(self._stream()))
        else:
            yield Act(self._first_s, Head(200, {}))
            yield from self._broken(list(self._document()))

    def _answer(self) -> Answer:
        pieces, calls = tuple(re.findall(r".{1,12}", self._text, re.DOTALL)), tuple(tool_calls_of(self._request))
        finish = "tool_calls" if calls else "stop"
        match self._request.word:
            case "short" if not self._repeats:
                pieces, calls, finish = pieces[: max(1, len(pieces) // 2)], (), "length"
            case "nonsense":
                pieces = (NONSENSE,)
            case "empty":
                pieces, calls, finish = (), (), "stop"
            case "filtered":
                pieces, calls, finish = pieces[:1], (), "content_filter"
        characters = sum(map(len, pieces)) + sum(len(call.arguments) for call in calls)
        tokens = PROMPT_TOKENS, math.ceil(characters / _CHARACTERS_PER_TOKEN)
        usage = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
        return Answer(pieces, tool_calls=calls, finish=finish, usage=usage)

    def _stream(self) -> Iterator[Act]:
        answer, envelope = self._answer(), self._envelope
        usage = PROMPT_TOKENS, answer.usage["completion_tokens"]
        yield from (Act(0.0, frame(opening)) for opening in openings(envelope))
        for delta in deltas(answer, envelope):
            calls = {part["index"]: part["function"]["arguments"] for part in delta.get("tool_calls", ())}
            yield Act(self._ticks(0, 4), frame(chunk(envelope, delta)), delta.get("content", ""), calls)
        if self._request.word != "no_finish":
            finish, told = closings(answer, envelope, with_usage=True)
            yield Act(0.0, frame(finish), is_end=True)
            yield Act(0.0, frame(told), usage=usage)
        yield Act(0.0, DONE)

    def _document(self) -> Iterator[Act]:
        answer = self._answer()
        document = completion(answer, self._envelope)
        if self._request.word == "no_finish":
            document["choices"][0]["finish_reason"] = None
        calls = {at: call.arguments for at, call in enumerate(answer.tool_calls)}
        usage, is_end = (PROMPT_TOKENS, answer.usage["completion_tokens"]), self._request.word != "no_finish"
        yield Act(self._ticks(0, 10), encode(document), answer.text, calls, usage, is_end=is_end)

    def _broken(self, acts: list[Act]) -> Iterator[Act]:
        """What the word makes of an answer."""
        word = self._request.word
        if word in ("cut", "end_early", "stall", "error_frame", "bad_frame", "keep_alive"):
            at = 0 if word == "keep_alive" else self._rng.randrange(len(acts) - (len(acts) > 1))
            whole, broken = acts[:at], acts[at]
            yield from whole
            if word in ("cut", "end_early"):
                assert isinstance(broken.what, bytes)
                yield Act(broken.after_s, broken.what[: self._rng.randrange(max(1, len(broken.what) - 4))])
            yield from self._after_break(word)
            return
        for act in acts:
            yield from self._divided(act)

    def _after_break(self, word: Word) -> Iterator[Act]:
        match word:
            case "cut":
                yield Act(self._ticks(0, 4), Reset())
            case "stall":
                yield Act(math.inf, b"")
            case "error_frame":
                body = error_body("server_error", self._envelope.model)
                assert not isinstance(body, str)
                yield Act(self._ticks(0, 4), frame(body))
            case "bad_frame":
                yield Act(self._ticks(0, 4), b'data: {"choices": [{"del\n\n')
            case "keep_alive":
                while True:
                    yield Act(2 * TICK_S, COMMENT if self._request.streamed else b" ")

    def _divided(self, act: Act) -> Iterator[Act]:
        """Its bytes as two reads, now and then."""
        data = act.what
        if isinstance(data, bytes) and len(data) > 4 and self._rng.random() < 0.2:
            at = self._rng.randrange(1, len(data) - 2)  # Before the end of a line, by which an event is whole.
            yield Act(act.after_s, data[:at])
            yield act._replace(after_s=self._ticks(0, 2), what=data[at:])
        else:
            yield act


class SimulatedExchange:
    """One request from the engine's side."""

    dropped_params: tuple[str, ...] = ()
    _clean = FaultCleaner(Redactor(()))

    def __init__(
        self, servers: SimulatedServers, target: Target, body: Mapping[str, Any], api_key: SecretStr | None
    ) -> None:
        self._servers, self._target, self._body, self._api_key = servers, target, body, api_key
        self._response = Response(OpenAIReader(target.finish_reasons), streamed=bool(body.get("stream")))
        self._document, self._unread = bytearray(), deque[Chunk]()
        self._request: Request | None = None
        self._acts: Iterator[Act] = iter(())

    @property
    def provenance(self) -> Provenance:
        return self._response.provenance

    async def reply(self) -> Reply | Fault:
        while (came := await self._receive()) is not None:
            if isinstance(came, Fault):
                return self._clean(came)
            self._document += came
        answer = self._response.fault() or self._response.reply(bytes(self._document))
        return answer if isinstance(answer, Reply) else self._clean(answer)

    async def next(self) -> Chunk | StreamEnd | Fault:
        while not self._unread:
            came = None if self._response.is_over else await self._receive()
            if isinstance(came, Fault):
                return self._clean(as_stream_fault(came, content_came=self._response.reader.content_came))
            if not self._response.is_over:
                self._unread += self._response.feed(came)
            if came is None and not self._unread:
                self._end()
                end = self._response.end()
                if isinstance(end, Chunk):
                    return end
                return self._clean(end) if isinstance(end, Fault) else end
        return self._unread.popleft()

    async def close(self) -> None:
        self._end()
        if self._request is not None:
            self._request.is_closed = True
        if self._servers.closes_in_s:
            await asyncio.sleep(self._servers.closes_in_s)

    async def _receive(self) -> bytes | Fault | None:
        """The next bytes; None at the end."""
        if self._request is None:
            self._request, self._acts = self._servers.begin(self._target, self._body, self._api_key)
            self._act = next(self._acts, None)
        while (act := self._act) is not None:
            await self._wait(act.after_s)
            # Only now, so that a read that is cancelled takes nothing away.
            self._act = next(self._acts, None)
            self._request.sent += act.text
            for at, arguments in act.arguments.items():
                self._request.sent_arguments[at] = self._request.sent_arguments.get(at, "") + arguments
            self._request.told_usage = act.usage or self._request.told_usage
            self._request.is_finished = self._request.is_finished or act.is_end or self._request.word in REFUSALS
            if self._act is None:
                self._end()
            if isinstance(act.what, Head):
                self._response.begin(act.what.status, {name.lower(): text for name, text in act.what.headers.items()})
            elif isinstance(act.what, Reset):
                self._end()
                return Fault("connection", "the connection was reset")
            elif self._response.is_error:
                self._response.remember(act.what)
            else:
                return act.what
        return None

    async def _wait(self, seconds: float) -> None:
        try:
            if math.isinf(seconds):
                await asyncio.get_running_loop().create_future()
            elif seconds:
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._end()  # Nobody reads on.
            raise

    def _end(self) -> None:
        if self._request is not None:
            self._request.end(self._servers.world.now)
