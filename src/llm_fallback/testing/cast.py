"""The deployments of a fake: what each does, and what it was asked. Threads may share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from time import monotonic
from typing import Any

from llm_fallback.testing.received import Inbox, Received
from llm_fallback.testing.scripts import Script, Scripted, Step, step


class Cast:
    """Fake deployments by name, in their order. Without scripts there is one, `fake`, that answers sensibly."""

    def __init__(
        self,
        scripts: Mapping[str, Scripted] | None = None,
        *,
        chain: str = "default",
        now: Callable[[], float] = monotonic,
    ) -> None:
        named: Mapping[str, Scripted] = {"fake": None} if scripts is None else scripts
        self.chain = chain
        """What `chain_spec` calls the chain over the deployments."""
        self._scripts = {name: Script(scripted) for name, scripted in named.items()}
        self._inbox = Inbox(now)

    @property
    def deployments(self) -> list[str]:
        """The names that have a script, in their order."""
        return list(self._scripts)

    def script(self, name: str, *steps: Scripted) -> None:
        """Gives a deployment another script from its next request on.

        One step is played for ever; several, or one list, once. Without any it answers sensibly.
        """
        self._check(name)
        self._scripts[name] = Script(steps[0] if len(steps) == 1 else [step(word) for word in steps])

    def received(self, name: str | None = None) -> list[Received]:
        """The requests so far, oldest first; those of one deployment if it is named."""
        if name is not None:
            self._check(name)
        return [received for received in self._inbox.all() if name in (None, received.deployment)]

    def reset(self) -> None:
        """Forgets what was received."""
        self._inbox.clear()

    def chain_spec(
        self,
        base: Callable[[str], str],
        backend: str,
        deployments: Mapping[str, Mapping[str, Any]],
        chain_settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """A spec of a chain that tries the deployments in their order; `base` gives their addresses."""
        for name in deployments:
            self._check(name)
        return {
            "deployments": {
                name: {"backend": backend, "model": name, "api_base": base(name), **deployments.get(name, {})}
                for name in self._scripts
            },
            "chains": {self.chain: {"tiers": self.deployments, **chain_settings}},
        }

    def begin(self, received: Received) -> tuple[Step | None, int]:
        """Keeps a request: what happens to it, and its number."""
        script = self._scripts.setdefault(received.deployment, Script())
        return script.next(), self._inbox.add(received)

    def answered(self, number: int) -> None:
        """All of the answer to a request is on its way."""
        self._inbox.answered(number)

    def left(self, number: int) -> None:
        """The client left in the middle of an answer."""
        self._inbox.client_gone(number)

    def _check(self, name: str) -> None:
        if name in self._scripts:
            return
        near = get_close_matches(name, self._scripts, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, self._scripts))}"
        raise ValueError(f"no fake deployment is called {name!r}; {hint}")
