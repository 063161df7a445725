"""Percentiles in little memory: a DDSketch, that is, counts in buckets whose widths grow with their values.

A value falls into the bucket of its logarithm, so any percentile is within 1 % of the true one. Counts and sums are
integers: merging is addition, and the order of merging makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, exp, log
from types import MappingProxyType
from typing import Any, TypeAlias

ACCURACY = 0.0099
"""The largest relative error of a percentile; below 1 % by more than the rounding of floats."""
LEAST, MOST = 1e-6, 1e7
"""Values outside this range count as the nearer end of it, which bounds the number of buckets."""

_LOG_WIDTH = log((1 + ACCURACY) / (1 - ACCURACY))
_PER_LOG = 1 / _LOG_WIDTH
_MIDDLE = 1 - ACCURACY
"""The value that is told for a bucket, as a part of its upper bound: at most `ACCURACY` from everything in it."""
_FIRST, _LAST = ceil(log(LEAST) * _PER_LOG), ceil(log(MOST) * _PER_LOG)
MOST_BUCKETS = _LAST - _FIRST + 1

Sample: TypeAlias = tuple[int, int]
"""A value made ready for any number of distributions: its bucket, and the value times 10⁹."""


def sample(value: float) -> Sample:
    """The sample of a value that is not negative."""
    if LEAST < value < MOST:
        return ceil(log(value) * _PER_LOG), int(value * 1e9)
    return (_FIRST, int(value * 1e9)) if value <= LEAST else (_LAST, int(MOST * 1e9))


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often values of each size occurred."""

    buckets: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Counts by bucket; the bucket numbers are logarithms."""
    billionths: int = 0
    """The sum of all values, times 10⁹."""

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        count = self.count
        return self.billionths / 1e9 / count if count else None

    @property
    def p50(self) -> float | None:
        return self.quantile(0.50)

    @property
    def p95(self) -> float | None:
        return self.quantile(0.95)

    @property
    def p99(self) -> float | None:
        return self.quantile(0.99)

    def quantile(self, part: float) -> float | None:
        """The `part` quantile (0.95: 95 % of values are at most this), within 1 %. None if empty."""
        rank = max(ceil(part * self.count) - 1, 0)
        for bucket, count in sorted(self.buckets.items()):
            rank -= count
            if rank < 0:
                return exp(bucket * _LOG_WIDTH) * _MIDDLE
        return None

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the summary for people, and the buckets for `from_dict`."""
        return {
            **self.summary(),
            "billionths": self.billionths,
            "buckets": {str(bucket): count for bucket, count in sorted(self.buckets.items())},
        }

    def summary(self) -> dict[str, float | None]:
        """Count, mean and percentiles."""
        return {"count": self.count, "mean": self.mean, "p50": self.p50, "p95": self.p95, "p99": self.p99}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Distribution:
        """The distribution whose `as_dict()` this is."""
        buckets = {int(bucket): int(count) for bucket, count in plain["buckets"].items()}
        return cls(MappingProxyType(buckets), int(plain["billionths"]))


class RunningDistribution:
    """A distribution that is being counted."""

    __slots__ = ("billionths", "buckets")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.billionths = 0

    def add(self, sample: Sample) -> None:
        """Count one value."""
        bucket, billionths = sample
        self.billionths += billionths
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def absorb(self, other: Distribution) -> None:
        """Add what another distribution counted."""
        self.billionths += other.billionths
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def freeze(self) -> Distribution:
        """The distribution so far, as a value."""
        return Distribution(MappingProxyType(dict(self.buckets)), self.billionths)
