"""Fake deployments: the script of each, and the requests it received. Threads may share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Condition
from time import monotonic
from typing import Any, cast

from llm_fallback._forks import after_fork_in_child
from llm_fallback.errors import did_you_mean
from llm_fallback.spec.secrets import REDACTED, is_secret_name
from llm_fallback.testing.scripts import Script, Scripted, Step, Written


class ReceivedHeaders(dict[str, str]):
    """The headers of a request, whose repr shows no secret."""

    def __repr__(self) -> str:
        return repr({name: REDACTED if is_secret_name(name) else text for name, text in self.items()})


@dataclass(frozen=True, slots=True)
class Received:
    """One request as its deployment received it.

    Times are in seconds: `time.monotonic()` of a server, the clock's of a model in the process, which has neither
    headers nor connections.
    """

    deployment: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case. What a secret's name has is not in the repr, which ends up in the logs of tests."""
    body: Mapping[str, Any]
    at: float
    stream: bool
    connection: int
    """The client's port: requests with the same port came over the same connection."""
    answered_at: float | None = None
    """When the last of the answer, or the cut that ends it, was handed to the network."""
    client_gone_at: float | None = None
    """When the client left before that; None if it stayed."""

    @property
    def under_way(self) -> bool:
        """Whether it is still being answered."""
        return self.answered_at is None and self.client_gone_at is None


class FakeDeployments:
    """Fake deployments by name, in their order. Without scripts there is one, `fake`, with sensible answers."""

    def __init__(
        self,
        scripts: Mapping[str, Scripted] | None = None,
        *,
        chain: str = "default",
        now: Callable[[], float] = monotonic,
    ) -> None:
        named: Mapping[str, Scripted] = {"fake": None} if scripts is None else scripts
        self.chain = chain
        """The name of the chain that `chain_spec` makes."""
        self._scripts = {name: Script(scripted) for name, scripted in named.items()}
        self._log = RequestLog(now)

    @property
    def deployments(self) -> list[str]:
        """The names that have a script, in their order."""
        return list(self._scripts)

    def script(self, name: str, *steps: Scripted) -> None:
        """Give a deployment another script from its next request on.

        One step is repeated for ever; several steps, or one list, are played once. Without any, the deployment makes up
        sensible answers.
        """
        self._check(name)
        self._scripts[name] = Script(steps[0] if len(steps) == 1 else cast("Sequence[Written]", steps))

    def received(self, name: str | None = None) -> list[Received]:
        """The requests so far, oldest first; of one deployment if it is named."""
        if name is not None:
            self._check(name)
        return [received for received in self._log.all() if name in (None, received.deployment)]

    def reset(self) -> None:
        """Forget the requests received so far."""
        self._log.clear()

    def chain_spec(
        self,
        base: Callable[[str], str],
        backend: str,
        deployments: Mapping[str, Mapping[str, Any]],
        chain_settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """A spec of a chain that tries the deployments in their order; `base` returns the `api_base` of one."""
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
        """Log a request; returns the step of the script that answers it (None: any sensible answer) and its number."""
        script = self._scripts.setdefault(received.deployment, Script())
        return script.next(received.body.get("messages") or ()), self._log.add(received)

    def answered(self, number: int) -> None:
        """Note that the whole answer to a request was sent."""
        self._log.answered(number)

    def client_gone(self, number: int) -> None:
        """Note that the client left before that."""
        self._log.client_gone(number)

    def _check(self, name: str) -> None:
        if name in self._scripts:
            return
        hint = did_you_mean(name, self._scripts, f"there are {', '.join(map(repr, self._scripts))}")
        raise ValueError(f"no fake deployment is called {name!r}; {hint}")


class RequestLog:
    """The requests to the deployments of one fake, oldest first."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.now = now
        self._received: dict[int, Received] = {}
        self._last = 0
        self._begin()
        # A thread that is waiting in the parent holds a condition that nobody in the child would ever give back.
        after_fork_in_child(self, RequestLog._begin)

    def _begin(self) -> None:
        self._changed = Condition()

    def add(self, received: Received) -> int:
        """Log a request; returns its number."""
        with self._changed:
            self._last += 1
            self._received[self._last] = received
            self._changed.notify_all()
            return self._last

    def answered(self, number: int) -> None:
        """Note that the whole answer was sent."""
        self._change(number, lambda received: replace(received, answered_at=self.now()))

    def client_gone(self, number: int) -> None:
        """Note that the client left before the whole answer was sent."""
        self._change(number, lambda received: replace(received, client_gone_at=self.now()))

    def all(self) -> list[Received]:
        """The requests so far."""
        with self._changed:
            return list(self._received.values())

    def clear(self) -> None:
        """Forget all requests, also those that are still being answered."""
        with self._changed:
            self._received.clear()
            self._changed.notify_all()

    def wait_until(self, predicate: Callable[[], object], timeout_s: float) -> bool:
        """Wait until the predicate is true, tested again after every change; False if the time is up first."""
        with self._changed:
            return bool(self._changed.wait_for(predicate, timeout_s))

    def _change(self, number: int, change: Callable[[Received], Received]) -> None:
        with self._changed:
            if number in self._received:
                self._received[number] = change(self._received[number])
                self._changed.notify_all()
