"""What a request under way may do: which hosts it asks, what it carries and fetches, which redirects it follows.

HTTP libraries follow redirects to any host, with every header but `Authorization`, and litellm's clients, which are
shared with everybody else in the process, do so too. So the step in which an httpx client makes the next request of a
redirect is wrapped: it heeds the `RequestGuard` of the request under way in its context, and leaves everybody else
alone. So is the step in which one sends: what a library raises before it is nobody's answer; no request goes out there
to a stranger, or that lacks a part of its messages; and the body of an answer is bounded. No redirect is followed that
carries a prompt, a header or a key to a host the spec does not name. Where litellm only translates, the request is
taken in that step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from yarl import URL

from llm_fallback.engine.transport import Fault
from llm_fallback.litellm_adapter.body import ENCODINGS, BodyRefused, bound_body, bound_sync_body
from llm_fallback.litellm_adapter.errors import links_of
from llm_fallback.litellm_adapter.hosts import litellm_asks
from llm_fallback.litellm_adapter.media import Medium, holds_messages, left_out

_KEEPS_THE_REQUEST = (307, 308)
"""Status codes after which the same request is sent again; after any other it would be another one."""


_FETCHING = ("GET", "HEAD")


class LinkRefused(Exception):
    """Carries the refusal out of whichever HTTP library was about to fetch a picture or a file."""


class MediaLeftOut(Exception):
    """Keeps whichever HTTP library was about to send a request that lacks a part of a message from it."""


class StrangerRefused(Exception):
    """Keeps whichever HTTP library was about to ask a host the spec does not name from it."""


class RedirectRefused(Exception):
    """Carries the refusal out of whichever HTTP library was about to follow."""


class Taken(BaseException):
    """Carries a request out of litellm in place of sending it. No Exception, so that nothing on the way takes it for a
    failure."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


@dataclass(slots=True)
class RequestGuard:
    """What one request may do, and what it did."""

    most_bytes: int
    """How long a reply may be, decompressed."""
    links: frozenset[str] = frozenset()
    """Host and path, in lower case, of what the messages point to: nothing of it is fetched."""
    is_own: Callable[[Any], bool] | None = None
    """Whether a request may go to an address; None: to any."""
    media: tuple[Medium, ...] = ()
    """What the messages hold besides texts: nothing is sent without it."""
    invented_headers: frozenset[str] = frozenset()
    """Headers, in lower case, that litellm's requests may not have: it logs in with no key where none is given."""
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the deployment's own, in whose place litellm may put a login."""
    left_out: tuple[str, ...] = ()
    """The kinds of media that stood in no request, which was not sent for it."""
    refused: Fault | None = None
    """Why one was not followed, or a body not read."""
    takes: bool = False
    """Whether a request is to be taken instead of being sent."""
    sent: bool = False
    """Whether an httpx client has sent anything."""
    response: Any = None
    """The last response of an async httpx client."""
    _followed: bool = False

    def next_request(self, request: Any, response: Any, build: Callable[[], Any]) -> Any:
        """The request that follows a redirect of httpx's. Raises RedirectRefused unless it stays with the same
        server."""
        following = _built(build)
        self._follow(response.status_code, request.url, None if following is None else following.url)
        # httpx takes the authorization off on the way from http to https, but for the usual ports.
        following.headers.update(_logins(request.headers))
        return following

    def next_url(self, status: int, source: URL, location: str) -> URL:
        """The address that follows a redirect of aiohttp's. Raises RedirectRefused unless it stays with the same
        server."""
        target: URL | None = _built(lambda: source.join(URL(location)))
        self._follow(status, source, target)
        assert target is not None
        # An address without a login is the same server's, and the login its own.
        return target if source.raw_user is None else target.with_user(source.user).with_password(source.password)

    def _follow(self, status: int, source: Any, target: Any) -> None:
        if status in _KEEPS_THE_REQUEST and not self._followed and target and _is_same_server(source, target):
            self._followed = True
            return
        place = "no address" if not target else _server(target) + (", with a login" if _login(target) else "")
        self.refused = Fault("server_error", f"{_server(source)} redirects to {place} ({status}): not followed", status)
        raise RedirectRefused(self.refused.message)

    def check_link(self, request: Any) -> None:
        """Raise LinkRefused if a library is about to fetch what a message points to. litellm puts an address of numbers
        in place of a host's name, which then stands in a header."""
        if self.links and request.method in _FETCHING:
            path = request.url.raw_path.decode("ascii", "replace").lower()
            if {f"{request.headers['host'].lower()}{path}", f"{_authority(request.url)}{path}"} & self.links:
                self.refused = Fault("bad_request", "litellm would fetch what a message points to")
                raise LinkRefused(self.refused.message)

    def check_host(self, request: Any) -> None:
        """Raise StrangerRefused if litellm is about to ask a host the spec does not name. What litellm asks of one
        beside the model it often goes without."""
        if self.is_own is not None and not self.is_own(request.url) and litellm_asks():
            raise StrangerRefused(f"litellm would ask {_server(request.url)}, which is no host of this deployment")

    def refusal(self, error: Exception) -> Fault | None:
        """The fault an exception is, where it is one of those raised here."""
        strangers = (link for link in links_of(error) if isinstance(link, StrangerRefused))
        return self.refused or next((Fault("bad_request", str(stranger)) for stranger in strangers), None)

    def correct_headers(self, request: Any) -> None:
        """Take off a request of litellm's what only looks like a login, and put the deployment's own headers on it."""
        if (self.invented_headers or self.extra_headers) and litellm_asks():
            for name in self.invented_headers:
                request.headers.pop(name, None)
            if self.extra_headers and holds_messages(request.content):
                request.headers.update(self.extra_headers)

    def check_media(self, request: Any) -> None:
        """Raise MediaLeftOut if a library is about to send the messages without what they hold besides texts."""
        if self.media and request.method == "POST":
            self.left_out = left_out(self.media, request.content)
            if self.left_out:
                raise MediaLeftOut(", ".join(self.left_out))

    def refuse_body(self, status: int, why: str) -> Exception:
        """Take note that the body of a response is not read."""
        self.refused = Fault("invalid_response", why, status)
        return BodyRefused(why)


