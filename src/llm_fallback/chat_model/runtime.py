"""What a built model holds, shared by all its copies and released with the last of them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Protocol

from pydantic import SecretStr

from llm_fallback._forks import fork_safe_lock
from llm_fallback.chat_model.portal import portal
from llm_fallback.engine.attempt import fault_of_key_function
from llm_fallback.engine.budget import ChainBudgets, find_unpriced
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.engine import Engine
from llm_fallback.engine.health import Health
from llm_fallback.engine.ping import PingResult, PingTransport, pings
from llm_fallback.engine.transport import Fault
from llm_fallback.errors import Mistake, SpecError, unknown_chain
from llm_fallback.fleet.exchanger import Exchanger
from llm_fallback.fleet.join import join, share
from llm_fallback.plan.credential import as_secret
from llm_fallback.plan.plan import Catalogue, FleetPlan, Plan, Target
from llm_fallback.spec import Spec
from llm_fallback.spec.secrets import Redactor

logger = logging.getLogger("llm_fallback")

_MOST_IGNORED = 100
"""Words of configs that are told of: each is kept, so as not to be told again."""


class ClosableTransport(PingTransport, Protocol):
    """A transport that holds what has to be closed."""

    def close(self) -> None: ...

    async def aclose(self) -> None:
        """Like close, and wait for what belongs to this event loop."""
        ...


@dataclass(frozen=True, slots=True)
class Adapter:
    """What fills the engine's ports, and makes a spec ready: the real world, or a pretended one."""

    resolve: Callable[[Spec], Plan]
    transport: Callable[[Redactor], ClosableTransport]
    catalogue: Callable[[], Catalogue]
    clock: Clock
    rng: Callable[[], Random] = Random
    joins_fleets: bool = False
    """Whether it shares what it learns with other processes: what is only pretended is nobody else's concern."""
    encoder: Callable[[], Callable[[str], list[int]] | None] = lambda: None
    """A tokenizer that is on this machine; None: tokens are estimated."""


class RuntimeState(NamedTuple):
    """The current spec, plan and engine, replaced as one tuple, so that a call never sees a mix of two reloads."""

    spec: Spec
    plan: Plan
    engine: Engine


