"""What must hold of every reply: nothing is delivered twice, left out or invented, in texts as in tool calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import dumps
from typing import Any

from tests.histories.calls import Call
from tests.histories.servers import NONSENSE, REFUSALS, Request, answer_to, tool_calls_of


def of_reply(call: Call) -> Iterator[str]:
    """What does not hold of what a caller has got."""
    whole, text = answer_to(call.name, call.ask.words), call.text
    if call.chain.accept is None and any(request.word == "nonsense" for request in call.requests):
        text = text.removesuffix(NONSENSE)  # Where nobody says what makes sense, it passes for an answer's end.
    if not whole.startswith(text):
        yield f"has got {text!r}"
        return
    reached = 0
    for begin, end in sorted((request.begins_at, request.begins_at + len(request.sent)) for request in call.requests):
        reached = max(reached, end) if begin <= reached else reached
    if len(text) > reached:
        yield f"has got {text!r}, of which {text[reached:]!r} was not sent"
    yield from _of_tool_calls(call)
    if call.error is None and not (call.has_left or call.was_killed):
        yield from _of_success(call, whole)


def is_good(call: Call, request: Request) -> bool:
    """Whether it may pass for an answer."""
    if not request.is_finished or request.word in (*REFUSALS, "filtered"):
        return False
    if request.word == "empty":
        return bool(call.text)  # Who goes on with a reply may say that nothing is missing.
    return request.word != "nonsense" or call.chain.accept is None


@dataclass
class _Delivered:
    """A tool call, as its parts add up for who reads them."""

    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arguments: str = ""


def _of_tool_calls(call: Call) -> Iterator[str]:
    """Each is of one request alone, and so much of it was sent."""
    by_number = {request.number: request for request in call.requests}
    sources = set()
    for at, delivered in _delivered(call).items():
        if len(delivered.ids) != 1 or delivered.names != ["look_up"]:
            yield f"has got a tool call of the ids {delivered.ids} and the names {delivered.names}"
            return
        number, _, position = delivered.ids[0].removeprefix("call_").partition("_")
        sources.add(number)
        request = by_number.get(int(number))
        if request is None or int(position) != at:
            yield f"has got {delivered}, which nobody sent it"
        elif not request.sent_arguments.get(at, "").startswith(delivered.arguments):
            yield f"has got {delivered}, of which {request.sent_arguments} were sent"
    if len(sources) > 1:
        yield f"has got tool calls of several replies: {sorted(sources)}"


def _delivered(call: Call) -> dict[int, _Delivered]:
    """The tool calls that a caller has got, by their places."""
    if not call.ask.streamed:
        made = call.reply.tool_calls if call.reply else ()
        return {at: _Delivered([each["id"] or ""], [each["name"]], dumps(each["args"])) for at, each in enumerate(made)}
    found: dict[int, _Delivered] = defaultdict(_Delivered)
    for part in (part for chunk in call.chunks for part in chunk.tool_call_chunks):
        delivered = found[part["index"] or 0]
        delivered.ids += [part["id"]] if part["id"] else []
        delivered.names += [part["name"]] if part["name"] else []
        delivered.arguments += part["args"] or ""
    return found


def _of_success(call: Call, whole: str) -> Iterator[str]:
    facts = yield from _facts(call)
    if facts is None:
        return
    answering = [request for request in call.requests if request.deployment == facts["deployment"]]
    good = [request for request in answering if is_good(call, request)]
    is_cut = any(request.word in ("short", "nonsense", "empty") for request in good)
    if not good:
        yield f"is answered by {facts['deployment']}, which did not send a whole answer"
    elif call.text != whole and not is_cut:
        yield f"is answered by {call.text!r}, and that is not all"
    if not is_cut:
        yield from _of_whole_tool_calls(call, answering)
    won = [attempt for attempt in facts["attempts"] if attempt["outcome"] == "succeeded"]
    if [attempt["deployment"] for attempt in won] != [facts["deployment"]]:
        yield f"was answered by {facts['deployment']}, and {won} succeeded"
    if call.end is not None and facts != call.end.record.as_metadata():
        differing = [name for name, value in call.end.record.as_metadata().items() if facts.get(name) != value]
        if differing not in ([], ["latency_s"]):
            yield f"metadata and event differ in {differing}"


def _facts(call: Call) -> Any:
    """The facts on a whole reply; yields what is wrong with where they stand."""
    if not call.ask.streamed:
        assert call.reply is not None
        return call.reply.response_metadata["llm_fallback"]
    with_facts = [at for at, chunk in enumerate(call.chunks) if "llm_fallback" in chunk.response_metadata]
    if with_facts != [len(call.chunks) - 1]:
        yield f"the facts are in chunks {with_facts} of {len(call.chunks)}"
        return None
    named = [chunk for chunk in call.chunks if "model_name" in chunk.response_metadata]
    if len(named) != 1:
        yield f"{len(named)} chunks name the model"
    return call.chunks[-1].response_metadata["llm_fallback"]


def _of_whole_tool_calls(call: Call, answering: list[Request]) -> Iterator[str]:
    """All that were asked for are there, and can be read."""
    message = call.message
    assert message is not None
    expected = [
        [{"name": sent.name, "args": sent.args, "id": sent.id, "type": "tool_call"} for sent in tool_calls_of(request)]
        for request in answering
    ]
    if message.tool_calls not in expected or message.invalid_tool_calls:
        got = [*message.tool_calls, *message.invalid_tool_calls]
        yield f"is answered by the tool calls {got}, and not one of {expected}"
