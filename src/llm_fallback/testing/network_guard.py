"""A guard against the network: a connection beyond this machine is an error."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Self

import pytest

_BY_NAME = ("getaddrinfo", "gethostbyname", "gethostbyname_ex")
_BY_ADDRESS = ("connect", "connect_ex", "sendto")


class NetworkReached(RuntimeError):
    """A connection beyond this machine was refused. Not an OSError, which clients retry and fall back from."""


class Guard:
    """While it is entered, Python's sockets connect to this machine only, in every thread.

    Libraries with their own sockets in C (uvloop, gRPC, c-ares) are not guarded.
    """

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._reached: list[str] = []

    def __enter__(self) -> Self:
        for name in _BY_NAME:
            self._replace(socket, name, self._check_host)
        for name in _BY_ADDRESS:
            self._replace(socket.socket, name, self._check_address)
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()

    def complaint(self) -> str | None:
        """The error for the hosts that were refused since the last complaint; None if there were none."""
        reached, self._reached = self._reached, []
        return _message(reached) if reached else None

    def explain(self, error: BaseException) -> None:
        """Add the complaint to a test's own error, which it may have caused."""
        complaint = self.complaint()
        if complaint is not None and not isinstance(error, NetworkReached):
            error.add_note(complaint)

    def _replace(self, owner: Any, name: str, check: Any) -> None:
        original = getattr(owner, name)

        def checked(*args: Any, **kwargs: Any) -> Any:
            check(*args, **kwargs)
            return original(*args, **kwargs)

        self._patch.setattr(owner, name, checked)

    def _check_host(self, host: Any = None, *_: Any, **__: Any) -> None:
        # An address is not looked up; it is checked when it is connected to.
        if not (_is_address(host) or _is_this_machine(host)):
            self._refuse(str(host))

    def _check_address(self, sock: socket.socket, *args: Any) -> None:
        address = args[-1]
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_this_machine(address[0]):
            self._refuse(f"{address[0]}:{address[1]}")

    def _refuse(self, host: str) -> None:
        self._reached.append(host)
        raise NetworkReached(_message([host]))


def _message(reached: list[str]) -> str:
    return (
        f"the test would reach {', '.join(dict.fromkeys(reached))}, which is not this machine; "
        "ask a fake (fake_llm, fake_llm_server), or mark the test allow_network"
    )


def _is_this_machine(host: Any) -> bool:
    """Whether a host is this machine, by a name or an address that no other machine can have."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and _is_local(ipaddress.ip_address(name.partition("%")[0]))


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _is_address(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    try:
        ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return False
    return True
