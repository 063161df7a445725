"""What one call of a chain may do, from its plan, or from the spec alone without variables and imports."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from typing_extensions import TypedDict

from llm_fallback.errors import counted
from llm_fallback.plan.cold_start import warmup_retries_within
from llm_fallback.plan.plan import RETRY_RULE, ChainPlan, Member, Road, Tiers
from llm_fallback.plan.profiles import passed_over
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import Budget, Spec


class Explanation(TypedDict):
    """What one call of a chain may do, as `model.explain()` tells it."""

    chain: str
    tiers: list[list[str]]
    """The deployments of each tier, in the order they are asked."""
    max_requests: int
    max_seconds: float
    roads: dict[str, Road]
    """By deployment: asked directly, or relayed through litellm whole."""
    zones: dict[str, str | None]
    """By deployment that may get a prompt: the zone it is in."""
    notes: list[str]
    """What decides these numbers, in words."""


def explain(chain: ChainPlan) -> Explanation:
    """The tiers, and the most requests and seconds of one call, with notes on what decides them."""
    members = chain.members
    warmup_retries = sum(_warmup_retries(chain, member) for member in members)
    return {
        "chain": chain.name,
        "tiers": _names(chain.tiers),
        "max_requests": len(members) + chain.retries.max + warmup_retries if members else 0,
        "max_seconds": chain.total_s,
        "roads": {member.name: member.target.road for member in members},
        "zones": {member.name: member.target.zone for member in members},
        "notes": list(_notes(chain)),
    }


def _warmup_retries(chain: ChainPlan, member: Member) -> int:
    cold_start = member.target.cold_start
    return 0 if cold_start is None else warmup_retries_within(min(cold_start.max_wait_s, chain.total_s))


def _names(tiers: Tiers) -> list[list[str]]:
    return [[member.name for member in tier.members] for tier in tiers if tier.members]


def _notes(chain: ChainPlan) -> list[str]:
    asked = counted(len(chain.members), "deployment")
    order = "is asked at most once" if len(chain.members) == 1 else "are asked at most once each, in order"
    notes = [f"{asked} {order}, without a pause"]
    notes += _choice(chain)
    if chain.retries.max:
        fits = "it fits" if chain.retries.max == 1 else "they fit"
        notes.append(f"then at most {counted(chain.retries.max, 'repeat')}, with backoff, if {fits} in total_s")
    if chain.retries.max or chain.hedge is not None:
        notes.append(f"the retry budget of all calls: {RETRY_RULE}")
    notes += [
        f"{member.name} is waited for while it starts, asked again at most "
        f"{counted(_warmup_retries(chain, member), 'time')}"
        for member in chain.members
        if member.target.cold_start is not None
    ]
    for name, tiers in (
        ("a prompt that is too long", chain.on_context_window),
        ("a refusal by a safety system", chain.on_content_policy),
    ):
        if tiers is not None:
            where = " then ".join(" or ".join(tier) for tier in _names(tiers))
            notes.append(f"{name} goes to {where}" if where else f"{name} ends the call")
    if chain.accept is not None or chain.on_stream_break == "hold":
        notes.append("a streamed reply is held until it is whole")
    elif chain.on_stream_break == "raise":
        notes.append("a stream that breaks after its first content raises StreamBroken")
    if chain.budget is not None and chain.budget.limits:
        notes.append(_budget_note(chain.budget))
    return [*notes, *passed_over(chain)]


def _choice(chain: ChainPlan) -> Iterator[str]:
    """Who of a tier is asked first, and who is never asked."""
    if any(len(tier) > 1 for tier in chain.tiers):
        how = {"least_loaded": "of two drawn by weight the less loaded", "weighted": "whoever is drawn by weight"}
        first = how[chain.balance]
        if chain.affinity != "off":
            what = {"thread": "a conversation", "prefix": "what begins alike"}[chain.affinity]
            first = f"whoever has it; {what} stays on one member unless that is blocked or overloaded"
        yield f"in a tier of several: {first}"
    for member in chain.members:
        breaker = member.target.breaker
        if breaker is not None and breaker.slow_times is not None and len(chain.tier_of[member.name]) > 1:
            slow = f"that is {breaker.slow_times:g} times as slow as usual"
            yield f"an answer of {member.name} {slow} is delivered, and counts as a failure for its breaker"
    if chain.zones is not None:
        routes = (chain.tiers, chain.on_context_window or (), chain.on_content_policy or ())
        outside = dict.fromkeys(name for tiers in routes for tier in tiers for name in tier.outside)
        inside = ", ".join(f"{member.name} ({member.target.zone})" for member in chain.members)
        never = f"; never {', '.join(outside)}" if outside else ""
        yield f"no prompt leaves {', '.join(sorted(chain.zones))}: it may go to {inside or 'nobody'}{never}"


def _budget_note(budget: Budget) -> str:
    limits = ", ".join(f"${usd:f} a {window}" for window, usd in budget.limits.items())
    whose = f" for each {budget.per}" if budget.per else ""
    kept = f", kept in {budget.file}" if budget.file and "day" in budget.limits else ""
    then = "the call ends with BudgetExceeded"
    if budget.on_limit == "cheaper":
        then = f"the call goes on with those it suffices for, or, where it does for none, {then[9:]}"
    return f"an attempt that could go over {limits}{whose} is not made{kept}: {then}"


class _Unresolved(Mapping[str, str]):
    """An environment in which the value of every variable is its own reference."""

    def __getitem__(self, name: str) -> str:
        return f"${{{name}}}"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def explain_unresolved(spec: Spec, chain: str) -> Explanation:
    """As `model.explain()`, with notes on what was not resolved, looked up or imported."""
    explained = explain(plan_of(spec, chain))
    return {**explained, "notes": [*explained["notes"], *_left_open(spec, chain)]}


def plan_of(spec: Spec, chain: str) -> ChainPlan:
    """The plan of a chain, with variables and import paths unresolved."""
    return resolve_spec(_without_imports(spec), _Unresolved()).chains[chain]


def _without_imports(spec: Spec) -> Spec:
    """The spec with a placeholder for every `accept` that would have to be imported."""
    for name in spec.chains:
        if isinstance(spec.accept(name), str):
            spec = spec.with_chain_settings(name, accept=_stand_in)
    return spec


def _stand_in(reply: object) -> bool:
    return True


def _left_open(spec: Spec, chain: str) -> Iterator[str]:
    environ = spec.environment(os.environ)
    unset = dict.fromkeys(name.name for _, name in spec.references() if name.value(environ) is None)
    if unset:
        yield f"to be set before a model is built: {', '.join(unset)}"
    budget, unpriced = spec.budget(chain), _without_price(spec, chain)
    if budget is not None and budget.limits and unpriced:
        yield f"prices were not looked up: {', '.join(unpriced)}; a model is not built if litellm's list lacks one"
    if isinstance(spec.accept(chain), str):
        yield f"accept was not imported: {spec.accept(chain)}"


def _without_price(spec: Spec, chain: str) -> list[str]:
    return [name for name in spec.chains[chain].deployments() if spec.deployments[name].price is None]
