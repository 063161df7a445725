"""Requests that the server's callers spoil: an answer or a refusal, and never a failure of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given

from tests.fuzz.spoiling import spoilt_document, tries
from tests.serving.running import in_process

NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there."""
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "a server of one's own": {"backend": "vllm", "model": "m"},
    "OpenAI": {"model": "openai/gpt-4.1"},
    "Azure": {"model": "azure/gpt-4.1", "params": {"api_version": "2024-10-21"}},
    "Anthropic": {"model": "anthropic/claude-sonnet-4-5"},
    "Gemini": {"model": "gemini/gemini-2.5-flash"},
    "Bedrock": {
        "model": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
        "params": {"aws_access_key_id": "AKIA", "aws_secret_access_key": "x" * 40, "aws_region_name": "us-east-1"},
    },
    "Ollama": {"model": "ollama_chat/llama3"},
    "Cohere": {"model": "cohere/command-r"},
    "Mistral": {"model": "mistral/mistral-large-latest"},
}
PRICE = {"input_per_million": 1, "output_per_million": 1}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "abc", "origin": "anthropic/claude-sonnet-4-5"}
PARTS = [
    {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
]
FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
REQUESTS: list[dict[str, Any]] = [
    {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi", "name": "bob"}],
        "temperature": 0.2,
        "max_tokens": 9,
        "stop": ["x"],
        "seed": 3,
        "user": "u",
    },
    {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {**RESULT, "content": [{"type": "text", "text": "rain"}]},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    },
    {
        "messages": [
            {"role": "user", "content": "?"},
            {
                "role": "assistant",
                "content": "hm",
                "reasoning_content": "hm",
                "thinking_blocks": [THOUGHT],
                "tool_calls": [CALL],
            },
            RESULT,
        ],
        "tools": [TOOL],
    },
    *({"messages": [{"role": "user", "content": [part]}]} for part in PARTS),
    {"messages": [{"role": "user", "content": PARTS}]},
    {
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": FORM, "strict": True}},
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "assistant",
        "metadata": {"tenant": "acme", "session": "s"},
        "n": 2,
        "logit_bias": {"3": 1},
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "service_tier": "auto",
        "store": False,
        "modalities": ["text", "audio"],
        "audio": {"voice": "a", "format": "wav"},
        "top_p": 0.5,
        "functions": [TOOL["function"]],
        "function_call": "auto",
        "prediction": {"type": "content", "content": "x"},
    },
]


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def post(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Sends a body to a server before such a deployment, and returns the status."""
    deployment = {"api_base": NOWHERE, "api_key": "sk-given", "price": PRICE, **DEPLOYMENTS[request.param]}
    spec = {
        "deployments": {"only": {**deployment, "breaker": "off"}},
        "chains": {
            "assistant": {
                "tiers": ["only"],
                "retries": {"max": 0},
                "affinity": "thread",
                "budget": {"usd_per_day": 1_000_000, "per": "tenant"},
            }
        },
    }
    with asyncio.Runner() as runner, in_process(spec) as client:

        async def send(body: bytes) -> httpx.Response:
            return await client.post("/v1/chat/completions", content=body)

        yield lambda body: runner.run(send(body))


@given(body=spoilt_document(REQUESTS))
@tries(100)
def test_a_request_is_sent_on_or_refused_and_no_failure_of_the_server(post, body):
    """Whoever the deployment is: litellm writes the request, or our own templates do. What is sent on finds nobody."""
    reply = post(json.dumps(body).encode(errors="replace"))
    # 429: a limit on the reply's length that nobody could pay for.
    assert reply.status_code in (400, 404, 429, 502), reply.text
    assert reply.status_code != 502 or reply.json()["error"]["code"] == "connection", reply.text