current: ContextVar[RequestGuard | None] = ContextVar("llm_fallback_guard", default=None)
"""The guard of the request under way in this context."""


@contextmanager
def guarding(guard: RequestGuard) -> Iterator[None]:
    """Let no request made in this context be redirected to a stranger."""
    token = current.set(guard)
    try:
        yield
    finally:
        current.reset(token)


def guard_clients() -> None:
    """Have the clients of every httpx in the process heed `current`. OpenAI's library brings one of its own."""
    for name in ("httpx", "httpx2"):
        try:
            module = import_module(name)
        except ImportError:
            continue
        _guard(module.Client.__base__)
        _watch(module.Client)
        _watch_async(module.AsyncClient)
        _bound_bodies(module.AsyncClient, module.AsyncByteStream)
        _bound_sync_bodies(module.Client, module.SyncByteStream)


def _guard(client: Any) -> None:
    build = client._build_redirect_request
    if hasattr(build, "__wrapped__"):
        return

    @wraps(build)
    def next_request(self: Any, request: Any, response: Any) -> Any:
        guard = current.get()
        following = partial(build, self, request, response)
        return following() if guard is None else guard.next_request(request, response, following)

    client._build_redirect_request = next_request


def _watch(client: Any) -> None:
    send = client.send
    if hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    def sending(self: Any, *request: Any, **options: Any) -> Any:
        guard = current.get()
        if guard is not None:
            guard.check_host(request[0])
            guard.correct_headers(request[0])
            guard.check_link(request[0])
            guard.check_media(request[0])
            guard.sent = True
        return send(self, *request, **options)

    client.send = sending


def _watch_async(client: Any) -> None:
    send = client.send
    if hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    async def sending(self: Any, *request: Any, **options: Any) -> Any:
        guard = current.get()
        if guard is None:
            return await send(self, *request, **options)
        guard.check_host(request[0])
        guard.correct_headers(request[0])
        if guard.links:
            guard.check_link(request[0])
        if guard.media:
            guard.check_media(request[0])
        if guard.takes:
            raise Taken(request[0])
        guard.sent = True
        guard.response = await send(self, *request, **options)
        return guard.response

    client.send = sending


def _bound_bodies(client: Any, byte_stream: type) -> None:
    # One step below `send`, which may read the body and hand it to whoever listens.
    send = client._send_single_request
    if hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    async def sending(self: Any, request: Any) -> Any:
        guard = current.get()
        if guard is None:
            return await send(self, request)
        _name_encodings(request)
        response = await send(self, request)
        bound_body(response, byte_stream, guard.most_bytes, partial(guard.refuse_body, response.status_code))
        return response

    client._send_single_request = sending


def _bound_sync_bodies(client: Any, byte_stream: type) -> None:
    # Some providers are asked by a client that waits in a thread, and so are those who hand out logins.
    send = client._send_single_request
    if hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    def sending(self: Any, request: Any) -> Any:
        guard = current.get()
        if guard is None:
            return send(self, request)
        _name_encodings(request)
        response = send(self, request)
        refuse = partial(guard.refuse_body, response.status_code)
        bound_sync_body(response, byte_stream, guard.most_bytes, refuse)
        return response

    client._send_single_request = sending


def _name_encodings(request: Any) -> None:
    """Ask for no other compression than those whose bombs are noticed."""
    if request.headers.get("accept-encoding") not in (ENCODINGS, "identity"):
        request.headers["accept-encoding"] = ENCODINGS


def _authority(url: Any) -> str:
    return f"{url.host}:{url.port}" if url.port else str(url.host)


def _built(build: Callable[[], Any]) -> Any:
    """The next request; None where the address is none, for which each httpx has exceptions of its own."""
    try:
        return build()
    except Exception:  # noqa: BLE001
        return None


def _is_same_server(source: Any, target: Any) -> bool:
    if _login(target) not in ("", _login(source)):
        return False  # Whose it is nobody knows; a request carries one, and that is the deployment's own.
    if (source.scheme, target.scheme) == ("http", "https"):
        return bool(source.host == target.host)
    return _origin(source) == _origin(target)


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _logins(headers: Any) -> dict[str, str]:
    return {"Authorization": headers["Authorization"]} if "Authorization" in headers else {}


def _login(url: Any) -> str:
    return urlsplit(str(url)).netloc.rpartition("@")[0]


def _server(url: Any) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
