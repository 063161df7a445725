"""A chain as a model of an OpenAI-compatible endpoint, in the process; `llm-fallback serve` is the same at a port.

    pip install "langchain-llm-fallback[serve]" httpx

Prints:
    200 Paris.
    answered by backup after 2 attempts
    404 The model 'asistant' does not exist: models are the chains of the spec; did you mean 'assistant'?
"""

from starlette.testclient import TestClient

from llm_fallback.serving import create_app
from llm_fallback.testing import Fail, FakeServer

question = {"model": "assistant", "messages": [{"role": "user", "content": "What is the capital of France?"}]}

scripts = {"primary": Fail(503), "backup": "Paris."}
with FakeServer(scripts, chain="assistant") as server, TestClient(create_app(server.spec())) as client:
    reply = client.post("/v1/chat/completions", json=question)
    unknown = client.post("/v1/chat/completions", json={**question, "model": "asistant"})

told = reply.headers
print(reply.status_code, reply.json()["choices"][0]["message"]["content"])
print(f"answered by {told['x-llm-fallback-deployment']} after {told['x-llm-fallback-attempts']} attempts")
print(unknown.status_code, unknown.json()["error"]["message"])
