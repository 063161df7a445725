"""A chain of two deployments whose first one is down: the second answers, and the reply says so.

Prints:

    Paris.
    answered by backup, fell back: True
    primary: overloaded
    backup: succeeded
"""

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer

with (
    FakeServer({"primary": Fail(503), "backup": "Paris."}) as server,
    build_chat_model(server.spec()) as model,
):
    reply = model.invoke("What is the capital of France?")

facts = reply.response_metadata["llm_fallback"]
print(reply.content)
print(f"answered by {facts['deployment']}, fell back: {facts['fell_back']}")
for attempt in facts["attempts"]:
    print(f"{attempt['deployment']}: {attempt['failure'] or attempt['outcome']}")
