"""What a fake server was asked, kept for the test to look at. Threads may share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Condition
from time import monotonic
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    """One request as its deployment saw it.

    Times are in seconds: `time.monotonic()` at a server, the clock's of a model in the process, where there are
    neither headers nor connections.
    """

    deployment: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Mapping[str, Any]
    at: float
    stream: bool
    connection: int
    """The client's port: requests with the same one came over the same connection."""
    answered_at: float | None = None
    """When the last of the answer, or the cut that ends it, was handed to the network."""
    client_gone_at: float | None = None
    """When the client left before that; None if it stayed."""

    @property
    def under_way(self) -> bool:
        """Whether it is still being answered."""
        return self.answered_at is None and self.client_gone_at is None


class Inbox:
    """The requests to the deployments of one fake, oldest first."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.now = now
        self._changed = Condition()
        self._received: dict[int, Received] = {}
        self._last = 0

    def add(self, received: Received) -> int:
        """Keeps a request; the number names it from now on."""
        with self._changed:
            self._last += 1
            self._received[self._last] = received
            self._changed.notify_all()
            return self._last

    def answered(self, number: int) -> None:
        """All of the answer is on its way."""
        self._change(number, lambda one: replace(one, answered_at=self.now()))

    def client_gone(self, number: int) -> None:
        """The client left in the middle of it."""
        self._change(number, lambda one: replace(one, client_gone_at=self.now()))

    def all(self) -> list[Received]:
        """A snapshot."""
        with self._changed:
            return list(self._received.values())

    def clear(self) -> None:
        """Forgets everything, requests under way included."""
        with self._changed:
            self._received.clear()
            self._changed.notify_all()

    def wait_until(self, predicate: Callable[[], object], timeout_s: float) -> bool:
        """Whether the predicate came true in time. It is asked again after every change."""
        with self._changed:
            return bool(self._changed.wait_for(predicate, timeout_s))

    def _change(self, number: int, change: Callable[[Received], Received]) -> None:
        with self._changed:
            if number in self._received:
                self._received[number] = change(self._received[number])
                self._changed.notify_all()
