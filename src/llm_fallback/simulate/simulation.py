"""The simulation itself: calls of a chain, on a virtual clock, over simulated deployments."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
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

_TURNS = 8
"""Calls of one conversation, on average."""


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

    Calls arrive at random, `per_second` on average. `source` is a Spec, a path, a mapping or a list of models; its
    variables need not be set, and nothing it names is imported. Prices, budgets and `limits.tpm` have no effect,
    because the lengths of prompts and replies are not known. Where the chain has an affinity, eight calls are of one
    conversation. Raises SpecError for a wrong spec, ValueError for
    impossible troubles, calls or rates.
    """
    spec = read_spec(source)
    plan = _simulated_plan(spec, spec.chain_name(chain))
    mistakes = list(flaws(troubles, [member.name for member in plan.members]))
    if calls < 1:
        mistakes.append(f"there is at least one call, got {calls}")
    if not per_second > 0:
        mistakes.append(f"calls come at a rate above 0, got {per_second:g}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return await _Simulation(plan, troubles, seed, streamed).run(calls, per_second)


def _simulated_plan(spec: Spec, chain: str) -> ChainPlan:
    """The plan of a chain without API keys, whose functions must not be called, and without a budget."""
    keyless = {name: deployment.model_copy(update={"api_key": None}) for name, deployment in spec.deployments.items()}
    return replace(plan_of(spec.model_copy(update={"deployments": keyless}), chain), budget=None)


@dataclass(eq=False)
class _Recorder(CallContext):
    """The caller of all calls: counts their events, and logs none, since nothing really happened."""

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
    """An engine over simulated deployments."""

    def __init__(self, chain: ChainPlan, troubles: Sequence[Trouble], seed: int, streamed: bool) -> None:
        self._chain, self._seed = chain, seed
        self._clock = JumpingClock(patience_s=0)  # Only the simulated calls wait on it.
        self._recorder = _Recorder()
        self._engine = Engine(
            SimulatedTransport(self._clock, troubles, seed),
            ListCatalogue(lambda model: None),
            Health.of_targets(member.target for member in chain.members),
            self._clock,
            ChainBudgets(self._clock.wall),
            Random(f"{seed}/order"),
        )
        validates = chain.accept is not None or any(trouble.failure == "rejected" for trouble in troubles)
        request = {"messages": [], "stream": True} if streamed else {"messages": []}
        self._call = Call(chain, request, streamed, validate=_accept if validates else None)

    async def run(self, calls: int, per_second: float) -> Outcome:
        arrivals, conversations = Random(f"{self._seed}/arrivals"), Random(f"{self._seed}/conversations")
        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                await self._clock.sleep(arrivals.expovariate(per_second))
                call = self._call
                if self._chain.affinity != "off":
                    call = replace(call, conversation=conversations.randrange(max(calls // _TURNS, 1)).to_bytes(8))
                group.create_task(self._make_call(call))
        return self._outcome()

    async def _make_call(self, call: Call) -> None:
        async for _ in adrive(CallExecution(self._engine, call), self._recorder):
            pass

    def _outcome(self) -> Outcome:
        recorder, snapshot = self._recorder, self._recorder.ledger.snapshot()
        explained, by_deployment = explain(self._chain), snapshot.by["deployment"]
        return Outcome(
            chain=self._chain.name,
            total=snapshot.total,
            deployments={member.name: self._share(member.name, by_deployment) for member in self._chain.members},
            seconds=self._clock.now(),
            longest_s=recorder.longest_s,
            most_requests=recorder.most_requests,
            max_requests=explained["max_requests"],
            max_seconds=explained["max_seconds"],
            seed=self._seed,
        )

    def _share(self, name: str, summaries: Mapping[str, Summary]) -> Share:
        summary = summaries.get(name, Summary())
        return Share(
            asked=summary.attempts,
            answered=summary.answered,
            failures=summary.failures,
            passed_over=self._recorder.passed_over[name],
            breaker_openings=self._recorder.openings[name],
        )


def _accept(reply: PartialReply) -> bool:
    return reply.text != REJECTED
