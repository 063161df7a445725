"""What is counted of calls: what one call adds, the running sum, and the sum as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_fallback.events import Attempt
from llm_fallback.ledger.quantiles import Distribution, RunningDistribution, Sample, sample
from llm_fallback.plan.pricing import FINEST

_COUNTS = ("calls", "answered", "fallbacks", "attempts", "unpriced")
_TOKENS = ("input", "output", "cached", "reasoning")
_MEASURES = ("latency_s", "time_to_first_token_s", "tokens_per_s")
_UNITS_PER_DOLLAR = int(1 / FINEST)
"""Costs are summed in whole units of `FINEST` dollars: adding integers is exact, and faster than adding Decimals."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens as servers reported them; cached ones are part of the input, reasoning ones of the output."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _TOKENS}


class Answer(NamedTuple):
    """What was measured of an answer."""

    fell_back: bool
    latency_s: Sample
    time_to_first_token_s: Sample | None
    tokens_per_s: Sample | None


class CallDelta(NamedTuple):
    """What one call adds to a tally: the call as a whole, or the part of it that one deployment or model had."""

    attempts: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cost: int = 0
    """In units of `FINEST` dollars."""
    unpriced: bool = False
    """Whether a part of the cost is not known."""
    failures: Sequence[str] = ()
    """Why attempts failed, one word each."""
    unanswered: str | None = None
    """Why the call has no answer; always None in a deployment's or model's part."""
    answer: Answer | None = None
    """None where the answer is missing, or another deployment gave it."""


def of_attempt(attempt: Attempt) -> CallDelta:
    """What an attempt adds. One that failed, broke off or was overtaken by another deployment may cost money, too."""
    usage, cost = attempt.usage, attempt.cost_usd
    units = round(cost * _UNITS_PER_DOLLAR) if cost else 0
    failures = (str(attempt.failure),) if attempt.outcome == "failed" else ()
    if usage is None:
        return CallDelta(1, 0, 0, 0, 0, units, cost is None, failures)
    tokens = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
    return CallDelta(1, *tokens, units, cost is None, failures)


def merged(one: CallDelta, other: CallDelta) -> CallDelta:
    """What one call adds that made the attempts of both."""
    return CallDelta(
        one.attempts + other.attempts,
        one.input + other.input,
        one.output + other.output,
        one.cached + other.cached,
        one.reasoning + other.reasoning,
        one.cost + other.cost,
        one.unpriced or other.unpriced,
        (*one.failures, *other.failures),
        None,
        one.answer or other.answer,
    )


def with_answer(
    delta: CallDelta, fell_back: bool, latency_s: float, first_token_s: float | None, rate: Sample | None
) -> CallDelta:
    """The same call, answered after so many seconds, at `rate` tokens per second."""
    first = None if first_token_s is None else sample(first_token_s)
    return CallDelta(*delta[:8], None, Answer(fell_back, sample(latency_s), first, rate))


def tokens_per_s(attempt: Attempt) -> Sample | None:
    """Output tokens per second of writing: after the first token of a stream, over the whole time of a plain reply."""
    if attempt.usage is None or attempt.usage.output_tokens <= 0:
        return None
    busy_s = attempt.busy_s - (attempt.time_to_first_token_s or 0.0)
    return sample(attempt.usage.output_tokens / busy_s) if busy_s > 0 else None


