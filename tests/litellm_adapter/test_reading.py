"""Replies of hosted providers come to what those of one's own servers come to."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from llm_fallback import build_chat_model
from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.litellm_adapter.litellm_requests import asks_for_a_stream, reader_for_sent
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.testing import FakeServer, Reply, Stall
from tests.asking import ask
from tests.litellm_adapter.test_direct_and_relayed_alike import ASKED, SAID_BY_LIBRARIES, SCRIPTS
from tests.plans import target

HOSTED = ("moonshot", "deepinfra", "zai")
"""Providers in OpenAI's form: one asked through OpenAI's library, the others by litellm itself."""


async def told(model_name: str, script: Any, mode: str) -> dict[str, Any]:
    """What a caller learns of a call whose first deployment plays a script, asked as that provider."""
    with FakeServer({"first": script, "second": "from the second"}) as server:
        spec = server.spec(backend="openai-compatible", on_stream_break="hold")
        own = spec["deployments"]["first"]
        if model_name:
            asked = {"model": f"{model_name}/first", "api_base": f"{own['api_base'].rstrip('/')}/v1", "api_key": "sk-1"}
            spec["deployments"]["first"] = asked
        with build_chat_model(spec) as model:
            exchange = model.runtime.engine.transport.exchange(model.runtime.plan.targets["first"], ASKED, None)
            assert not isinstance(exchange, LiteLLMExchange)
            message = await ask(model, mode)
    facts = message.response_metadata["llm_fallback"]
    return {
        "content": message.content,
        "calls": message.tool_calls,
        "thoughts": message.additional_kwargs.get("reasoning_content"),
        # litellm does not ask these for the usage of a stream, and FakeServer tells it to who asks.
        "usage": message.usage_metadata if mode == "ainvoke" else None,
        "finish": message.response_metadata.get("finish_reason"),
        "attempts": [(at["deployment"], at["outcome"], at["failure"], at["status"]) for at in facts["attempts"]],
        "said": [None if at["failure"] in SAID_BY_LIBRARIES else at["message"] for at in facts["attempts"]],
    }


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_hosted_provider_s_reply_is_read_as_one_s_own(name, mode):
    """Content, tool calls, usage, finish, attempts and the server's words: litellm's own reading loses some of each."""
    [ours, *theirs] = [await told(provider, SCRIPTS[name], mode) for provider in ("", *HOSTED)]
    assert theirs == [ours] * len(HOSTED)


@pytest.mark.parametrize("provider", HOSTED)
async def test_a_stream_that_is_left_is_closed_at_its_server(provider):
    """As one's own is."""
    with FakeServer({"first": Stall(after_chunks=1)}) as server:
        spec = server.spec(backend="openai-compatible")
        address = spec["deployments"]["first"]["api_base"].rstrip("/")
        spec["deployments"]["first"] = {
            "model": f"{provider}/first",
            "api_base": f"{address}/v1",
            "api_key": "sk-1",
        }
        async with build_chat_model(spec) as model:
            async for _ in model.astream("hi"):
                break
            for _ in range(100):
                if server.received("first")[0].client_gone_at:
                    break
                await asyncio.sleep(0.02)
            assert server.received("first")[0].client_gone_at


@pytest.mark.parametrize("provider", HOSTED)
async def test_calls_side_by_side_do_not_read_each_other_s_replies(provider):
    """Each knows its own response."""
    scripts = {f"d{number}": Reply(f"answer {number}", chunks=2) for number in range(8)}
    with FakeServer(scripts) as server:
        spec = server.spec(backend="openai-compatible")
        for name, deployment in spec["deployments"].items():
            address = deployment["api_base"].rstrip("/")
            spec["deployments"][name] = {"model": f"{provider}/{name}", "api_base": f"{address}/v1", "api_key": "sk-1"}
        spec["chains"] = {name: {"tiers": [name]} for name in scripts}
        spec["default_chain"] = "d0"
        async with build_chat_model(spec) as model:
            replies = await asyncio.gather(
                *(ask(model, mode, chain=name) for name in scripts for mode in ("ainvoke", "astream"))
            )
    assert [reply.text for reply in replies] == [f"answer {number}" for number in range(8) for _ in range(2)]


