"""What one call may do, worked out from the plan alone."""

from __future__ import annotations

from typing import Any

from llm_fallback.cold_start import knocks_within
from llm_fallback.plan import ChainPlan, Member, Tiers
from llm_fallback.profiles import passed_over
from llm_fallback.spec import Budget


def explain(chain: ChainPlan) -> dict[str, Any]:
    """Tiers, the most requests and the most seconds of one call, with notes on what decides them."""
    members = chain.members
    knocks = sum(_knocks(chain, member) for member in members)
    return {
        "chain": chain.name,
        "tiers": _names(chain.tiers),
        "max_requests": len(members) + chain.retries.max + knocks if members else 0,
        "max_seconds": chain.total_s,
        "notes": list(_notes(chain)),
    }


def _knocks(chain: ChainPlan, member: Member) -> int:
    cold_start = member.target.cold_start
    return 0 if cold_start is None else knocks_within(min(cold_start.max_wait_s, chain.total_s))


def _names(tiers: Tiers) -> list[list[str]]:
    return [[member.name for member in tier.members] for tier in tiers]


def _notes(chain: ChainPlan) -> list[str]:
    notes = [f"{len(chain.members)} deployments are asked at most once each, in order, without a pause"]
    if chain.retries.max:
        notes.append(f"then at most {chain.retries.max} repeats, with backoff, if they fit in total_s")
    notes += [
        f"{member.name} is waited for while it starts, asked again at most {_knocks(chain, member)} times"
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


def _budget_note(budget: Budget) -> str:
    limits = ", ".join(f"${usd:f} a {window}" for window, usd in budget.limits.items())
    whose = f" for each {budget.per}" if budget.per else ""
    kept = f", kept in {budget.file}" if budget.file and "day" in budget.limits else ""
    return f"an attempt that could go over {limits}{whose} is not made{kept}: the call ends with BudgetExceeded"
