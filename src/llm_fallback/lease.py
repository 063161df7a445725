"""What a built model holds, shared by all its copies and released with the last of them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from tenacity import RetryCallState, wait_random_exponential

from llm_fallback.breaker import Breaker
from llm_fallback.catalogue import LiteLLMCatalogue
from llm_fallback.engine import Engine
from llm_fallback.health import Health
from llm_fallback.plan import ChainPlan, Plan, Target
from llm_fallback.resolve import resolve_spec
from llm_fallback.scrub import Scrubber
from llm_fallback.spec import Spec
from llm_fallback.timing import RealClock
from llm_fallback.transport import LiteLLMTransport


class Lease:
    """Engine, plan and connections of one built model.

    A field of the model, shared by everything derived from it: breakers and limits are the same for `bind_tools`,
    `with_chain` and `model_copy`. When the last of them is gone, or one is closed, the connections are.
    """

    def __init__(self, spec: Spec) -> None:
        self._lock = threading.Lock()
        self._adopt(spec, resolve_spec(spec, os.environ), None)

    def _adopt(self, spec: Spec, plan: Plan, health: Health | None) -> None:
        scrub = Scrubber(plan.secrets)
        transport = LiteLLMTransport(scrub)
        self.spec, self.plan, self.scrub, self._transport = spec, plan, scrub, transport
        self.health = Health((name, Breaker(target.breaker), target.limits) for name, target in plan.targets.items())
        if health is not None:
            self.health.inherit(health, plan)
        self.engine = Engine(
            transport, LiteLLMCatalogue(), self.health, RealClock(), rng=Random(), backoff=backoff
        )
        self._finalizer = weakref.finalize(self, transport.close)
        # At exit every loop is gone already, and waiting for one would hang the interpreter.
        self._finalizer.atexit = False

    @property
    def is_closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        self._finalizer()

    async def aclose(self) -> None:
        if self._finalizer.detach():
            await self._transport.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> Lease:
        return self

    def __repr__(self) -> str:
        return f"Lease({', '.join(self.plan.chains)})"


def backoff(chain: ChainPlan) -> Callable[[int], float]:
    """Seconds to wait before the n-th repeat of a call: exponential with full jitter, by tenacity."""
    wait = wait_random_exponential(multiplier=chain.retries.wait_initial_s, max=chain.retries.wait_max_s)

    def seconds(repeat: int) -> float:
        state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.attempt_number = repeat
        return float(wait(state))

    return seconds


def same_deployment(one: Target, other: Target) -> bool:
    """Whether what is known of one still holds for the other."""

    def told(target: Target) -> Mapping[str, Any]:
        return {"parameters": target.parameters, "breaker": target.breaker, "limits": target.limits}

    return told(one) == told(other)
