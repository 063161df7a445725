"""What members have learnt of a deployment, and what follows from it for one of them. Facts travel, never states.

A member that has left a deployment alone, by what its own requests met, reports it until it has healed. Facts about the
account behind a key (a limit, a wrong key, an empty account, an unknown model) hold for everybody who uses that key.
Facts about the path to the server (no connection, no answer, an error) may be the reporter's own trouble: they need a
second reporter. A probe that succeeds heals what was reported before it; probes are told apart by their fences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from llm_fallback.events import Failure

ACCOUNT_FAILURES: frozenset[Failure] = frozenset({"quota_exhausted", "auth", "not_found"})
"""Beside `rate_limited`, if the deployment said when to come back."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Why a member has left a deployment alone, by what its own requests met."""

    deployment: str
    account: str
    """Names deployment and key for a fact about the account; empty for one about the path."""
    failure: Failure
    reopens_in_s: float
    """Until it lets a probe pass; 0: it does already."""
    cooldown_s: float
    opening: int
    """Tells one opening of the reporter's breaker from the next."""
    fence: int
    """The highest fence of a probe that was known when the breaker opened."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one member tells the others."""

    facts: tuple[Fact, ...] = ()
    fences: Mapping[str, int] = field(default_factory=dict)
    """By deployment the highest fence of a probe that it knows."""
    healed: Mapping[str, int] = field(default_factory=dict)
    """By deployment the highest fence of a probe that succeeded."""

    def after(self, seconds: float, *, is_heard_of: bool) -> Evidence:
        """What it comes to that many seconds later. What a member reports that is heard of no more holds for the time
        it named."""
        aged = (replace(fact, reopens_in_s=max(0.0, fact.reopens_in_s - seconds)) for fact in self.facts)
        facts = tuple(fact for fact in aged if is_heard_of or fact.reopens_in_s > 0)
        return Evidence(facts, self.fences, self.healed)


@dataclass(frozen=True, slots=True)
class Report:
    """A fact of another member."""

    member: str
    fact: Fact
    """With the time that is left now."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A deployment is open here because of what others report."""

    failure: Failure
    reopens_in_s: float
    cooldown_s: float
    names_a_time: bool = False
    """Whether the deployment itself said when to come back."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A single member reports a deployment: one request at a time, until one succeeded."""

    member: str
    opening: int


def merge(reports: Iterable[Report], healed: int, accounts: Iterable[str] = ()) -> Opening | Suspicion | None:
    """What follows from the reports about one deployment for a member whose own requests have not opened it. `accounts`
    are those it uses there. None: nothing."""
    valid = [report for report in reports if report.fact.fence >= healed]
    account = [report.fact for report in valid if report.fact.account and report.fact.account in accounts]
    if account:
        longest = max(account, key=lambda fact: fact.reopens_in_s)
        # A limit is a fact about the account only where a time was named.
        names_a_time = longest.failure == "rate_limited"
        return Opening(longest.failure, longest.reopens_in_s, longest.cooldown_s, names_a_time)
    path = [report for report in valid if not report.fact.account]
    if len(path) >= 2:
        # As long as two say so: one that is sick, and has waited longer and longer, does not decide.
        second = sorted((report.fact for report in path), key=lambda fact: fact.reopens_in_s)[-2]
        return Opening(second.failure, second.reopens_in_s, second.cooldown_s)
    return Suspicion(path[0].member, path[0].fact.opening) if path else None


def encode_evidence(evidence: Evidence) -> str:
    """As it stands in the store; empty for nothing."""
    if not (evidence.facts or evidence.fences or evidence.healed):
        return ""
    facts = [
        [it.deployment, it.account, it.failure, round(it.reopens_in_s, 3), it.cooldown_s, it.opening, it.fence]
        for it in evidence.facts
    ]
    return json.dumps([facts, dict(evidence.fences), dict(evidence.healed)], separators=(",", ":"))


_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_WRITTEN: TypeAdapter[
    tuple[list[tuple[str, str, Failure, _Seconds, _Seconds, int, int]], dict[str, int], dict[str, int]]
] = TypeAdapter(tuple[list[tuple[str, str, Failure, _Seconds, _Seconds, int, int]], dict[str, int], dict[str, int]])


def decode_evidence(text: str) -> Evidence:
    """What a member said. Anything that cannot be read is passed over: another version may have written it."""
    try:
        rows, fences, healed = _WRITTEN.validate_json(text)
    except ValidationError:
        return Evidence()
    return Evidence(tuple(Fact(*row) for row in rows), fences, healed)
