"""How many requests a deployment may have under way at once, found from what comes of them.

It climbs while more requests bring more answers, and shrinks when the deployment refuses (429, overloaded, a timeout)
or grows slow. No clock of its own: times come with what happened, and the limit is a number to read, so that a day of
traffic is a moment in a test.

Two kinds of servers are told apart by what happens at their limit. One refuses: a refusal says exactly how many are one
too many, and the limit stays right below. Another lets requests wait in line: then twice the requests bring no more
answers, only slower ones, and the limit goes back to where they still did. Either limit is tried again after a while,
because servers are scaled, restarted and shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

START = 16
MOST = 1024
_ROUND = 32
"""The fewest answers that a level is judged by: their latencies differ as their lengths do."""
_PATIENCE, _PATIENCE_WITH_REFUSALS = 64, 110
"""Answers between two looks beyond the limit. Where each may cost a refusal, fewer than one in a hundred is refused."""
_SMALL_STEP, _LEAST_GAIN = 1.5, 0.25
"""A level is worth having if it brings at least this share of the answers that its further requests could bring. Of a
step that is smaller than the first number, that cannot be told from chance."""
_GROWN_SLOW = 1.5
"""Latency beyond this many times what the level was found with is worth finding out about."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 4.0


@dataclass(frozen=True, slots=True)
class _Level:
    """What a number of parallel requests was measured to bring."""

    size: int
    seconds: float
    """For one unit of work."""

    @property
    def rate(self) -> float:
        """Units of work a second (Little's law)."""
        return self.size / self.seconds if self.seconds else math.inf

    def is_worth_more_than(self, smaller: _Level) -> bool:
        """Whether its further requests bring enough further answers."""
        step = self.size / smaller.size
        return step < _SMALL_STEP or self.rate >= smaller.rate * (1 + _LEAST_GAIN * (step - 1))