@pytest.mark.parametrize(
    ("url", "body", "reader"),
    [
        ("https://api.moonshot.ai/v1/chat/completions", b"{}", OpenAIReader),
        ("https://x.azure.com/openai/deployments/prod/chat/completions?api-version=1", b"{}", OpenAIReader),
        ("https://us-south.ml.cloud.ibm.com/ml/v1/text/chat_stream?version=1", b"{}", OpenAIReader),
        ("https://api.anthropic.com/v1/messages", b"{}", AnthropicReader),
        ("https://a.googleapis.com/v1/projects/p/publishers/anthropic/models/m:rawPredict", b"{}", AnthropicReader),
        ("https://a.googleapis.com/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse", b"{}", GeminiReader),
        ("https://api.openai.com/v1/responses", b"{}", None),
        ("https://iam.cloud.ibm.com/identity/token", b"{}", None),
        (
            "https://bedrock-runtime.eu.amazonaws.com/model/eu.amazon.nova-lite-v1:0/converse-stream",
            b"{}",
            ConverseReader,
        ),
        ("https://api.cohere.com/v2/chat", b"{}", CohereReader),
        ("http://localhost:11434/api/chat", b"{}", OllamaReader),
    ],
)
def test_the_address_of_a_request_tells_the_protocol_of_its_reply(url, body, reader):
    """None where only litellm knows what to make of it."""
    found = reader_for_sent(httpx.Request("POST", url, content=body), wanted())
    assert (None if found is None else type(found)) is reader


def wanted(**words: Any) -> DeploymentRequest:
    return DeploymentRequest(target("a"), {"messages": [], **words}, None, set())


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("words", "body", "is_ours"),
    [
        ({"tools": [TOOL]}, {"tools": [TOOL]}, True),
        ({"tools": [TOOL]}, {"toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]}}, True),
        ({"tools": [TOOL]}, {"tools": [{"functionDeclarations": [{"name": "f"}]}]}, True),
        ({"tools": [TOOL, {"type": "web_search"}]}, {"tools": [TOOL, {"type": "web_search", "name": "w"}]}, True),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_object"}}, {"tools": [{"function": {"name": "json_tool_call"}}]}, False),
        ({"tools": [{"function": {"name": "a b"}}]}, {"tools": [{"function": {"name": "a_b"}}]}, False),
        ({"tools": [TOOL]}, {"format": "json"}, False),
    ],
)
def test_calls_of_tools_that_litellm_renamed_or_made_up_are_litellm_s_to_read(words, body, is_ours):
    """It brings them back into the caller's form."""
    request = httpx.Request("POST", "https://x.test/v1/chat/completions", json=body)
    assert (reader_for_sent(request, wanted(**words)) is not None) is is_ours


@pytest.mark.parametrize(
    ("path", "body", "streams"),
    [
        ("/v1/chat/completions", b'{"stream": true}', True),
        ("/v1/chat/completions", b'{"stream":true}', True),
        ("/v1/chat/completions", b'{"stream": false}', False),
        ("/v1/chat/completions", rb'{"messages": [{"content": "say \"stream\": true"}]}', False),
        ("/model/m/converse-stream", b"{}", True),
        ("/model/m/converse", b"{}", False),
        ("/v1/models/m:streamGenerateContent", b"{}", True),
    ],
)
def test_a_request_tells_whether_a_stream_comes(path, body, streams):
    """Where litellm did not ask for one, it makes one of the whole reply."""
    assert asks_for_a_stream(httpx.Request("POST", f"https://x.test{path}", content=body)) is streams
