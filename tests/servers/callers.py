"""Callers who are in the middle of a call when something happens to its server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from llm_fallback import FallbackChatModel, LLMFallbackError, build_chat_model
from tests.asking import STREAMED, merged
from tests.servers.conftest import SpecOf
from tests.servers.process import until
from tests.servers.systems import System

PROMPT = "Count, please, for as long as you can."

_UNDER_WAY = 5
"""Chunks."""
_UNSEEN_S = 2.0
"""Seconds a call is given to begin of which nothing is seen before its end."""
_LONGEST_S = 120


@dataclass(frozen=True)
class Manner:
    """How somebody calls: plainly, or streamed under a policy for streams that break."""

    mode: str
    on_stream_break: str = "raise"

    def __str__(self) -> str:
        return f"{self.mode}-{self.on_stream_break}" if self.is_streamed else self.mode

    @property
    def is_streamed(self) -> bool:
        return self.mode in STREAMED

    @property
    def shows(self) -> bool:
        """Whether a caller sees a reply grow."""
        return self.is_streamed and self.on_stream_break != "hold"


MANNERS = (
    Manner("invoke"),
    Manner("ainvoke"),
    *(Manner(mode, policy) for mode in STREAMED for policy in ("raise", "hold", "continue")),
)


class Caller:
    """One call in a thread, and what came of it. Times are `time.monotonic()`."""

    def __init__(self, manner: Manner, model: FallbackChatModel, prompt: str, **parameters: Any) -> None:
        self.manner, self._model, self._prompt, self._parameters = manner, model, prompt, parameters
        self.chunks: list[tuple[float, Any]] = []
        self.error: LLMFallbackError | None = None
        self.ended_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=str(manner))

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(_LONGEST_S)
        assert self.ended_at is not None, f"{self.manner}: no end after {_LONGEST_S} s"

    @property
    def is_under_way(self) -> bool:
        return not self.manner.shows or len(self.chunks) >= _UNDER_WAY or self.ended_at is not None

    @property
    def message(self) -> Any:
        """The reply, merged if it came in chunks."""
        if self.error is not None:
            raise self.error
        return merged([chunk for _, chunk in self.chunks])

    @property
    def text(self) -> str:
        """What was delivered, whatever the end."""
        return "".join(chunk.text for _, chunk in self.chunks)

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.message.response_metadata["llm_fallback"]
        return facts

    @property
    def relieved_at(self) -> float:
        """When the first content came of whoever answered in the end; when the error came if nobody did."""
        assert self.ended_at is not None
        if self.error is not None:
            return self.ended_at
        stitches = self.facts.get("stitches")
        begun = stitches[-1]["at"] if stitches else 0
        lengths = accumulate(len(chunk.text) for _, chunk in self.chunks)
        return next(at for (at, _), length in zip(self.chunks, lengths, strict=True) if length > begun)

    def _run(self) -> None:
        try:
            with self._model:
                asyncio.run(self._acall()) if self.manner.mode.startswith("a") else self._call()
        except LLMFallbackError as error:
            self.error = error
        self.ended_at = time.monotonic()

    def _call(self) -> None:
        if self.manner.is_streamed:
            for chunk in self._model.stream(self._prompt, **self._parameters):
                self._take(chunk)
        else:
            self._take(self._model.invoke(self._prompt, **self._parameters))

    async def _acall(self) -> None:
        if self.manner.is_streamed:
            async for chunk in self._model.astream(self._prompt, **self._parameters):
                self._take(chunk)
        else:
            self._take(await self._model.ainvoke(self._prompt, **self._parameters))

    def _take(self, chunk: Any) -> None:
        self.chunks.append((time.monotonic(), chunk))


def caller_of(
    system: System,
    manner: Manner,
    spec_of: SpecOf,
    *others: System,
    prompt: str = PROMPT,
    deployments: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Caller:
    """A caller of the chain that begins with the system, and goes on with others before the backup."""
    served = {system.name: {"model": "tiny" if manner.is_streamed else system.slow_model}}
    spec = spec_of(system, *others, deployments={**served, **(deployments or {})})
    model = build_chat_model(spec, temperature=0, on_stream_break=manner.on_stream_break)
    return Caller(manner, model, prompt, **parameters)


def start(callers: Sequence[Caller]) -> None:
    """Returns when every call is in the middle of its reply; those of which nothing is seen begin earlier."""
    unseen = [caller for caller in callers if not caller.manner.shows]
    for caller in unseen:
        caller.start()
    if unseen:
        time.sleep(_UNSEEN_S)
    for caller in callers:
        if caller.manner.shows:
            caller.start()
    until(lambda: all(caller.is_under_way for caller in callers), _LONGEST_S)
    early = [
        (str(caller.manner), caller.error or caller.facts["attempts"])
        for caller in callers
        if caller.ended_at is not None
    ]
    assert not early, f"over before anything happened: {early}"
