"""What a deployment does at a step of its script, as a sequence of actions: what it sends, when, and how it ends.

There is no I/O here: the HTTP server sends the actions over a socket, the fake model in the process reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, islice
from typing import Any, TypeAlias

from llm_fallback.engine.tokens import read_choices
from llm_fallback.testing import answers, openai_responses
from llm_fallback.testing.answers.answer import Answer
from llm_fallback.testing.answers.prompt import Request
from llm_fallback.testing.openai_responses import DONE, STATUS, Envelope, error_body, refusal_of
from llm_fallback.testing.recordings import Recorded
from llm_fallback.testing.scripts import Cut, Empty, Fail, Garbage, Reply, Stall, Step

KEEP_ALIVE_EVERY_S = 0.05
_JSON = "application/json"
_STREAM = "text/event-stream"
_FILLER = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog.")
_PIECES_LEFT_UNSENT = 3
_PAGE = b"<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>"


@dataclass(frozen=True, slots=True)
class SendHead:
    """The status line and headers."""

    status: int = 200
    content_type: str = _JSON
    length: int | None = None
    """Bytes of the body; None: it lasts until the connection says that it ended."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SendBody:
    """A part of the body. A mapping is sent as one event of a stream, bytes as they are."""

    data: Mapping[str, Any] | bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing, for ever if `seconds` is None; then `keep_alive`, if not empty, is sent every 50 ms."""

    seconds: float | None = None
    keep_alive: bytes = b""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection."""


ServerAction: TypeAlias = SendHead | SendBody | Pause | Reset