@dataclass(frozen=True, slots=True)
class Summary:
    """The sum of many calls, or of what one deployment, tag or tenant had of them."""

    calls: int = 0
    """Calls that were made, or that asked this deployment."""
    answered: int = 0
    """Calls that were answered, or that this deployment answered."""
    fallbacks: int = 0
    """Answers that came from another deployment than the first choice."""
    attempts: int = 0
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Attempts that failed, by kind."""
    unanswered: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Calls without a whole answer, by kind; `cancelled`: the caller left."""
    latency_s: Distribution = field(default_factory=Distribution)
    """Seconds to the whole answer, of what was answered."""
    time_to_first_token_s: Distribution = field(default_factory=Distribution)
    tokens_per_s: Distribution = field(default_factory=Distribution)
    """Output tokens per second of writing."""
    tokens: Tokens = field(default_factory=Tokens)
    cost_usd: Decimal = Decimal(0)
    """The known part of the cost."""
    unpriced: int = 0
    """Calls with a part whose cost is not known; above 0, `cost_usd` is a lower bound."""

    @property
    def known_cost_usd(self) -> float | None:
        """The known part of the cost, as a float; None where nothing is known."""
        return None if self.unpriced and not self.cost_usd else float(self.cost_usd)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; costs are text, because floats would round them."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "failures": dict(sorted(self.failures.items())),
            "unanswered": dict(sorted(self.unanswered.items())),
            **{name: getattr(self, name).as_dict() for name in _MEASURES},
            "tokens": self.tokens.as_dict(),
            "cost_usd": _without_trailing_zeros(self.cost_usd),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Summary:
        """The summary whose `as_dict()` this is."""
        read: dict[str, Any] = {name: int(plain[name]) for name in _COUNTS}
        read |= {name: MappingProxyType(dict(plain[name])) for name in ("failures", "unanswered")}
        read |= {name: Distribution.from_dict(plain[name]) for name in _MEASURES}
        return cls(**read, tokens=Tokens(**plain["tokens"]), cost_usd=Decimal(plain["cost_usd"]))


class Tally:
    """A running sum of calls. Not locked: the ledger that holds it is."""

    __slots__ = (*_COUNTS, *_TOKENS, "cost", *_MEASURES, "failures", "unanswered")

    def __init__(self) -> None:
        self.calls = self.answered = self.fallbacks = self.attempts = self.unpriced = 0
        self.input = self.output = self.cached = self.reasoning = 0
        self.cost = 0  # In units of `FINEST` dollars.
        self.latency_s = RunningDistribution()
        self.time_to_first_token_s = RunningDistribution()
        self.tokens_per_s = RunningDistribution()
        self.failures: dict[str, int] = {}
        self.unanswered: dict[str, int] = {}

    def add(self, delta: CallDelta) -> None:
        """Count one call."""
        attempts, given, made, cached, reasoned, cost, unpriced, failures, unanswered, answer = delta
        self.calls += 1
        self.attempts += attempts
        self.input += given
        self.output += made
        self.cached += cached
        self.reasoning += reasoned
        self.cost += cost
        self.unpriced += unpriced
        for failure in failures:
            self.failures[failure] = self.failures.get(failure, 0) + 1
        if unanswered is not None:
            self.unanswered[unanswered] = self.unanswered.get(unanswered, 0) + 1
        if answer is not None:
            self._add_answer(answer)

    def _add_answer(self, answer: Answer) -> None:
        fell_back, latency, first_token, rate = answer
        self.answered += 1
        self.fallbacks += fell_back
        self.latency_s.add(latency)
        if first_token is not None:
            self.time_to_first_token_s.add(first_token)
        if rate is not None:
            self.tokens_per_s.add(rate)

    def absorb(self, other: Summary) -> None:
        """Add what another tally counted."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _TOKENS:
            setattr(self, name, getattr(self, name) + getattr(other.tokens, name))
        self.cost += round(other.cost_usd * _UNITS_PER_DOLLAR)
        for name in _MEASURES:
            getattr(self, name).absorb(getattr(other, name))
        for kinds, more in ((self.failures, other.failures), (self.unanswered, other.unanswered)):
            for kind, count in more.items():
                kinds[kind] = kinds.get(kind, 0) + count

    def freeze(self) -> Summary:
        """The sum so far, as a value."""
        return Summary(
            **{name: getattr(self, name) for name in _COUNTS},
            **{name: getattr(self, name).freeze() for name in _MEASURES},
            failures=MappingProxyType(dict(self.failures)),
            unanswered=MappingProxyType(dict(self.unanswered)),
            tokens=Tokens(self.input, self.output, self.cached, self.reasoning),
            cost_usd=self.cost * FINEST,
        )


def _without_trailing_zeros(usd: Decimal) -> str:
    """0.000041, not 0.000041000000."""
    text = format(usd, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
