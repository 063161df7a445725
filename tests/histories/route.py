"""Whom a call may still ask, by what it was told of those it has asked."""

from __future__ import annotations

from decimal import Decimal

from llm_fallback.events import AttemptFailed, Failure
from llm_fallback.plan.plan import Member
from tests.histories.calls import Call

_UNKNOWN_WINDOW = 0


class Route:
    """The deployments of a call's chain as the call goes."""

    def __init__(self, call: Call) -> None:
        self._call = call
        failed = [event.attempt for event in call.told if isinstance(event, AttemptFailed)]
        self._met: list[tuple[str, Failure | None]] = [(attempt.deployment, attempt.failure) for attempt in failed]

    @property
    def is_left(self) -> bool:
        """Whether the call has turned to a side route, whose deployments are not looked at here."""
        chain, failures = self._call.chain, {failure for _, failure in self._met}
        return ("context_window" in failures and chain.on_context_window is not None) or (
            "content_policy" in failures and chain.on_content_policy is not None
        )

    def untried(self, name: str, now: float, tokens: int) -> list[str]:
        """Whom the call could ask before it asks that deployment again."""
        # A key may have been told of whom nothing is sent to: a hedge that came too late.
        keyless = {name for name, told in self._call.keys.items() if any(isinstance(it, Exception) for it in told)}
        asked = {request.deployment for request in self._call.requests} | keyless
        if name not in asked or self.is_left:
            return []
        return [
            other.name
            for other in self._others(name)
            if other.name not in asked and self._call.engine.health[other.name].unavailable(now, tokens) is None
        ]

    def is_outage(self, name: str, now: float) -> bool:
        """Whether all that the call may ask are open, so that one of them is asked all the same."""
        if self.is_left:
            return True
        health = self._call.engine.health
        blocks = [health[other].unavailable(now) for other in {name, *(other.name for other in self._others(name))}]
        return all(block is not None and block.reason == "breaker_open" for block in blocks)

    def _others(self, name: str) -> list[Member]:
        """Who can answer instead, at no higher price."""
        members = [member for tier in self._call.chain.tiers for member in tier.members]
        return [
            member
            for member in members
            if member.name != name and not self._is_barred(member) and self._is_affordable(member, name)
        ]

    def _is_barred(self, member: Member) -> bool:
        """Whether it would refuse this prompt too."""
        for name, failure in self._met:
            target = self._call.target(name)
            if failure == "bad_request" and target.model_identity == member.target.model_identity:
                return True
            if failure == "content_policy" and self._is_mate(member, name):
                return True
            # Where no window is known, nobody knows whether another's is larger.
            if failure == "context_window" and (member.target.context_window or 0) <= (target.context_window or 0):
                return True
        return False

    def _is_mate(self, member: Member, name: str) -> bool:
        tiers = [{mate.name for mate in tier.members} for tier in self._call.chain.tiers]
        return any({member.name, name} <= names for names in tiers)

    def _is_affordable(self, member: Member, instead_of: str) -> bool:
        """Whether the money that suffices for one suffices for the other."""
        budget = self._call.chain.budget
        if budget is None:
            return True
        price, other = (self._price(each) for each in (member.name, instead_of))
        return price == 0 or (price <= other and budget.on_limit == "raise")

    def _price(self, name: str) -> Decimal:
        prices = self._call.target(name).prices
        return Decimal(0) if prices is None else prices.output
