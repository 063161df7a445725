"""The keys of those who may call, and the comparison that tells nothing of them."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from llm_fallback.errors import SpecError
from llm_fallback.spec import Spec
from llm_fallback.spec.locations import Problem
from llm_fallback.spec.variables import Environment

_BEARER = b"bearer "


class CallerKeys:
    """The keys that a server accepts; without any it needs none, and answers nobody but its own machine."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # Digests are of one length, so the time a comparison takes tells not even that of a key.
        self._digests = tuple(sha256(key.encode()).digest() for key in keys)

    @classmethod
    def of_spec(cls, spec: Spec, environ: Mapping[str, str]) -> CallerKeys:
        """The keys under `serve` in a spec. Raises SpecError for variables that are not set, and for an empty key."""
        variables = Environment(spec.environment(environ), spec.locations)
        paths = [("serve", "keys", index) for index in range(len(spec.serve.keys))]
        keys = [variables.text(key.get_secret_value(), path) for key, path in zip(spec.serve.keys, paths, strict=True)]
        mistakes = variables.mistakes or [
            Problem(path, "is empty, and would let everybody in", "set its variable, or leave it out").at(
                spec.locations
            )
            for path, key in zip(paths, keys, strict=True)
            if not key.strip()
        ]
        del variables
        if mistakes:
            raise SpecError(mistakes)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers, their names in lower case, brings one of the keys."""
        sent = next((value for name, value in headers if name == b"authorization"), b"")
        if sent[: len(_BEARER)].lower() != _BEARER:
            return False
        digest = sha256(sent[len(_BEARER) :].strip()).digest()
        # All of them, whichever fits.
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone; a name other than `localhost` is not looked up and counts as none."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_from_another_machine(scope: Mapping[str, Any]) -> bool:
    """Whether a request came from another machine, or from a page of another machine's in a browser on this one. One by
    a socket of the file system, or by no network, did not."""
    client = scope.get("client")
    try:
        is_remote = client is not None and not ip_address(client[0]).is_loopback
    except ValueError:
        is_remote = False
    return is_remote or any(name == b"origin" and not _is_page_of_loopback(value) for name, value in scope["headers"])


def _is_page_of_loopback(origin: bytes) -> bool:
    try:
        return is_loopback(urlsplit(origin.decode("latin-1")).hostname or "")
    except ValueError:
        return False
