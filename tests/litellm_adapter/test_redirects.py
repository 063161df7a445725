"""No request follows a redirect to a host the spec does not name: not by any road, code, mode or kind of deployment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import litellm
import pytest

from llm_fallback import ChainExhausted, build_chat_model
from tests.asking import TWO_MODES, ask
from tests.loopback import LoopbackServer
from tests.thinning import combinations

CODES = (301, 302, 303, 307, 308)
MODES = ("invoke", "ainvoke", "stream", "astream")
SECRETS = ("canary-key-0123456789", "canary-header-0123456789", "the secret prompt")

KINDS: dict[str, dict[str, Any]] = {
    **{name: {"backend": name, "model": "m"} for name in ("vllm", "openai-compatible", "litellm-proxy", "ray-serve")},
    **{
        model: {"model": model}
        for model in (
            *(
                "openai/gpt-4.1",
                "anthropic/claude-sonnet-4-5",
                "gemini/gemini-2.5-flash",
                "mistral/mistral-large-latest",
            ),
            *("groq/llama-3.3-70b-versatile", "deepseek/deepseek-chat", "cohere_chat/command-r", "ollama_chat/llama3"),
            *("openrouter/meta-llama/llama-3-8b", "xai/grok-3", "perplexity/sonar", "together_ai/x/y"),
            *("fireworks_ai/x", "huggingface/x/y", "databricks/x", "azure_ai/x"),
        )
    },
    "azure": {"model": "azure/prod", "params": {"api_version": "2025-04-01"}},
    "bedrock": {
        "model": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
        "params": {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRETS[0], "aws_region_name": "us-east-1"},
    },
}
DIRECT = ("vllm", "openai/gpt-4.1")
FRAME = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}
WHOLE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}


class Server(LoopbackServer):
    """Redirects every request, or answers those that come with `?again` as a chat model would."""

    def __init__(self, location: str = "", status: int = 307) -> None:
        self.location, self.status = location, status
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        super().__init__(_Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.received.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
        if self.server.location and self.path != "/again":
            self._answer(self.server.status, b"moved, it says here", {"Location": self.server.location})
        elif b'"stream":true' in body.replace(b" ", b""):
            events = f"data: {json.dumps(FRAME)}\n\ndata: [DONE]\n\n".encode()
            self._answer(200, events, {"Content-Type": "text/event-stream"})
        else:
            self._answer(200, json.dumps(WHOLE).encode(), {"Content-Type": "application/json"})

    do_GET = do_POST

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing to say."""


@pytest.fixture
def stranger() -> Iterator[Server]:
    with Server() as server:
        yield server


def model_of(kind: dict[str, Any], server: Server) -> Any:
    headers = {"X-Api-Key": SECRETS[1]}
    deployment = {
        **kind,
        "api_base": f"http://{server.host}",
        "api_key": SECRETS[0],
        "params": {**kind.get("params", {}), "extra_headers": headers},
    }
    if "aws_region_name" in deployment["params"]:
        del deployment["api_key"]
    chain = {"tiers": ["a"], "timeouts": {"total_s": 10}, "retries": {"max": 0}}
    return build_chat_model({"deployments": {"a": deployment}, "chains": {"c": chain}})


async def refused_by(model: Any, mode: str) -> Any:
    """The one attempt of a call that has to fail."""
    with pytest.raises(ChainExhausted) as caught:
        await ask(model, mode, SECRETS[2])
    (attempt,) = caught.value.attempts
    return attempt


@pytest.mark.parametrize(
    ("kind", "code", "mode"),
    combinations(KINDS, CODES, MODES, fast=lambda kind, code, mode: code == 307 and mode in TWO_MODES),
)
async def test_no_request_goes_on_to_another_host(kind, code, mode, stranger):
    """The redirect is a failure of the deployment that names both hosts, and the other one hears nothing."""
    with Server(f"http://localhost:{stranger.server_port}/steal", code) as server:
        with model_of(KINDS[kind], server) as model:
            attempt = await refused_by(model, mode)
        assert len(server.received) == 1
    assert stranger.received == []
    assert (attempt.failure, attempt.status) == ("server_error", code)
    assert server.host in attempt.message
    assert f"localhost:{stranger.server_port}" in attempt.message


@pytest.fixture
def relayed(monkeypatch) -> None:
    """Somebody listens to litellm, so that requests go through it whole."""
    monkeypatch.setattr(litellm, "success_callback", [lambda *told: None])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.usefixtures("relayed")
async def test_nor_does_it_where_somebody_listens_to_litellm(kind, mode, stranger):
    """The other road of a deployment that is asked directly otherwise."""
    with Server(f"http://localhost:{stranger.server_port}/steal") as server:
        with model_of(KINDS[kind], server) as model:
            attempt = await refused_by(model, mode)
    assert stranger.received == []
    assert (attempt.failure, attempt.status) == ("server_error", 307)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", DIRECT)
