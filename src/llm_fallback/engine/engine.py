"""What a call asks for, what happens on its way, how it can end, and what the calls of a built model share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from llm_fallback.engine.budget import BudgetShortfall, ChainBudgets, Spender
from llm_fallback.engine.clock import Clock
from llm_fallback.engine.health import Health
from llm_fallback.engine.transport import NO_PROVENANCE, Chunk, Fault, PartialReply, Provenance, Reply, Transport
from llm_fallback.events import Event, Failure, Record
from llm_fallback.plan.plan import Catalogue, ChainPlan, Feature, Target
from llm_fallback.plan.pricing import Prices


@dataclass(frozen=True, slots=True)
class Call:
    """What one call asks for."""

    chain: ChainPlan
    request: Mapping[str, Any]
    """Messages, tools and parameters, as litellm takes them."""
    streamed: bool
    validate: Callable[[PartialReply], Any] | None = None
    """Says whether a whole reply will do; asked in the caller's own thread or task."""
    features: frozenset[Feature] = frozenset()
    tokens: int = 0
    """About how many tokens the prompt has, for limits and estimates."""
    spender: Spender = field(default_factory=Spender)
    left_out: tuple[str, ...] = ()
    """What of its messages no deployment gets, as they came from elsewhere."""
    signers: frozenset[str] = frozenset()
    """Whose thoughts are in its messages."""
    has_signed_calls: bool = False
    """Whether Gemini signed tool calls in its messages."""
    conversation: bytes | None = None
    """What tells its conversation from others, where the chain keeps those on one member of a tier."""

    @property
    def is_buffered(self) -> bool:
        """Whether nothing is delivered before the reply is whole."""
        # A part of a JSON document is no beginning another model could go on from.
        is_document = self.continues and "response_format" in self.features
        return self.validate is not None or self.chain.on_stream_break == "hold" or is_document

    @property
    def continues(self) -> bool:
        """Whether another deployment goes on with a stream that broke."""
        return self.chain.on_stream_break == "continue"


@dataclass(frozen=True, slots=True)
class CallerQuestion:
    """Something only the caller's side can answer: send the result of `ask()` back into the generator."""

    ask: Callable[[], Any]
    is_fallible: bool = False
    """Whether an exception raised by `ask` is an answer, too, and sent back; else it ends the call."""
    on_failure_skip: str = ""
    """If set, such an exception is logged with this text, as what the call goes on without."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The reply is whole. `reply` is None when it was streamed."""

    record: Record
    reply: Reply | None
    model_name: str
    """Of the model that answered, as LangChain names it."""
    finish: str | None
    """How the reply ended, by the server's word in OpenAI's spelling."""
    provenance: Provenance = NO_PROVENANCE


@dataclass(frozen=True, slots=True)
class StreamBrokeOff:
    """The stream broke after a part of it was delivered."""

    record: Record
    fault: Fault
    delivered: PartialReply


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A verdict: the reply is not of the form that the call asked for."""

    reason: str


@dataclass(frozen=True, slots=True)
class MismatchedReply:
    """A whole reply that was not of that form, and who gave it."""

    reply: PartialReply
    target: Target
    provenance: Provenance = NO_PROVENANCE


@dataclass(frozen=True, slots=True)
class Failed:
    """No deployment answered."""

    record: Record
    failure: Failure
    reason: str
    out_of_time: bool
    cause: BaseException | None
    mismatched: MismatchedReply | None = None
    """The last of those, if there was one."""


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The next attempt could have gone over a budget."""

    record: Record
    shortfall: BudgetShortfall
    cause: BaseException | None
    """Why there had to be another attempt, if there was one before."""


def service_tier(target: Target, request: Mapping[str, Any]) -> str | None:
    """How soon, and at what price, a provider is asked to answer; None: as it does for everybody."""
    tier = request.get("service_tier") or target.parameters.get("service_tier")
    return tier if isinstance(tier, str) else None


Step = Event | CallerQuestion | Chunk
Ending = Answered | StreamBrokeOff | Failed | OverBudget


@dataclass(frozen=True, slots=True)
class Engine:
    """What all calls of a built model share: the ports to the world, and what is known of deployments and money."""

    transport: Transport
    catalogue: Catalogue
    health: Health
    clock: Clock
    budgets: ChainBudgets
    rng: Random
    """For the order within a tier and for backoff."""
    redact: Callable[[str], str] = str
    """Strikes known secrets out of a text."""

    def prices(self, target: Target, request: Mapping[str, Any]) -> Prices | None:
        """As the spec declares them, else as the catalogue knows them for the service tier that is asked for; None if
        nobody does."""
        return target.prices or self.catalogue.prices(target, service_tier(target, request))

    def missing_feature(self, target: Target, features: frozenset[Feature]) -> Feature | None:
        """The first of these features that the target is known to lack."""
        return next((feature for feature in sorted(features) if self.catalogue.lacks(target, feature)), None)
