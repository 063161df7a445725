"""Fakes to test against: the same script words on a real HTTP server and on a model in the process.

with FakeServer({"primary": Fail(429), "backup": "hello"}) as server:
    model = build_chat_model(server.spec())
    assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_fallback.testing.asserts import assert_attempts
    from llm_fallback.testing.received import Received
    from llm_fallback.testing.scripts import Cut, Empty, Fail, Garbage, Reply, Stall
    from llm_fallback.testing.server import FakeServer

__all__ = ["Cut", "Empty", "Fail", "FakeServer", "Garbage", "Received", "Reply", "Stall", "assert_attempts"]

_HOME = {
    "Cut": "scripts",
    "Empty": "scripts",
    "Fail": "scripts",
    "FakeServer": "server",
    "Garbage": "scripts",
    "Received": "received",
    "Reply": "scripts",
    "Stall": "scripts",
    "assert_attempts": "asserts",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
