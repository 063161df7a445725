"""Secrets of a spec: masked where a spec is shown, redacted in what servers say, in clear only in a request."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr

from llm_fallback._forks import fork_safe_lock
from llm_fallback.spec.locations import Path
from llm_fallback.spec.spellings import Wanted, places, spellings, struck
from llm_fallback.spec.variables import references

_ENDINGS = ("key", "token", "secret", "password", "credentials", "authorization", "cookie")
_LIKE_A_KEY = re.compile(r"(?i)^(bearer |basic )|^[a-z]{2,6}[-_](?=.*\d)[\w-]{12,}$|^AIza|://[^/]*@")
_LONGEST_SHOWN = 60

_LOGIN = re.compile(r"(://)[^\s/@'\"<>]+(?=@)")
_IN_QUERY = re.compile(
    r"""([?&][\w.-]*(?:key|token|secret|password|credentials?|sig|signature)=)([^\s&#'"<>]+)""", re.IGNORECASE
)
_IN_ADDRESSES = (_LOGIN, _IN_QUERY)
_IN_HEADERS = (
    re.compile(r"\b((?:bearer|basic) +)(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"\b(x-amz-security-token:)[^\s'\"]+", re.IGNORECASE),
)
"""Logins of which nobody told us, where servers write headers out: Amazon does when a signature does not match."""
_PLACES = (*_IN_ADDRESSES, *_IN_HEADERS)
"""What stands behind the first group is a secret, whether it is known or not."""

_AUTHORITY_END = re.compile("[/?#]")
_SHORTEST_USER_TOKEN = 12
"""Characters from which on a user without a password may be a token; shorter ones are names, and words elsewhere."""

REDACTED = "***"
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
    """Replaces secrets in texts: those of a spec, the last 1,024 that were added, and whatever stands in an address or
    a header where a secret would. Safe between threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = fork_safe_lock()
        self._of_spec: frozenset[str] = frozenset()
        self._added: dict[str, None] = {}
        self.replace_all(secrets)

    def replace_all(self, secrets: Iterable[str]) -> None:
        """Set the secrets of the spec. Former ones are kept as added ones, for calls still running with them."""
        with self._lock:
            former, self._of_spec = self._of_spec, frozenset(secrets)
            self._remember(former)

    def add(self, *secrets: str) -> None:
        """Add secrets; each is redacted until 1,024 others were added after it."""
        # Every call adds its key, which is nearly always known: that is seen without taking the lock.
        if not self._known.issuperset(secrets):
            with self._lock:
                self._remember(secrets)

    def _remember(self, secrets: Collection[str]) -> None:
        """Add secrets. To be called with the lock held: two threads at once would lose one of theirs."""
        former = (secret for secret in self._added if secret not in secrets)
        self._added = dict.fromkeys((*former, *secrets))
        for oldest in list(self._added)[:-_MOST_ADDED]:
            del self._added[oldest]
        self._spellings: Wanted | None = None
        # Set last: `add` takes a secret in here for one that is redacted already.
        self._known = frozenset((*self._of_spec, *self._added))

    def __call__(self, text: str) -> str:
        text = struck(text, places(text, self._wanted()), REDACTED)
        for pattern in _PLACES:
            text = pattern.sub(_redacted, text)
        return text

    def _wanted(self) -> Wanted:
        """What to look for, worked out when something is looked for: most keys that are added are never echoed."""
        spelt = self._spellings
        if spelt is None:
            with self._lock:
                parts = (part for secret in self._known for part in (secret, *_parts(secret)))
                spelt = self._spellings = spellings(parts)
        return spelt

    def __repr__(self) -> str:
        return f"Redactor({len(self._known)} secrets)"


def _redacted(found: re.Match[str]) -> str:
    # A function, because a template is worked through even where nothing is found.
    return f"{found[1]}{REDACTED}"


_SCHEME = re.compile(r"(?i)(bearer|basic|token|key) +(\S.*)")


def _parts(secret: str) -> Iterator[str]:
    """The secrets within one: what stands behind the scheme of a login, its password, the keys of a document."""
    if login := _SCHEME.fullmatch(secret):
        yield login[2]
        if login[1].lower() == "basic":
            with suppress(ValueError):
                yield b64decode(login[2], validate=True).decode().partition(":")[2]
    elif secret.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            yield from secrets_in(mask(json.loads(secret)))


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


class Address(str):
    """A server's address as it is written, whose repr shows no password and no key in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shown_address(self))


def shown_address(address: str) -> str:
    """An address without the secrets in it: `http://***@host/v1?key=***`."""
    for pattern in _IN_ADDRESSES:
        address = pattern.sub(_redacted, address)
    return address


def secrets_of_address(url: str) -> Iterator[str]:
    """The secrets in an address, as written and unquoted: password, or token in its place, and keys of its query."""
    for secret in _written_in(url):
        yield secret
        if unquote(secret) != secret:
            yield unquote(secret)


def _written_in(url: str) -> Iterator[str]:
    login, _, _ = _AUTHORITY_END.split(url.partition("://")[2])[0].rpartition("@")
    user, _, password = login.partition(":")
    if password or len(user) >= _SHORTEST_USER_TOKEN:
        yield password or user
    yield from (found[2] for found in _IN_QUERY.finditer(url))
