"""Simulated deployments: which troubles affect a request, and what the deployment answers after how many seconds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

from pydantic import SecretStr

from llm_fallback.engine.clock import Clock
from llm_fallback.engine.transport import NO_PROVENANCE, Chunk, Fault, PartialReply, Reply, StreamEnd
from llm_fallback.events import Failure
from llm_fallback.plan.plan import Target
from llm_fallback.simulate.troubles import Trouble

FIRST_TOKEN_S = 0.5
WRITING_S = 1.5
"""Median seconds of a deployment without trouble: to its first content, and from there to its last."""
_SPREAD = 0.3
"""Standard deviation of the logarithm of a time: one in twenty takes 1.6 times the median, one in a hundred twice."""


class SimulatedTransport:
    """Simulates the deployments of a chain. Each has its own random numbers, so that one's troubles do not change what
    happens to another."""

    def __init__(self, clock: Clock, troubles: Sequence[Trouble], seed: int) -> None:
        self._clock, self._troubles, self._seed = clock, troubles, seed
        self._rngs: dict[str, Random] = {}

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> SimulatedExchange:
        if target.name not in self._rngs:
            self._rngs[target.name] = Random(f"{self._seed}/{target.name}")
        rng = self._rngs[target.name]
        troubles = list(self._active_troubles(target.name, rng))
        failure = next((trouble.failure for trouble in troubles if trouble.failure is not None), None)
        delays_s = (trouble.first_token_s for trouble in troubles if trouble.first_token_s is not None)
        times = math.prod(trouble.times for trouble in troubles)
        medians_s = (times * next(delays_s, FIRST_TOKEN_S), times * WRITING_S)
        first_s, writing_s = (rng.lognormvariate(0.0, _SPREAD) * median_s for median_s in medians_s)
        steps = response_steps(failure, first_s, writing_s, streamed=bool(request.get("stream")))
        return SimulatedExchange(self._clock, steps)

    def _active_troubles(self, deployment: str, rng: Random) -> Iterator[Trouble]:
        """The troubles that affect this request. A random number is drawn for each that is on, so that the next
        request's do not depend on which of them affected this one."""
        for trouble in self._troubles:
            is_on = trouble.deployment == deployment and trouble.is_on(self._clock.now())
            if is_on and rng.random() < trouble.share:
                yield trouble


class SimulatedExchange:
    """One request to a simulated deployment, answered step by step."""

    dropped_params: tuple[str, ...] = ()
    provenance = NO_PROVENANCE

    def __init__(self, clock: Clock, steps: Iterator[Step]) -> None:
        self._clock, self._steps = clock, steps

    async def next(self) -> Chunk | StreamEnd | Fault:
        wait_s, item = next(self._steps)
        if math.isinf(wait_s):
            await asyncio.get_running_loop().create_future()
        if wait_s:
            await self._clock.sleep(wait_s)
        return item

    async def reply(self) -> Reply | Fault:
        whole = PartialReply()
        while isinstance(item := await self.next(), Chunk):
            whole.add(item)
        return item if isinstance(item, Fault) else Reply(whole.text, whole.text, finish=item.finish)

    async def close(self) -> None:
        """There is no connection."""


Step: TypeAlias = tuple[float, Chunk | StreamEnd | Fault]
"""Seconds to wait (infinite: for ever), and what comes then."""

REJECTED = "This is nothing of what was asked for."
_WORDS = ("All is ", "well, ", "I think.")
_REFUSAL_S = 0.05


def response_steps(failure: Failure | None, first_s: float, writing_s: float, *, streamed: bool) -> Iterator[Step]:
    """What a deployment answers, with this failure or without one: content begins after `first_s` seconds and takes
    `writing_s` more."""
    begun = _WORDS[:1] if streamed and failure in ("idle_timeout", "stream_broken") else ()
    match failure:
        case None:
            yield from _chunks(_WORDS, first_s, writing_s)
            yield 0.0, StreamEnd("stop")
        case "rejected":
            yield from _chunks((REJECTED,), first_s, writing_s)
            yield writing_s, StreamEnd("stop")
        case "empty_response":
            yield first_s, StreamEnd("stop")
        case "timeout" | "first_token_timeout" | "idle_timeout":
            yield from _chunks(begun, first_s, writing_s)
            yield math.inf, StreamEnd(None)
        case "stream_broken":
            yield from _chunks(begun, first_s, writing_s)
            yield writing_s / 2, Fault("stream_broken" if begun else "connection", "simulated")
        case _:
            # Without a status a bad request would be one that was never sent.
            yield _REFUSAL_S, Fault(failure, "simulated", 400 if failure == "bad_request" else None)


def _chunks(words: Sequence[str], first_s: float, writing_s: float) -> Iterator[Step]:
    """A chunk for each word: the first after `first_s` seconds, the others spread over the time of writing."""
    for number, word in enumerate(words):
        yield (
            (first_s if number == 0 else writing_s / (len(_WORDS) - 1)),
            Chunk({"choices": [{"delta": {"content": word}}]}, word),
        )
