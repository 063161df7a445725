"""What a member and the store say to each other in one exchange, and the store as a port.

All times are durations, so that no two clocks have to agree: the sender counts from when it wrote the message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class StoreError(Exception):
    """The store cannot be reached, or does not understand; the text says why and holds no secret."""


class Overtaken(Exception):
    """A later request of the same member was there before this one, which therefore changed nothing."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member has of one shared resource, and what it wants of it.

    A resource is a number of units of which so many may be in use at once: requests of a minute, tokens of a minute,
    requests under way, dollars of a day (in billionths), one probe of a cooldown.
    """

    resource: str
    capacity: float
    """What all members together may have of it."""
    window_s: float
    """How long a unit counts after its use; so long counts a lease, too, that expires in the hands of its holder."""
    charges: tuple[tuple[float, float], ...] = ()
    """Units this member has used, and for how many seconds more they count."""
    held: float = 0.0
    """Units this member holds a lease on and has not used."""
    wanted: float = 0.0
    """Units it would like to hold."""
    need: float = 0.0
    """Units of which fewer are of no use to it."""
    fence: int = 0
    """The highest fence it knows of this resource."""
    remembered: Mapping[str, float] = field(default_factory=dict)
    """What other members had used, as last told; sent when the store has lost data."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The store's answer to a claim."""

    units: float
    """Units granted beyond those held, for one lease time."""
    charged: float
    """What counts against the capacity now, of all members and with this grant."""
    fence: int
    """Higher with every grant."""
    used: Mapping[str, float] = field(default_factory=dict)
    """What each member has used or holds: the members can restore what the store loses."""


@dataclass(frozen=True, slots=True)
class Request:
    """One exchange, as a member asks for it."""

    member: str
    number: int
    """Of its exchanges; rises with each."""
    answered: int
    """Number of the last one that was answered. If the store knows a lower one, its data are old."""
    epoch: str
    """As last told."""
    lease_s: float
    is_active: bool
    """Whether this process makes calls."""
    evidence: str
    """What it has learnt of deployments; the store does not read it. Empty: nothing."""
    claims: tuple[Claim, ...] = ()
    is_news: bool = False
    """Whether the others had better hear of it at once."""
    leaves: bool = False
    """Whether this is the member's last exchange."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the store answers."""

    epoch: str
    """Another one than before: the store has lost data, and grants nothing for one lease time."""
    members: int
    """Members that make calls."""
    evidence: Mapping[str, tuple[float, str]]
    """What each other member has learnt, and how many seconds ago it said so."""
    grants: tuple[Grant, ...]
    """In the order of the claims."""


@dataclass(frozen=True, slots=True)
class News:
    """What a member has told the store, sent on to the others at once."""

    member: str
    evidence: str


class Store(Protocol):
    """Where members meet. One exchange does all three things in one step: it takes and gives evidence, settles what was
    used, and leases what is wanted."""

    async def exchange(self, request: Request) -> Response:
        """Raises StoreError if there is no answer, Overtaken if a later request was there first."""
        ...

    async def news(self) -> News:
        """Wait for the next that a member tells and the others had better hear of at once. Where a store cannot send it
        on it waits for ever; then they hear of it in their next exchange. Raises StoreError."""
        ...

    async def close(self) -> None: ...


_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises where another version, or somebody else, has written."""


def encode_request(request: Request) -> str:
    """As stores that run elsewhere take it."""
    return json.dumps(
        {
            "member": request.member,
            "number": request.number,
            "answered": request.answered,
            "epoch": request.epoch,
            "lease_ms": in_ms(request.lease_s),
            "active": request.is_active,
            "is_news": request.is_news,
            "leaves": request.leaves,
            "evidence": request.evidence,
            "claims": [
                {
                    "capacity": claim.capacity,
                    "window_ms": in_ms(claim.window_s),
                    "charges": [[units, in_ms(seconds)] for units, seconds in claim.charges],
                    "held": claim.held,
                    "wanted": claim.wanted,
                    "need": claim.need,
                    "fence": claim.fence,
                    "remembered": list(claim.remembered.items()),
                }
                for claim in request.claims
            ],
        },
        separators=(",", ":"),
    )


def decode_response(text: str | bytes) -> Response:
    """Raises Overtaken, or StoreError for what is no response."""
    try:
        data: Any = json.loads(text)
        if data.get("overtaken"):
            raise Overtaken
        return Response(
            epoch=str(data["epoch"]),
            members=int(data["members"]),
            evidence={member: (ms / 1000, said) for member, ms, said in data["evidence"] or ()},
            grants=tuple(
                Grant(units, charged, int(fence), dict(used or ()))
                for units, charged, fence, used in data["grants"] or ()
            ),
        )
    except _UNREADABLE as error:
        raise StoreError(f"it answered what is no answer ({type(error).__name__})") from None


def decode_news(text: str | bytes) -> News:
    """Raises StoreError for what is no news."""
    try:
        member, evidence = json.loads(text)
        return News(str(member), str(evidence))
    except _UNREADABLE as error:
        raise StoreError(f"it sent what is no news ({type(error).__name__})") from None


def in_ms(seconds: float) -> int:
    """Stores count in whole milliseconds."""
    return max(0, round(seconds * 1000))