async def test_of_the_same_server_only_the_same_request_again_is_followed(kind, code, mode):
    """307 and 308 say "again, over there"; the others would make another request of it, and are failures."""
    with Server("/again", code) as server, model_of(KINDS[kind], server) as model:
        if code in (307, 308):
            assert (await ask(model, mode, SECRETS[2])).content == "fine"
            first, second = server.received
            assert first[1] == second[1]
            assert first[2] == second[2]
        else:
            assert (await refused_by(model, mode)).status == code
            assert len(server.received) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("relayed")
async def test_it_is_followed_through_litellm_too(mode):
    """What the first answer said does not stay with the second."""
    with Server("/again") as server, model_of(KINDS["vllm"], server) as model:
        message = await ask(model, mode, SECRETS[2])
    assert message.content == "fine"
    assert [attempt["outcome"] for attempt in message.response_metadata["llm_fallback"]["attempts"]] == ["succeeded"]


@pytest.mark.parametrize("login", ["somebody", "somebody:canary-password-0123", ":canary-password-0123"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", DIRECT)
@pytest.mark.parametrize("is_relayed", [False, True])
async def test_a_redirect_brings_no_login(login, mode, kind, is_relayed, monkeypatch):
    """To the same host and port it is refused as to any other, and the login told to nobody."""
    if is_relayed:
        monkeypatch.setattr(litellm, "success_callback", [lambda *told: None])
    with Server() as server, model_of(KINDS[kind], server) as model:
        server.location = f"http://{login}@{server.host}/again"
        attempt = await refused_by(model, mode)
        assert len(server.received) == 1
    assert (attempt.failure, attempt.status) == ("server_error", 307)
    assert (
        attempt.message == f"http://{server.host} redirects to http://{server.host}, with a login (307): not followed"
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("location", ["/again", "http://{host}/again"])
async def test_the_login_of_the_deployment_s_own_address_goes_along(mode, location):
    """Whether or not the redirect repeats the host."""
    with Server() as server:
        server.location = location.format(host=server.host)
        entry = {"backend": "vllm", "model": "m", "api_base": f"http://user:canary-password@{server.host}"}
        with build_chat_model({"deployments": {"a": entry}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            assert (await ask(model, mode, SECRETS[2])).content == "fine"
        first, second = server.received
    assert first[1]["authorization"] == second[1]["authorization"]
    assert first[1]["authorization"].startswith("Basic ")


@pytest.mark.parametrize("mode", MODES)
async def test_a_second_redirect_is_not_followed(mode):
    """A server that sends in circles is left after two requests."""
    with Server("/elsewhere") as server, model_of(KINDS["vllm"], server) as model:
        assert (await refused_by(model, mode)).status == 307
        assert len(server.received) == 2


@pytest.mark.parametrize("location", ["http://[", "ftp://x/", "//", "mailto:a@b", ""])
async def test_an_address_that_is_none_is_a_failure_like_any_other(location):
    """Whatever stands there, it is the server's failure."""
    with Server(location or "http://:0/") as server, model_of(KINDS["vllm"], server) as model:
        assert (await refused_by(model, "ainvoke")).failure == "server_error"


@pytest.mark.parametrize("how", ["ping", "aping"])
@pytest.mark.parametrize("kind", ["vllm", "litellm-proxy", "anthropic/claude-sonnet-4-5"])
async def test_a_ping_is_not_redirected_either(kind, how, stranger):
    """Neither its request for a token nor its look at the server's pages."""
    with Server(f"http://localhost:{stranger.server_port}/steal") as server, model_of(KINDS[kind], server) as model:
        told = model.ping() if how == "ping" else await model.aping()
        assert server.received
    assert stranger.received == []
    assert (told["a"]["works"], told["a"]["failure"], told["a"]["status"]) == (False, "server_error", 307)


def test_from_http_to_https_of_the_same_host_the_login_goes_along():
    """The one redirect that leaves the port: many servers send whoever comes unencrypted there."""
    from llm_fallback.litellm_adapter.request_guard import RequestGuard, guarding

    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        moved = request.url.scheme == "http"
        return httpx.Response(308, headers={"Location": "https://gpu:8443/v1"}) if moved else httpx.Response(200)

    client = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    with guarding(RequestGuard(1_000)):
        assert client.post("http://gpu:8000/v1", headers={"Authorization": "Bearer x"}, content=b"it").is_success
    assert [(request.url.scheme, request.headers["authorization"], request.content) for request in seen] == [
        ("http", "Bearer x", b"it"),
        ("https", "Bearer x", b"it"),
    ]


def test_everybody_elses_clients_redirect_as_before(stranger):
    """What the rest of the process does with httpx is none of our business."""
    with Server(f"http://localhost:{stranger.server_port}/") as server, model_of(KINDS["vllm"], server):
        assert httpx.get(f"http://{server.host}/", follow_redirects=True).is_success
    assert stranger.received
