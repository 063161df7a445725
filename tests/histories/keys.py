"""API keys that are functions: each changes its key now and then, may be slow, and may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.histories.calls import Call, current_call
from tests.histories.servers import SimulatedServers
from tests.histories.world import World

_CHANGES_EVERY_S = 2.0
_SLOW_S = 1.5


class NoKey(Exception):
    """There is none."""


class Keys:
    """The key functions of a history."""

    def __init__(self, world: World, servers: SimulatedServers) -> None:
        self._world, self._servers = world, servers

    def function(self, deployment: str, kind: str) -> Callable[[], str | Awaitable[str]]:
        """That of a deployment: a `function`, or an `async function`, which may be slow."""

        def ask() -> str:
            return self._told(deployment)

        async def ask_async() -> str:
            call, since = current_call.get(), self._world.now
            try:
                if self._servers.has_trouble(deployment, "slow key"):
                    await asyncio.sleep(_SLOW_S)
                return self._told(deployment)
            finally:
                if call is not None:
                    call.asked_s += self._world.now - since

        return ask if kind == "function" else ask_async

    def _told(self, deployment: str) -> str:
        call = current_call.get()
        answer: str | Exception = f"key-{deployment}-{int(self._world.now / _CHANGES_EVERY_S)}"
        if self._servers.has_trouble(deployment, "no key"):
            answer = NoKey("nobody is logged in")
        if call is not None:
            call.keys.setdefault(deployment, []).append(answer)
        self._world.note(f"{'nobody' if call is None else call.name} asks for the key of {deployment}: {answer}")
        if isinstance(answer, Exception):
            raise answer
        return answer


def given_key(call: Call, deployment: str) -> str | None:
    """The key that a call was told last."""
    told = call.keys.get(deployment)
    last = told[-1] if told else None
    return last if isinstance(last, str) else None
