"""What is secret in a spec: masked where it is shown, struck from what servers say, in clear only in a request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from llm_fallback.spec.locations import Path
from llm_fallback.spec.variables import references

_ENDINGS = ("key", "token", "secret", "password", "credentials", "authorization")
_LIKE_A_KEY = re.compile(r"(?i)^(bearer |basic )|^[a-z]{2,6}[-_](?=.*\d)[\w-]{12,}$|^AIza|://[^/]*@")
_LONGEST_SHOWN = 60


def is_secret_name(name: str) -> bool:
    """Whether a value under this key is a secret: `api_key`, `X-Auth-Token`, `vertex_credentials`."""
    return name.lower().endswith(_ENDINGS)


def mask(value: Any, secret: bool = False) -> Any:
    """Data with `SecretStr` for each text or number under a secret key, and each text with a variable."""
    match value:
        case str():
            return SecretStr(value) if secret or references(value) else value
        case bool():
            return value
        case int() | float():
            return SecretStr(str(value)) if secret else value
        case Mapping():
            return {key: mask(item, secret or is_secret_name(key)) for key, item in value.items()}
        case list() | tuple():
            return [mask(item, secret) for item in value]
    return value


def safe_repr(value: Any, path: Path) -> str | None:
    """A value in the words of a mistake; None where it is, or could be, a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
    if any(isinstance(part, str) and is_secret_name(part) for part in path):
        return None
    if isinstance(value, str):
        return _shown_text(value)
    return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def _shown_text(text: str) -> str | None:
    if len(text) > _LONGEST_SHOWN or _LIKE_A_KEY.search(text):
        return None
    return repr(text)


REDACTED = "***"
_SHORTEST = 4
"""Shorter secrets are not struck out: `on` or `1` would strike half of every text."""
_MOST_LEARNT = 1024
"""A key that is minted for each call is of no use to anybody after it; kept for ever, they made every call slower than
the one before. More calls than this may not be under way with a key of their own each."""


class Redactor:
    """Strikes known secrets out of texts: those of a spec, and the latest that were learnt. Threads may share it."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = Lock()
        self._kept: dict[str, frozenset[str]] = {}
        self._learnt: dict[str, frozenset[str]] = {}
        self.replace_all(secrets)

    def replace_all(self, secrets: Iterable[str]) -> None:
        """Know these until others are kept instead. Those kept before count as learnt now: calls under way have them
        still."""
        with self._lock:
            former, self._kept = self._kept, _encodings(secrets)
            self._learn(former)

    def add(self, *secrets: str) -> None:
        """Know further secrets for as long as they are among the latest."""
        # Every call learns its key, and nearly always knows it: that is found out without waiting for other threads.
        if not self._known.issuperset(secrets):
            with self._lock:
                self._learn(_encodings(secrets))

    def _learn(self, secrets: Mapping[str, frozenset[str]]) -> None:
        """Only under the lock: of what two threads learnt at once one would be lost, and shown."""
        former = {secret: shapes for secret, shapes in self._learnt.items() if secret not in secrets}
        self._learnt = {**former, **secrets}
        for oldest in list(self._learnt)[:-_MOST_LEARNT]:
            del self._learnt[oldest]
        shapes = frozenset[str]().union(*self._kept.values(), *self._learnt.values())
        # The longest first, so that a secret within another does not leave the rest of it standing.
        self._struck = tuple(sorted(shapes, key=len, reverse=True))
        # Last: whoever finds a secret in here relies on its being struck.
        self._known = frozenset((*self._kept, *self._learnt))

    def __call__(self, text: str) -> str:
        for secret in self._struck:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return text

    def __repr__(self) -> str:
        return f"Scrubber({len(self._known)} secrets)"


def _encodings(secrets: Iterable[str]) -> dict[str, frozenset[str]]:
    """Secrets, each with the shapes it is to be struck out in: as it is, and as it looks in a URL."""
    return {
        secret: frozenset((secret, quote(secret, safe="")) if len(secret) >= _SHORTEST else ()) for secret in secrets
    }


def unmask(value: Any) -> Any:
    """Nested data with its SecretStr values in clear. The result must not outlive the request it is for."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: unmask(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unmask(item) for item in value]
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
