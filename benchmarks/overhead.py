"""What a call costs: CPU per call and per chunk, calls a second at 50 in flight and from 32 threads.

    python -m benchmarks.overhead [--quick] [--only ainvoke,astream,in-flight,threads]

All contestants take turns in every round, and a table shows medians of the ratios within a round: a machine that
slows down slows down all of them. The server is a process of its own; CPU is this process's, all threads.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import llm_fallback
from benchmarks.serving import CHUNKS, served
from benchmarks.tables import table, times

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
BARE = "ChatLiteLLMRouter"
RAW = "raw aiohttp"
GOAL = 0.7
"""Our CPU per call, of ChatLiteLLMRouter's."""

Ask = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Contestant:
    """One way to ask a chat model; a way it does not have is None."""

    name: str
    ask: Ask
    stream: Callable[[], AsyncIterator[Any]]
    ask_sync: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    calls: int
    streams: int
    in_flight: int
    threaded: int


FULL = Size(rounds=15, calls=60, streams=10, in_flight=500, threaded=320)
QUICK = Size(rounds=5, calls=20, streams=4, in_flight=150, threaded=96)


# The contestants.


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

    return Contestant(RAW, ask, stream)


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
        "openai SDK",
        lambda: plain.chat.completions.create(**asked),
        stream,
        lambda: threaded.chat.completions.create(**asked),
    )


def of_models(name: str, plain: Any, streamed: Any) -> Contestant:
    """A contestant made of two LangChain chat models."""
    return Contestant(
        name, lambda: plain.ainvoke(QUESTION), lambda: streamed.astream(QUESTION), lambda: plain.invoke(QUESTION)
    )


def chat_openai_at(url: str, script: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=script, base_url=f"{url}/{script}/v1", api_key="none", stream_usage=True)


async def chat_openai(url: str, stack: AsyncExitStack) -> Contestant:
    return of_models("ChatOpenAI", chat_openai_at(url, "plain"), chat_openai_at(url, "streamed"))


async def with_fallbacks(url: str, stack: AsyncExitStack) -> Contestant:
    def chained(script: str) -> Any:
        return chat_openai_at(url, script).with_fallbacks([chat_openai_at(url, script)])

    return of_models("ChatOpenAI.with_fallbacks", chained("plain"), chained("streamed"))


def litellm_words(url: str, provider: str, script: str) -> dict[str, Any]:
    return {"model": f"{provider}/{script}", "api_base": f"{url}/{script}/v1", "api_key": "none"}


def litellm_as(provider: str) -> Callable[[str, AsyncExitStack], Awaitable[Contestant]]:
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
            f"litellm.acompletion, {provider}",
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
        "Router.acompletion",
        lambda: built.acompletion(model="plain", messages=copied()),
        stream,
        lambda: built.completion(model="plain", messages=copied()),
    )


async def chat_litellm_router(url: str, stack: AsyncExitStack) -> Contestant:
    from langchain_litellm import ChatLiteLLMRouter

    built = a_router(url)
    stack.callback(built.discard)
    models = [ChatLiteLLMRouter(router=built, model=script) for script in ("plain", "streamed")]
    return of_models(BARE, *models)


def ours(backend: str) -> Callable[[str, AsyncExitStack], Awaitable[Contestant]]:
    async def build(url: str, stack: AsyncExitStack) -> Contestant:
        def chain_of(script: str) -> dict[str, Any]:
            own = {"backend": backend, "model": script, "api_base": f"{url}/{script}", "api_key": "none"}
            return {"deployments": {"primary": own, "backup": own}, "chains": {"c": {"tiers": ["primary", "backup"]}}}

        models = [llm_fallback.build_chat_model(chain_of(script)) for script in ("plain", "streamed")]
        for model in models:
            await stack.enter_async_context(model)
        return of_models(f"ours, {backend}", *models)

    return build


BUILDERS = (
    *(raw, openai_sdk, chat_openai, with_fallbacks, litellm_as("hosted_vllm"), litellm_as("openai"), router),
    *(chat_litellm_router, ours("vllm"), ours("openai-compatible")),
)


