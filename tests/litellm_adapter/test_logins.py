"""A login that ends is made anew for each request; whoever has to be asked for it is asked in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, ClassVar

import botocore.auth
import botocore.credentials
import litellm
import pytest
from botocore.awsrequest import AWSRequest
from litellm.llms.bedrock.base_aws_llm import BaseAWSLLM
from pydantic import SecretStr

from llm_fallback import ChainExhausted, LLMFallbackError, build_chat_model
from llm_fallback.litellm_adapter import translation
from llm_fallback.litellm_adapter.logins import AzureToken, GoogleToken
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.templates import RequestTemplates
from llm_fallback.litellm_adapter.translation import translate
from llm_fallback.plan.provider_credentials import AZURE_KEYS
from tests.asking import MODES, TWO_MODES, ask
from tests.corpus.cases import System, systems
from tests.corpus.stage import Stage
from tests.litellm_adapter.test_direct_and_relayed_alike import heard
from tests.litellm_adapter.test_redirects import Server
from tests.loopback import LoopbackServer

REGION = {"aws_region_name": "eu-west-1"}
KEYS = {**REGION, "aws_access_key_id": "AKIATESTTESTTEST", "aws_secret_access_key": SecretStr("secret-0123456789")}
BEDROCK = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"
VERTEX = "vertex_ai/gemini-2.5-flash"


def asking(text: str, model: str = BEDROCK, **parameters: Any) -> DeploymentRequest:
    spec = {"deployments": {"a": {"model": model, "params": parameters}}, "chains": {"c": {"tiers": ["a"]}}}
    with build_chat_model(spec) as built:
        target = built.runtime.plan.targets["a"]
    return DeploymentRequest(target, {"messages": [{"role": "user", "content": text}]}, None, set())


@pytest.fixture
def a_moment(monkeypatch) -> None:
    """The time stands still, as signatures hold it."""
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: moment)


@pytest.mark.parametrize("parameters", [KEYS, {**KEYS, "aws_session_token": SecretStr("session-0123456789")}])
@pytest.mark.parametrize("text", ["hi", "größer 😀"])
async def test_a_request_is_signed_as_litellm_signs_it(a_moment, parameters, text):
    """Every header of the signature, over the whole body, for an address with characters that are escaped."""
    templates = RequestTemplates()
    for _ in range(2):
        wanted = asking("hello", **parameters)
        templates.learn(wanted, await translate(wanted))
    wanted = asking(text, **parameters)
    known = templates.known(wanted)
    assert known is not None
    assert templates.login is not None
    assert not {"authorization", "x-amz-date"} & {name.lower() for name in known.headers}
    theirs, ours = await translate(wanted), await templates.login.put_on(known)
    # litellm writes the fields of a body in another order; so that is the one to sign.
    ours = await templates.login.put_on(templates.login.strip(theirs))
    assert {name.lower(): said for name, said in ours.headers.items()} == {
        name.lower(): said for name, said in theirs.headers.items()
    }
    assert (ours.url, ours.body) == (theirs.url, theirs.body)


async def test_credentials_that_end_are_asked_for_each_time_and_in_a_thread(monkeypatch):
    """A role's, a profile's or a machine's; litellm and botocore keep them as long as they are good."""
    asked: list[tuple[str, bool]] = []
    keys = iter("ABCDEFG")

    def found(self: BaseAWSLLM, **given: Any) -> Any:
        asked.append((given.get("aws_profile_name", ""), threading.current_thread() is threading.main_thread()))
        return botocore.credentials.Credentials(f"AKIA{next(keys)}", "secret")

    monkeypatch.setattr(BaseAWSLLM, "get_credentials", found)
    templates = RequestTemplates()
    parameters = {**REGION, "aws_profile_name": "team"}
    for _ in range(2):
        wanted = asking("hello", **parameters)
        templates.learn(wanted, await translate(wanted))
    known = templates.known(asking("hi", **parameters))
    assert known is not None
    assert templates.login is not None
    asked.clear()  # litellm asks, too, while it translates.
    signed = [await templates.login.put_on(known) for _ in range(3)]
    names = [one.headers["Authorization"].partition("Credential=")[2].partition("/")[0] for one in signed]
    assert len(set(names)) == 3
    assert asked == [("team", False)] * 3


