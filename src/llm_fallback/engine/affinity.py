"""Which member of a tier a conversation stays on, for its cache: the same in every process, without a store.

By rendezvous hashing: each member draws a number from the conversation's key and its own name, in proportion to its
weight, and the highest wins. When a member leaves, the others' numbers stay as they are, so only its own conversations
move. It is bounded by load: a member that has more than its share of what is under way is passed over.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Set
from hashlib import blake2b

from llm_fallback.engine.load import TierLoad
from llm_fallback.plan.plan import Member, Tier

REMEMBERED_S = 300.0
"""How long a conversation stays where it went, since its last use."""
_MOST_REMEMBERED = 10_000
_MOST_OF_SHARE = 1.25
"""How much of its share of the requests under way a member may have before a conversation passes it over."""


class Rendezvous:
    """Picks by the key of a conversation: the first, in its own order of the members, that is not overloaded."""

    def __init__(self, key: bytes, load_of: Callable[[Tier], TierLoad]) -> None:
        self._key, self._load_of = key, load_of

    def __call__(self, tier: Tier, taken: Set[str], now: float) -> Member | None:
        left = [member for member in ranked(tier, self._key) if member.name not in taken]
        if len(left) > 1:
            load = self._load_of(tier)
            under_way = load.all_in_flight
            for member in left:
                if load.in_flight(member.name) <= most_in_flight(tier, member, under_way):
                    return member
        return left[0] if left else None


def ranked(tier: Tier, key: bytes) -> list[Member]:
    """The members in the order in which this conversation would have them."""
    # Each draws from (0, 1), and by the logarithm its chance of the lowest number is in proportion to its weight.
    draws = [
        (math.log(1 - int.from_bytes(blake2b(name, key=key, digest_size=6).digest()) / 2**48) / -weight, number)
        for number, (name, weight) in enumerate(tier.identities)
    ]
    return [tier.members[number] for _, number in sorted(draws)]


def most_in_flight(tier: Tier, member: Member, under_way: int) -> int:
    """Beyond how many requests of ours a member is overloaded, of so many that the whole tier has."""
    return math.ceil(_MOST_OF_SHARE * (under_way + 1) * member.target.weight / tier.weight)


class Conversations:
    """Where conversations went that could not stay where they were."""

    def __init__(self) -> None:
        self._went: OrderedDict[tuple[str, bytes], tuple[str, float]] = OrderedDict()

    def find(self, chain: str, key: bytes, now: float) -> str | None:
        """The deployment where a conversation of the chain went, if it was used there a short while ago; it is now."""
        went = self._went.get((chain, key))
        if went is None:
            return None
        deployment, at = went
        if now - at > REMEMBERED_S:
            del self._went[chain, key]
            return None
        self.remember(chain, key, deployment, now)
        return deployment

    def remember(self, chain: str, key: bytes, deployment: str, now: float) -> None:
        """Remember where a conversation went."""
        self._went[chain, key] = deployment, now
        self._went.move_to_end((chain, key))
        if len(self._went) > _MOST_REMEMBERED:
            self._went.popitem(last=False)
