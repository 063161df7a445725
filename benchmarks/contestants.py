"""The ways to ask a chat model that are set side by side, each built with the defaults its users get.

Those beside LangChain, litellm and the openai SDK are installed by `benchmarks/requirements.txt`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
RAW = "raw aiohttp"
FLOOR = "LangChain and aiohttp"
BARE = "ChatLiteLLMRouter"


@dataclass(frozen=True)
class Contestant:
    """One way to ask; a way it does not have is None."""

    ask: Callable[[], Awaitable[Any]]
    stream: Callable[[], AsyncIterator[Any]]
    ask_sync: Callable[[], Any] | None = None


Builder = Callable[[str, AsyncExitStack], Awaitable[Contestant]]
"""Builds a contestant that asks the server at an address; what it opens is closed with the stack."""


async def raw(url: str, stack: AsyncExitStack) -> Contestant:
    import aiohttp

    session = await stack.enter_async_context(aiohttp.ClientSession())
    headers, address = {"authorization": "Bearer none"}, f"{url}/v1/chat/completions"

    async def ask() -> Any:
        body = {"model": "gpt-4.1", "messages": MESSAGES}
        async with session.post(address, json=body, headers=headers) as response:
            return json.loads(await response.read())

    async def stream() -> AsyncIterator[Any]:
        body = {"model": "gpt-4.1", "messages": MESSAGES, "stream": True}
        async with session.post(address, json=body, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    return Contestant(ask, stream)


async def openai_sdk(url: str, stack: AsyncExitStack) -> Contestant:
    from openai import AsyncOpenAI, OpenAI

    client = await stack.enter_async_context(AsyncOpenAI(base_url=f"{url}/v1", api_key="none"))
    threaded = stack.enter_context(OpenAI(base_url=f"{url}/v1", api_key="none"))
    asked: Any = {"model": "gpt-4.1", "messages": MESSAGES}

    async def stream() -> AsyncIterator[Any]:
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            yield chunk

    return Contestant(
        lambda: client.chat.completions.create(**asked), stream, lambda: threaded.chat.completions.create(**asked)
    )


async def anthropic_sdk(url: str, stack: AsyncExitStack) -> Contestant:
    from anthropic import Anthropic, AsyncAnthropic

    client = await stack.enter_async_context(AsyncAnthropic(base_url=url, api_key="none"))
    threaded = stack.enter_context(Anthropic(base_url=url, api_key="none"))
    asked: Any = {"model": "claude-sonnet-4-5", "max_tokens": 1024, "messages": MESSAGES}

    async def stream() -> AsyncIterator[Any]:
        async for event in await client.messages.create(**asked, stream=True):
            yield event

    return Contestant(lambda: client.messages.create(**asked), stream, lambda: threaded.messages.create(**asked))


async def pydantic_ai(url: str, stack: AsyncExitStack) -> Contestant:
    from pydantic_ai import ModelRequest
    from pydantic_ai.direct import model_request, model_request_stream, model_request_sync
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    model = FallbackModel(*[OpenAIChatModel("gpt-4.1", provider=provider) for _ in range(2)])

    def asked() -> list[Any]:
        return [ModelRequest.user_text_prompt(QUESTION)]

    async def stream() -> AsyncIterator[Any]:
        async with model_request_stream(model, asked()) as events:
            async for event in events:
                yield event

    return Contestant(lambda: model_request(model, asked()), stream, lambda: model_request_sync(model, asked()))


async def any_llm(url: str, stack: AsyncExitStack) -> Contestant:
    from any_llm import AnyLLM

    # Its function `acompletion` makes a client for each call, which costs more than ten times as much.
    llm = AnyLLM.create("openai", api_key="none", api_base=f"{url}/v1")

    async def stream() -> AsyncIterator[Any]:
        async for chunk in await llm.acompletion("gpt-4.1", copied(), stream=True):  # type: ignore[union-attr]
            yield chunk

    return Contestant(lambda: llm.acompletion("gpt-4.1", copied()), stream)


def of_model(model: Any) -> Contestant:
    """A contestant made of a LangChain chat model."""
    return Contestant(lambda: model.ainvoke(QUESTION), lambda: model.astream(QUESTION), lambda: model.invoke(QUESTION))


async def floor_model(url: str, stack: AsyncExitStack) -> Any:
    """A model of LangChain's that asks by aiohttp and does nothing else: the least that any costs."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

    asks = await raw(url, stack)

    class Floor(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "floor"

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise NotImplementedError

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            document = await asks.ask()
            said = document["choices"][0]["message"]["content"]
            return ChatResult(generations=[ChatGeneration(message=AIMessage(said))])

        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            async for document in asks.stream():
                for choice in document["choices"]:
                    said = choice["delta"].get("content") or ""
                    yield ChatGenerationChunk(message=AIMessageChunk(said))

    return Floor()


async def floor(url: str, stack: AsyncExitStack) -> Contestant:
    model = await floor_model(url, stack)
    return Contestant(lambda: model.ainvoke(QUESTION), lambda: model.astream(QUESTION))


def a_chat_openai(url: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="gpt-4.1", base_url=f"{url}/v1", api_key="none", stream_usage=True)  # type: ignore[arg-type]


async def chat_openai(url: str, stack: AsyncExitStack) -> Contestant:
    return of_model(a_chat_openai(url))


async def with_fallbacks(url: str, stack: AsyncExitStack) -> Contestant:
    return of_model(a_chat_openai(url).with_fallbacks([a_chat_openai(url)]))


async def azure_chat_openai(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_openai import AzureChatOpenAI

    words: Any = {"azure_endpoint": url, "azure_deployment": "gpt-4o", "api_version": "2025-04-01-preview"}
    return of_model(AzureChatOpenAI(**words, api_key="none", stream_usage=True))


async def chat_anthropic(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_anthropic import ChatAnthropic

    words: Any = {"model": "claude-sonnet-4-5", "base_url": url, "api_key": "none"}
    return of_model(ChatAnthropic(**words))


async def chat_google(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_google_genai import ChatGoogleGenerativeAI

    words: Any = {"model": "gemini-2.5-flash", "base_url": url, "google_api_key": "none"}
    return of_model(ChatGoogleGenerativeAI(**words))


AWS: Mapping[str, str] = {"aws_access_key_id": "AKIATESTTESTTEST", "aws_secret_access_key": "none"}
CLAUDE_ON_BEDROCK = "anthropic.claude-sonnet-4-5-20250929-v1:0"


async def chat_bedrock(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_aws import ChatBedrockConverse

    words: Any = {"model": CLAUDE_ON_BEDROCK, "endpoint_url": url, "region_name": "us-east-1", **AWS}
    return of_model(ChatBedrockConverse(**words))


def litellm_words(url: str, provider: str) -> dict[str, Any]:
    return {"model": f"{provider}/gpt-4.1", "api_base": f"{url}/v1", "api_key": "none"}


def litellm_as(provider: str) -> Builder:
    async def build(url: str, stack: AsyncExitStack) -> Contestant:
        import litellm

        words = litellm_words(url, provider)

        async def stream() -> AsyncIterator[Any]:
            answer: Any = await litellm.acompletion(
                **words, messages=copied(), stream=True, stream_options={"include_usage": True}
            )
            async for chunk in answer:
                yield chunk

        return Contestant(
            lambda: litellm.acompletion(**words, messages=copied()),
            stream,
            lambda: litellm.completion(**words, messages=copied()),
        )

    return build


def copied() -> list[Any]:
    return [dict(message) for message in MESSAGES]


def a_router(url: str) -> Any:
    """A group with a fallback, as defaults have it."""
    import litellm

    words = litellm_words(url, "hosted_vllm")
    return litellm.Router(
        model_list=[{"model_name": name, "litellm_params": words} for name in ("primary", "backup")],
        fallbacks=[{"primary": ["backup"]}],
    )


async def router(url: str, stack: AsyncExitStack) -> Contestant:
    built = a_router(url)
    stack.callback(built.discard)

    async def stream() -> AsyncIterator[Any]:
        answer: Any = await built.acompletion(
            model="primary", messages=copied(), stream=True, stream_options={"include_usage": True}
        )
        async for chunk in answer:
            yield chunk

    return Contestant(
        lambda: built.acompletion(model="primary", messages=copied()),
        stream,
        lambda: built.completion(model="primary", messages=copied()),
    )


async def chat_litellm_router(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_litellm import ChatLiteLLMRouter

    built = a_router(url)
    stack.callback(built.discard)
    return of_model(ChatLiteLLMRouter(router=built, model="primary"))


def ours(**deployment: Any) -> Builder:
    """Our model, on a chain of two deployments; `{url}` in their words is the server's address."""

    def filled(value: Any, url: str) -> Any:
        if isinstance(value, dict):
            return {name: filled(inner, url) for name, inner in value.items()}
        return value.replace("{url}", url)

    async def build(url: str, stack: AsyncExitStack) -> Contestant:
        return of_model(await stack.enter_async_context(a_chain(filled(deployment, url))))

    return build


def a_chain(own: Mapping[str, Any]) -> Any:
    """Our model, on a chain of two such deployments."""
    from llm_fallback import build_chat_model

    chain = {"tiers": ["primary", "backup"]}
    return build_chat_model({"deployments": {"primary": own, "backup": own}, "chains": {"c": chain}})


OURS = "ours, vllm"
GROUPS: Mapping[str, Mapping[str, Builder]] = {
    "openai": {
        RAW: raw,
        FLOOR: floor,
        "openai SDK": openai_sdk,
        "ChatOpenAI": chat_openai,
        "ChatOpenAI.with_fallbacks": with_fallbacks,
        "pydantic-ai FallbackModel": pydantic_ai,
        "any-llm": any_llm,
        "litellm.acompletion, hosted_vllm": litellm_as("hosted_vllm"),
        "litellm.acompletion, openai": litellm_as("openai"),
        "Router.acompletion": router,
        BARE: chat_litellm_router,
        OURS: ours(backend="vllm", model="gpt-4.1", api_base="{url}", api_key="none"),
        "ours, openai-compatible": ours(backend="openai-compatible", model="gpt-4.1", api_base="{url}", api_key="none"),
    },
    "anthropic": {
        "anthropic SDK": anthropic_sdk,
        "ChatAnthropic": chat_anthropic,
        "ours, anthropic": ours(model="anthropic/claude-sonnet-4-5", api_base="{url}", api_key="none"),
    },
    "gemini": {
        "ChatGoogleGenerativeAI": chat_google,
        "ours, gemini": ours(model="gemini/gemini-2.5-flash", api_base="{url}", api_key="none"),
    },
    "azure": {
        "AzureChatOpenAI": azure_chat_openai,
        "ours, azure": ours(
            model="azure/gpt-4o", api_base="{url}", api_key="none", params={"api_version": "2025-04-01-preview"}
        ),
    },
    "bedrock": {
        "ChatBedrockConverse": chat_bedrock,
        "ours, bedrock": ours(
            model=f"bedrock/{CLAUDE_ON_BEDROCK}",
            params={"aws_region_name": "us-east-1", "aws_bedrock_runtime_endpoint": "{url}", **AWS},
        ),
    },
    "ollama": {
        "ours, ollama": ours(model="ollama_chat/llama3.1", api_base="{url}"),
    },
}
"""Contestants that ask the same server in the same protocol; ratios are to the `BASES`."""

BASES: Mapping[str, tuple[str, ...]] = {
    "openai": (RAW, FLOOR, "openai SDK", BARE),
    "anthropic": ("ChatAnthropic",),
    "gemini": ("ChatGoogleGenerativeAI",),
    "azure": ("AzureChatOpenAI",),
    "bedrock": ("ChatBedrockConverse",),
    "ollama": (),
}

BUILDERS: Mapping[str, Builder] = {name: build for group in GROUPS.values() for name, build in group.items()}
