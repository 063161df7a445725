"""What goes wrong with deployments, for which of their requests, and when."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from llm_fallback.errors import did_you_mean
from llm_fallback.events import Failure

FAILURES = tuple(word for word in get_args(Failure) if word != "cancelled")
"""How a deployment can fail; a call is cancelled by its caller."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A deployment that fails, or that is slow."""

    deployment: str
    failure: Failure | None = None
    """How the affected requests fail; None: they do not."""
    share: float = 1.0
    """The part of its requests that are affected."""
    first_token_s: float | None = None
    """Seconds until its first content, at the median; None: as usual."""
    begins_s: float = 0.0
    ends_s: float = math.inf
    """From when to when, in seconds since the simulation began."""
    times: float = 1.0
    """How many times as long as usual its replies take, the first content and the rest."""

    def is_on(self, now: float) -> bool:
        """Whether requests at this second of the simulation may be affected."""
        return self.begins_s <= now < self.ends_s


def flaws(troubles: Iterable[Trouble], deployments: Collection[str]) -> Iterator[str]:
    """What is wrong with the troubles, a sentence each; `deployments` are the chain's."""
    for trouble in troubles:
        if trouble.deployment not in deployments:
            yield f"the chain asks no deployment called {_unknown(trouble.deployment, deployments)}"
        if trouble.failure is not None and trouble.failure not in FAILURES:
            yield f"a deployment cannot fail by {_unknown(trouble.failure, FAILURES)}"
        if not 0 <= trouble.share <= 1:
            yield f"a share is from 0 to 1, got {trouble.share:g}"
        if trouble.first_token_s is not None and not 0 <= trouble.first_token_s < math.inf:
            yield f"seconds until the first content are a number from 0 on, got {trouble.first_token_s:g}"
        if not 0 < trouble.times < math.inf:
            yield f"a reply takes more than 0 times as long as usual, got {trouble.times:g}"
        if not 0 <= trouble.begins_s < trouble.ends_s:
            yield f"a trouble ends after it begins, got {trouble.begins_s:g} to {trouble.ends_s:g} s"


def _unknown(word: str, known: Collection[str]) -> str:
    all_known = f"known are {', '.join(map(repr, known))}"
    return f"{word!r}; {did_you_mean(word, known, all_known)}"
