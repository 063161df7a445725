"""What a request to a pretended deployment meets: pieces of a reply, or a failure, and the time until each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from llm_fallback.events import Failure
from llm_fallback.exchange import End, Piece
from llm_fallback.faults import Fault

Act = Iterator[tuple[float, Piece | End | Fault]]
"""Seconds to wait, infinite for ever, and what comes then."""

REJECTED = "This is nothing of what was asked for."
_WORDS = ("All is ", "well, ", "I think.")
_REFUSAL_S = 0.05


def act(failure: Failure | None, first: float, writing: float, *, streamed: bool) -> Act:
    """A request that fails so, or does not; a reply begins after `first` seconds and takes `writing` more."""
    begun = _WORDS[:1] if streamed and failure in ("idle_timeout", "stream_broken") else ()
    match failure:
        case None:
            yield from _written(_WORDS, first, writing)
            yield 0.0, End("stop")
        case "rejected":
            yield from _written((REJECTED,), first, writing)
            yield writing, End("stop")
        case "empty_response":
            yield first, End("stop")
        case "timeout" | "first_token_timeout" | "idle_timeout":
            yield from _written(begun, first, writing)
            yield math.inf, End(None)
        case "stream_broken":
            yield from _written(begun, first, writing)
            yield writing / 2, Fault("stream_broken" if begun else "connection", "simulated")
        case _:
            yield _REFUSAL_S, Fault(failure, "simulated")


def _written(words: Sequence[str], first: float, writing: float) -> Act:
    """Words over the time of writing; the first is the first content."""
    for number, word in enumerate(words):
        yield (first if number == 0 else writing / (len(_WORDS) - 1)), Piece(raw=word, text=word)
