"""Runnables declared in a file. The first deployment talks where JSON was asked for; the second is asked the same.

Prints:

    {'name': 'Ada', 'age': 36}
    A programmer, 36.
"""

from llm_fallback import build_runnables
from llm_fallback.testing import FakeServer

with FakeServer({"primary": "A programmer, 36.", "backup": '{"name": "Ada", "age": 36}'}) as server:
    runnables = build_runnables(
        server.spec()
        | {
            "runnables": {
                "person": {"prompt": "Who is it? Answer in JSON: {text}", "output": "json"},
                "summary": {"prompt": "In a few words: {text}"},
            }
        }
    )
    print(runnables["person"].invoke({"text": "Ada programs. She is 36."}))
    print(runnables["summary"].invoke({"text": "Ada programs. She is 36."}))
