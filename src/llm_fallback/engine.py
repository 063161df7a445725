"""What a call asks for, how it can end, and the engine that runs it over a transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from llm_fallback.budget import Overdraft, Payer
from llm_fallback.course import Course
from llm_fallback.events import Event, Failure, Record
from llm_fallback.exchange import Piece, Reply, Transcript, Transport
from llm_fallback.faults import Fault
from llm_fallback.health import Health
from llm_fallback.plan import Catalogue, ChainPlan, Feature, Target
from llm_fallback.spending import Budgets
from llm_fallback.timing import Clock
from llm_fallback.trial import Tools

if TYPE_CHECKING:
    from llm_fallback.run import Run


@dataclass(frozen=True, slots=True)
class Call:
    """What one call asks for."""

    chain: ChainPlan
    request: Mapping[str, Any]
    """messages, tools and parameters, as litellm takes them."""
    streamed: bool
    judge: Callable[[Transcript], Any] | None = None
    """Says whether a whole reply will do; asked in the caller's own thread or task."""
    features: frozenset[Feature] = frozenset()
    tokens: int = 0
    """About how many tokens the prompt has, for limits and estimates."""
    payer: Payer = field(default_factory=Payer)

    @property
    def is_held(self) -> bool:
        """Whether nothing is delivered before the reply is whole."""
        # A part of a JSON document is no beginning another model could go on from.
        is_document = self.goes_on and "response_format" in self.features
        return self.judge is not None or self.chain.on_stream_break == "hold" or is_document

    @property
    def goes_on(self) -> bool:
        """Whether another deployment goes on with a stream that broke."""
        return self.chain.on_stream_break == "continue"


@dataclass(frozen=True, slots=True)
class Question:
    """Something only the caller's side can answer: send the result of `ask()` back into the generator."""

    ask: Callable[[], Any]
    without: str = ""
    """What the call goes on without if asking fails: the answer is the error then. Empty: the error ends the call."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The reply is whole. `reply` is None when it was streamed."""

    record: Record
    reply: Reply | None
    model_name: str
    """Of the model that answered, as LangChain names it."""


@dataclass(frozen=True, slots=True)
class Broke:
    """The stream broke after a part of it was delivered."""

    record: Record
    fault: Fault
    delivered: Transcript


@dataclass(frozen=True, slots=True)
class Failed:
    """No deployment answered."""

    record: Record
    failure: Failure
    reason: str
    out_of_time: bool
    cause: BaseException | None


@dataclass(frozen=True, slots=True)
class Unaffordable:
    """The next attempt could have gone over a budget."""

    record: Record
    overdraft: Overdraft
    cause: BaseException | None
    """Why there had to be another attempt, if there was one before."""


Item = Event | Question | Piece
Ending = Answered | Broke | Failed | Unaffordable


class Engine:
    """Runs calls over a transport, and knows what a built model knows."""

    def __init__(
        self,
        transport: Transport,
        catalogue: Catalogue,
        health: Health,
        clock: Clock,
        *,
        rng: Random,
        backoff: Callable[[ChainPlan], Callable[[int], float]],
        budgets: Budgets | None = None,
    ) -> None:
        self.tools = Tools(transport, catalogue, health, clock)
        self.health = health
        self.clock = clock
        self.budgets = Budgets(clock.wall) if budgets is None else budgets
        self._rng = rng
        self._backoff = backoff

    def course(self, call: Call) -> Course:
        """The course of one call, with this engine's knowledge of its deployments."""
        return Course(
            call.chain,
            lambda name, now: self.health[name].block(now, call.tokens),
            rng=self._rng,
            backoff=self._backoff(call.chain),
            deadline=self.clock.now() + call.chain.total_s,
            window=lambda member: self.tools.catalogue.context_window(member.target),
            lacks=lambda member: self._missing(member.target, call.features) if call.features else None,
            may_repeat=lambda now: self.health.extras.allow(now),
        )

    def _missing(self, target: Target, features: frozenset[Feature]) -> Feature | None:
        return next((feature for feature in sorted(features) if self.tools.catalogue.lacks(target, feature)), None)

    def start(self, call: Call) -> Run:
        """Begin a call; nothing is sent before the first step of `Run.items()`."""
        from llm_fallback.run import Run

        return Run(self, call)
