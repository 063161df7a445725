"""A call looks up and connects to the deployment's own host, and to no other; nor does loading the library."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger

from llm_fallback import ChainExhausted, LLMFallbackError, build_chat_model
from llm_fallback.spec.providers import KNOWN_PROVIDERS
from tests.asking import TWO_MODES, ask
from tests.litellm_adapter.test_direct_and_relayed_alike import LISTS
from tests.litellm_adapter.test_redirects import KINDS, SECRETS, Server, model_of
from tests.thinning import combinations

OURS = {"127.0.0.1"}


@pytest.fixture
def looked_up(monkeypatch) -> set[str]:
    """Every host that somebody looks up or connects to, whichever library it is. Of strangers none is found."""
    found: set[str] = set()
    looking, connecting = socket.getaddrinfo, asyncio.BaseEventLoop.create_connection

    def look(host: Any, *words: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        found.add(name)
        if name not in OURS:
            raise socket.gaierror(socket.EAI_NONAME, "a stranger")
        return looking(host, *words, **more)

    async def connect(self: Any, factory: Any, host: Any = None, *words: Any, **more: Any) -> Any:
        found.update(() if host is None else (str(host),))
        return await connecting(self, factory, host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    return found


@pytest.mark.parametrize(("kind", "mode"), combinations(KINDS, TWO_MODES, fast=lambda kind, mode: mode == "invoke"))
async def test_a_call_connects_to_its_deployment_alone(kind, mode, looked_up):
    """Whatever came of it: nobody else is told that there was a call."""
    with Server() as server, model_of(KINDS[kind], server) as model:
        with suppress(LLMFallbackError):  # Not every provider speaks like OpenAI.
            await ask(model, mode, "hi")
        assert server.received
    assert looked_up <= OURS


CURIOUS = {"huggingface", "lemonade", "ollama", "ollama_chat", "petals", "text-completion-codestral"}
"""Providers of whose models litellm asks somebody else, and does without the answer."""
ELSEWHERE = {
    "bytez": "https://api.bytez.com",
    "microsoft_365_copilot": "https://graph.microsoft.com",
    "replicate": "https://api.replicate.com",
    "sagemaker": "https://runtime.sagemaker.us-east-1.amazonaws.com",
    "sagemaker_chat": "https://runtime.sagemaker.us-east-1.amazonaws.com",
}
"""Providers that litellm asks at their own host, whatever address it is given."""
LOGINS = {
    "gigachat": {"ngw.devices.sberbank.ru"},
    "sagemaker_nova": {"169.254.169.254"},
    "watsonx_text": {"iam.cloud.ibm.com"},
}
"""Who hands out a provider's login."""
AMAZON = {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRETS[0], "aws_region_name": "us-east-1"}


def of_provider(provider: str) -> dict[str, Any]:
    """A deployment of a model that nobody has heard of."""
    words = {"azure": {"api_version": "2025-04-01"}, "azure_text": {"api_version": "2025-04-01"}}
    words |= dict.fromkeys(("bedrock", "sagemaker", "sagemaker_chat"), AMAZON)
    route = "converse/anthropic." if provider == "bedrock" else ""
    return {"model": f"{provider}/{route}own/model-m", "params": words.get(provider, {})}


@pytest.fixture(autouse=True)
def nobody_listens_afterwards(monkeypatch) -> None:
    """litellm copies a listener from list to list, so each of them is as it was before."""
    for name in LISTS:
        monkeypatch.setattr(litellm, name, [*getattr(litellm, name)])


@pytest.fixture
def heard(request: pytest.FixtureRequest, monkeypatch) -> None:
    """Whether somebody listens to litellm, so that requests go through it whole."""
    if request.param:
        monkeypatch.setattr(litellm, "success_callback", [lambda *told: None])


