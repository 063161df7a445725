"""A deployment's API key: known from the spec, or returned by a function that is asked for every attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class Credential:
    """Where a deployment's API key comes from."""

    source: SecretStr | Callable[[], Any] | None
    """None: the deployment has no key of its own."""

    is_callable: bool = field(init=False)
    """Whether a function has to be asked for the key."""
    value: SecretStr | None = field(init=False)
    """The key, where it is known without asking."""

    def __post_init__(self) -> None:
        # Every attempt reads these, so they are worked out once.
        object.__setattr__(self, "is_callable", callable(self.source))
        object.__setattr__(self, "value", self.source if isinstance(self.source, SecretStr) else None)

    def ask(self) -> Any:
        """The key, or what its function returns; that may be an awaitable."""
        return self.source() if callable(self.source) else self.source


def as_secret(answer: Any) -> SecretStr | None:
    """What `Credential.ask` returned, as a secret; None where there is no key."""
    return answer if answer is None or isinstance(answer, SecretStr) else SecretStr(str(answer))
