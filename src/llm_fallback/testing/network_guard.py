"""A guard against the network: whoever would reach beyond this machine gets an error instead."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Self

import pytest

_BY_NAME = ("getaddrinfo", "gethostbyname", "gethostbyname_ex")
_BY_ADDRESS = ("connect", "connect_ex", "sendto")


class NetworkReached(RuntimeError):
    """Something would have reached beyond this machine. No OSError, which clients repeat and fall back from."""


class Guard:
    """While it is entered, Python's sockets reach this machine only, in every thread.

    Libraries that bring sockets of their own in C (uvloop, gRPC, c-ares) do not ask Python and are not seen.
    """

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._reached: list[str] = []

    def __enter__(self) -> Self:
        for name in _BY_NAME:
            self._replace(socket, name, self._look_up)
        for name in _BY_ADDRESS:
            self._replace(socket.socket, name, self._reach)
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()

    def complaint(self) -> str | None:
        """Who would have been reached since the last time this was asked; None for nobody."""
        reached, self._reached = self._reached, []
        return _told(reached) if reached else None

    def explain(self, error: BaseException) -> None:
        """Tell with a test's own error who would have been reached; it may have failed for that."""
        complaint = self.complaint()
        if complaint is not None and not isinstance(error, NetworkReached):
            error.add_note(complaint)

    def _replace(self, owner: Any, name: str, check: Any) -> None:
        original = getattr(owner, name)

        def checked(*args: Any, **kwargs: Any) -> Any:
            check(*args, **kwargs)
            return original(*args, **kwargs)

        self._patch.setattr(owner, name, checked)

    def _look_up(self, host: Any = None, *_: Any, **__: Any) -> None:
        # A number is not looked up; whether it is ours shows when somebody connects to it.
        if not (_is_number(host) or _is_here(host)):
            self._refuse(str(host))

    def _reach(self, sock: socket.socket, *args: Any) -> None:
        address = args[-1]
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            self._refuse(f"{address[0]}:{address[1]}")

    def _refuse(self, whom: str) -> None:
        self._reached.append(whom)
        raise NetworkReached(_told([whom]))


def _told(reached: list[str]) -> str:
    return (
        f"the test would reach {', '.join(dict.fromkeys(reached))}, which is not this machine; "
        "ask a fake (fake_llm, fake_llm_server), or mark the test allow_network"
    )


def _is_here(host: Any) -> bool:
    """Whether a host is this machine, by a name or address nobody else can have."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_number(name) and _is_own(ipaddress.ip_address(name.partition("%")[0]))


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _is_number(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    try:
        ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return False
    return True