# Measuring. Each measure gives milliseconds, or calls a second, of one turn of one contestant.


async def cpu_per_call(contestant: Contestant, size: Size) -> float:
    return await cpu_ms(contestant.ask, size.calls)


async def cpu_per_chunk(contestant: Contestant, size: Size) -> float:
    async def read() -> None:
        async for _ in contestant.stream():
            pass

    return await cpu_ms(read, size.streams) / CHUNKS


async def cpu_ms(ask: Ask, times_: int) -> float:
    gc.collect()
    began = time.process_time()
    for _ in range(times_):
        await ask()
    # litellm goes on logging in tasks of its own; that belongs to the call.
    await asyncio.sleep(0.05)
    return (time.process_time() - began) * 1000 / times_


async def in_flight(contestant: Contestant, size: Size) -> float:
    """Calls a second of 50 tasks on one loop."""
    left = iter(range(size.in_flight))

    async def work() -> None:
        for _ in left:
            await contestant.ask()

    gc.collect()
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(50)))
    return size.in_flight / (time.perf_counter() - began)


async def threaded(contestant: Contestant, size: Size) -> float | None:
    """Calls a second of 32 threads."""
    if contestant.ask_sync is None:
        return None
    ask = contestant.ask_sync
    gc.collect()

    def work() -> float:
        with ThreadPoolExecutor(32) as pool:
            began = time.perf_counter()
            for future in [pool.submit(ask) for _ in range(size.threaded)]:
                future.result()
            return size.threaded / (time.perf_counter() - began)

    return await asyncio.to_thread(work)


@dataclass(frozen=True)
class Measure:
    """One column of results."""

    take: Callable[[Contestant, Size], Awaitable[float | None]]
    unit: str
    share_of_rounds: float = 1.0


MEASURES = {
    "ainvoke": Measure(cpu_per_call, "CPU ms per call"),
    "astream": Measure(cpu_per_chunk, "CPU ms per chunk"),
    "in-flight": Measure(in_flight, "calls/s, 50 in flight", 0.5),
    "threads": Measure(threaded, "calls/s, 32 threads", 0.35),
}

Series = Mapping[str, Sequence[float]]


async def measured(contestants: Sequence[Contestant], measure: Measure, size: Size) -> Series:
    """Every contestant's values, a round each; the first round only warms up."""
    values: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(1 + max(2, round(size.rounds * measure.share_of_rounds))):
        for contestant in contestants[number % len(contestants) :] + contestants[: number % len(contestants)]:
            value = await measure.take(contestant, size)
            if number and value is not None:
                values[contestant.name].append(value)
    return {name: found for name, found in values.items() if found}


def ratio(series: Series, name: str, base: str) -> float | None:
    """The median of a contestant's ratios to another's, round by round."""
    if name not in series or base not in series:
        return None
    return statistics.median(own / other for own, other in zip(series[name], series[base], strict=True))


def report(title: str, measure: Measure, series: Series) -> str:
    rows = [
        (name, times(statistics.median(values)), times(ratio(series, name, RAW)), times(ratio(series, name, BARE)))
        for name, values in series.items()
    ]
    return f"\n{title}\n\n{table((title, measure.unit, '× raw', f'× {BARE}'), rows)}"


async def main(size: Size, only: Sequence[str]) -> None:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(served())
        contestants = [await build(url, stack) for build in BUILDERS]
        for title in only:
            series = await measured(contestants, MEASURES[title], size)
            print(report(title, MEASURES[title], series), flush=True)
            if title == "ainvoke":
                print(verdict(series))


def verdict(series: Series) -> str:
    share = ratio(series, "ours, vllm", BARE)
    assert share is not None
    return f"\ngoal: at most {GOAL} × {BARE}; ours, vllm: {share:.2f}: {'met' if share <= GOAL else 'missed'}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: half a minute instead of several")
    parser.add_argument("--only", default=",".join(MEASURES), help="which of %(default)s")
    given = parser.parse_args()
    asyncio.run(main(QUICK if given.quick else FULL, given.only.split(",")))
