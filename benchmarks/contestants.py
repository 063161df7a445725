"""The ways to ask a chat model that are set side by side, each built with the defaults its users get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
RAW = "raw aiohttp"
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
    headers = {"authorization": "Bearer none"}

    async def ask() -> Any:
        body = {"model": "plain", "messages": MESSAGES}
        async with session.post(f"{url}/plain/v1/chat/completions", json=body, headers=headers) as response:
            return json.loads(await response.read())

    async def stream() -> AsyncIterator[Any]:
        body = {"model": "streamed", "messages": MESSAGES, "stream": True}
        async with session.post(f"{url}/streamed/v1/chat/completions", json=body, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    return Contestant(ask, stream)


async def openai_sdk(url: str, stack: AsyncExitStack) -> Contestant:
    from openai import AsyncOpenAI, OpenAI

    plain = await stack.enter_async_context(AsyncOpenAI(base_url=f"{url}/plain/v1", api_key="none"))
    streamed = await stack.enter_async_context(AsyncOpenAI(base_url=f"{url}/streamed/v1", api_key="none"))
    threaded = stack.enter_context(OpenAI(base_url=f"{url}/plain/v1", api_key="none"))

    async def stream() -> AsyncIterator[Any]:
        asked: Any = {"model": "streamed", "messages": MESSAGES, "stream": True}
        async for chunk in await streamed.chat.completions.create(**asked):
            yield chunk

    asked: Any = {"model": "plain", "messages": MESSAGES}
    return Contestant(
        lambda: plain.chat.completions.create(**asked),
        stream,
        lambda: threaded.chat.completions.create(**asked),
    )


def of_models(plain: Any, streamed: Any) -> Contestant:
    """A contestant made of two LangChain chat models."""
    return Contestant(
        lambda: plain.ainvoke(QUESTION), lambda: streamed.astream(QUESTION), lambda: plain.invoke(QUESTION)
    )


def chat_openai_at(url: str, script: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=script, base_url=f"{url}/{script}/v1", api_key="none", stream_usage=True)


async def chat_openai(url: str, stack: AsyncExitStack) -> Contestant:
    return of_models(chat_openai_at(url, "plain"), chat_openai_at(url, "streamed"))


async def with_fallbacks(url: str, stack: AsyncExitStack) -> Contestant:
    def chained(script: str) -> Any:
        return chat_openai_at(url, script).with_fallbacks([chat_openai_at(url, script)])

    return of_models(chained("plain"), chained("streamed"))


def litellm_words(url: str, provider: str, script: str) -> dict[str, Any]:
    return {"model": f"{provider}/{script}", "api_base": f"{url}/{script}/v1", "api_key": "none"}


def litellm_as(provider: str) -> Builder:
    async def build(url: str, stack: AsyncExitStack) -> Contestant:
        import litellm

        plain, streamed = (litellm_words(url, provider, script) for script in ("plain", "streamed"))

        async def stream() -> AsyncIterator[Any]:
            answer: Any = await litellm.acompletion(
                **streamed, messages=copied(), stream=True, stream_options={"include_usage": True}
            )
            async for chunk in answer:
                yield chunk

        return Contestant(
            lambda: litellm.acompletion(**plain, messages=copied()),
            stream,
            lambda: litellm.completion(**plain, messages=copied()),
        )

    return build


def copied() -> list[dict[str, str]]:
    return [dict(message) for message in MESSAGES]


def a_router(url: str) -> Any:
    """Two groups, each with a fallback, as defaults have it."""
    import litellm

    names = ("plain", "streamed", "plain-backup", "streamed-backup")
    words = {name: litellm_words(url, "hosted_vllm", name.removesuffix("-backup")) for name in names}
    return litellm.Router(
        model_list=[{"model_name": name, "litellm_params": own} for name, own in words.items()],
        fallbacks=[{"plain": ["plain-backup"]}, {"streamed": ["streamed-backup"]}],
    )


async def router(url: str, stack: AsyncExitStack) -> Contestant:
    built = a_router(url)
    stack.callback(built.discard)

    async def stream() -> AsyncIterator[Any]:
        answer: Any = await built.acompletion(
            model="streamed", messages=copied(), stream=True, stream_options={"include_usage": True}
        )
        async for chunk in answer:
            yield chunk

    return Contestant(
        lambda: built.acompletion(model="plain", messages=copied()),
        stream,
        lambda: built.completion(model="plain", messages=copied()),
    )


async def chat_litellm_router(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_litellm import ChatLiteLLMRouter

    built = a_router(url)
    stack.callback(built.discard)
    models = [ChatLiteLLMRouter(router=built, model=script) for script in ("plain", "streamed")]
    return of_models(*models)


def ours(backend: str) -> Builder:
    async def build(url: str, stack: AsyncExitStack) -> Contestant:
        from llm_fallback import build_chat_model

        def chain_of(script: str) -> dict[str, Any]:
            own = {"backend": backend, "model": script, "api_base": f"{url}/{script}", "api_key": "none"}
            return {"deployments": {"primary": own, "backup": own}, "chains": {"c": {"tiers": ["primary", "backup"]}}}

        models = [build_chat_model(chain_of(script)) for script in ("plain", "streamed")]
        for model in models:
            await stack.enter_async_context(model)
        return of_models(*models)

    return build


BUILDERS: dict[str, Builder] = {
    RAW: raw,
    "openai SDK": openai_sdk,
    "ChatOpenAI": chat_openai,
    "ChatOpenAI.with_fallbacks": with_fallbacks,
    "litellm.acompletion, hosted_vllm": litellm_as("hosted_vllm"),
    "litellm.acompletion, openai": litellm_as("openai"),
    "Router.acompletion": router,
    BARE: chat_litellm_router,
    "ours, vllm": ours("vllm"),
    "ours, openai-compatible": ours("openai-compatible"),
}
