"""Simulated deployments: which request meets which trouble, and what comes of it after which time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from pydantic import SecretStr

from llm_fallback.engine.clock import Clock
from llm_fallback.engine.transport import Chunk, Fault, PartialReply, Reply, StreamEnd
from llm_fallback.events import Failure
from llm_fallback.plan.plan import Target
from llm_fallback.simulate.troubles import Trouble

FIRST_TOKEN_S = 0.5
WRITING_S = 1.5
"""Of a deployment without trouble, at the median: seconds to its first content, and from there to its last."""
_SPREAD = 0.3
"""Of the logarithm: one in twenty takes 1.6 times the median, one in a hundred twice."""


class SimulatedTransport:
    """Pretends the deployments of a chain. Each has its own run of luck, so that one's trouble is not another's."""

    def __init__(self, clock: Clock, troubles: Sequence[Trouble], seed: int) -> None:
        self._clock, self._troubles, self._seed = clock, troubles, seed
        self._luck: dict[str, Random] = {}

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> SimulatedExchange:
        if target.name not in self._luck:
            self._luck[target.name] = Random(f"{self._seed}/{target.name}")
        luck = self._luck[target.name]
        met = list(self._met(target.name, luck))
        failure = next((trouble.failure for trouble in met if trouble.failure is not None), None)
        median = next((trouble.first_token_s for trouble in met if trouble.first_token_s is not None), FIRST_TOKEN_S)
        first, writing = (luck.lognormvariate(0.0, _SPREAD) * usual for usual in (median, WRITING_S))
        return SimulatedExchange(self._clock, act(failure, first, writing, streamed=bool(request.get("stream"))))

    def _met(self, deployment: str, luck: Random) -> Iterator[Trouble]:
        """The troubles this request meets. Luck is drawn for each that is on, so that the next request's does not
        hang on what this one met."""
        for trouble in self._troubles:
            is_on = trouble.deployment == deployment and trouble.is_on(self._clock.now())
            if is_on and luck.random() < trouble.share:
                yield trouble


class SimulatedExchange:
    """Plays an act."""

    dropped_params: tuple[str, ...] = ()

    def __init__(self, clock: Clock, act: Act) -> None:
        self._clock, self._act = clock, act

    async def next(self) -> Chunk | StreamEnd | Fault:
        seconds, item = next(self._act)
        if math.isinf(seconds):
            await asyncio.get_running_loop().create_future()
        if seconds:
            await self._clock.sleep(seconds)
        return item

    async def reply(self) -> Reply | Fault:
        whole = PartialReply()
        while isinstance(item := await self.next(), Chunk):
            whole.add(item)
        return item if isinstance(item, Fault) else Reply(whole.text, whole.text, finish=item.finish)

    def with_text(self, piece: Chunk, text: str) -> Chunk:
        return piece._replace(text=text)

    async def close(self) -> None:
        """There is no connection."""


Act = Iterator[tuple[float, Chunk | StreamEnd | Fault]]
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
            yield 0.0, StreamEnd("stop")
        case "rejected":
            yield from _written((REJECTED,), first, writing)
            yield writing, StreamEnd("stop")
        case "empty_response":
            yield first, StreamEnd("stop")
        case "timeout" | "first_token_timeout" | "idle_timeout":
            yield from _written(begun, first, writing)
            yield math.inf, StreamEnd(None)
        case "stream_broken":
            yield from _written(begun, first, writing)
            yield writing / 2, Fault("stream_broken" if begun else "connection", "simulated")
        case _:
            yield _REFUSAL_S, Fault(failure, "simulated")


def _written(words: Sequence[str], first: float, writing: float) -> Act:
    """Words over the time of writing; the first is the first content."""
    for number, word in enumerate(words):
        yield (first if number == 0 else writing / (len(_WORDS) - 1)), Chunk(raw=word, text=word)