@pytest.mark.parametrize(
    ("provider", "mode", "heard"),
    combinations(
        sorted(KNOWN_PROVIDERS - {"aiohttp_openai"}),
        TWO_MODES,
        (False, True),
        fast=lambda provider, mode, heard: provider in CURIOUS | ELSEWHERE.keys() and (mode == "invoke" or not heard),
    ),
    indirect=["heard"],
)
@pytest.mark.usefixtures("heard")
async def test_whoever_serves_a_model_that_nobody_knows_is_asked_alone(provider, mode, looked_up):
    """litellm asks others what such a model can do, and how it wants its prompt; some providers it asks elsewhere."""
    with Server() as server, model_of(of_provider(provider), server) as model:
        with suppress(LLMFallbackError):
            await ask(model, mode, "hi")
        if provider in CURIOUS - {"text-completion-codestral"}:  # Whose streams litellm cannot ask for.
            assert server.received
    assert looked_up - OURS <= LOGINS.get(provider, set())


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("provider", ELSEWHERE)
async def test_a_provider_that_is_asked_elsewhere_is_not_asked(provider, mode, looked_up):
    """The failure names the host, and the next deployment is asked."""
    if (provider, mode) == ("bytez", "astream"):
        pytest.skip("litellm does not stream it")
    with Server() as server, model_of(of_provider(provider), server) as model:
        with pytest.raises(ChainExhausted) as caught:
            await ask(model, mode, "hi")
        assert server.received == []
    (attempt,) = caught.value.attempts
    assert (attempt.failure, attempt.status) == ("bad_request", None)
    assert ELSEWHERE[provider] in attempt.message
    assert looked_up == set()


@pytest.mark.parametrize("provider", ["replicate", "sagemaker"])
async def test_without_an_address_a_provider_is_asked_and_no_hub(provider, looked_up):
    """How a model wants its prompt is nobody's business but the provider's."""
    deployment = {**of_provider(provider), "api_key": SECRETS[0]}
    chain = {"tiers": ["a"], "retries": {"max": 0}}
    with build_chat_model({"deployments": {"a": deployment}, "chains": {"c": chain}}) as model:
        with pytest.raises(ChainExhausted):
            await ask(model, "ainvoke", "hi")
    assert {f"https://{host}" for host in looked_up} == {ELSEWHERE[provider]}


def asks_by_a_logger(ask_it: Callable[[], None]) -> Any:
    class Logger(CustomLogger):
        def log_pre_api_call(self, *told: Any, **more: Any) -> None:
            ask_it()

    return Logger()


@pytest.mark.parametrize("kind", ["vllm", "ollama_chat/llama3"])
async def test_who_listens_to_litellm_may_ask_whom_they_like(kind, monkeypatch):
    """Their requests are none of the deployment's, though they are made while it is asked."""
    with Server() as server, Server() as theirs:
        listener = asks_by_a_logger(lambda: httpx.post(f"http://{theirs.host}/log", content=b"{}").raise_for_status())
        monkeypatch.setattr(litellm, "callbacks", [listener])
        monkeypatch.setattr(litellm, "input_callback", [listener])
        with model_of(KINDS[kind], server) as model:
            with suppress(LLMFallbackError):
                await ask(model, "ainvoke", "hi")
        assert server.received
        assert "/log" in {path for path, _, _ in theirs.received}


WATCHED = """
import json, socket
hosts = []
looking = socket.getaddrinfo
def look(host, *words, **more):
    hosts.append(str(host))
    return looking(host, *words, **more)
socket.getaddrinfo = look
{code}
print(json.dumps(sorted(set(hosts))))
"""
USES = {
    "imported": "import llm_fallback",
    "its model imported": "from llm_fallback import FallbackChatModel",
    "a model built": "from llm_fallback import build_chat_model; build_chat_model(['openai/gpt-4o']).explain()",
    "a router built": "from llm_fallback import build_router, load_spec; build_router(load_spec({'deployments': "
    "{'a': {'model': 'anthropic/claude-sonnet-4-5', 'api_key': 'k'}}, 'chains': {'c': {'tiers': ['a']}}}))",
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_loading_it_asks_nobody(use):
    """litellm by itself fetches its list of prices from a public host when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.replace("{code}", USES[use])],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "OPENAI_API_KEY": "k"},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
