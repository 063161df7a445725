"""Secrets of a spec: masked where a spec is shown, redacted in what servers say, in clear only in a request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from llm_fallback._forks import fork_safe_lock
from llm_fallback.spec.locations import Path
from llm_fallback.spec.variables import references

_ENDINGS = ("key", "token", "secret", "password", "credentials", "authorization")
_LIKE_A_KEY = re.compile(r"(?i)^(bearer |basic )|^[a-z]{2,6}[-_](?=.*\d)[\w-]{12,}$|^AIza|://[^/]*@")
_LONGEST_SHOWN = 60

REDACTED = "***"
_SHORTEST_REDACTED = 4
"""Shorter secrets are not redacted: `on` or `1` would blot out half of every text."""
_MOST_ADDED = 1024
"""How many added secrets are remembered. A key minted for each call is useless after it, and remembering all of them
would make every call slower than the one before; so no more calls than this may have keys of their own at once."""


def is_secret_name(name: str) -> bool:
    """Whether the value of this key is a secret: `api_key`, `X-Auth-Token`, `vertex_credentials`."""
    return name.lower().endswith(_ENDINGS)


def mask(value: Any, secret: bool = False) -> Any:
    """Nested data with a SecretStr for each text or number under a secret key, and for each text with a variable."""
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
    """A value as the text of a mistake shows it; None if it is, or could be, a secret."""
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
        return None if len(value) > _LONGEST_SHOWN or _LIKE_A_KEY.search(value) else repr(value)
    return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


class Redactor:
    """Replaces known secrets in texts: those of a spec, and the last 1,024 that were added. Safe between threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = fork_safe_lock()
        self._of_spec: dict[str, frozenset[str]] = {}
        self._added: dict[str, frozenset[str]] = {}
        self.replace_all(secrets)

    def replace_all(self, secrets: Iterable[str]) -> None:
        """Set the secrets of the spec. Former ones are kept as added ones, for calls still running with them."""
        with self._lock:
            former, self._of_spec = self._of_spec, _encodings(secrets)
            self._remember(former)

    def add(self, *secrets: str) -> None:
        """Add secrets; each is redacted until 1,024 others were added after it."""
        # Every call adds its key, which is nearly always known: that is seen without taking the lock.
        if not self._known.issuperset(secrets):
            with self._lock:
                self._remember(_encodings(secrets))

    def _remember(self, secrets: Mapping[str, frozenset[str]]) -> None:
        """Add secrets. To be called with the lock held: two threads at once would lose one of theirs."""
        former = {secret: encodings for secret, encodings in self._added.items() if secret not in secrets}
        self._added = {**former, **secrets}
        for oldest in list(self._added)[:-_MOST_ADDED]:
            del self._added[oldest]
        encodings = frozenset[str]().union(*self._of_spec.values(), *self._added.values())
        # The longest first, so that a secret within another does not leave the rest of it standing.
        self._to_redact = tuple(sorted(encodings, key=len, reverse=True))
        # Set last: `add` takes a secret in here for one that is redacted already.
        self._known = frozenset((*self._of_spec, *self._added))

    def __call__(self, text: str) -> str:
        for secret in self._to_redact:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return text

    def __repr__(self) -> str:
        return f"Redactor({len(self._known)} secrets)"


def _encodings(secrets: Iterable[str]) -> dict[str, frozenset[str]]:
    """The forms in which each secret is redacted: as it is, and quoted as in a URL."""
    return {
        secret: frozenset((secret, quote(secret, safe="")) if len(secret) >= _SHORTEST_REDACTED else ())
        for secret in secrets
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
    """The password in a URL, as written and unquoted; nothing if there is none."""
    try:
        password = urlsplit(url).password
    except ValueError:
        # Not a valid URL; what stands where a password would is taken for one.
        password = url.rpartition("@")[0].rpartition(":")[2]
    if password:
        yield password
        yield unquote(password)
