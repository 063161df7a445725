"""Looks on at a fleet: exchanges like a member, but makes no calls, wants nothing and is not counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from random import Random

from llm_fallback.engine.budget import ChainBudgets
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.health import Health
from llm_fallback.fleet.join import share, store_of
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import StoreError
from llm_fallback.fleet.names import Names
from llm_fallback.fleet.status import FleetStatus
from llm_fallback.plan.plan import FleetPlan, Plan

_ANSWERED_S = 5.0


async def observe(fleet: FleetPlan, plan: Plan, clock: Clock, every_s: float) -> AsyncGenerator[FleetStatus, None]:
    """How the fleet stands, again and again; as `model.state()["fleet"]` shows it. Raises StoreError."""
    member = Member(Names(fleet.secret), clock.now, Random(), fleet.processes)
    member.takes_part = False
    share(member, plan, Health.of_targets(plan.targets.values()), ChainBudgets(clock.wall))
    store = store_of(fleet)()
    try:
        while True:
            request, sent_at = member.request(), clock.now()
            try:
                async with asyncio.timeout(_ANSWERED_S):
                    member.receive(request, sent_at, await store.exchange(request))
            except TimeoutError:
                raise StoreError(f"no answer within {_ANSWERED_S:g} s") from None
            yield member.snapshot()
            await clock.sleep(every_s)
    finally:
        await store.close()