class ConcurrencyLimit:
    """The limit of one deployment. Not thread-safe: its owner holds a lock."""

    def __init__(self) -> None:
        self.limit = START
        self.paused_until = -math.inf
        """Until when not even one request should be sent, because a single one was refused."""
        self._pause_s = 0.0
        self._good: _Level | None = None
        """The level known to be worth having."""
        self._slow: _Level | None = None
        """The larger level that the present one is compared with, after that had grown slow."""
        self._has_grown_slow = False
        """Whether the last answers were slow; those are still a mixture of before and after."""
        self._ceiling: int | None = None
        """The least number known to be too many; None if nothing is known."""
        self._is_refused_at_ceiling = False
        self._shrunk_at = -math.inf
        self._phase: Literal["climbing", "measuring", "holding"] = "measuring"
        self._target = START
        self._since = -math.inf
        self._answers, self._work, self._busy_s = 0, 0.0, 0.0
        """Of the requests sent since then."""

    def answered(self, now: float, sent_at: float, in_flight: int, work: float) -> None:
        """Learn of an answer: when its request was sent, how many were under way with it, and how much work it was
        (output tokens, say, and never none), by which latencies of long and short answers are compared."""
        self._pause_s = 0.0
        if 2 * in_flight <= self.limit:
            return  # Nobody needs that many: what they would bring cannot be known.
        if self._phase == "climbing":
            if in_flight <= self.limit:  # Else more are under way since before it shrank.
                self._climb(now)
        elif sent_at >= self._since:
            self._answers, self._work, self._busy_s = self._answers + 1, self._work + work, self._busy_s + now - sent_at
            if self._answers >= self._enough():
                self._judge(_Level(self.limit, self._busy_s / self._work), now)

    def _enough(self) -> int:
        """The number of answers that the present level is judged by."""
        if self._phase == "holding" and not self._has_grown_slow:
            return max(_PATIENCE_WITH_REFUSALS if self._is_refused_at_ceiling else _PATIENCE, self.limit)
        # Of a small step only a refusal tells anything, and that comes at once.
        is_small = self._good is not None and self._good.size < self.limit < _SMALL_STEP * self._good.size
        return self.limit if is_small else max(_ROUND, self.limit)

    def refused(self, now: float, sent_at: float, in_flight: int) -> None:
        """Learn that the deployment took a request for one too many, of so many under way."""
        level = min(in_flight, self.limit)
        if self._good is not None and level > self._good.size:
            self._shrink(level - 1, level, now)
        elif sent_at >= self._shrunk_at:
            # Less than what it took before: it has shrunk, and by how much is not known.
            self._good = None
            self._shrink(level // 2, level, now)
            if level <= 1:
                self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                self.paused_until = now + self._pause_s

    def _shrink(self, limit: int, refused_at: int, now: float) -> None:
        self.limit, self._ceiling, self._is_refused_at_ceiling = max(limit, 1), max(refused_at, 2), True
        self._shrunk_at, self._slow = now, None
        self._climb_to(self._ceiling - 1, now)

    def _climb_to(self, target: int, now: float) -> None:
        """Go up by one for each answer: a burst would find out too late that it is too many."""
        self._target = min(target, MOST)
        self._phase = "climbing"
        if self.limit >= self._target:
            self._arrive(now)

    def _climb(self, now: float) -> None:
        self.limit += 1
        if self.limit >= self._target:
            self._arrive(now)

    def _arrive(self, now: float) -> None:
        is_known = self._good is not None and self.limit <= self._good.size
        self._phase = "holding" if is_known else "measuring"
        self._measure_from(now)

    def _measure_from(self, now: float) -> None:
        self._since = now
        self._answers, self._work, self._busy_s = 0, 0.0, 0.0

    def _judge(self, level: _Level, now: float) -> None:
        if self._phase == "holding":
            self._look_around(level, now)
        elif self._slow is not None:
            self._judge_smaller(level, self._slow, now)
        elif self._good is None or level.is_worth_more_than(self._good):
            self._good = level
            self._go_on(now)
        else:
            self._ceiling, self._is_refused_at_ceiling = level.size, False
            self._hold(self._good, now)

    def _go_on(self, now: float) -> None:
        """The level is worth having: try twice as many, unless they are known to be too many."""
        times = 2
        if self._ceiling is not None and self.limit >= self._ceiling:
            self._ceiling = None
            if self._is_refused_at_ceiling:
                times = 4  # It takes what it refused, so it has grown, and will say when that is too many.
        self._climb_to(times * self.limit if self._ceiling is None else self._ceiling - 1, now)

    def _look_around(self, level: _Level, now: float) -> None:
        """After a while at the limit: find out whether it has become too many, or too few."""
        good, had_grown_slow = self._good or level, self._has_grown_slow
        self._has_grown_slow = level.seconds > _GROWN_SLOW * good.seconds and level.size > 1
        if self._has_grown_slow and had_grown_slow:
            self._compare_with_half(level, now)
        elif self._has_grown_slow:
            self._measure_from(now)
        else:
            self._climb_to(self.limit + 1 if self._is_refused_at_ceiling else 2 * self.limit, now)

    def _compare_with_half(self, level: _Level, now: float) -> None:
        self._slow, self.limit, self._phase, self._has_grown_slow = level, level.size // 2, "measuring", False
        self._shrunk_at = now
        self._measure_from(now)

    def _judge_smaller(self, level: _Level, slow: _Level, now: float) -> None:
        """Half as many brought this: go back if they brought less, else on to fewer still."""
        if slow.is_worth_more_than(level):
            self._slow = None
            self._hold(slow, now)
        elif level.size > 1:
            self._good, self._ceiling, self._is_refused_at_ceiling = level, slow.size, False
            self._compare_with_half(level, now)
        else:
            self._slow, self._ceiling, self._is_refused_at_ceiling = None, slow.size, False
            self._hold(level, now)

    def _hold(self, level: _Level, now: float) -> None:
        """Be at a level that is known."""
        self._good = level
        self.limit = min(self.limit, level.size)
        self._climb_to(level.size, now)
