"""A chat server on Ray Serve: proxy, router and replicas are real, the model in them only counts.

    python ray_app.py PORT

SIGHUP rolls out a new release, replica by replica.
"""

import os
import signal
import sys
from queue import SimpleQueue
from typing import Any

import ray
from counting import KEY, Objection, answer, listing, objection
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from ray import serve

app = FastAPI()


def refusal(why: Objection) -> Response:
    error = {"message": why.message, "type": why.kind, "param": None, "code": why.status}
    return JSONResponse({"error": error}, why.status)


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
        return listing()

    @app.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        body = await request.json()
        why = objection(request.headers.get("authorization"), body)
        if why is not None:
            return refusal(why)
        if "exit" in body["messages"][-1]["content"]:
            os._exit(1)  # What a replica out of memory looks like from outside.
        return await answer(body)


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
