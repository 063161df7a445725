"""The same chain twice: over a real server, through litellm, and in the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer, JumpingClock, fake_chat_model

pytest.register_assert_rewrite("tests.conformance.facts")

BACKENDS = ("vllm", "openai-compatible")
PRICE = {"price": {"input_per_million": 2, "output_per_million": 4}}
DEFAULTS = {"retries": {"max": 1, "wait_initial_s": 0.01, "wait_max_s": 0.01}}

Twins = Callable[..., Any]


class TickingClock(JumpingClock):
    """Shows no two moments as the same, as a real one does: what opened first reopens first."""

    def now(self) -> float:
        self.advance(1e-6)
        return super().now()


@pytest.fixture(scope="session")
def warm() -> None:
    """litellm loads a good part of itself during its first requests, for longer than the shortest limits here."""
    for name in BACKENDS:
        with FakeServer({"down": [Fail(500)] * 2, "up": "hi"}) as server:
            with build_chat_model(server.spec(backend=name)) as model:
                model.invoke("hi")
                list(model.stream("hi"))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """By each of litellm's two ways to a server of one's own."""
    return str(request.param)


@pytest.fixture
def twins(backend: str, warm: None) -> Twins:
    """A model over a server and a fake of it, by the same scripts and the same spec."""

    @asynccontextmanager
    async def made(
        scripts: Mapping[str, Any],
        chains: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> AsyncIterator[Any]:
        deployments = {name: {**PRICE, **(overrides or {}).get(name, {})} for name in scripts}
        async with FakeServer(scripts) as server:
            spec = server.spec(backend=backend, deployments=deployments, **settings)
            spec["chains"] = chains or spec["chains"]
            spec |= {"default_chain": next(iter(spec["chains"])), "defaults": DEFAULTS}
            async with build_chat_model(spec) as real:
                fake = fake_chat_model(scripts, spec=spec, clock=TickingClock())
                yield real, fake
                assert [one.body for one in fake.received()] == [one.body for one in server.received()]

    return made
