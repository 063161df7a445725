"""Resolved, frozen deployments and chains, as the engine reads them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from llm_fallback.errors import Mistake, SpecError, did_you_mean, unknown_chain
from llm_fallback.plan.credential import Credential
from llm_fallback.plan.pricing import Prices
from llm_fallback.plan.provider_credentials import names_identity, signs
from llm_fallback.spec import Breaker, Budget, ColdStart, Hedge, Limits, Retries, Timeouts
from llm_fallback.spec.providers import DIRECT, SIGNED_BY, split_model
from llm_fallback.spec.settings import Affinity, Balance

Feature = Literal["tools", "response_format", "images"]
"""What a request may need of a deployment. Sampling parameters are no features: they may be dropped."""

Road = Literal["direct", "relayed"]

_NO_LIMITS = Limits()


_LITELLMS_OWN = frozenset(
    {
        *("mock_response", "mock_timeout", "mock_tool_calls", "cache", "caching", "prompt_id", "guardrails"),
        *("success_callback", "failure_callback", "input_callback", "litellm_logging_obj", "fallbacks", "no-log"),
        "thought_signature_in_tool_call_id",
    }
)
"""Parameters of a deployment that ask something of litellm itself, which must then see reply and request."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Target:
    """One resolved deployment."""

    name: str
    model: str
    """As in the spec; shown in metadata."""
    model_identity: str
    """Which model it is, whoever serves it: two deployments with the same one respond alike to a bad request."""
    parameters: Mapping[str, Any]
    """Parameters of litellm on every attempt; secrets in them are SecretStr."""
    api_key: SecretStr | Callable[[], Any] | None = None
    backend: str | None = None
    uses_provider_credentials: bool = False
    """Whether litellm may take the provider's credentials from the environment."""
    weight: float = 1.0
    zone: str | None = None
    """Who gets to see a prompt that is sent there; None: outside of every zone."""
    prices: Prices | None = None
    """As declared; None if litellm's list decides."""
    context_window: int | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    breaker: Breaker | None = None
    cold_start: ColdStart | None = None
    """If set, the deployment may be asleep and is waited for."""
    base_model: str | None = None
    finish_reasons: Mapping[str, str] = field(default_factory=dict)
    """What words of its own by which a reply ends mean, in OpenAI's spelling."""
    litellm_provider: str = field(init=False)
    """litellm's name for the provider."""
    credential: Credential = field(init=False, repr=False)
    """`api_key`, and whether it has to be asked for."""
    most_reply_bytes: int = field(init=False)
    """How long a reply may be, decompressed."""
    provider: str = field(init=False)
    """The backend, or litellm's name for the provider."""
    model_name: str = field(init=False)
    """The model without its provider, as LangChain's `model_name` wants it."""
    road: Road = field(init=False)
    """Whether its requests are sent and read here, or go through litellm whole."""
    names_identity: bool = field(init=False)
    """Whether its own parameters say who it is to its provider, beside a key."""
    signs: bool = field(init=False)
    """Whether its own parameters say by which credentials its requests are signed."""
    signer: str = field(init=False)
    """Who signs what its model thinks: whose signatures hold there, and which model it is."""

    def __post_init__(self) -> None:
        # Every call reads these, so they are worked out once.
        own_provider, name = split_model(self.model)
        object.__setattr__(self, "provider", self.backend or own_provider)
        object.__setattr__(self, "model_name", self.model if self.backend else name)
        object.__setattr__(self, "credential", Credential(self.api_key))
        object.__setattr__(self, "most_reply_bytes", int((self.limits or _NO_LIMITS).reply_mb * 2**20))
        provider = split_model(self.parameters.get("model", self.model))[0]
        object.__setattr__(self, "litellm_provider", provider)
        object.__setattr__(self, "names_identity", names_identity(provider, self.parameters))
        object.__setattr__(self, "signs", signs(provider, self.parameters))
        is_direct = provider in DIRECT and _LITELLMS_OWN.isdisjoint(self.parameters)
        object.__setattr__(self, "road", "direct" if is_direct else "relayed")
        object.__setattr__(self, "signer", f"{SIGNED_BY.get(provider, provider)}/{self.model_identity}")

    def is_translated_like(self, other: Target) -> bool:
        """Whether a request that cannot be translated for one cannot be for the other: they are of one provider of
        litellm's, and nothing of their own but model and address tells them apart."""
        return self._translation == other._translation

    @property
    def _translation(self) -> tuple[str, Mapping[str, Any]]:
        own = {name: value for name, value in self.parameters.items() if name not in ("model", "api_base")}
        return split_model(self.parameters["model"])[0], own

    @property
    def is_claude(self) -> bool:
        """Whether its model is one of Anthropic's."""
        return "claude" in self.model_identity or "claude" in self.model.lower()

    @property
    def is_gemini(self) -> bool:
        """Whether it is Google's Gemini, which wants its signatures on tool calls back."""
        return self.litellm_provider == "gemini" or (self.litellm_provider == "vertex_ai" and "gemini" in self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A deployment in one chain, with the timeouts it has there."""

    target: Target
    timeouts: Timeouts
    name: str = field(init=False)
    """The target's, kept here because a call asks for it a dozen times."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.target.name)


@dataclass(frozen=True, eq=False)
class Tier:
    """Deployments that share the load; those of weight 0 are left out."""

    members: tuple[Member, ...]
    outside: tuple[str, ...] = ()
    """Names of those that stand here and are outside of the chain's zones. There is nothing by which to ask them."""

    @cached_property
    def _weights(self) -> list[float]:
        return list(accumulate(member.target.weight for member in self.members))

    @property
    def weight(self) -> float:
        """Of all members together."""
        return self._weights[-1]

    @cached_property
    def mean_weight(self) -> float:
        return self.weight / len(self.members)

    @cached_property
    def identities(self) -> tuple[tuple[bytes, float], ...]:
        """Name and weight of each member, for a hash that is the same in every process."""
        named = ((member.name.encode(errors="surrogatepass"), member.target.weight) for member in self.members)
        return tuple(named)

    def draw(self, rng: Random, taken: Set[str], beside: Member | None = None) -> Member | None:
        """A random member by weight that is not in `taken` and not `beside`; None if there is none.

        A few draws from all members come first, so that the cost does not grow with the size of the tier.
        """
        members = self.members
        if not members:
            return None
        weights = self._weights
        for _ in range(4):
            member = members[min(bisect_right(weights, rng.random() * weights[-1]), len(members) - 1)]
            if member.name not in taken and member is not beside:
                return member
        left = [member for member in members if member.name not in taken and member is not beside]
        return rng.choices(left, [member.target.weight for member in left])[0] if left else None

    def within(self, zones: Set[str]) -> Tier:
        """The tier without the deployments outside of these zones."""
        inside = tuple(member for member in self.members if member.target.zone in zones)
        if len(inside) == len(self.members):
            return self
        outside = [member.name for member in self.members if member.target.zone not in zones]
        return Tier(inside, (*self.outside, *outside))

    def __len__(self) -> int:
        return len(self.members)


Tiers = tuple[Tier, ...]

RETRY_SHARE, RETRY_FLOOR = 0.2, 10
RETRY_RULE = (
    f"repeats and hedges together are at most {RETRY_SHARE:.0%} of the calls of the last minute, or {RETRY_FLOOR}"
)
"""What all calls of a model together may send beyond their first requests; the floor is for small traffic."""


@dataclass(frozen=True, eq=False)
class ChainPlan:
    """One resolved chain."""

    name: str
    tiers: Tiers
    on_context_window: Tiers | None
    """None: not declared. Empty: such a failure ends the call."""
    on_content_policy: Tiers | None
    total_s: float
    retries: Retries
    on_stream_break: Literal["raise", "continue", "hold"] = "raise"
    hedge: Hedge | None = None
    accept: Callable[[Any], Any] | None = None
    budget: Budget | None = None
    balance: Balance = "least_loaded"
    affinity: Affinity = "off"
    zones: Set[str] | None = None
    """Where its prompts may go; None: anywhere. Its tiers hold no deployment outside of them."""

    def within(self, zones: Set[str] | None) -> ChainPlan:
        """The chain for a call whose prompt may go nowhere but to these zones, of those where it may go at all."""
        if zones is None or (self.zones is not None and self.zones <= zones):
            return self
        narrowed = frozenset(zones if self.zones is None else self.zones & zones)
        if narrowed not in self._narrowed:
            self._narrowed[narrowed] = self._within(narrowed)
        return self._narrowed[narrowed]

    @cached_property
    def _narrowed(self) -> dict[frozenset[str], ChainPlan]:
        """Kept, as what is known of a tier's members beside each other is known of that tier."""
        return {}

    def _within(self, zones: frozenset[str]) -> ChainPlan:
        def inside(tiers: Tiers | None) -> Tiers | None:
            return None if tiers is None else tuple(tier.within(zones) for tier in tiers)

        return replace(
            self,
            tiers=inside(self.tiers) or (),
            on_context_window=inside(self.on_context_window),
            on_content_policy=inside(self.on_content_policy),
            zones=zones,
        )

    @cached_property
    def tier_of(self) -> Mapping[str, Tier]:
        """Beside whom each deployment stands where the chain names it first."""
        routes = (self.tiers, self.on_context_window or (), self.on_content_policy or ())
        tiers: dict[str, Tier] = {}
        for tier in (tier for route in routes for tier in route):
            for member in tier.members:
                tiers.setdefault(member.name, tier)
        return tiers

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Every deployment one call may ask, each once, in order."""
        routes = (self.tiers, self.on_context_window or (), self.on_content_policy or ())
        members = {member.name: member for tiers in routes for tier in tiers for member in tier.members}
        return tuple(members.values())

    @cached_property
    def models(self) -> Mapping[str, str]:
        """The model of each of those deployments."""
        return {member.name: member.target.model for member in self.members}

    @cached_property
    def first_model(self) -> str:
        """The model of its first deployment, as LangChain names it."""
        return self.members[0].target.model_name

    @cached_property
    def has_claude(self) -> bool:
        """Whether a deployment is Claude, for whose thinking LangChain's integration prepares requests."""
        return any("claude" in model.lower() for model in self.models.values())


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The fleet a process belongs to."""

    store: str = field(repr=False)
    """The address of the store."""
    name: str
    secret: str = field(repr=False)
    """By which names are made unreadable in the store."""
    processes: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All chains and deployments of a spec."""

    chains: Mapping[str, ChainPlan]
    default_chain: str
    targets: Mapping[str, Target]
    secrets: Sequence[str] = field(repr=False)
    """Every secret of the spec, to be redacted in what servers and libraries say."""
    fleet: FleetPlan | None = None

    def chain(self, name: str, word: str = "chain") -> ChainPlan:
        """The chain of that name, which `word` of a call named; ValueError naming the nearest if there is none."""
        if not isinstance(name, str) or name not in self.chains:
            raise ValueError(str(Mistake("" if word == "chain" else word, *unknown_chain(name, self.chains, word))))
        return self.chains[name]

    def zones(self, words: str | Iterable[str] | None) -> frozenset[str] | None:
        """The zones of these names, of which one may stand by itself; SpecError naming the nearest for one that no
        deployment is in. None: every zone."""
        if words is None:
            return None
        names = [words] if isinstance(words, str) else list(words) if isinstance(words, Iterable) else [words]
        if not all(isinstance(name, str) for name in names):
            raise SpecError([Mistake("zones", f"must be names of zones, got {words!r}", "as in ['eu']")], "arguments")
        asked = frozenset(names)
        known = dict.fromkeys(target.zone for target in self.targets.values() if target.zone is not None)
        mistakes = [
            Mistake("zones", f"no deployment is in zone {word!r}", did_you_mean(word, known, _all_of(known)))
            for word in sorted(asked - known.keys())
        ]
        if mistakes:
            raise SpecError(mistakes, "arguments")
        return asked


def _all_of(zones: Iterable[str]) -> str:
    named = ", ".join(map(repr, zones))
    return f"there are {named}" if named else "no deployment has a zone"


class Catalogue(Protocol):
    """What is known about models beyond the spec."""

    def prices(self, target: Target, service_tier: str | None = None) -> Prices | None: ...

    def context_window(self, target: Target) -> int | None: ...

    def lacks(self, target: Target, feature: Feature) -> bool: ...

    def profile(self, target: Target) -> Mapping[str, Any]:
        """Its abilities, as LangChain's ModelProfile names them. What is not known has no key."""
        ...

    def prefill(self, target: Target) -> Mapping[str, Any] | None:
        """What a request needs for the deployment to continue a begun reply: further keys of that message (`message`)
        and of the request's body (`extra_body`). None if it cannot."""
        ...
