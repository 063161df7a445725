"""Our own requests on the wire: real servers on the loopback, and what they were sent."""

from __future__ import annotations

import gzip
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter.http_client import HTTPClient, HTTPRequest
from llm_fallback.litellm_adapter.request_guard import RedirectRefused, RequestGuard
from tests.asking import ask
from tests.end_to_end.hostile_servers import hostile, say

REPLY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]}


class Server:
    """Answers every request alike, and remembers what came."""

    def __init__(self, answer: Callable[[web.Request], web.StreamResponse] | None = None) -> None:
        self.answer = answer or (lambda _: web.json_response({}))
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.connections: set[int] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        async for _ in request.content.iter_any():
            """As much as there is."""
        headers = {name.lower(): text for name, text in request.headers.items()}
        self.asked.append((request.method, request.raw_path, headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        return self.answer(request)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(server: Server, certificates: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificates)
    await site.start()
    try:
        yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def a_client(verify: Any = True) -> AsyncIterator[HTTPClient]:
    client = HTTPClient(verify)
    try:
        yield client
    finally:
        await client.close()


def post(url: str, body: bytes = b"{}", **headers: str) -> HTTPRequest:
    return HTTPRequest(url, {"content-type": "application/json", **headers}, body)


async def sent(client: HTTPClient, request: HTTPRequest, most: int = 2**20, **more: Any) -> tuple[int, bytes]:
    response = await client.send(request, RequestGuard(most), **more)
    body = await response.whole()
    await response.close()
    return response.status, body


# Addresses.


async def test_an_address_goes_out_as_it_is_written():
    """A signature is over its escapes, too."""
    server = Server()
    async with serving(server) as place, a_client() as client:
        await sent(client, post(f"http://{place}/model/a%3Ab%2Fc%20d/converse?alt=sse&x=%2B"))
    assert server.asked[0][1] == "/model/a%3Ab%2Fc%20d/converse?alt=sse&x=%2B"


async def test_a_login_in_an_address_is_the_login():
    """Of two, a server would look at either."""
    server = Server()
    async with serving(server) as place, a_client() as client:
        await sent(client, post(f"http://ada:secret@{place}/v1", Authorization="Bearer no-key"))
    assert server.asked[0][2]["authorization"] == "Basic YWRhOnNlY3JldA=="


async def test_a_model_behind_a_login_in_its_address_answers():
    """As behind a reverse proxy that asks for one."""
    server = Server(lambda _: web.json_response(REPLY))
    async with serving(server) as place:
        spec = {"deployments": {"a": {"backend": "vllm", "model": "m", "api_base": f"http://ada:secret@{place}/v1"}}}
        async with build_chat_model({**spec, "chains": {"c": {"tiers": ["a"]}}}) as model:
            assert [(await ask(model, "ainvoke")).text for _ in range(3)] == ["hello"] * 3
    assert {headers["authorization"] for _, _, headers in server.asked} == {"Basic YWRhOnNlY3JldA=="}


# The environment.


async def test_no_login_is_taken_from_a_netrc(tmp_path, monkeypatch):
    """It would go out beside the deployment's own, or in its place."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("AIOHTTP_TRUST_ENV", "True")
    server = Server()
    async with serving(server) as place, a_client() as client:
        await sent(client, post(f"http://{place}/v1"))
        await sent(client, post(f"http://{place}/v1", Authorization="Bearer sk-1"))
    assert [headers.get("authorization") for _, _, headers in server.asked] == [None, "Bearer sk-1"]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_a_proxy_of_the_environment_is_asked(monkeypatch, variable):
    """Firms let nothing out that does not come by one."""
    proxy = Server(lambda _: web.json_response({"by": "the proxy"}))
    async with serving(proxy) as place, a_client() as client:
        monkeypatch.setenv(variable, place)
        status, body = await sent(client, post("http://models.invalid/v1"))
    assert (status, body) == (200, b'{"by": "the proxy"}')
    assert proxy.asked[0][1] == "http://models.invalid/v1"


async def test_no_proxy_is_asked_for_those_it_is_not_for(monkeypatch):
    """`NO_PROXY` names what is in the house."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    async with serving(Server()) as place, a_client() as client:
        assert (await sent(client, post(f"http://{place}/v1")))[0] == 200


# Certificates.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that signs itself, of the loopback, with its key."""
    place = tmp_path_factory.mktemp("certificates")
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    files = ["-keyout", str(place / "key.pem"), "-out", str(place / "own.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *files, *named], check=True, capture_output=True)
    return place


def shown_by(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "own.pem", authority / "key.pem")
    return context


async def test_certificates_that_the_environment_names_are_trusted(authority, monkeypatch):
    """`SSL_CERT_FILE` names a firm's own; nobody else's are trusted by it."""
    async with serving(Server(), shown_by(authority)) as place:
        async with a_client(get_ssl_configuration()) as client:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await sent(client, post(f"https://{place}/v1"))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "own.pem"))
        async with a_client(get_ssl_configuration()) as client:
            assert (await sent(client, post(f"https://{place}/v1")))[0] == 200


async def test_a_deployment_may_name_its_own_certificates(authority):
    """litellm's `ssl_verify`: a file, or False for none at all."""
    async with serving(Server(), shown_by(authority)) as place, a_client(get_ssl_configuration()) as client:
        for verify in (str(authority / "own.pem"), False):
            assert (await sent(client, post(f"https://{place}/v1"), ssl_verify=verify))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await sent(client, post(f"https://{place}/v1"))


async def test_a_certificate_of_the_client_s_own_is_shown(authority, monkeypatch):
    """`SSL_CERTIFICATE`, where a gateway knows its callers by one."""
    asking = shown_by(authority)
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(authority / "own.pem")
    both = authority / "both.pem"
    both.write_text((authority / "key.pem").read_text() + (authority / "own.pem").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "own.pem"))
    monkeypatch.setenv("SSL_SECURITY_LEVEL", "DEFAULT@SECLEVEL=1")  # A context that nobody else has.
    monkeypatch.setenv("SSL_CERTIFICATE", str(both))
    async with serving(Server(), asking) as place, a_client(get_ssl_configuration()) as client:
        for verify in (None, False):  # Whoever trusts any server may have to show who he is all the same.
            assert (await sent(client, post(f"https://{place}/v1"), ssl_verify=verify))[0] == 200


# RequestGuard.


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_within_a_server_is_followed_once(status):
    """With the same method, body and login."""
    answers = [web.Response(status=status, headers={"location": "/v2"}), web.json_response({"at": "last"})]
    server = Server(lambda _: answers.pop(0))
    async with serving(server) as place, a_client() as client:
        assert (await sent(client, post(f"http://{place}/v1", Authorization="Bearer sk-1")))[1] == b'{"at": "last"}'
    assert [(method, path) for method, path, _ in server.asked] == [("POST", "/v1"), ("POST", "/v2")]
    assert server.asked[1][2]["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (301, "/v2"),
        (302, "/v2"),
        (303, "/v2"),
        (307, "http://stranger.invalid/v1"),
        (308, "//stranger.invalid/v1"),
        (307, "http://127.0.0.1:9/v1"),
        (307, "http://[broken"),
    ],
)
async def test_any_other_redirect_is_followed_by_nobody(status, location):
    """What was asked, and by whom, is for the server that was named."""
    server = Server(lambda _: web.Response(status=status, headers={"location": location}))
    async with serving(server) as place, a_client() as client:
        redirects = RequestGuard(2**20)
        with pytest.raises(RedirectRefused, match="not followed"):
            await client.send(post(f"http://{place}/v1"), redirects)
    assert len(server.asked) == 1
    assert redirects.refused is not None
    assert (redirects.refused.failure, redirects.refused.status) == ("server_error", status)


