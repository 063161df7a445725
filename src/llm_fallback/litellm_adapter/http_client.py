"""HTTP as our own requests use it: aiohttp itself, a response bounded and decompressed piece by piece.

What httpx, over litellm's transport, over aiohttp adds to a request is a fifth of a call's function calls, and nothing
that is needed here. Certificates are those that the environment and litellm name, proxies the environment's; logins are
nobody's but the deployment's own, so `.netrc` is not read.
"""

from __future__ import annotations

import io
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.request import getproxies, proxy_bypass

import litellm
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from litellm.llms.custom_httpx.http_handler import VerifyTypes, get_ssl_configuration
from yarl import URL

from llm_fallback.litellm_adapter.body import BoundedBody, BoundedError, bounded
from llm_fallback.litellm_adapter.connections import bounded_connector
from llm_fallback.litellm_adapter.request_guard import RequestGuard

_NO_TIMEOUT = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
"""The engine keeps time; a socket must never give up before it does."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHORT_BODY = 2**16
"""Bytes that need no looking after: they come in a read or two."""
_LARGE_BODY = 2**20
"""Bytes from which aiohttp wants a file, to write it piece by piece."""


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """What is to be sent."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class HTTPResponse:
    """One response. Its methods let through what aiohttp raises."""

    def __init__(self, response: ClientResponse, body: BoundedBody | BoundedError) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response, self._body = response, body

    def reads(self) -> AsyncIterator[bytes]:
        """The body, in pieces as they come."""
        return aiter(self._body)

    async def whole(self) -> bytes:
        """The whole body."""
        response = self._response
        if self._is_short:
            return await response.read()
        return b"".join([data async for data in self._body])

    @property
    def _is_short(self) -> bool:
        """Whether it is known to be within every bound, as it is."""
        length = self._response.content_length
        return length is not None and length <= _SHORT_BODY and "content-encoding" not in self.headers

    async def close(self) -> None:
        """Let go of the connection: it is kept if the body was read to its end, and else dropped."""
        self._response.close()


class HTTPClient:
    """The connections of one event loop."""

    def __init__(self, verify: VerifyTypes) -> None:
        """`verify`: certificates to trust, as litellm names them."""
        self.session = ClientSession(
            connector=bounded_connector(_with_own(verify)),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},  # Text is short, and its chunks are to come at once.
            timeout=_NO_TIMEOUT,
        )
        self._proxies: dict[tuple[str, str | None], str | None] = {}
        self._by_verify: dict[VerifyTypes, ssl.SSLContext | bool] = {}

    async def send(
        self, request: HTTPRequest, guard: RequestGuard, *, method: str = "POST", ssl_verify: VerifyTypes | None = None
    ) -> HTTPResponse:
        """The response to a request. Raises what aiohttp raises, and RedirectRefused."""
        url = URL(request.url, encoded=True)
        certificates = True if ssl_verify is None else self._certificates(ssl_verify)
        headers = request.headers
        if url.raw_user is not None:
            # aiohttp makes a login of it, and takes no second one.
            headers = {name: text for name, text in headers.items() if name.lower() != "authorization"}
        while True:
            response = await self.session.request(
                method,
                url,
                data=io.BytesIO(request.body) if len(request.body) > _LARGE_BODY else request.body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy(url),
                ssl=certificates,
            )
            if response.status in _REDIRECTS and "location" in response.headers:
                response.close()
                url = guard.next_url(response.status, url, response.headers["location"])
                continue
            encoding = response.headers.get("content-encoding", "")
            refuse = partial(guard.refuse_body, response.status)
            body = bounded(response.content.readany, response.status, encoding, guard.most_bytes, refuse)
            return HTTPResponse(response, body)

    def _certificates(self, verify: VerifyTypes) -> ssl.SSLContext | bool:
        """Those of a deployment that names its own. Made once, because that reads files."""
        if verify not in self._by_verify:
            self._by_verify[verify] = _with_own(get_ssl_configuration(verify))
        return self._by_verify[verify]

    def _proxy(self, url: URL) -> str | None:
        """The environment's proxy for an address. Looked up once, because that reads the whole environment."""
        place = url.scheme, url.host
        if place not in self._proxies:
            self._proxies[place] = _environments_proxy(*place)
        return self._proxies[place]

    async def close(self) -> None:
        """Close the connections."""
        await self.session.close()


def _environments_proxy(scheme: str, host: str | None) -> str | None:
    if host is None or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _with_own(verify: VerifyTypes) -> ssl.SSLContext | bool:
    """The certificates to trust, with the one to show if litellm or the environment names one."""
    shown = os.environ.get("SSL_CERTIFICATE", litellm.ssl_certificate)
    if not shown:
        return verify if isinstance(verify, ssl.SSLContext) else bool(verify)
    context = verify if isinstance(verify, ssl.SSLContext) else ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(*((shown,) if isinstance(shown, str) else shown))
    return context
