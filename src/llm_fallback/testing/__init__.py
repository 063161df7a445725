"""Fakes to test against: the same scripts for a model in the process and for a real HTTP server.

model = fake_chat_model({"primary": Fail(429), "backup": "hello"})
assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")

with FakeServer({"primary": Fail(429), "backup": "hello"}) as server:
    model = build_chat_model(server.spec())
    assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_fallback._imports import lazy_exports

if TYPE_CHECKING:
    from llm_fallback.engine.clock import RealClock
    from llm_fallback.engine.virtual_clock import JumpingClock
    from llm_fallback.testing.asserts import assert_attempts
    from llm_fallback.testing.deployments import Received
    from llm_fallback.testing.model import FakeChatModel, fake_chat_model
    from llm_fallback.testing.recordings import recorded
    from llm_fallback.testing.scripts import Cut, Empty, Fail, Garbage, Reply, Stall
    from llm_fallback.testing.server import FakeServer

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

_HOMES = {
    "llm_fallback.engine.clock": ("RealClock",),
    "llm_fallback.engine.virtual_clock": ("JumpingClock",),
    "llm_fallback.testing.asserts": ("assert_attempts",),
    "llm_fallback.testing.deployments": ("Received",),
    "llm_fallback.testing.model": ("FakeChatModel", "fake_chat_model"),
    "llm_fallback.testing.recordings": ("recorded",),
    "llm_fallback.testing.scripts": ("Cut", "Empty", "Fail", "Garbage", "Reply", "Stall"),
    "llm_fallback.testing.server": ("FakeServer",),
}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
