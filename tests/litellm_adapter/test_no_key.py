"""Deployments at an address of one's own and without a key: nothing that looks like a login goes out."""

from __future__ import annotations

from typing import Any

import pytest

from llm_fallback import ChainExhausted, build_chat_model
from tests.asking import MODES, TWO_MODES, ask
from tests.litellm_adapter.test_direct_and_relayed_alike import heard
from tests.litellm_adapter.test_redirects import Server

CHAIN = {"tiers": ["a"], "retries": {"max": 0}}
LOGINS = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "x-amz-security-token")
CLAUDE = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "bedrock": {"model": CLAUDE, "params": {"aws_region_name": "us-east-1"}},
    "vllm": {"model": "qwen3", "backend": "vllm"},
    "openai-compatible": {"model": "qwen3", "backend": "openai-compatible"},
    "anthropic": {"model": "anthropic/claude-sonnet-4-5"},
    "gemini": {"model": "gemini/gemini-2.5-flash"},
    "ollama": {"model": "ollama_chat/llama3.1"},
    "mistral": {"model": "mistral/mistral-large-latest"},
    "cohere": {"model": "cohere_chat/command-a-03-2025"},
    "deepinfra": {"model": "deepinfra/qwen3"},
}


async def logins_of(deployment: dict[str, Any], way: str, mode: str) -> list[dict[str, str]]:
    """What of each of five requests looks like a login."""
    with Server() as server:
        own = {**deployment, "api_base": f"http://{server.host}"}
        async with build_chat_model({"deployments": {"a": own}, "chains": {"c": CHAIN}}) as model:
            for _ in range(5):
                try:
                    with heard(way):
                        await ask(model, mode)
                except ChainExhausted:  # The server speaks OpenAI's protocol alone.
                    model.reset_breaker("a")
    return [{name: text for name, text in headers.items() if name in LOGINS} for _, headers, _ in server.received]


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("name", DEPLOYMENTS)
async def test_nothing_looks_like_a_login(name, mode, way):
    """Of no provider, whoever writes the request and whoever sends it."""
    assert await logins_of(DEPLOYMENTS[name], way, mode) == [{}] * 5


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_login_that_the_spec_writes_goes_out(mode, way):
    """In a header of its own, beside no key."""
    own = {"extra_headers": {"Authorization": "Bearer written"}, "aws_region_name": "us-east-1"}
    [first, *others] = await logins_of({"model": CLAUDE, "params": own}, way, mode)
    assert first == {"authorization": "Bearer written"}
    assert others == [first] * 4
