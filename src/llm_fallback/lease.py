"""What a built model holds, shared by all its copies and released with the last of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Protocol

from pydantic import SecretStr
from tenacity import RetryCallState, wait_random_exponential

from llm_fallback.engine import Engine
from llm_fallback.errors import SpecError
from llm_fallback.health import Health, health_of
from llm_fallback.looks import Ping
from llm_fallback.ping import Lookout, pings
from llm_fallback.plan import Catalogue, ChainPlan, Plan, Target
from llm_fallback.scrub import Scrubber
from llm_fallback.spec import Spec
from llm_fallback.spending import Budgets, unpriced
from llm_fallback.timing import Clock


class Connections(Lookout, Protocol):
    """A transport that holds what has to be closed."""

    def close(self) -> None: ...

    async def aclose(self) -> None:
        """Like close, and wait for what belongs to this event loop."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What models of one kind reach their deployments by."""

    resolve: Callable[[Spec], Plan]
    transport: Callable[[Scrubber], Connections]
    catalogue: Callable[[], Catalogue]
    clock: Clock
    rng: Callable[[], Random] = Random


class Standing(NamedTuple):
    """What calls are answered by now. One value, so that a call beside a reload has all of it from before or after."""

    spec: Spec
    plan: Plan
    engine: Engine


class Lease:
    """Engine, plan and connections of one built model.

    A field of the model, shared by everything derived from it: breakers and limits are the same for `bind_tools`,
    `with_chain` and `model_copy`. When the last of them is gone, or one is closed, the connections are.
    """

    def __init__(self, spec: Spec, means: Means) -> None:
        self._lock = threading.Lock()
        self.means = means
        # The models keep it; a reload changes what stands.
        self.built_for = spec
        plan = means.resolve(spec)
        self._scrub = Scrubber(plan.secrets)
        self._transport = means.transport(self._scrub)
        engine = self._engine(health_of(plan.targets.values()), None)
        _open_purses(engine, plan, spec)
        self.standing = Standing(spec, plan, engine)
        self._finalizer = weakref.finalize(self, self._transport.close)
        # At exit every loop is gone already, and there is nothing left to close on it.
        self._finalizer.atexit = False

    def _engine(self, health: Health, budgets: Budgets | None) -> Engine:
        means, catalogue = self.means, self.means.catalogue()
        rng = means.rng()
        return Engine(self._transport, catalogue, health, means.clock, rng=rng, backoff=backoff, budgets=budgets)

    def reload(self, spec: Spec) -> None:
        """Answer calls from now on by another spec; calls under way end by the old one. Deployments that stayed as
        they were keep their state, and what chains have spent is not forgotten."""
        plan = self.means.resolve(spec)
        health = health_of(plan.targets.values())
        with self._lock:
            before = self.standing.plan.targets
            kept = [name for name, target in plan.targets.items() if _is_same(target, before.get(name))]
            health.inherit(self.engine.health, kept)
            engine = self._engine(health, self.engine.budgets)
            _open_purses(engine, plan, spec)
            self._scrub.keep(plan.secrets)
            self.standing = Standing(spec, plan, engine)

    @property
    def spec(self) -> Spec:
        return self.standing.spec

    @property
    def plan(self) -> Plan:
        return self.standing.plan

    @property
    def engine(self) -> Engine:
        return self.standing.engine

    def pings(
        self, targets: Sequence[Target], keys: Mapping[str, SecretStr | None], timeout_s: float
    ) -> AsyncGenerator[Ping, None]:
        """A look at each of these deployments, whatever the engine thinks of them."""
        return pings(targets, keys, self._transport, self.engine.clock, timeout_s)

    @property
    def is_closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        self._finalizer()

    async def aclose(self) -> None:
        self._finalizer.detach()
        # After a `close`, too: what that began on this loop is over when this returns.
        await self._transport.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> Lease:
        return self

    def __repr__(self) -> str:
        return f"Lease({', '.join(self.plan.chains)})"


def _open_purses(engine: Engine, plan: Plan, spec: Spec) -> None:
    """Raise SpecError if a chain could not keep to its budget; read what files say was spent, before the first call."""
    mistakes = [problem.at(spec.places) for problem in unpriced(plan, engine.tools.catalogue)]
    if mistakes:
        raise SpecError(mistakes)
    for chain in plan.chains.values():
        engine.budgets.caps(chain)


def backoff(chain: ChainPlan) -> Callable[[int], float]:
    """Seconds to wait before the n-th repeat of a call: exponential with full jitter, by tenacity."""

    def seconds(repeat: int) -> float:
        # Made here, because most calls never repeat anything.
        wait = wait_random_exponential(multiplier=chain.retries.wait_initial_s, max=chain.retries.wait_max_s)
        state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.attempt_number = repeat
        return float(wait(state))

    return seconds


def _is_same(target: Target, known: Target | None) -> bool:
    """Whether what is known of a deployment still holds."""
    if known is None:
        return False
    return (target.parameters, target.api_key, target.breaker, target.cold_start, target.limits) == (
        *(known.parameters, known.api_key),
        *(known.breaker, known.cold_start, known.limits),
    )
