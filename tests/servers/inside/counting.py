"""A model that counts, behind OpenAI's protocol of chat completions: what is served where no engine runs.

It says one number after another, as many as `max_tokens`, and goes on from the numbers it is handed as its own
beginning. How a refusal is worded in JSON is left to who serves it.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from starlette.responses import JSONResponse, Response, StreamingResponse

KEY = os.environ["SERVERS_KEY"]
NAME = "tiny"
WINDOW = 4096
"""Words."""
PAUSE_S = 0.02
"""Between two numbers."""

Body = Mapping[str, Any]


class Objection(NamedTuple):
    """Why a request is not answered, in vLLM's words."""

    status: int
    kind: str
    message: str


def objection(authorization: str | None, body: Body) -> Objection | None:
    """None if there is none."""
    if authorization != f"Bearer {KEY}":
        return Objection(401, "AuthenticationError", "Unauthorized")
    if body["model"] != NAME:
        return Objection(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
    said = sum(len(str(message["content"]).split()) for message in body["messages"] if message["role"] == "user")
    if said + wanted(body) > WINDOW:
        return Objection(400, "BadRequestError", too_long(said, wanted(body)))
    return None


def too_long(said: int, wanted: int) -> str:
    return (
        f"This model's maximum context length is {WINDOW} tokens. However, you requested {said + wanted} tokens "
        f"({said} in the messages, {wanted} in the completion). Please reduce the length of the messages or completion."
    )


def wanted(body: Body) -> int:
    """How many numbers."""
    return int(body.get("max_tokens", 16))


async def answer(body: Body) -> Response:
    """In one piece, or as a stream of events."""
    if body.get("stream"):
        return StreamingResponse(events(body), media_type="text/event-stream")
    text = "".join([text async for text in numbers(body)])
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return JSONResponse(frame("chat.completion", choice))


async def numbers(body: Body) -> AsyncIterator[str]:
    begun = [text_of(message["content"]) for message in body["messages"] if message["role"] == "assistant"]
    first = len(re.findall(r"\d+ ", begun[-1])) if begun else 0
    for number in range(first, first + wanted(body)):
        await asyncio.sleep(PAUSE_S)
        yield f"{number} "


def text_of(content: str | list[dict[str, str]]) -> str:
    """Content is a text or, where a part of it is marked for the cache, a list of text parts."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def events(body: Body) -> AsyncIterator[str]:
    async for text in numbers(body):
        yield event({"role": "assistant", "content": text}, None)
    yield event({}, "stop")
    yield "data: [DONE]\n\n"


def event(delta: Mapping[str, str], finish: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(frame('chat.completion.chunk', choice))}\n\n"


def frame(kind: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": NAME, "choices": [choice]}


def listing() -> dict[str, Any]:
    """The models served."""
    return {"object": "list", "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "counting"}]}
