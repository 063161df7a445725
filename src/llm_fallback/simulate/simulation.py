"""Calls of a chain on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from llm_fallback.chat_model.caller import CallContext
from llm_fallback.chat_model.driver import adrive
from llm_fallback.engine.budget import ChainBudgets
from llm_fallback.engine.engine import Call, Engine
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.health import Health
from llm_fallback.engine.transport import PartialReply
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.events import BreakerOpened, CallEnded, Event
from llm_fallback.ledger.ledger import Ledger
from llm_fallback.ledger.tally import Summary
from llm_fallback.plan.catalogue import ListCatalogue
from llm_fallback.plan.explain import explain, plan_of
from llm_fallback.plan.plan import ChainPlan
from llm_fallback.simulate.outcome import Outcome, Share
from llm_fallback.simulate.transport import REJECTED, SimulatedTransport
from llm_fallback.simulate.troubles import Trouble, flaws
from llm_fallback.spec import Spec
from llm_fallback.spec.overrides import read_spec


async def simulate(
    source: Any,
    *,
    chain: str | None = None,
    troubles: Sequence[Trouble] = (),
    calls: int = 1000,
    per_second: float = 10.0,
    streamed: bool = True,
    seed: int = 0,
) -> Outcome:
    """Make calls of a chain while its deployments have these troubles, in simulated time.

    Calls come at random, `per_second` on average. Of a spec's `source` (a Spec, a path, a mapping, a list of models)
    no variable has to be set and nothing is imported; prices, budgets and `limits.tpm` play no part, because nobody
    knows how long prompts and replies will be. Raises SpecError for a wrong spec, ValueError for troubles, calls or a
    rate that cannot be.
    """
    spec = read_spec(source)
    plan = _pretended(spec, spec.chain_name(chain))
    wrong = [*flaws(troubles, [member.name for member in plan.members]), *_flaws(calls, per_second)]
    if wrong:
        raise ValueError("; ".join(wrong))
    return await _Simulation(plan, troubles, seed, streamed).run(calls, per_second)


def _pretended(spec: Spec, chain: str) -> ChainPlan:
    """The chain without what runs code of the user's or needs to know of tokens."""
    keyless = {name: own.model_copy(update={"api_key": None}) for name, own in spec.deployments.items()}
    return replace(plan_of(spec.model_copy(update={"deployments": keyless}), chain), budget=None)


def _flaws(calls: int, per_second: float) -> list[str]:
    wrong = [] if calls >= 1 else [f"there is at least one call, got {calls}"]
    return wrong if per_second > 0 else [*wrong, f"calls come at a rate above 0, got {per_second:g}"]


@dataclass(eq=False)
class _Books(CallContext):
    """Stands for all callers: counts what they are told, and logs nothing, since nothing happened."""

    ledger: Ledger = field(default_factory=Ledger)
    openings: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    most_requests: int = 0

    @property
    def has_observers(self) -> bool:
        return True

    async def aemit(self, event: Event) -> None:
        self.ledger(event)
        if isinstance(event, BreakerOpened):
            self.openings[event.deployment] += 1
        elif isinstance(event, CallEnded):
            self.passed_over.update(skip.deployment for skip in event.record.skipped)
            self.longest_s = max(self.longest_s, event.record.latency_s)
            self.most_requests = max(self.most_requests, len(event.record.attempts))


class _Simulation:
    """An engine among pretended deployments."""

    def __init__(self, chain: ChainPlan, troubles: Sequence[Trouble], seed: int, streamed: bool) -> None:
        self._chain, self._seed = chain, seed
        self._clock = JumpingClock(patience_s=0)  # Nobody but the simulated calls does anything.
        self._books = _Books()
        self._engine = Engine(
            SimulatedTransport(self._clock, troubles, seed),
            ListCatalogue(lambda model: None),
            Health.of_targets(own.target for own in chain.members),
            self._clock,
            ChainBudgets(self._clock.wall),
            Random(f"{seed}/order"),
        )
        judged = chain.accept is not None or any(trouble.failure == "rejected" for trouble in troubles)
        request = {"messages": [], "stream": True} if streamed else {"messages": []}
        self._call = Call(chain, request, streamed, validate=_accept if judged else None)

    async def run(self, calls: int, per_second: float) -> Outcome:
        arrivals = Random(f"{self._seed}/arrivals")
        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                await self._clock.sleep(arrivals.expovariate(per_second))
                group.create_task(self._make_call())
        return self._outcome()

    async def _make_call(self) -> None:
        async for _ in adrive(CallExecution(self._engine, self._call), self._books):
            pass

    def _outcome(self) -> Outcome:
        books, snapshot = self._books, self._books.ledger.snapshot()
        told = explain(self._chain)
        return Outcome(
            chain=self._chain.name,
            total=snapshot.total,
            deployments={own.name: self._share(own.name, snapshot.by["deployment"]) for own in self._chain.members},
            seconds=self._clock.now(),
            longest_s=books.longest_s,
            most_requests=books.most_requests,
            max_requests=told["max_requests"],
            max_seconds=told["max_seconds"],
            seed=self._seed,
        )

    def _share(self, name: str, by: Any) -> Share:
        own: Summary = by.get(name, Summary())
        books = self._books
        return Share(own.attempts, own.answered, own.failures, books.passed_over[name], books.openings[name])


def _accept(reply: PartialReply) -> bool:
    return reply.text != REJECTED
