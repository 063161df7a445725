"""A spec made ready: deployments and chains, resolved and frozen, as the engine reads them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from llm_fallback.errors import unknown_chain
from llm_fallback.plan.credential import Credential
from llm_fallback.plan.pricing import Prices
from llm_fallback.spec import Breaker, Budget, ColdStart, Hedge, Limits, Retries, Timeouts
from llm_fallback.spec.providers import split_model

Feature = Literal["tools", "response_format", "images"]
"""What a request may need and must not lose on its way; sampling parameters are no features."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Target:
    """One deployment, ready to be asked."""

    name: str
    model: str
    """As the spec says it; this is what metadata shows."""
    model_identity: str
    """What is served there: two deployments with the same answer alike to a bad request."""
    parameters: Mapping[str, Any]
    """What litellm is called with on every attempt; secrets are SecretStr until then."""
    api_key: SecretStr | Callable[[], Any] | None = None
    backend: str | None = None
    uses_provider_credentials: bool = False
    """Whether litellm may look for the provider's own credentials in the environment."""
    weight: float = 1.0
    prices: Prices | None = None
    """As declared; None leaves it to litellm's map."""
    context_window: int | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    breaker: Breaker | None = None
    cold_start: ColdStart | None = None
    """Given: it may be asleep, and is waited for."""
    base_model: str | None = None

    @property
    def credential(self) -> Credential:
        """The key, and whether it has to be asked for."""
        return Credential(self.api_key)

    @property
    def provider(self) -> str:
        """Who serves it: the backend, or litellm's name for the provider."""
        return self.backend or split_model(self.model)[0]

    @property
    def model_name(self) -> str:
        """The model without its provider, as LangChain's `model_name` wants it."""
        return self.model if self.backend else split_model(self.model)[1]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A target as one chain asks it."""

    target: Target
    timeouts: Timeouts
    name: str = field(init=False)
    """The target's, kept here because a call asks for it a dozen times."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.target.name)


@dataclass(frozen=True, eq=False)
class Tier:
    """Deployments that share the load by weight; those of weight 0 stay out."""

    members: tuple[Member, ...]

    @cached_property
    def _weights(self) -> list[float]:
        return list(accumulate(member.target.weight for member in self.members))

    def draw(self, rng: Random, taken: set[str]) -> Member | None:
        """A member not yet taken, at random by weight; None when all are.

        A few blind draws first, so that the cost does not grow with the size of the tier.
        """
        for _ in range(4):
            member = self.members[min(bisect_right(self._weights, rng.random() * self._weights[-1]), len(self) - 1)]
            if member.name not in taken:
                return member
        left = [member for member in self.members if member.name not in taken]
        return rng.choices(left, [member.target.weight for member in left])[0] if left else None

    def __len__(self) -> int:
        return len(self.members)


Tiers = tuple[Tier, ...]


@dataclass(frozen=True, eq=False)
class ChainPlan:
    """One chain, ready to be asked."""

    name: str
    tiers: Tiers
    on_context_window: Tiers | None
    """None: not declared; empty: raise instead."""
    on_content_policy: Tiers | None
    total_s: float
    retries: Retries
    on_stream_break: Literal["raise", "continue", "hold"] = "raise"
    hedge: Hedge | None = None
    accept: Callable[[Any], Any] | None = None
    budget: Budget | None = None

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Every deployment one call may ask, each once, in order."""
        routes = (self.tiers, self.on_context_window or (), self.on_content_policy or ())
        found = {member.name: member for tiers in routes for tier in tiers for member in tier.members}
        return tuple(found.values())

    @cached_property
    def models(self) -> Mapping[str, str]:
        """The model of each of those deployments."""
        return {member.name: member.target.model for member in self.members}

    @cached_property
    def has_claude(self) -> bool:
        """Whether Claude may be asked, whose thinking LangChain's integration prepares requests for."""
        return any("claude" in model.lower() for model in self.models.values())


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All chains of a spec."""

    chains: Mapping[str, ChainPlan]
    default_chain: str
    targets: Mapping[str, Target]
    secrets: Sequence[str] = field(repr=False)
    """Every credential of the spec, to be struck from whatever a server or library says."""

    def chain(self, name: str) -> ChainPlan:
        """The chain of that name; ValueError naming the nearest if there is none."""
        if name not in self.chains:
            mistake = unknown_chain(name, self.chains)
            raise ValueError(f"{mistake.problem}; {mistake.remedy}")
        return self.chains[name]


class Catalogue(Protocol):
    """What is known about models beyond the spec."""

    def prices(self, target: Target) -> Prices | None: ...

    def context_window(self, target: Target) -> int | None: ...

    def lacks(self, target: Target, feature: Feature) -> bool: ...

    def profile(self, target: Target) -> Mapping[str, Any]:
        """What it can do, in the words of LangChain's ModelProfile. What is not known has no key."""
        ...

    def prefill(self, target: Target) -> Mapping[str, Any] | None:
        """How the deployment is handed the beginning of its own reply: further keys of that message (`message`) and
        of the request's body (`extra_body`). None if it takes none."""
        ...