async def test_a_second_redirect_is_one_too_many():
    """A server that sends its callers round would keep them for ever."""
    server = Server(lambda _: web.Response(status=307, headers={"location": "/again"}))
    async with serving(server) as place, a_client() as client:
        with pytest.raises(RedirectRefused):
            await client.send(post(f"http://{place}/v1"), RequestGuard(2**20))
    assert len(server.asked) == 2


# Bodies and connections.


async def test_a_large_body_is_sent_without_a_warning():
    """A prompt with pictures is one."""
    lengths: list[int] = []

    def answer(request: web.Request) -> web.StreamResponse:
        lengths.append(int(request.headers["content-length"]))
        return web.json_response({})

    async with serving(Server(answer)) as place, a_client() as client:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await sent(client, post(f"http://{place}/v1", b"x" * 3_000_000))
    assert lengths == [3_000_000]


@pytest.mark.parametrize("length", [10, 100_000])
@pytest.mark.parametrize("is_compressed", [False, True])
async def test_a_reply_arrives_whole_however_it_is_packed(length, is_compressed):
    """Compressed though nobody asked for it, short or long."""
    body = b"ab" * length
    packed = web.Response(body=gzip.compress(body), headers={"content-encoding": "gzip"})
    server = Server(lambda _: packed if is_compressed else web.Response(body=body))
    async with serving(server) as place, a_client() as client:
        assert await sent(client, post(f"http://{place}/v1")) == (200, body)
    assert server.asked[0][2]["accept-encoding"] == "identity"


async def test_a_connection_is_used_again_once_its_reply_was_read():
    """And one whose reply was left is not: the rest of it would be taken for the next."""
    server = Server(lambda _: web.Response(body=b"x" * 1_000_000))
    async with serving(server) as place, a_client() as client:
        for _ in range(3):
            await sent(client, post(f"http://{place}/v1"))
        assert len(server.connections) == 1
        left = await client.send(post(f"http://{place}/v1"), RequestGuard(2**20))
        await left.close()
        await sent(client, post(f"http://{place}/v1"))
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    "junk", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 2OO OK\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_what_is_no_http_is_no_answer_of_a_server(junk, mode):
    """aiohttp calls it a 400, which would be the caller's fault."""
    with hostile(say(junk)) as place:
        spec = {"deployments": {"a": {"backend": "vllm", "model": "m", "api_base": f"http://{place}"}}}
        chain = {"tiers": ["a"], "retries": {"max": 0}, "timeouts": {"total_s": 5}}
        async with build_chat_model({**spec, "chains": {"c": chain}}) as model:
            with pytest.raises(Exception, match="chain 'c' has no answer") as caught:
                await ask(model, mode)
    (attempt,) = caught.value.attempts  # type: ignore[attr-defined]
    assert (attempt.failure, attempt.status) == ("connection", None)
