"""What a store keeps, and one exchange with it: pure, and the model that the script for Redis has to agree with.

Each member's part is written anew as a whole in each exchange, by the member itself. So an answer that got lost, a
request that comes twice, data that are lost or old do no harm that the next exchanges do not mend.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm_fallback.fleet.messages import Claim, Grant, Overtaken, Request, Response, in_ms

SILENT_LEASES = 3
"""Lease times without a word after which a member is no longer counted."""
FORGOTTEN_MS = 3_600_000
"""Milliseconds without a word after which nothing of a member is kept but what it has used."""

Charge = tuple[float, int]
"""Units, and until when they count."""


@dataclass(slots=True)
class _Member:
    number: int
    seen: int
    is_active: bool
    evidence: str


@dataclass(slots=True)
class FleetState:
    """What a store keeps of one fleet. The caller passes the time, in milliseconds of the store's clock."""

    epoch: str = ""
    last: int | None = None
    """When the last exchange was."""
    drift: int = 0
    """By how much the store's clock was set back so far: time in here never goes back."""
    grants_from: int = 0
    """Nothing is granted before: after a loss of data every member has to say first what it has used."""
    members: dict[str, _Member] = field(default_factory=dict)
    charges: dict[str, dict[str, list[Charge]]] = field(default_factory=dict)
    """By resource and member."""
    fences: dict[str, int] = field(default_factory=dict)

    def exchange(self, request: Request, now: int) -> Response:
        """One exchange. Raises Overtaken if a later request of this member was there before."""
        known = self.members.get(request.member)
        if known is not None and request.number <= known.number:
            raise Overtaken
        self.drift = max(self.drift, (self.last or 0) - now)
        now += self.drift
        self._restart_after_loss(request, known.number if known else 0, now)
        self._exchange_evidence(request, now)
        silent = SILENT_LEASES * in_ms(request.lease_s)
        active = sum(member.is_active and now - member.seen <= silent for member in self.members.values())
        grants = tuple(self._lease(request, claim, active, now) for claim in request.claims)
        evidence = {
            name: ((now - member.seen) / 1000, member.evidence)
            for name, member in self.members.items()
            if member.evidence and name != request.member
        }
        return Response(self.epoch, active, evidence, grants)

    def _restart_after_loss(self, request: Request, known: int, now: int) -> None:
        """Data are lost if there are none, if they are older than a member's, or if by the clock nobody was here for a
        lease time. Then it may be too little that is here: nothing is granted until each member has been here again."""
        is_recent = self.last is not None and now - self.last <= in_ms(request.lease_s)
        if not is_recent or request.answered > known:
            self.epoch = f"{request.member}/{request.number}"
            self.grants_from = now + in_ms(request.lease_s)
        self.last = now

    def _exchange_evidence(self, request: Request, now: int) -> None:
        for name in [name for name, member in self.members.items() if now - member.seen > FORGOTTEN_MS]:
            del self.members[name]
        is_active = request.is_active and not request.leaves
        self.members[request.member] = _Member(request.number, now, is_active, request.evidence)

    def _lease(self, request: Request, claim: Claim, active: int, now: int) -> Grant:
        """Settle what the member has used, then grant what is free of what it wants."""
        latest = now + in_ms(request.lease_s) + in_ms(claim.window_s)
        of_members = {
            name: counting
            for name, charges in self.charges.get(claim.resource, {}).items()
            if (counting := [(units, until) for units, until in charges if until > now])
        }
        for name, units in claim.remembered.items():
            if _sum(of_members.get(name, [])) < units:
                of_members[name] = [(units, now + in_ms(claim.window_s))]
        own = [*((units, now + in_ms(seconds)) for units, seconds in claim.charges), (claim.held, latest)]
        of_members[request.member] = [(units, until) for units, until in own if units > 0 and until > now]
        charged = sum(map(_sum, of_members.values()))
        units = granted(claim, charged, active) if now >= self.grants_from else 0.0
        fence = max(self.fences.get(claim.resource, 0), claim.fence)
        if units > 0:
            of_members[request.member].append((units, latest))
            fence += 1
        self.charges[claim.resource] = {name: charges for name, charges in of_members.items() if charges}
        self.fences[claim.resource] = fence
        used = {name: _sum(charges) for name, charges in self.charges[claim.resource].items()}
        return Grant(units, charged + units, fence, used)

    def as_data(self) -> dict[str, Any]:
        """Plain data, for a file."""
        members = {name: [it.number, it.seen, it.is_active, it.evidence] for name, it in self.members.items()}
        return {
            "epoch": self.epoch,
            "last": self.last,
            "drift": self.drift,
            "grants_from": self.grants_from,
            "members": members,
            "charges": self.charges,
            "fences": self.fences,
        }

    @classmethod
    def from_data(cls, data: Any) -> FleetState:
        """Raises TypeError, KeyError, ValueError or AttributeError for data that `as_data` did not make."""
        members = {name: _Member(*member) for name, member in data["members"].items()}
        charges = {
            resource: {name: [(units, until) for units, until in charges] for name, charges in of_members.items()}
            for resource, of_members in data["charges"].items()
        }
        return cls(
            data["epoch"], data["last"], data["drift"], data["grants_from"], members, charges, dict(data["fences"])
        )


def granted(claim: Claim, charged: float, active: int) -> float:
    """Units to grant beyond those held: what is wanted, but no more than is free, and beyond the least that is of use
    no more than the member's part of what is free."""
    free = claim.capacity - charged
    if claim.need > claim.capacity and charged <= 0:
        free = claim.need  # More than all there is goes when nothing else does.
    part = max(claim.need - claim.held, free // max(1, active))
    units = min(claim.wanted - claim.held, part, free)
    return units if units > 0 and claim.held + units >= claim.need else 0.0


def _sum(charges: list[Charge]) -> float:
    return sum(units for units, _ in charges)
