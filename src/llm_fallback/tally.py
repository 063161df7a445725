"""What is counted of calls: what one call adds, the running sum, and the sum as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_fallback.events import Attempt
from llm_fallback.quantiles import Distribution, Reading, Sketch, reading

_NOTHING = Decimal(0)
_FINEST = Decimal("1e-12")
"""Costs are kept to a millionth of a millionth of a dollar, so that sums are exact in any order."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens as servers reported them; cached ones are part of the input, reasoning ones of the output."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _TOKENS}


class Entry(NamedTuple):
    """What one call adds: as a whole, or the part of it that one deployment or model had."""

    attempts: int
    failures: Sequence[str]
    """Why attempts failed, a word each."""
    tokens: tuple[int, int, int, int]
    """Input, output, cached, reasoning."""
    cost_usd: Decimal
    """What is known of it."""
    unpriced: bool
    """Whether a part of the cost is not known."""
    answered: bool
    fell_back: bool
    unanswered: str | None
    """Why there is no answer, in the failure table's words; always None in a deployment's part."""
    times: Sequence[tuple[int, Reading]]
    """What was measured, each with its place in `Tally.times`."""


class Account(NamedTuple):
    """What requests used, cost and came to, as part of an entry."""

    attempts: int
    failures: Sequence[str]
    tokens: tuple[int, int, int, int]
    cost_usd: Decimal
    unpriced: bool


def account(attempts: Sequence[Attempt]) -> Account:
    """The sum over attempts. Those that failed, broke or lost a race cost, too."""
    given = made = cached = reasoned = 0
    cost, unpriced, failures = _NOTHING, False, list[str]()
    for attempt in attempts:
        usage = attempt.usage
        if usage is not None:
            given += usage.input_tokens
            made += usage.output_tokens
            cached += usage.cached_tokens
            reasoned += usage.reasoning_tokens
        if attempt.cost_usd is None:
            unpriced = True
        elif attempt.cost_usd:
            cost += attempt.cost_usd.quantize(_FINEST)
        if attempt.outcome == "failed":
            failures.append(str(attempt.failure))
    return Account(len(attempts), failures, (given, made, cached, reasoned), cost, unpriced)


def speed(attempt: Attempt) -> Reading | None:
    """Output tokens per second of writing: after the first token of a stream, over the whole time of a plain reply."""
    if attempt.usage is None or attempt.usage.output_tokens <= 0:
        return None
    busy = attempt.latency_s - (attempt.time_to_first_token_s or 0.0)
    return reading(attempt.usage.output_tokens / busy) if busy > 0 else None


def times(latency_s: float, first_token_s: float | None, pace: Reading | None) -> list[tuple[int, Reading]]:
    """What was measured of an answer, as an entry takes it."""
    measured = [(0, reading(latency_s))]
    if first_token_s is not None:
        measured.append((1, reading(first_token_s)))
    if pace is not None:
        measured.append((2, pace))
    return measured


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
    """What is known of the cost."""
    unpriced: int = 0
    """Calls of whose cost a part is not known; above 0, `cost_usd` is a lower bound."""

    @property
    def known_cost_usd(self) -> float | None:
        """What is known of the cost, as a float; None where nothing is."""
        return None if self.unpriced and not self.cost_usd else float(self.cost_usd)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; costs are text, because floats would round them."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "failures": dict(sorted(self.failures.items())),
            "unanswered": dict(sorted(self.unanswered.items())),
            **{name: getattr(self, name).as_dict() for name in _TIMES},
            "tokens": self.tokens.as_dict(),
            "cost_usd": _plain(self.cost_usd),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Summary:
        read: dict[str, Any] = {name: int(plain[name]) for name in _COUNTS}
        read |= {name: MappingProxyType(dict(plain[name])) for name in ("failures", "unanswered")}
        read |= {name: Distribution.from_dict(plain[name]) for name in _TIMES}
        return cls(**read, tokens=Tokens(**plain["tokens"]), cost_usd=Decimal(plain["cost_usd"]))


_COUNTS = ("calls", "answered", "fallbacks", "attempts", "unpriced")
_TIMES = ("latency_s", "time_to_first_token_s", "tokens_per_s")
_TOKENS = ("input", "output", "cached", "reasoning")


class Tally:
    """A running sum; whoever shares one between threads locks it."""

    __slots__ = (
        *("answered", "attempts", "cached", "calls", "cost_usd", "failures", "fallbacks", "input", "output"),
        *("reasoning", "times", "unanswered", "unpriced"),
    )

    def __init__(self) -> None:
        self.calls = self.answered = self.fallbacks = self.attempts = self.unpriced = 0
        self.failures: dict[str, int] = {}
        self.unanswered: dict[str, int] = {}
        self.times = (Sketch(), Sketch(), Sketch())  # In the order of `_TIMES`.
        self.input = self.output = self.cached = self.reasoning = 0
        self.cost_usd = _NOTHING

    def add(self, entry: Entry) -> None:
        self.calls += 1
        self.attempts += entry.attempts
        self.answered += entry.answered
        self.fallbacks += entry.fell_back
        self.unpriced += entry.unpriced
        given, made, cached, reasoned = entry.tokens
        self.input += given
        self.output += made
        self.cached += cached
        self.reasoning += reasoned
        if entry.cost_usd:
            self.cost_usd += entry.cost_usd
        for place, (bucket, billionths) in entry.times:
            # Sketch.add, written out: calls of it would be a third of all time spent here.
            sketch = self.times[place]
            buckets = sketch.buckets
            buckets[bucket] = buckets.get(bucket, 0) + 1
            sketch.billionths += billionths
        if entry.failures or entry.unanswered:
            self._add_failures(entry)

    def _add_failures(self, entry: Entry) -> None:
        for failure in entry.failures:
            self.failures[failure] = self.failures.get(failure, 0) + 1
        if entry.unanswered is not None:
            self.unanswered[entry.unanswered] = self.unanswered.get(entry.unanswered, 0) + 1

    def absorb(self, other: Summary) -> None:
        """Add what was counted elsewhere."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for own, more in ((self.failures, other.failures), (self.unanswered, other.unanswered)):
            for word, count in more.items():
                own[word] = own.get(word, 0) + count
        for sketch, name in zip(self.times, _TIMES, strict=True):
            sketch.absorb(getattr(other, name))
        for name in _TOKENS:
            setattr(self, name, getattr(self, name) + getattr(other.tokens, name))
        self.cost_usd += other.cost_usd

    def freeze(self) -> Summary:
        latency_s, first_token_s, tokens_per_s = (sketch.freeze() for sketch in self.times)
        return Summary(
            calls=self.calls,
            answered=self.answered,
            fallbacks=self.fallbacks,
            attempts=self.attempts,
            failures=MappingProxyType(dict(self.failures)),
            unanswered=MappingProxyType(dict(self.unanswered)),
            latency_s=latency_s,
            time_to_first_token_s=first_token_s,
            tokens_per_s=tokens_per_s,
            tokens=Tokens(self.input, self.output, self.cached, self.reasoning),
            cost_usd=self.cost_usd,
            unpriced=self.unpriced,
        )


def _plain(usd: Decimal) -> str:
    """Without the zeros that carry no meaning: 0.000041, not 0.000041000000."""
    text = format(usd, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