class ModelRuntime:
    """Engine, plan and connections of one built model.

    A field of the model, shared by everything derived from it: breakers and limits are the same for `bind_tools`,
    `with_chain` and `model_copy`. When the last of them is gone, or one is closed, the connections are.
    """

    def __init__(self, spec: Spec, adapter: Adapter, chain_settings: Mapping[str, Any]) -> None:
        """`chain_settings` are in `spec` already, and hold for those it is replaced by, too."""
        self._lock = fork_safe_lock()
        self.adapter = adapter
        _warn(spec)
        # The models keep it; a reload changes the state.
        self.source_spec = spec
        self._chain_settings = chain_settings
        self._ignored: set[str | type] = set()
        """Words of configs that were told of, and the types of what is no word."""
        plan = adapter.resolve(spec)
        self._redactor = Redactor(plan.secrets)
        self._transport = adapter.transport(self._redactor)
        engine = self._engine(Health.of_targets(plan.targets.values()), ChainBudgets(adapter.clock.wall))
        _open_budgets(engine, plan, spec)
        self.state = RuntimeState(spec, plan, engine)
        self.fleet: Exchanger | None = None
        """The fleet this process belongs to."""
        self._held = _Held(self._transport)
        self._share(None)
        self._finalizer = weakref.finalize(self, self._held.close)
        # At exit every loop is gone already, and there is nothing left to close on it.
        self._finalizer.atexit = False

    def _engine(self, health: Health, budgets: ChainBudgets) -> Engine:
        adapter = self.adapter
        rng = adapter.rng()
        return Engine(self._transport, adapter.catalogue(), health, adapter.clock, budgets, rng, self._redactor)

    def reload(self, spec: Spec) -> None:
        """Answer calls from now on by another spec; calls under way end by the old one. Deployments that stayed as
        they were keep their state, and what chains have spent is not forgotten."""
        spec = spec.with_chain_settings(*spec.chains, **self._chain_settings)
        _warn(spec)
        plan = self.adapter.resolve(spec)
        health = Health.of_targets(plan.targets.values())
        with self._lock:
            before = self.state.plan.targets
            kept = [name for name, target in plan.targets.items() if _is_same(target, before.get(name))]
            health.inherit(self.engine.health, kept)
            engine = self._engine(health, self.engine.budgets)
            _open_budgets(engine, plan, spec)
            self._redactor.replace_all(plan.secrets)
            former, self.state = self.state.plan, RuntimeState(spec, plan, engine)
            self._share(former.fleet)

    def _share(self, former: FleetPlan | None) -> None:
        """Share what is known with the fleet that the plan names; leave the former one if it is another."""
        plan = self.plan
        if plan.fleet != former or self.fleet is None:
            self._held.leave_fleet()
            fleet = plan.fleet if self.adapter.joins_fleets else None
            self.fleet = None if fleet is None else join(fleet, self.adapter.clock, _in_background)
            self._held.fleet = self.fleet
        if self.fleet is not None:
            share(self.fleet.member, plan, self.engine.health, self.engine.budgets)
            self.fleet.start()

    @property
    def spec(self) -> Spec:
        return self.state.spec

    @property
    def plan(self) -> Plan:
        return self.state.plan

    @property
    def engine(self) -> Engine:
        return self.state.engine

    def configured_chain(self, word: Any) -> str | None:
        """The chain that `chain` in a config names; None if it names none. A config reaches every step of a graph, and
        the word may be another's: a warning of each such word is logged once."""
        if isinstance(word, str) and word in self.plan.chains:
            return word
        if word is not None:
            self._tell_of_ignored(word)
        return None

    def _tell_of_ignored(self, word: Any) -> None:
        known = word if isinstance(word, str) else type(word)
        with self._lock:
            if known in self._ignored or len(self._ignored) == _MOST_IGNORED:
                return
            self._ignored.add(known)
        no_name = f"a chain's name is a text, not of type {type(word).__name__}", None
        problem = unknown_chain(word, self.plan.chains) if isinstance(word, str) else no_name
        logger.warning("%s", Mistake("configurable['chain'] is ignored", *problem))

    def pings(
        self, targets: Sequence[Target], keys: Mapping[str, Any], timeout_s: float
    ) -> AsyncGenerator[PingResult, None]:
        """Ping each of these deployments, whatever the engine knows of them. `keys` are what `Credential.ask` returned,
        or the exceptions it raised."""
        known = {name: self._key(answer) for name, answer in keys.items()}
        return pings(targets, known, self._transport, self.engine.clock, timeout_s)

    def _key(self, answer: Any) -> SecretStr | Fault | None:
        return fault_of_key_function(answer, self._redactor) if isinstance(answer, Exception) else as_secret(answer)

    @property
    def is_closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        self._finalizer()

    async def aclose(self) -> None:
        self._finalizer.detach()
        self._held.leave_fleet()
        # After a `close`, too: what that began on this loop is over when this returns.
        await self._transport.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelRuntime:
        return self

    def __repr__(self) -> str:
        return f"ModelRuntime({', '.join(self.plan.chains)})"


class _Held:
    """What is closed with a model."""

    def __init__(self, transport: ClosableTransport) -> None:
        self._transport = transport
        self.fleet: Exchanger | None = None

    def leave_fleet(self) -> None:
        if self.fleet is not None:
            self.fleet.close()

    def close(self) -> None:
        self.leave_fleet()
        self._transport.close()


def _in_background(task: Coroutine[Any, Any, None]) -> None:
    # Exchanges hold nothing of the caller's: they outlast it.
    portal().send(task, Context())


def _warn(spec: Spec) -> None:
    """Say what its sources have that was probably meant otherwise: nobody may have asked `check`."""
    for note in spec.notes:
        if note.severity == "warning":
            logger.warning("%s", note)


def _open_budgets(engine: Engine, plan: Plan, spec: Spec) -> None:
    """Raise SpecError if a chain could not keep to its budget; read what files say was spent, before the first call."""
    mistakes = [problem.at(spec.locations) for problem in find_unpriced(plan, engine.catalogue)]
    if mistakes:
        raise SpecError(mistakes)
    for chain in plan.chains.values():
        engine.budgets.limits(chain)


def _is_same(target: Target, known: Target | None) -> bool:
    """Whether what is known of a deployment still holds."""
    if known is None:
        return False
    return (target.parameters, target.api_key, target.breaker, target.cold_start, target.limits) == (
        *(known.parameters, known.api_key),
        *(known.breaker, known.cold_start, known.limits),
    )
