"""A chat server on Ray Serve: proxy, router and replicas are real, the model in them only counts.

    python ray_app.py PORT

It says one number after another, as many as `max_tokens`, and goes on from the numbers it is handed as its own
beginning. SIGHUP rolls out a new release, replica by replica.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from queue import SimpleQueue
from typing import Any

import ray
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve

KEY = os.environ["SERVERS_KEY"]
WINDOW = 256
"""Words."""
PAUSE_S = 0.02

app = FastAPI()


def refusal(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


def objection(request: Request, body: dict[str, Any]) -> Response | None:
    """Why a request is not answered; None if it is."""
    words = sum(len(str(message["content"]).split()) for message in body["messages"] if message["role"] == "user")
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return refusal(401, "AuthenticationError", "Unauthorized")
    if body["model"] != "tiny":
        return refusal(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
    if words > WINDOW:
        wording = f"This model's maximum context length is {WINDOW} tokens. However, your prompt contains {words}."
        return refusal(400, "BadRequestError", wording)
    return None


async def numbers(body: dict[str, Any]) -> AsyncIterator[str]:
    begun = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    first = len(re.findall(r"\d+ ", begun[-1])) if begun else 0
    for number in range(first, first + body.get("max_tokens", 16)):
        await asyncio.sleep(PAUSE_S)
        yield f"{number} "


async def events(body: dict[str, Any]) -> AsyncIterator[str]:
    async for text in numbers(body):
        yield event({"role": "assistant", "content": text}, None)
    yield event({}, "stop")
    yield "data: [DONE]\n\n"


def event(delta: dict[str, str], finish: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "tiny", "choices": [choice]}
    return f"data: {json.dumps(frame)}\n\n"


@serve.deployment(
    max_ongoing_requests=12,
    max_queued_requests=10,
    graceful_shutdown_timeout_s=20,
    graceful_shutdown_wait_loop_s=0.2,
    health_check_period_s=1,
)
@serve.ingress(app)
class Chat:
    @app.get("/health")
    async def health(self) -> dict[str, str]:
        return {"release": os.environ["RELEASE"]}

    @app.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "ray"}]}

    @app.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        body = await request.json()
        refused = objection(request, body)
        if refused is not None:
            return refused
        if "exit" in body["messages"][-1]["content"]:
            os._exit(1)  # What a replica out of memory looks like from outside.
        if body.get("stream"):
            return StreamingResponse(events(body), media_type="text/event-stream")
        text = "".join([text async for text in numbers(body)])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return JSONResponse({"id": "chatcmpl-1", "object": "chat.completion", "model": "tiny", "choices": [choice]})


def deploy(release: int) -> None:
    variables = {"RELEASE": str(release), "SERVERS_KEY": KEY}
    options = {"num_cpus": 0.1, "runtime_env": {"env_vars": variables}}
    serve.run(Chat.options(ray_actor_options=options).bind(), name="chat", route_prefix="/")


def main(port: int) -> None:
    # Without an address of its own a cluster that was killed would be looked for, and not be found.
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    orders: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: orders.put(number))
    deploy(1)
    while orders.get() == signal.SIGHUP:
        deploy(2)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
