"""What the engine asks of a fleet, where a process is one of many. Without a fleet there is none of it.

Each answers by what this process has learnt and leased before: nothing here waits, and all is called under a lock.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from llm_fallback.engine.circuit_breaker import Permit


class SharedDeployment(Protocol):
    """One deployment, as all processes share it. Called with the lock of health held."""

    def probe_blocked_until(self, now: float) -> float | None:
        """None if the breaker is closed, or this process may send the probe; else when to ask again."""
        ...

    def free_at(self, now: float, tokens: int) -> float | None:
        """None if this process may send a request of about that many tokens now; else when to ask again."""
        ...

    def began(self, permit: Permit, tokens: int) -> None:
        """A request of that many tokens is sent."""
        ...

    def withdrawn(self, tokens: int) -> None:
        """It was not sent after all."""
        ...

    def succeeded(self, permit: Permit) -> None:
        """A request was answered, and the breaker has counted it."""
        ...

    def failed(self, permit: Permit) -> None:
        """A request failed; the breaker knows already."""
        ...


class SharedBudget(Protocol):
    """One day's money of one spender, as all processes share it. Called with the account's lock held."""

    def shortfall(self, estimate: Decimal | None) -> tuple[Decimal, bool] | None:
        """None if an attempt can be afforded; else what all have spent, and whether more may be had in a moment."""
        ...
