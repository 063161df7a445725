"""Money that a member may spend without asking: a slice of what is left of a day's budget, held in escrow.

What a member has spent only grows, and it tells the sum each time, so nothing is counted twice or lost. What it holds
counts as spent for the others, and for good if it is heard of no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_UP, Decimal

from llm_fallback.engine.budget import Balance
from llm_fallback.fleet.deployment import Membership
from llm_fallback.fleet.leases import Lease
from llm_fallback.fleet.status import SharedBudgetStatus

_LARGEST_SLICE = 0.002
"""Of the budget; what is in the hands of a member that dies is lost to the others."""
_FADING = 0.9
_NANO = Decimal("1e-9")
_KEPT_S = 2 * 86_400.0
"""Amounts of a day are kept until it is over everywhere."""


class Escrow(Lease):
    """A `SharedBudget`: one balance of one day, in billionths of a dollar. Called with its account's lock held."""

    def __init__(self, resource: str, scope: str, balance: Balance, membership: Membership) -> None:
        """`scope` is what is limited, as it is shown."""
        super().__init__(resource, 0.0, _KEPT_S)
        self.scope = scope
        self._balance, self._membership = balance, membership
        self._before = balance.total
        """What was spent before this process was forked, and is told by its parent; else nothing."""
        self._used_with_store = 0.0
        """What this member had used when the store answered last."""
        self._charged_before = self._growth = 0.0
        """What all had used or held then, and by how much that grows from one answer to the next."""

    @property
    def used(self) -> float:
        return _nano(self._balance.total - self._before)

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way any more, so that a day that is past need not be told again."""
        return self._balance.reserved == 0

    def shortfall(self, estimate: Decimal | None) -> tuple[Decimal, bool] | None:
        wanted = 1.0 if estimate is None else _nano(estimate)
        if not self._membership.is_answered():
            return None if self._used_without_store + wanted <= self._share else (self._usd_of_all, False)
        spare = self.available(self._membership.now())
        if wanted <= spare:
            return None
        if self._left is not None and self._left + max(spare, 0.0) < wanted:
            return self._usd_of_all, False
        if self.refuse(wanted):
            self._membership.hurry()
        return self._usd_of_all, True

    def told(self) -> None:
        """The store has answered."""
        self._used_with_store = self.used
        charged = self.charged or 0.0
        self._growth = max(charged - self._charged_before, _FADING * self._growth)
        self._charged_before = charged

    def limit(self, usd: Decimal) -> None:
        """Set what all may spend together."""
        self.capacity = _nano(usd)

    def snapshot(self, now: float) -> SharedBudgetStatus:
        """Plain data, in US dollars."""
        return {
            "scope": self.scope,
            "day": self._balance.day,
            "spender": self._balance.spender_key,
            "limit_usd": _usd(self.capacity),
            "spent_by_all_usd": None if self.charged is None else _usd(self.charged),
            "held_usd": _usd(max(0.0, self.available(now))),
        }

    @property
    def _left(self) -> float | None:
        """What nobody has spent or holds, as last told."""
        return None if self.charged is None else self.capacity - self.charged

    @property
    def _share(self) -> float:
        """What this member may spend while there is no store: its part of what was left, beyond what others may have
        taken since that was told."""
        members = max(1, self._membership.members)
        left = self.capacity if self.charged is None else self.capacity - self.charged
        others_s = max((members - 1) * _LARGEST_SLICE * self.capacity, 2 * self._growth)
        return max(0.0, left - others_s) / members

    @property
    def _used_without_store(self) -> float:
        return self.used - self._used_with_store

    @property
    def _usd_of_all(self) -> Decimal:
        told = 0.0 if self.charged is None else self.charged
        return max(Decimal(round(min(told, self.capacity))) * _NANO, self._balance.total)

    def _charges(self, now: float) -> Iterable[tuple[float, float]]:
        return [(self.used, self.window_s)] if self.used > 0 else []

    def _standby(self, members: int) -> float:
        left = self.capacity if self._left is None else max(0.0, self._left)
        # Towards the end of the budget no member may sit on what another needs.
        return min(self.capacity * _LARGEST_SLICE // 1, left // (4 * max(1, members)))

    def _wanted(self, members: int) -> float:
        return max(self._standby(members), self._need)


def _usd(nano: float) -> float:
    return nano / 1e9


def _nano(usd: Decimal) -> float:
    return float((usd / _NANO).to_integral_value(ROUND_UP))
