"""A model's process joins a fleet: which store, which names, what is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

from llm_fallback.engine.budget import ChainBudgets, Spender
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.health import Health
from llm_fallback.fleet.deployment import DeploymentNames
from llm_fallback.fleet.exchanger import Background, Exchanger
from llm_fallback.fleet.file_store import FileStore
from llm_fallback.fleet.member import Member
from llm_fallback.fleet.messages import Store
from llm_fallback.fleet.names import Names
from llm_fallback.plan.plan import FleetPlan, Plan, Target
from llm_fallback.spec.secrets import secrets_in, shown_address


def join(fleet: FleetPlan, clock: Clock, background: Background) -> Exchanger:
    """A member of the fleet. Raises ImportError if the store needs a library that is not installed."""
    member = Member(Names(fleet.secret), clock.now, Random(), fleet.processes)
    return Exchanger(member, store_of(fleet), shown_address(fleet.store), background)


def share(member: Member, plan: Plan, health: Health, budgets: ChainBudgets) -> None:
    """Share a plan's deployments, and the money of its chains' days where no file keeps it."""
    names = Names(plan.fleet.secret if plan.fleet else "")
    member.share(health, {name: names_of(target, names) for name, target in plan.targets.items()})
    for chain in plan.chains.values():
        for limit in budgets.limits(chain):
            account = limit.account
            if account.window != "day" or account.is_kept:
                continue
            member.share_account(account, f"chain {chain.name}")
            if account.per is None and account.shared is not None:
                with account.lock:  # Ahead of the first call; whoever else spends is not known before.
                    account.shared(limit, account.of(Spender()))


def store_of(fleet: FleetPlan) -> Callable[[], Store]:
    """Makes the store; in the loop that uses it."""
    name = Names(fleet.secret).of("fleet", fleet.name)
    if fleet.store.startswith("file:"):
        return partial(FileStore, Path(unquote(urlsplit(fleet.store).path)), name)
    from llm_fallback.fleet.redis_store import RedisStore

    return partial(RedisStore, fleet.store, name)


def names_of(target: Target, names: Names) -> DeploymentNames:
    """A deployment is the same for all processes that call it by the same name, model and address."""
    deployment = (target.name, target.model, str(target.parameters.get("api_base", "")))
    # A key that is a function is not asked here: all that use it count as one account.
    account = tuple(secrets_in(target.api_key)) if not callable(target.api_key) else ("function",)
    return DeploymentNames(
        names.of("deployment", *deployment),
        names.of("account", *deployment, *account),
        partial(names.of, "resource", *deployment),
    )


def names_in_clear(plan: Plan) -> Mapping[str, str]:
    """By its name in the store what a deployment, or a limit of its, is called in the spec."""
    names = Names(plan.fleet.secret if plan.fleet else "")
    return {names_of(target, names).deployment: name for name, target in plan.targets.items()}
