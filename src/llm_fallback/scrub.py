"""Secrets kept out of what is shown, and let out only where a request is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

STRUCK = "***"
_SHORTEST = 4
"""Shorter secrets are not struck out: `on` or `1` would strike half of every text."""


class Scrubber:
    """Strikes known secrets out of texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: tuple[str, ...] = ()
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Know further secrets, each also as it looks in a URL."""
        forms = {form for secret in secrets for form in (secret, quote(secret, safe="")) if len(secret) >= _SHORTEST}
        if not forms <= set(self._secrets):
            # The longest first, so that a secret within another does not leave the rest of it standing.
            self._secrets = tuple(sorted({*self._secrets, *forms}, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, STRUCK)
        return text

    def __repr__(self) -> str:
        return f"Scrubber({len(self._secrets)} secrets)"


def revealed(value: Any) -> Any:
    """Nested data with its SecretStr values in clear. The result must not outlive the request it is for."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: revealed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [revealed(item) for item in value]
    return value


def secrets_in(value: Any) -> Iterator[str]:
    """Every SecretStr in nested data, in clear."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secrets_in(item)


def password_of(url: str) -> Iterator[str]:
    """The password a URL carries, if it does."""
    try:
        password = urlsplit(url).password
    except ValueError:
        # No address anybody can read; what stands where a password would is one all the same.
        password = url.rpartition("@")[0].rpartition(":")[2]
    if password:
        yield password
        yield unquote(password)
