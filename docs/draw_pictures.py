"""Draws the pictures of docs/how-a-call-goes.md, from what the engine tells of calls in virtual time.

python docs/draw_pictures.py
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from drawing import BAD, GOOD, NEUTRAL, PAPER, ROW, UNDECIDED, Drawing, write

from llm_fallback import StreamBroken
from llm_fallback.events import Attempt, CallEnded, Event, Record
from llm_fallback.testing import Cut, Fail, FakeChatModel, Reply, Stall, fake_chat_model

OUTCOMES = {"succeeded": GOOD, "failed": BAD, "cancelled": NEUTRAL}
STATES = {"closed": GOOD, "open": BAD, "half_open": UNDECIDED}


def ask(scripts: dict[str, Any], **settings: Any) -> Record:
    """The record of one call of a model that has these scripts."""
    records: list[Record] = []
    model = fake_chat_model(scripts, listeners=[lambda event: records.extend(records_in(event))], **settings)
    with suppress(StreamBroken):  # It is in the record.
        list(model.stream("Why?"))
    return records[0]


def records_in(event: Event) -> Iterable[Record]:
    return (event.record,) if isinstance(event, CallEnded) else ()


def begin_row(drawing: Drawing, name: str) -> None:
    drawing.line()
    drawing.label(name, drawing.y)


def end_row(drawing: Drawing) -> None:
    drawing.y += ROW


def draw_call(drawing: Drawing, title: str, record: Record, deployments: Sequence[str]) -> None:
    """A row for each deployment, with a bar for each attempt."""
    drawing.heading(title)
    for name in deployments:
        begin_row(drawing, name)
        attempts = [attempt for attempt in record.attempts if attempt.deployment == name]
        for attempt in attempts:
            drawing.bar(attempt.started_at, attempt.started_at + attempt.latency_s, OUTCOMES[attempt.outcome])
            drawing.text(drawing.x(attempt.started_at + attempt.latency_s) + 8, drawing.y + 4, what_came_of(attempt))
        if not attempts:
            drawing.text(drawing.x(0) + 8, drawing.y - 3, "not asked", colour=NEUTRAL, size=11)
        end_row(drawing)


def what_came_of(attempt: Attempt) -> str:
    if attempt.outcome == "failed":
        return attempt.failure or ""
    return "answers" if attempt.outcome == "succeeded" else "closed: another was first"


def course_of_a_call() -> Drawing:
    """Three calls: all is well; the first is throttled; the first hangs and the second fails."""
    words = Reply("Because one server is not enough.", delay_s=0.6, chunk_delay_s=0.25)
    calls: dict[str, dict[str, Any]] = {
        "All is well": {"primary": words},
        "The primary answers 429": {"primary": Fail(429), "replica": words},
        "The primary hangs, its replica answers 500; first_token_s: 3": {
            "primary": Stall(),
            "replica": Fail(500),
            "hosted": words,
        },
    }
    drawing = Drawing("The course of three calls: bars are requests", 6.0)
    names = ("primary", "replica", "hosted")
    for title, scripts in calls.items():
        record = ask({name: scripts.get(name, words) for name in names}, timeouts={"first_token_s": 3})
        draw_call(drawing, title, record, names)
    drawing.axis(1)
    return drawing


OUTAGE_S, EVERY_S, WATCHED_S = 75, 3, 150


def breaker() -> Drawing:
    """A call each three seconds, while the primary is down for 75; its breaker's state, and who was asked when."""
    down = fake_chat_model({"primary": Fail(503), "backup": "hello"})
    states, requests = [], []
    for second in range(0, WATCHED_S, EVERY_S):
        if second == OUTAGE_S:
            down.script("primary", "hello")
        record = facts_of(down)
        requests += [(second, name, outcome) for name, outcome in record]
        states.append((second, down.state()["primary"]["breaker"]))
        down.clock.advance(EVERY_S)  # type: ignore[attr-defined]
    drawing = Drawing("The states of a breaker, and whom calls asked meanwhile", WATCHED_S)
    drawing.heading(f"The primary is down for {OUTAGE_S} s, and asked every {EVERY_S} s by a call")
    begin_row(drawing, "its breaker")
    for state, same in groupby(states, key=lambda entry: entry[1]):
        first, *rest = same
        end = (rest[-1] if rest else first)[0] + EVERY_S
        drawing.bar(first[0], end, STATES[state])
        if end - first[0] > 4 * EVERY_S:
            drawing.text(drawing.x((first[0] + end) / 2), drawing.y + 4, state, colour=PAPER, anchor="middle", size=11)
    end_row(drawing)
    for name in ("primary", "backup"):
        begin_row(drawing, f"{name} asked")
        for second, asked, outcome in requests:
            if asked == name:
                drawing.dot(second, OUTCOMES[outcome])
        end_row(drawing)
    drawing.axis(30)
    return drawing


def facts_of(model: FakeChatModel) -> list[tuple[str, str]]:
    """Who was asked by one call, and with what outcome."""
    facts = model.invoke("Why?").response_metadata["llm_fallback"]
    return [(attempt["deployment"], attempt["outcome"]) for attempt in facts["attempts"]]


def stream_breaks() -> Drawing:
    """What a caller is given, and when, for each word of `on_stream_break`."""
    reply = Reply("One is not safe, so ask two.", delay_s=0.5, chunk_delay_s=0.5)
    scripts = {"primary": Cut(3, reply=reply), "backup": reply}
    drawing = Drawing("What raise, continue and hold deliver when the primary's stream is cut", 7.0)
    for word, says in (
        ("raise", "an error after what came"),
        ("continue", "the backup goes on where the text stops"),
        ("hold", "nothing before it is whole"),
    ):
        draw_call(drawing, f"on_stream_break: {word}: {says}", ask(scripts, on_stream_break=word), tuple(scripts))
        begin_row(drawing, "delivered")
        for at, words in delivered(fake_chat_model(scripts, on_stream_break=word)):
            drawing.text(drawing.x(at), drawing.y - 3, words, size=11)
        end_row(drawing)
    drawing.axis(1)
    return drawing


def delivered(model: FakeChatModel) -> Iterator[tuple[float, str]]:
    """What a caller is given at each time: words, or an error."""
    words: defaultdict[float, list[str]] = defaultdict(list)
    try:
        for chunk in model.stream("Why?"):
            words[model.clock.now()].append(chunk.text.strip())
    except StreamBroken:
        words[model.clock.now()].append("→ StreamBroken")
    return ((at, " ".join(filter(None, said))) for at, said in words.items())


def hedging() -> Drawing:
    """A hedge that wins and one that loses, asked after one second."""
    slow = Reply("Because one server is not enough.", delay_s=4.0)
    late = Reply("Because one server is not enough.", delay_s=1.6, chunk_delay_s=0.2)
    quick = Reply("Because one server is not enough.", delay_s=0.8, chunk_delay_s=0.2)
    drawing = Drawing("A hedge that wins, and one that loses; hedge: {after_s: 1}", 5.0)
    for title, primary in (("The primary is slow: the hedge brings content first", slow), ("It was only late", late)):
        record = ask({"primary": primary, "backup": quick}, hedge={"after_s": 1.0})
        draw_call(drawing, title, record, ("primary", "backup"))
    drawing.axis(1)
    return drawing


PICTURES = {
    "course-of-a-call.svg": course_of_a_call,
    "breaker.svg": breaker,
    "stream-breaks.svg": stream_breaks,
    "hedging.svg": hedging,
}


if __name__ == "__main__":
    write(PICTURES)
