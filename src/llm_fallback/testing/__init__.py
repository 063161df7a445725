"""Fakes to test against: the same script words for a model in the process and for a real HTTP server.

model = fake_chat_model({"primary": Fail(429), "backup": "hello"})
assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")

with FakeServer({"primary": Fail(429), "backup": "hello"}) as server:
    model = build_chat_model(server.spec())
    assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llm_fallback.imports import collecting_later

if TYPE_CHECKING:
    from llm_fallback.testing.asserts import assert_attempts
    from llm_fallback.testing.model import FakeChatModel, fake_chat_model
    from llm_fallback.testing.received import Received
    from llm_fallback.testing.recordings import recorded
    from llm_fallback.testing.scripts import Cut, Empty, Fail, Garbage, Reply, Stall
    from llm_fallback.testing.server import FakeServer
    from llm_fallback.timing import JumpingClock, RealClock

__all__ = [
    "Cut",
    "Empty",
    "Fail",
    "FakeChatModel",
    "FakeServer",
    "Garbage",
    "JumpingClock",
    "RealClock",
    "Received",
    "Reply",
    "Stall",
    "assert_attempts",
    "fake_chat_model",
    "recorded",
]

_HOME = {
    "llm_fallback.testing.asserts": ("assert_attempts",),
    "llm_fallback.testing.model": ("FakeChatModel", "fake_chat_model"),
    "llm_fallback.testing.received": ("Received",),
    "llm_fallback.testing.recordings": ("recorded",),
    "llm_fallback.testing.scripts": ("Cut", "Empty", "Fail", "Garbage", "Reply", "Stall"),
    "llm_fallback.testing.server": ("FakeServer",),
    "llm_fallback.timing": ("JumpingClock", "RealClock"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collecting_later():
        value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
