"""A Bento as OpenLLM serves them: `openllm serve` and BentoML's server are real, the model in it only counts.

As in OpenLLM's own, an application of OpenAI's protocol is mounted below /v1 and refuses in the words of vLLM 0.8.5.
Unlike theirs it wants a key.
"""

from typing import Any

import bentoml
from counting import Objection, answer, listing, objection
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

app = FastAPI()
image = bentoml.images.Image(lock_python_packages=False)


def refusal(why: Objection) -> Response:
    flat = {"object": "error", "message": why.message, "type": why.kind, "param": None, "code": why.status}
    return JSONResponse(flat, why.status)


@app.get("/models")
async def models() -> dict[str, Any]:
    return listing()


@app.post("/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.json()
    why = objection(request.headers.get("authorization"), body)
    return refusal(why) if why is not None else await answer(body)


@bentoml.asgi_app(app, path="/v1")
@bentoml.service(
    name="tiny",
    image=image.python_packages("fastapi", "setuptools<81"),
    labels={"generator": "openllm"},
    resources={"cpu": "1"},
    traffic={"timeout": 300, "max_concurrency": 12},
)
class Tiny:
    """A service has to have a class; everything that is asked for is in the application."""
