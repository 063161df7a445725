"""Every word a script has, with whatever changes what a client sees."""

from __future__ import annotations

from typing import get_args

from llm_fallback.testing import Cut, Empty, Fail, Garbage, Reply, Stall
from llm_fallback.testing.openai_responses import OTHER_BODIES, STATUS
from llm_fallback.testing.scripts import CutHow, GarbageKind, Step

CALL = {"name": "weather", "args": {"city": "Oslo", "days": 3}}

WORDS = (*STATUS, "connection", "empty_response", "invalid_response", "stream_broken")
FAILURES: dict[str, Step] = {f"fail {word}": Fail(word) for word in WORDS}
STATUSES: dict[str, Step] = {f"fail {status}": Fail(status) for status in (*OTHER_BODIES, 400, 409, 418)}
CUTS: dict[str, Step] = {
    f"cut {how} after {count}": Cut(count, how=how) for how in get_args(CutHow) for count in (0, 2)
}
GARBAGE: dict[str, Step] = {f"garbage {kind}": Garbage(kind) for kind in get_args(GarbageKind)}
STALLS: dict[str, Step] = {
    f"stall after {count}, {alive}": Stall(count, keep_alive=alive)
    for count in (0, 1)
    for alive in (None, "comments", "roles")
}
REPLIES: dict[str, Step] = {
    "a text": Reply("one two three", usage=(11, 5)),
    "other scripts": Reply("héllo ☃ 你好"),
    "white space": Reply(" \n "),
    "in one piece": Reply("one two three", chunks=1),
    "reasoning": Reply("so 4", reasoning="2 and 2"),
    "reasoning alone": Reply("", reasoning="hm"),
    "a tool call": Reply(tool_calls=[CALL]),
    "two tool calls": Reply("first", tool_calls=[CALL, {"name": "time"}]),
    "half a tool call": Reply(tool_calls=[{"name": "weather", "args": '{"city": "Os'}], finish="length"),
    "a tool call without arguments": Reply(tool_calls=[{"name": "weather", "args": ""}]),
    "a tool call with a list": Reply(tool_calls=[{"name": "weather", "args": "[1]"}]),
    "cached tokens": Reply("x", usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}),
    "too long": Reply("one", finish="length"),
    "too long, in other words": Reply("one", finish="max_tokens"),
    "too long for the window": Reply("one", finish="model_context_window_exceeded"),
    "no room for a tool call": Reply(
        tool_calls=[{"name": "weather", "args": ""}], finish="model_context_window_exceeded"
    ),
    "refused in the end": Reply("one", finish="content_filter"),
    "by another model": Reply("x", model="other-7b"),
    "empty": Empty(),
    "null": Empty(content=None),
    "empty for length": Empty(finish="length"),
    "told to come back": Fail(429, retry_after=0),
    "a page": Fail(500, body="<html>no</html>"),
    "a line": Fail(503, body="no luck"),
    "a cut tool call": Cut(2, reply=Reply(tool_calls=[CALL])),
    "cut in its reasoning": Cut(1, reply=Reply("so 4", reasoning="2 and 2")),
}

QUICK = {**FAILURES, **STATUSES, **CUTS, **GARBAGE, **REPLIES}
"""All that end by themselves."""
