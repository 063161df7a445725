"""What is counted of calls: what one call adds, the running sum, and the sum as a value.

Counters stand side by side in one whole number, 96 bits each, so that adding one call to a sum is one addition and not
thirteen: this runs for every call, once for each of its dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_fallback.events import Attempt
from llm_fallback.ledger.quantiles import Distribution, Reading, reading
from llm_fallback.plan.pricing import FINEST

_COUNTERS = (
    *("calls", "answered", "fallbacks", "attempts", "unpriced"),
    *("input", "output", "cached", "reasoning", "cost_usd"),
    *("latency_s", "time_to_first_token_s", "tokens_per_s"),
)
_BITS = 96
_MASK = (1 << _BITS) - 1
_ONE = {name: 1 << (_BITS * place) for place, name in enumerate(_COUNTERS)}
_CALL, _ANSWERED, _FALLBACK, _ATTEMPT, _UNPRICED = (_ONE[name] for name in _COUNTERS[:5])
_INPUT, _OUTPUT, _CACHED, _REASONING, _COST = (_ONE[name] for name in _COUNTERS[5:10])
_TIMES = _COUNTERS[10:]
"""Sums of seconds, or tokens per second, times 10⁹."""
_LATENCY, _FIRST_TOKEN, _PACE = (_ONE[name] for name in _TIMES)
_PER_DOLLAR = int(1 / FINEST)


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

    counts: int
    unpriced: bool = False
    """Whether a part of the cost is not known."""
    failures: Sequence[str] = ()
    """Why attempts failed, a word each."""
    unanswered: str | None = None
    """Why there is no answer, in the failure table's words; always None in a deployment's part."""
    buckets: Sequence[tuple[int, int]] = ()
    """What was measured of an answer, each with its place in `Tally.buckets`."""


NO_ATTEMPT = Entry(_CALL)


def counted(attempt: Attempt) -> Entry:
    """What an attempt adds. One that failed, broke or lost a race costs, too."""
    usage, cost = attempt.usage, attempt.cost_usd
    counts = _CALL + _ATTEMPT
    if usage is not None:
        counts += usage.input_tokens * _INPUT + usage.output_tokens * _OUTPUT
        counts += usage.cached_tokens * _CACHED + usage.reasoning_tokens * _REASONING
    if cost:
        counts += round(cost * _PER_DOLLAR) * _COST
    return Entry(counts, cost is None, (str(attempt.failure),) if attempt.outcome == "failed" else ())


def joined(one: Entry, other: Entry) -> Entry:
    """The entry of one call that has the attempts of both."""
    counts = one.counts + other.counts - _CALL
    unpriced, failures = one.unpriced or other.unpriced, (*one.failures, *other.failures)
    return Entry(counts, unpriced, failures, None, one.buckets or other.buckets)


def answered(
    entry: Entry, fell_back: bool, latency_s: float, first_token_s: float | None, pace: Reading | None
) -> Entry:
    """The entry of a call that was answered, and how fast."""
    bucket, billionths = reading(latency_s)
    counts = entry.counts + _ANSWERED + billionths * _LATENCY
    buckets = [(0, bucket)]
    if fell_back:
        counts += _FALLBACK
    if first_token_s is not None:
        bucket, billionths = reading(first_token_s)
        counts += billionths * _FIRST_TOKEN
        buckets.append((1, bucket))
    if pace is not None:
        counts += pace[1] * _PACE
        buckets.append((2, pace[0]))
    return Entry(counts, entry.unpriced, entry.failures, None, buckets)


def speed(attempt: Attempt) -> Reading | None:
    """Output tokens per second of writing: after the first token of a stream, over the whole time of a plain reply."""
    if attempt.usage is None or attempt.usage.output_tokens <= 0:
        return None
    busy = attempt.busy_s - (attempt.time_to_first_token_s or 0.0)
    return reading(attempt.usage.output_tokens / busy) if busy > 0 else None


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
_TOKENS = ("input", "output", "cached", "reasoning")


class Tally:
    """A running sum; whoever shares one between threads locks it."""

    __slots__ = ("buckets", "counts", "failures", "unanswered")

    def __init__(self) -> None:
        self.counts = 0
        self.failures: dict[str, int] = {}
        self.unanswered: dict[str, int] = {}
        self.buckets: tuple[dict[int, int], ...] = ({}, {}, {})  # In the order of `_TIMES`.

    def add(self, entry: Entry) -> None:
        self.counts += entry.counts
        if entry.unpriced:
            self.counts += _UNPRICED
        for place, bucket in entry.buckets:
            own = self.buckets[place]
            own[bucket] = own.get(bucket, 0) + 1
        for failure in entry.failures:
            self.failures[failure] = self.failures.get(failure, 0) + 1
        if entry.unanswered is not None:
            self.unanswered[entry.unanswered] = self.unanswered.get(entry.unanswered, 0) + 1

    def absorb(self, other: Summary) -> None:
        """Add what was counted elsewhere."""
        self.counts += sum(getattr(other, name) * _ONE[name] for name in _COUNTS)
        self.counts += sum(getattr(other.tokens, name) * _ONE[name] for name in _TOKENS)
        self.counts += round(other.cost_usd * _PER_DOLLAR) * _COST
        for own, more in ((self.failures, other.failures), (self.unanswered, other.unanswered)):
            for word, count in more.items():
                own[word] = own.get(word, 0) + count
        for buckets, name in zip(self.buckets, _TIMES, strict=True):
            times: Distribution = getattr(other, name)
            self.counts += times.billionths * _ONE[name]
            for bucket, count in times.buckets.items():
                buckets[bucket] = buckets.get(bucket, 0) + count

    def freeze(self) -> Summary:
        read = {name: self.counts >> (_BITS * place) & _MASK for place, name in enumerate(_COUNTERS)}
        times = {
            name: Distribution(MappingProxyType(dict(own)), read[name])
            for name, own in zip(_TIMES, self.buckets, strict=True)
        }
        return Summary(
            calls=read["calls"],
            answered=read["answered"],
            fallbacks=read["fallbacks"],
            attempts=read["attempts"],
            failures=MappingProxyType(dict(self.failures)),
            unanswered=MappingProxyType(dict(self.unanswered)),
            tokens=Tokens(*(read[name] for name in _TOKENS)),
            cost_usd=read["cost_usd"] * FINEST,
            unpriced=read["unpriced"],
            **times,
        )


def _plain(usd: Decimal) -> str:
    """Without the zeros that carry no meaning: 0.000041, not 0.000041000000."""
    text = format(usd, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
