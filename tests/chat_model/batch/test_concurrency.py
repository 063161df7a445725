"""A whole batch on a clock that jumps, against a server that takes so many requests at once and refuses the others."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

from llm_fallback.chat_model.batch.survey import BatchRequest
from llm_fallback.chat_model.runtime import RuntimeState
from llm_fallback.engine.transport import NO_PROVENANCE, Fault, Reply
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.plan.plan import Target
from llm_fallback.testing import fake_chat_model

MEAN_S, SPREAD = 4.0, 0.3
PHASES, PHASE_S = (64, 8, 32), 600.0


class CapacityTransport:
    """Has room for `capacity` requests."""

    def __init__(self, clock: Any) -> None:
        self.capacity, self.answered, self.refused = PHASES[0], 0, 0
        self.clock, self.busy, self._rng = clock, 0, Random(1)

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> CapacityExchange:
        takes_s = MEAN_S * math.exp(self._rng.gauss(0, SPREAD) - SPREAD**2 / 2)
        return CapacityExchange(self, takes_s)


class CapacityExchange:
    """One request, refused or answered in its time."""

    dropped_params: tuple[str, ...] = ()
    provenance = NO_PROVENANCE
    is_over = False

    def __init__(self, server: CapacityTransport, takes_s: float) -> None:
        self._server, self._takes_s = server, takes_s

    async def reply(self) -> Any:
        server = self._server
        if server.busy >= server.capacity:
            server.refused += 1
            return Fault("rate_limited", "too many at once", status=429)
        server.busy += 1
        try:
            await server.clock.sleep(self._takes_s)
        finally:
            server.busy -= 1
        server.answered += 1
        choice = {"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop", "logprobs": None}
        answer = {"choices": [choice], "usage": {}}
        return Reply(answer, "fine", "", (), "stop", None)

    async def close(self) -> None:
        """Nothing is held."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_whatever_the_capacity_becomes_a_batch_uses_it(tmp_path, monkeypatch):
    """Within 10 % of all that the server could answer in each phase, what it takes to settle included; once settled, at
    most one request in a hundred is refused; no row fails for it."""
    # So that the row which follows an answer has been sent before time moves.
    monkeypatch.setattr(JumpingClock, "_QUIET_TURNS", 40)
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(30_000)))
    model = fake_chat_model({"a": None})
    clock = model.clock
    server = CapacityTransport(clock)
    spec, plan, engine = model.runtime.state
    model.runtime.state = RuntimeState(spec, plan, replace(engine, transport=server))
    job = model.batch_job(BatchRequest(source, tmp_path / "b.jsonl"))
    running = asyncio.create_task(job.run())
    while not server.busy:
        await asyncio.sleep(0.001)
    shares = []
    for capacity in PHASES:
        server.capacity, server.answered = capacity, 0
        await clock.sleep(PHASE_S / 2)
        server.refused, early = 0, server.answered
        await clock.sleep(PHASE_S / 2)
        shares.append(server.answered / (capacity * PHASE_S / MEAN_S))
        assert server.refused <= 0.01 * (server.answered - early), f"capacity {capacity}"
    assert min(shares) >= 0.9, shares
    job.stop()
    result = await running
    assert result["failed"] == 0
    assert result["answered"] > 10_000