def signature_of(path: str, headers: Mapping[str, str], body: bytes) -> str:
    """What Amazon's library would sign a request with that a server received."""
    kind = {"Content-Type": headers["content-type"]}
    received = AWSRequest(method="POST", url=f"http://{headers['host']}{path}", data=body, headers=kind)
    session = headers.get("x-amz-security-token")
    credentials = botocore.credentials.Credentials("AKIATESTTESTTEST", "secret-0123456789", session)
    botocore.auth.SigV4Auth(credentials, "bedrock", "eu-west-1").add_auth(received)
    return str(received.headers["Authorization"])


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("is_heard", [False, True])
@pytest.mark.parametrize("model", [BEDROCK, "bedrock/converse/anthropic.claude-m"])
@pytest.mark.parametrize(
    "parameters", [KEYS, {**KEYS, "aws_session_token": SecretStr("session-0123456789")}], ids=["keys", "a session"]
)
async def test_at_an_address_of_ones_own_each_request_is_signed(
    a_moment, monkeypatch, parameters, model, is_heard, mode
):
    """By the keys of the deployment, whichever token the environment has: the first requests, which litellm writes, and
    those after them, which are known; each over its own body."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "token-of-the-environment")
    monkeypatch.setattr(litellm, "success_callback", [lambda *told: None] if is_heard else [])
    with Server() as server:
        deployment = {"model": model, "params": parameters, "api_base": f"http://{server.host}"}
        chain = {"tiers": ["a"], "retries": {"max": 0}}
        with build_chat_model(
            {"deployments": {"a": {**deployment, "breaker": "off"}}, "chains": {"c": chain}}
        ) as built:
            for prompt in ("one", "two", "three", "four"):
                with suppress(LLMFallbackError):  # The server does not speak Amazon's protocol.
                    await ask(built, mode, prompt)
    assert len({body for *_, body in server.received}) == 4
    for path, headers, body in server.received:
        assert headers["authorization"] == signature_of(path, headers, body)
        assert ("x-amz-security-token" in headers) == ("aws_session_token" in parameters)


@pytest.mark.parametrize("mode", TWO_MODES)
async def test_at_an_address_of_ones_own_nobody_elses_credentials_are_sent(monkeypatch, mode):
    """Those of the environment are meant for Amazon."""
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-the-environment")
    with Server() as server:
        deployment = {"model": BEDROCK, "params": REGION, "api_base": f"http://{server.host}"}
        chain = {"tiers": ["a"], "retries": {"max": 0}}
        with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": chain}}) as built:
            with suppress(LLMFallbackError):
                await ask(built, mode, "hi")
    [(_, headers, _)] = server.received
    assert "authorization" not in headers
    assert "of-the-environment" not in str(headers)


class Google:
    """litellm's keeper of Google's tokens, which renews one now and then."""

    def __init__(self) -> None:
        self.tokens = iter(f"token-{number}" for number in range(99))
        self.asked: list[Any] = []

    async def __call__(self, credentials: Any, project_id: Any, custom_llm_provider: str) -> tuple[str, str]:
        self.asked.append((credentials, project_id))
        await asyncio.sleep(0)
        return next(self.tokens), "p"


@pytest.fixture
def google(monkeypatch) -> Google:
    keeper = Google()
    monkeypatch.setattr(litellm.main.vertex_chat_completion, "_ensure_access_token_async", keeper)
    return keeper


async def test_a_token_is_the_one_that_is_good_now(google):
    """Each request asks litellm for it, which has it at hand."""
    templates = RequestTemplates()
    parameters = {"vertex_project": "p", "vertex_location": "us-central1", "vertex_credentials": SecretStr("{}")}
    for _ in range(2):
        wanted = asking("hello", VERTEX, **parameters)
        templates.learn(wanted, await translate(wanted))
    known = templates.known(asking("hi", VERTEX, **parameters))
    assert known is not None
    assert templates.login is not None
    sent = [await templates.login.put_on(known) for _ in range(2)]
    # Whoever was asked last gave the last one.
    count = len(google.asked)
    assert [one.headers["Authorization"] for one in sent] == [f"Bearer token-{count - 2}", f"Bearer token-{count - 1}"]
    assert google.asked[-1] == ("{}", "p")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage([one for one in systems() if one.name in ("bedrock", "gemini")]) as stage:
        yield stage


def whole(system: System, by: str) -> str:
    """Where the system's whole reply is played, plain and streamed."""
    return next(
        reply.place for name, reply in system.spoken() if name == by and reply.shows == "whole" and len(reply.ways) > 1
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", ["bedrock", "vertex_ai"])
async def test_known_requests_are_answered_as_the_first_ones(stage, google, monkeypatch, by, mode):
    """Over HTTP; from the third on they go out without litellm."""
    (system,) = [one for one in systems() if by in one.asked]
    place = whole(system, by)
    deployment = system.deployment(by, place, stage.url)
    times: list[int] = []
    completion = translation.completion
    monkeypatch.setattr(translation, "completion", lambda **words: times.append(1) or completion(**words))
    with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": {"tiers": ["a"]}}}) as model:
        answers = [(await asyncio.to_thread(lambda: asyncio.run(ask(model, mode)))).text for _ in range(3)]
        before = len(times)
        answers.append((await asyncio.to_thread(lambda: asyncio.run(ask(model, mode)))).text)
    assert answers[0]
    assert len(set(answers)) == 1
    assert len(times) == before


async def test_a_login_that_cannot_be_had_is_nobody_s_answer(stage, monkeypatch):
    """`auth`, without a status, in the words of the library, and nothing is sent."""
    (system,) = [one for one in systems() if one.name == "bedrock"]
    place = whole(system, "bedrock")
    deployment = system.deployment("bedrock", place, stage.url)
    with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": {"tiers": ["a"]}}}) as model:
        for _ in range(3):
            await model.ainvoke("hi")

        def expired(self: BaseAWSLLM, **_: Any) -> Any:
            raise botocore.exceptions.TokenRetrievalError(provider="sso", error_msg="the session has ended")

        monkeypatch.setattr(BaseAWSLLM, "get_credentials", expired)
        [memory] = model.runtime.engine.transport._memories.values()
        memory.templates.login._credentials = None
        with pytest.raises(ChainExhausted, match="the session has ended") as caught:
            await model.ainvoke("hi")
    assert {(at.failure, at.status) for at in caught.value.attempts} == {("auth", None)}


class Entra:
    """Hands out tokens, as a function of azure-identity's does; it notes who asks, and how many at once."""

    def __init__(self) -> None:
        self.tokens = iter(f"entra-token-{number}" for number in range(999))
        self.asked: list[bool] = []
        self.fails: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> str:
        self.asked.append(threading.current_thread() is threading.main_thread())
        self.gate.wait(5)
        if self.fails is not None:
            raise self.fails
        return next(self.tokens)


class Azure(BaseHTTPRequestHandler):
    """Azure, which notes the logins of its requests."""

    protocol_version = "HTTP/1.1"
    logins: ClassVar[list[str | None]] = []
    echoes: ClassVar[bool] = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        login = self.headers["authorization"]
        self.logins.append(login)
        if self.echoes:
            said = f"the token {login.removeprefix('Bearer ')} has expired"
            self._answer(401, {"error": {"message": said, "code": "401"}})
            return
        message = {"role": "assistant", "content": "fine"}
        if asked.get("stream"):
            chunk = {"id": "1", "choices": [{"index": 0, "delta": message, "finish_reason": "stop"}]}
            self._send(200, "text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
            return
        self._answer(200, {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def azure(monkeypatch) -> Iterator[dict[str, Any]]:
    """A deployment on Azure, without a key."""
    for name in (*AZURE_KEYS, "AZURE_AD_TOKEN", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    Azure.logins.clear()
    with LoopbackServer(Azure) as server:
        yield {
            "model": "azure/gpt-4o",
            "api_base": f"http://{server.host}",
            "params": {"api_version": "2025-04-01-preview"},
        }


def on_azure(deployment: dict[str, Any], **parameters: Any) -> Any:
    own = {**deployment, "params": {**deployment["params"], **parameters}}
    return build_chat_model({"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}})


async def test_a_token_of_entra_is_asked_for_by_each_request_and_in_a_thread(azure):
    """Also by those that litellm does not write any more; the function keeps it as long as it is good."""
    entra = Entra()
    async with on_azure(azure, azure_ad_token_provider=entra) as model:
        for _ in range(4):
            await model.ainvoke("hi")
        [memory] = model.runtime.engine.transport._memories.values()
        assert isinstance(memory.templates.login, AzureToken)
    assert Azure.logins == [f"Bearer entra-token-{number}" for number in range(4)]
    assert entra.asked == [False] * 4


async def test_a_hundred_calls_that_wait_for_a_token_share_one(azure):
    """However many come while it is asked for; one of them that leaves takes it from nobody."""
    entra = Entra()
    async with on_azure(azure, azure_ad_token_provider=entra) as model:
        for _ in range(3):
            await model.ainvoke("hi")
        asked = len(entra.asked)
        entra.gate.clear()
        calls = [asyncio.create_task(model.ainvoke("hi")) for _ in range(100)]
        while model.state()["a"]["in_flight"] < len(calls) or len(entra.asked) == asked:
            await asyncio.sleep(0.01)
        calls[0].cancel()
        await asyncio.wait([calls[0]])
        entra.gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert len(entra.asked) == asked + 1
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {answer.text for answer in answers[1:]} == {"fine"}
    assert len(set(Azure.logins[3:])) == 1


async def test_a_token_that_cannot_be_had_is_auth_without_the_secret(azure):
    """In the words of whoever refused, without a status: nothing was sent."""
    entra = Entra()
    secret = "client-secret-0123456789"
    async with on_azure(azure, azure_ad_token_provider=entra, client_secret=SecretStr(secret)) as model:
        for _ in range(3):
            await model.ainvoke("hi")
        entra.fails = RuntimeError(f"AADSTS7000215: {secret} is no secret of this application")
        with pytest.raises(ChainExhausted, match="AADSTS7000215") as caught:
            await model.ainvoke("hi")
    [attempt] = caught.value.attempts
    assert (attempt.failure, attempt.status) == ("auth", None)
    assert secret not in str(caught.value)
    assert len(Azure.logins) == 3


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_function_that_raises_is_auth_from_the_first_request_on(azure, way, mode):
    """litellm calls it itself while it writes the first two, and tells of whatever it raises as of a server's 500."""
    entra = Entra()
    entra.fails = ValueError("the vault is sealed")
    with heard(way), on_azure(azure, azure_ad_token_provider=entra) as model:
        for _ in range(2):
            with pytest.raises(ChainExhausted, match="the vault is sealed") as caught:
                await asyncio.to_thread(lambda: asyncio.run(ask(model, mode)))
            [attempt] = caught.value.attempts
            assert (attempt.failure, attempt.status) == ("auth", None)
            model.reset_breaker("a")
    assert not Azure.logins


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_function_that_hands_out_tokens_may_be_async(azure, way, mode):
    """Of the requests that litellm writes, and of those that are known; its client belongs to one event loop."""
    entra, loops = Entra(), []

    async def provider() -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return entra()

    with heard(way), on_azure(azure, azure_ad_token_provider=provider) as model:
        # A sync call must not have an event loop around it.
        asking = [await asyncio.to_thread(asyncio.run, ask(model, mode)) for _ in range(5)]
    assert [answer.text for answer in asking] == ["fine"] * 5
    assert Azure.logins == [f"Bearer entra-token-{number}" for number in range(5)]
    assert len(set(loops)) == (1 if mode in ("invoke", "stream", "batch") else 5)


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", TWO_MODES)
async def test_an_async_function_that_raises_is_auth(azure, way, mode):
    """With its words, from the first request on, and later too."""
    fails = False

    async def provider() -> str:
        if fails:
            raise ValueError("the vault is sealed")
        return "entra-token"

    async with on_azure(azure, azure_ad_token_provider=provider) as model:
        with heard(way):
            for answers in (0, 3):
                fails = False
                for _ in range(answers):
                    await ask(model, mode)
                fails = True
                with pytest.raises(ChainExhausted, match="the vault is sealed") as caught:
                    await ask(model, mode)
                [attempt] = caught.value.attempts
                assert (attempt.failure, attempt.status) == ("auth", None)
                model.reset_breaker("a")
    assert len(Azure.logins) == 3


@pytest.mark.parametrize("given", ["", None, 7, StopIteration()])
async def test_a_function_that_gives_no_token_is_auth(azure, given):
    """Also one that leaves a future waiting for ever, as StopIteration does."""

    def function() -> Any:
        if isinstance(given, BaseException):
            raise given
        return given

    async with on_azure(azure, azure_ad_token_provider=function) as model:
        with pytest.raises(ChainExhausted) as caught:
            await model.ainvoke("hi")
    [attempt] = caught.value.attempts
    assert (attempt.failure, attempt.status) == ("auth", None)
    assert not Azure.logins


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_token_of_entra_that_a_server_echoes_is_told_nobody(azure, way, mode, monkeypatch, caplog):
    """Of the first request, which litellm writes, and of a known one; in no error, no log and no dump of tasks."""
    entra = Entra()
    told: list[str] = []
    async with on_azure(azure, azure_ad_token_provider=entra) as model:
        with heard(way):
            for answers in (0, 3):
                monkeypatch.setattr(Azure, "echoes", False)
                for _ in range(answers):
                    await ask(model, mode)
                monkeypatch.setattr(Azure, "echoes", True)
                with pytest.raises(ChainExhausted, match="has expired") as caught:
                    await ask(model, mode)
                told += ["".join(traceback.format_exception(caught.value)), repr(caught.value.attempts)]
                model.reset_breaker("a")
        [memory] = model.runtime.engine.transport._memories.values()
        asking = list(memory.templates.login._asking.values()) if way == "direct" else []
        assert (way == "relayed") is (asking == [])
    assert len(Azure.logins) == 5
    assert "entra-token" not in "\n".join((*told, *map(repr, asking), caplog.text))


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_token_of_google_that_a_server_echoes_is_told_nobody(google, way, mode, monkeypatch):
    """litellm keeps it, and hands it to the request; of a stream's it sends some for the first chunk alone."""
    monkeypatch.setattr(Azure, "echoes", True)
    with LoopbackServer(Azure) as server:
        deployment = {
            "model": VERTEX,
            "api_base": f"http://{server.host}",
            "params": {"vertex_project": "p", "vertex_location": "us-central1", "vertex_credentials": SecretStr("{}")},
        }
        async with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": {"tiers": ["a"]}}}) as model:
            for _ in range(4):
                with heard(way), pytest.raises(ChainExhausted, match="has expired") as caught:
                    await ask(model, mode)
                assert "token-" not in "".join(traceback.format_exception(caught.value))
                model.reset_breaker("a")
            [memory] = model.runtime.engine.transport._memories.values()
            assert isinstance(memory.templates.login, GoogleToken) is (way == "direct")


async def test_a_token_that_was_given_is_part_of_the_template(azure):
    """Nobody has to be asked."""
    async with on_azure(azure, azure_ad_token=SecretStr("given-token-0123456789")) as model:
        for _ in range(4):
            await model.ainvoke("hi")
        [memory] = model.runtime.engine.transport._memories.values()
    assert memory.templates.login is None
    assert Azure.logins == ["Bearer given-token-0123456789"] * 4


def test_a_login_that_was_given_is_none_of_these():
    """A key in a header is part of the template."""
    from llm_fallback.litellm_adapter.http_client import HTTPRequest
    from llm_fallback.litellm_adapter.templates import login_of

    target = SimpleNamespace(litellm_provider="openai", parameters={})
    assert login_of(target, HTTPRequest("http://a", {"Authorization": "Bearer sk-1"}, b"{}")) is None
