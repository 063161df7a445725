"""What the facts are read from: a server that misbehaves as told, and litellm's callback lists, given back as found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# Imported first: it keeps litellm from asking a public host for prices while it is imported.
import llm_fallback  # noqa: F401
from llm_fallback.testing import Cut, Fail, FakeServer, Garbage, Reply
from llm_fallback.testing.scripts import Scripted

SCRIPTS: dict[str, Scripted] = {
    "whole": Reply(chunks=["Hello ", "world"]),
    "down": Fail(500),
    "unauthorized": Fail(401),
    "empty body": Cut(0, how="close"),
    "only done": Cut(0, how="done"),
    "clean close": Cut(2, how="close"),
    "done without finish": Cut(2, how="done"),
    "bad frame": Cut(2, how="bad_frame"),
    "abort": Cut(2, how="abort"),
    "error": Cut(2, how="error"),
    "overload frame": Cut(0, how="overload_frame"),
    "reset": Cut(2),
    "severed": Fail("connection"),
    "html": Garbage("html"),
    "no choices": Garbage("no_choices"),
}


@pytest.fixture(scope="module")
def served() -> Iterator[FakeServer]:
    """One server for all facts of a module; a deployment per script. Gone after it: tests that look for servers that
    were left running may come next."""
    with FakeServer(SCRIPTS) as server:
        yield server


@pytest.fixture
def server(served: FakeServer) -> FakeServer:
    """The server, with nothing received yet."""
    served.reset()
    return served
