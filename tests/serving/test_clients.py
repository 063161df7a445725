"""OpenAI's client, LangChain's, litellm and curl before a chain whose primary is dead: none of them notices."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import litellm
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from llm_fallback.testing import Cut, Fail, FakeServer
from tests.serving.running import KEY, served

PRICED = {"price": {"input_per_million": 1, "output_per_million": 2}}
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(
        {"primary": Fail(500), "backup": None, "breaking": Cut(after_chunks=2), "limited": Fail(429)}
    ) as server:
        yield server


@pytest.fixture(scope="module")
def url(server: FakeServer) -> Iterator[str]:
    """The chain `assistant` falls back; `breaking` breaks off, `limited` is throttled."""
    spec = server.spec(deployments=dict.fromkeys(("primary", "backup"), PRICED))
    spec["chains"] = {
        "assistant": {"tiers": ["primary", "backup"]},
        "breaking": {"tiers": ["breaking"]},
        "limited": {"tiers": ["limited"], "retries": {"max": 0}},
    }
    with served({**spec, "default_chain": "assistant", "serve": {"keys": [KEY]}}) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY) as client:
        yield client


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Capital(BaseModel):
    """A country's capital."""

    city: str


def test_openais_client_gets_replies_and_the_facts_in_headers(client: openai.OpenAI) -> None:
    """Usage and request id too."""
    raw = client.chat.completions.with_raw_response.create(model="assistant", messages=QUESTION)
    reply = raw.parse()
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    assert raw.headers["x-llm-fallback-deployment"] == "backup"
    assert float(raw.headers["x-llm-fallback-cost-usd"]) > 0
    assert raw.request_id


def test_openais_client_streams_with_and_without_usage(client: openai.OpenAI) -> None:
    """Its helper for streams adds the chunks up to the same reply."""
    plain = list(client.chat.completions.create(model="assistant", messages=QUESTION, stream=True))
    assert all(len(chunk.choices) == 1 for chunk in plain)
    assert plain[-1].choices[0].finish_reason == "stop"
    assert plain[-1].llm_fallback["deployment"] == "backup"  # type: ignore[attr-defined]
    with client.chat.completions.stream(
        model="assistant", messages=QUESTION, stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    assert final.usage is not None
    assert final.usage.completion_tokens > 0


def test_openais_client_gets_tool_calls_streamed_and_plain(client: openai.OpenAI) -> None:
    """The helper joins the parts of their arguments."""
    plain = client.chat.completions.create(model="assistant", messages=QUESTION, tools=[TOOL], tool_choice="required")
    calls = plain.choices[0].message.tool_calls
    assert calls is not None
    assert json.loads(calls[0].function.arguments)["city"]  # type: ignore[union-attr]
    with client.chat.completions.stream(
        model="assistant", messages=QUESTION, tools=[TOOL], tool_choice="required"
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert streamed[0].function.name == "weather"
    assert json.loads(streamed[0].function.arguments)["city"]


def test_openais_client_gets_replies_of_a_schema(client: openai.OpenAI) -> None:
    """`response_format` goes through."""
    reply = client.chat.completions.parse(model="assistant", messages=QUESTION, response_format=Capital)
    assert isinstance(reply.choices[0].message.parsed, Capital)


def test_openais_client_raises_its_own_errors(client: openai.OpenAI, server: FakeServer, url: str) -> None:
    """By status; what the chain gave up on it does not repeat, and what may be asked later it can tell."""
    with pytest.raises(openai.NotFoundError, match="did you mean 'assistant'"):
        client.chat.completions.create(model="asistant", messages=QUESTION)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="sk-wrong").models.list()
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="assistant", messages=[])
    assert refused.value.param == "messages"
    with pytest.raises(openai.RateLimitError) as limited:
        client.with_options(max_retries=0).chat.completions.create(model="limited", messages=QUESTION)
    assert limited.value.code == "rate_limit_exceeded"
    assert int(limited.value.response.headers["retry-after"]) > 0
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="breaking", messages=QUESTION, stream=True))
    before = len(server.received("breaking"))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="breaking", messages=QUESTION)
    # One and two repeats of the chain's, not three times as many.
    assert len(server.received("breaking")) - before <= 3


async def test_openais_async_client_lists_and_asks(url: str) -> None:
    """Many at once."""
    import asyncio

    async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        listed = [model.id async for model in client.models.list()]
        replies = await asyncio.gather(
            *(client.chat.completions.create(model="assistant", messages=QUESTION) for _ in range(20))
        )
    assert listed == ["assistant", "breaking", "limited"]
    assert {reply.choices[0].finish_reason for reply in replies} == {"stop"}


def test_chatopenai_asks_streams_and_calls_tools(url: str) -> None:
    """The whole of LangChain's suite: tests/standard/test_serving.py."""
    model = ChatOpenAI(model="assistant", base_url=url, api_key=SecretStr(KEY), stream_usage=True)
    reply = model.invoke([HumanMessage("What is the capital of France?")])
    assert reply.response_metadata["model_name"] == "backup"
    assert reply.usage_metadata is not None
    chunks = list(model.stream("hi"))
    assert "".join(str(chunk.content) for chunk in chunks)
    called = model.bind_tools([TOOL], tool_choice="weather").invoke("How is the weather in Paris?")
    assert called.tool_calls[0]["name"] == "weather"


def test_litellm_asks_and_streams(url: str) -> None:
    """As any server of OpenAI's protocol."""
    common: dict[str, Any] = {"model": "openai/assistant", "api_base": url, "api_key": KEY, "messages": QUESTION}
    assert litellm.completion(**common).choices[0].message.content
    text = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**common, stream=True))
    assert text
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**common, "model": "openai/asistant"})


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_a_reply_and_a_stream(url: str) -> None:
    """With nothing but a body."""

    def curl(**words: Any) -> str:
        body = json.dumps({"model": "assistant", "messages": QUESTION, **words})
        command = ["curl", "-sN", "--fail", f"{url}/chat/completions", "-H", f"Authorization: Bearer {KEY}", "-d", body]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert json.loads(curl())["choices"][0]["message"]["content"]
    lines = curl(stream=True).splitlines()
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