def play(step: Step | None, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    """What a deployment does about `request` at this step of its script; None: it makes up a sensible answer."""
    match step:
        case Fail():
            return _fail(step, request, envelope)
        case Stall():
            return _stall(step, request, envelope)
        case Cut():
            return _cut(step, request, envelope)
        case Garbage():
            return _garbage(step, request, envelope)
        case Empty():
            return _empty(step, request, envelope)
        case Reply():
            return _reply(step, request, envelope)
        case Recorded():
            return _recorded(step, request, envelope)
        case None:
            return _reply(Reply(None), request, envelope)


def _reply(reply: Reply, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    answer = answers.answer_as(reply, request)
    if answer.model is not None:
        envelope = replace(envelope, model=answer.model)
    if reply.delay_s:
        yield Pause(reply.delay_s)
    if request.get("stream"):
        yield SendHead(content_type=_STREAM, headers=reply.headers or {})
        yield from _frames_of(answer, request, envelope, reply.chunk_delay_s)
    else:
        yield from _document(
            openai_responses.completion(answer, envelope, read_choices(request.get("n"))), headers=reply.headers or {}
        )


def _fail(fail: Fail, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    if fail.delay_s:
        yield Pause(fail.delay_s)
    if isinstance(fail.failure, int) or fail.failure in STATUS:
        refusal = refusal_of(fail, envelope.model)
        yield SendHead(refusal.status, refusal.content_type, len(refusal.body), refusal.headers)
        yield SendBody(refusal.body)
    elif fail.failure in _WITHOUT_STATUS:
        yield _WITHOUT_STATUS[fail.failure]
    else:
        yield from play(_STANDS_FOR[fail.failure], request, envelope)


_WITHOUT_STATUS: dict[str, ServerAction] = {"connection": Reset(), "timeout": Pause()}
_STANDS_FOR: dict[str, Step] = {
    "first_token_timeout": Stall(),
    "idle_timeout": Stall(after_chunks=2),
    "empty_response": Empty(),
    "invalid_response": Garbage(),
    "stream_broken": Cut(after_chunks=2),
}


def _stall(stall: Stall, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    if request.get("stream"):
        sent, _ = _broken_off(stall, request, envelope)
        yield from _beginning(stall, sent, envelope)
        yield Pause(keep_alive=_keep_alive(stall, envelope))
    else:
        yield Pause()


def _keep_alive(stall: Stall, envelope: Envelope) -> bytes:
    if stall.keep_alive == "comments":
        return openai_responses.COMMENT
    if stall.keep_alive == "roles":
        return b"".join(openai_responses.frame(chunk) for chunk in openai_responses.openings(envelope))
    return b""


def _cut(cut: Cut, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    if not request.get("stream"):
        return _cut_document(cut, request, envelope)
    return _cut_stream(cut, request, envelope)


def _cut_stream(cut: Cut, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    sent, unsent = _broken_off(cut, request, envelope)
    if cut.after_chunks > 0:
        yield from _beginning(cut, sent, envelope)
    else:
        yield SendHead(content_type=_STREAM)
    match cut.how:
        case "reset":
            yield Reset()
        case "error_frame" | "overload_frame":
            yield from (SendBody(_in_band_error(cut, envelope)), SendBody(DONE))
        case "bad_frame":
            yield SendBody(_half_a_frame(envelope))
            yield from _frames(unsent, _ending(cut, request, envelope, "stop"))
            yield SendBody(DONE)
        case "abort" | "error":
            yield from _frames(_ending(cut, request, envelope, cut.how))
            yield SendBody(DONE)
        case "done":
            yield SendBody(DONE)
        case "close":
            pass


def _ending(cut: Cut, request: Request, envelope: Envelope, finish: str) -> list[dict[str, Any]]:
    answer = replace(_answer_to_break(cut, request), finish=finish)
    return openai_responses.closings(answer, envelope, with_usage=_wants_usage(request))


def _cut_document(cut: Cut, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    answer = _answer_to_break(cut, request)
    whole = openai_responses.encode(openai_responses.completion(answer, envelope))
    match cut.how:
        case "reset":
            yield from (SendHead(length=len(whole)), SendBody(whole[: len(whole) // 2]), Reset())
        case "error_frame" | "overload_frame":
            status = STATUS[_FAILURE_IN_BAND[cut.how]]
            yield from _document(_in_band_error(cut, envelope), status=status)
        case "abort" | "error":
            yield from _document(openai_responses.completion(replace(answer, finish=cut.how), envelope))
        case "close" | "done" | "bad_frame":
            yield from _body(whole[: len(whole) // 2])


_FAILURE_IN_BAND = {"error_frame": "server_error", "overload_frame": "overloaded"}


def _in_band_error(cut: Cut, envelope: Envelope) -> Mapping[str, Any]:
    body = error_body(_FAILURE_IN_BAND[cut.how], envelope.model)
    assert not isinstance(body, str)
    return body


def _garbage(garbage: Garbage, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    empty = answers.answer_as(Reply(), request)
    match garbage.kind, bool(request.get("stream")):
        case "html", _:
            return _body(_PAGE, "text/html")
        case "null", _:
            return _body(b"null")
        case "no_choices", True:
            return _stream([openai_responses.usage_chunk(empty, envelope)] * 2)
        case "no_choices", False:
            return _document(openai_responses.completion(empty, envelope, n=0))
        case "truncated", True:
            return iter((SendHead(content_type=_STREAM), SendBody(_half_a_frame(envelope))))
        case "truncated", False:
            whole = openai_responses.encode(openai_responses.completion(empty, envelope))
            return _body(whole[: len(whole) // 2])
        case _, True:
            return iter((SendHead(content_type=_STREAM), SendBody(b"data: upstream is starting\n\n"), SendBody(DONE)))
        case _:
            return _body(b"upstream is starting")


def _empty(empty: Empty, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    answer = answers.answer_as(Reply("", finish=empty.finish), request)
    if request.get("stream"):
        return chain([SendHead(content_type=_STREAM)], _frames_of(answer, request, envelope, pause_s=0))
    document = openai_responses.completion(answer, envelope)
    document["choices"][0]["message"]["content"] = empty.content
    return _document(document)


def _recorded(recorded: Recorded, request: Request, envelope: Envelope) -> Iterator[ServerAction]:
    if recorded.stream != bool(request.get("stream")):
        kind = "a stream" if recorded.stream else "a whole reply"
        yield from _fail(Fail(400, body=f"this exchange was recorded as {kind}"), request, envelope)
        return
    if recorded.delay_s:
        yield Pause(recorded.delay_s)
    if recorded.status is not None:
        yield SendHead(recorded.status, recorded.content_type, recorded.length, recorded.headers or {})
    for pause, data in recorded.parts:
        if pause:
            yield Pause(pause)
        yield SendBody(data)
    if recorded.end != "whole":
        yield Reset() if recorded.end == "cut" else Pause()


def _broken_off(
    step: Stall | Cut, request: Request, envelope: Envelope
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The chunks before the break, and those after it, which are not sent."""
    deltas = openai_responses.deltas(_answer_to_break(step, request), envelope)
    chunks = [openai_responses.chunk(envelope, delta) for delta in deltas]
    return chunks[: step.after_chunks], chunks[step.after_chunks :]


def _beginning(step: Stall | Cut, sent: Iterable[Mapping[str, Any]], envelope: Envelope) -> Iterator[ServerAction]:
    """What is sent before the break, at the pace of the reply that breaks off."""
    reply = step.reply if isinstance(step.reply, Reply) else Reply()
    if reply.delay_s:
        yield Pause(reply.delay_s)
    yield SendHead(content_type=_STREAM)
    yield from _frames(openai_responses.openings(envelope))
    yield from _paced(([chunk] for chunk in sent), reply.chunk_delay_s)


def _answer_to_break(step: Stall | Cut, request: Request) -> Answer:
    if step.reply is None:
        filler = islice(cycle(_FILLER), step.after_chunks + _PIECES_LEFT_UNSENT)
        return answers.answer_as(Reply(chunks=tuple(filler)), request)
    return answers.answer_as(Reply(step.reply) if isinstance(step.reply, str) else step.reply, request)


def _frames_of(answer: Answer, request: Request, envelope: Envelope, pause_s: float) -> Iterator[ServerAction]:
    n = read_choices(request.get("n"))
    yield from _frames(openai_responses.openings(envelope, n))
    deltas = openai_responses.deltas(answer, envelope)
    yield from _paced(
        ([openai_responses.chunk(envelope, delta, index) for index in range(n)] for delta in deltas), pause_s
    )
    yield from _frames(openai_responses.closings(answer, envelope, n=n, with_usage=_wants_usage(request)))
    yield SendBody(DONE)


def _stream(chunks: Iterable[Mapping[str, Any]]) -> Iterator[ServerAction]:
    yield SendHead(content_type=_STREAM)
    yield from _frames(chunks)
    yield SendBody(DONE)


def _paced(chunks: Iterable[Iterable[Mapping[str, Any]]], pause_s: float) -> Iterator[ServerAction]:
    """Chunks that belong together at once, with a pause before the next ones."""
    for position, together in enumerate(chunks):
        if pause_s and position:
            yield Pause(pause_s)
        yield from _frames(together)


def _frames(*parts: Iterable[Mapping[str, Any]]) -> Iterator[SendBody]:
    for part in parts:
        yield from map(SendBody, part)


def _document(
    document: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Iterator[ServerAction]:
    body = openai_responses.encode(document)
    yield SendHead(status, length=len(body), headers=headers or {})
    yield SendBody(body)


def _body(body: bytes, content_type: str = _JSON) -> Iterator[ServerAction]:
    yield SendHead(content_type=content_type, length=len(body))
    yield SendBody(body)


def _half_a_frame(envelope: Envelope) -> bytes:
    whole = openai_responses.encode(openai_responses.chunk(envelope, {"content": "lost"}))
    return b"data: " + whole[: len(whole) // 2] + b"\n\n"


def _wants_usage(request: Request) -> bool:
    options = request.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))
