"""Counts, rates and means over recent time. The caller passes the time."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

MINUTE_S = 60.0


class SlidingCounter:
    """How often each of some kinds of things happened in the last `length_s` seconds, within one slice of it.

    It counts by slices of the window, so that memory does not grow with traffic.
    """

    def __init__(self, length_s: float, slices: int, kinds: int = 1) -> None:
        self._length_s, self._slice_s, self._kinds = length_s, length_s / slices, kinds
        self._slices: deque[tuple[float, list[int]]] = deque()

    def add(self, now: float, *counts: int) -> None:
        """Count something that happened now; one number for each kind."""
        begin = now - now % self._slice_s
        if not self._slices or self._slices[-1][0] != begin:
            self._slices.append((begin, [0] * self._kinds))
        totals = self._slices[-1][1]
        for kind, count in enumerate(counts):
            totals[kind] += count
        self._forget(now)

    def take_back(self, then: float, *counts: int) -> None:
        """Take back what was counted then, if it still is in the window."""
        for begin, totals in self._slices:
            if begin == then - then % self._slice_s:
                for kind, count in enumerate(counts):
                    totals[kind] -= count

    def totals(self, now: float) -> list[int]:
        """The sum of each kind over the window that ends now."""
        self._forget(now)
        return [sum([counts[kind] for _, counts in self._slices]) for kind in range(self._kinds)]

    def clear(self) -> None:
        self._slices.clear()

    def _forget(self, now: float) -> None:
        while self._slices and self._slices[0][0] <= now - self._length_s:
            self._slices.popleft()


@dataclass(slots=True)
class RateWindow:
    """Requests and tokens of the last 60 seconds, each with its time: limits are kept to the request."""

    _requests: deque[float] = field(default_factory=deque)
    _spends: deque[tuple[float, int]] = field(default_factory=deque)
    _tokens: int = 0

    def add(self, now: float, tokens: int) -> None:
        """Count a request and the tokens it is expected to use."""
        self._requests.append(now)
        self._spend(now, tokens)

    def remove(self, began: float, tokens: int) -> None:
        """Take back a request that was counted then, and was not sent."""
        with suppress(ValueError):  # The window has moved on without it.
            self._requests.remove(began)
        self._take_back(tokens, began)

    def correct(self, tokens: int, began: float, now: float) -> None:
        """Correct what was expected of the request that began then: tokens beyond it (positive) count from now on,
        those it did not use (negative) are taken back from the time they were counted at, if that still is in the
        window."""
        if tokens > 0:
            self._spend(now, tokens)
        else:
            self._take_back(-tokens, began)

    def free_at(self, now: float, rpm: int | None, tpm: int | None, tokens: int) -> float | None:
        """None if a request of that many tokens may go now, else when one may."""
        self._forget(now)
        waits = [self._requests_free_at(rpm), self._tokens_free_at(tpm, tokens)]
        return max((wait for wait in waits if wait is not None), default=None)

    def uses(self, now: float) -> list[tuple[float, float]]:
        """The requests of the window that ends now: how many, and how many seconds ago."""
        self._forget(now)
        return [(1, now - at) for at in self._requests]

    def token_uses(self, now: float) -> list[tuple[float, float]]:
        """The tokens of the window that ends now: how many, and how many seconds ago."""
        self._forget(now)
        return [(tokens, now - at) for at, tokens in self._spends]

    def _spend(self, now: float, tokens: int) -> None:
        if tokens:
            self._spends.append((now, tokens))
            self._tokens += tokens

    def _take_back(self, tokens: int, began: float) -> None:
        # Clocks that tick slowly name one time for several requests: what one of them has not counted, another has.
        for index, (at, counted) in enumerate(self._spends):
            if at == began:
                unused = min(tokens, counted)
                self._spends[index] = (at, counted - unused)
                self._tokens -= unused
                tokens -= unused

    def _forget(self, now: float) -> None:
        # By the same sums as in `free_at`: else, rounded, one would still count at the time that was named.
        while self._requests and self._requests[0] + MINUTE_S <= now:
            self._requests.popleft()
        while self._spends and self._spends[0][0] + MINUTE_S <= now:
            self._tokens -= self._spends.popleft()[1]

    def _requests_free_at(self, rpm: int | None) -> float | None:
        if rpm is None or len(self._requests) < rpm:
            return None
        return self._requests[len(self._requests) - rpm] + MINUTE_S

    def _tokens_free_at(self, tpm: int | None, tokens: int) -> float | None:
        # A request larger than the whole limit goes when nothing else counts against it.
        if tpm is None or not self._tokens or self._tokens + tokens <= tpm:
            return None
        over = self._tokens + tokens - tpm
        for at, spent in self._spends:
            over -= spent
            if over <= 0:
                return at + MINUTE_S
        return self._spends[-1][0] + MINUTE_S


class RunningMean:
    """The mean of the last `size` values."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._sum = 0.0

    def add(self, value: float) -> None:
        if len(self._values) == self._values.maxlen:
            self._sum -= self._values[0]
        self._values.append(value)
        self._sum += value

    @property
    def value(self) -> float | None:
        """None before the first value."""
        return self._sum / len(self._values) if self._values else None
