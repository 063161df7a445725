"""What an attempt holds until it is over, its place and the money reserved for it, and how both are given back."""

from __future__ import annotations

from decimal import Decimal

from llm_fallback.engine.budget import Reservation
from llm_fallback.engine.circuit_breaker import Permit
from llm_fallback.engine.engine import Engine
from llm_fallback.engine.health import DeploymentHealth
from llm_fallback.engine.transport import Fault
from llm_fallback.events import Attempt
from llm_fallback.plan.plan import Tier


class Settlement:
    """Settles one attempt, once: records its cost, and tells health what came of it."""

    def __init__(
        self,
        engine: Engine,
        deployment: DeploymentHealth,
        permit: Permit,
        reservation: Reservation,
        expected_tokens: int,
        tier: Tier | None = None,
        hedged_at: float | None = None,
    ) -> None:
        """`tier` is given where an answer is compared with those of the deployment's mates; `hedged_at` says when the
        attempt was counted as a hedge."""
        self._engine, self._deployment, self._permit, self._reservation = engine, deployment, permit, reservation
        self._expected_tokens, self._tier, self._hedged_at = expected_tokens, tier, hedged_at
        self.is_settled = self._was_unsent = False
        self.attempt: Attempt | None = None
        """The fact, once it is settled; None for an attempt that was never sent."""

    def restart(self, now: float) -> None:
        """Its request is sent only now. It holds its place, and a minute of a limit is counted from here: what its key
        took would else be missing from the minute that the server counts."""
        with self._engine.health.lock:
            self._permit = self._deployment.restart(self._permit, self._expected_tokens, now)

    def succeed(self, attempt: Attempt, now: float, output_tokens: int) -> float | None:
        """The deployment answered; seconds until it reopens if it was so slow that its breaker opened."""
        self._record_cost(attempt)
        health, deployment = self._engine.health, self._deployment
        try:
            with health.lock:
                self.is_settled = True
                tier = None if self._tier is None else health.tier_load(self._tier)
                first_token_s, reply_s = attempt.time_to_first_token_s, attempt.busy_s
                opened = deployment.succeeded(
                    self._permit, now, first_token_s, reply_s, output_tokens=output_tokens, tier=tier
                )
                self._correct_tokens(attempt, now)
                if attempt.usage is not None:
                    deployment.record_usage(output_tokens, reply_s)
                reopens = deployment.breaker.blocked_until(now) if opened else None
        finally:
            health.notify_waiters()
        return None if reopens is None else reopens - now

    def fail(self, attempt: Attempt, fault: Fault, now: float, *, is_to_blame: bool) -> float | None:
        """The attempt failed, by the deployment's doing or not; seconds until it reopens if that opened its breaker."""
        self._record_cost(attempt)
        health, deployment = self._engine.health, self._deployment
        try:
            with health.lock:
                self.is_settled, opened = True, False
                if fault.was_refused_here:
                    self._withdraw()
                elif is_to_blame:
                    opened = deployment.failed(self._permit, now, fault.failure, fault.retry_after_s)
                else:
                    deployment.cancelled(self._permit)
                self._correct_tokens(attempt, now)
                reopens = deployment.breaker.blocked_until(now) if opened else None
        finally:
            health.notify_waiters()
        return None if reopens is None else reopens - now

    def cancel(self, attempt: Attempt | None) -> None:
        """The caller left, or another deployment was quicker; None for an attempt that was never sent."""
        self.attempt, self._was_unsent = attempt, attempt is None
        self._reservation.settle(attempt.cost_usd if attempt else Decimal(0))

    def release(self) -> None:
        """Give back what is still held, whatever went wrong before: a permit that is kept is a place nobody ever gets
        again."""
        if self.is_settled:
            return
        self.is_settled = True
        self._reservation.settle(None)  # Only what is not settled yet.
        health = self._engine.health
        with health.lock:
            if self._was_unsent:
                self._withdraw()
            else:
                self._deployment.cancelled(self._permit)
        health.notify_waiters()

    def _withdraw(self) -> None:
        """Take back what counted as a request, of which nothing was sent. Called with the lock of health held."""
        self._deployment.withdraw(self._permit, self._expected_tokens)
        if self._hedged_at is not None:
            self._engine.health.take_back_hedge(self._deployment, self._hedged_at)

    def _record_cost(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._reservation.settle(attempt.cost_usd)

    def _correct_tokens(self, attempt: Attempt, now: float) -> None:
        usage = attempt.usage
        if usage is not None:
            used = usage.input_tokens + usage.output_tokens
            self._deployment.correct_tokens(self._permit, used - self._expected_tokens, now)
