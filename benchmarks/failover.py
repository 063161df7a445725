"""What a broken primary costs while a healthy backup stands by: time to the answer, requests the primary got.

    python -m benchmarks.failover [--quick]

The contestants take turns, each with a new model per try, so that no cooldown or breaker of one try helps the next;
a first call to a healthy primary, which is not counted, opens the connections. Requests are the server's own record.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import table, times
from llm_fallback.testing import Fail, FakeServer, Stall
from llm_fallback.testing.scripts import Step

TIMEOUT_S = 1.0
"""What every contestant is given as the time limit of a request."""
GOAL_S = 0.05
"""What we may add to the failing answer."""
BARE, FALLBACKS, OURS = "ChatLiteLLMRouter", "ChatOpenAI.with_fallbacks", "ours"
MODES = ("ainvoke", "astream")


@dataclass(frozen=True)
class Case:
    """A way to fail, and how long that takes by itself."""

    name: str
    step: Step
    fails_after_s: float


CASES = (
    Case("500", Fail(500), 0.0),
    Case("429, Retry-After 2", Fail(429, retry_after=2), 0.0),
    Case("hangs, timeout 1 s", Stall(), TIMEOUT_S),
)

Builder = Callable[[FakeServer, AsyncExitStack], Awaitable[Any]]


async def chat_litellm_router(server: FakeServer, stack: AsyncExitStack) -> Any:
    import litellm
    from langchain_litellm import ChatLiteLLMRouter

    def group(name: str) -> dict[str, Any]:
        own = {"model": f"hosted_vllm/{name}", "api_base": f"{server.base(name)}/v1", "api_key": "none"}
        return {"model_name": name, "litellm_params": {**own, "timeout": TIMEOUT_S}}

    litellm.suppress_debug_info = True
    router = litellm.Router(
        model_list=[group("primary"), group("backup")], fallbacks=[{"primary": ["backup"]}], timeout=TIMEOUT_S
    )
    stack.callback(router.discard)
    return ChatLiteLLMRouter(router=router, model="primary")


async def with_fallbacks(server: FakeServer, stack: AsyncExitStack) -> Any:
    from langchain_openai import ChatOpenAI

    def model(name: str) -> Any:
        return ChatOpenAI(model=name, base_url=f"{server.base(name)}/v1", api_key="none", timeout=TIMEOUT_S)

    return model("primary").with_fallbacks([model("backup")])


async def ours(server: FakeServer, stack: AsyncExitStack) -> Any:
    from llm_fallback import build_chat_model

    model = build_chat_model(server.spec(backend="vllm", timeouts={"attempt_s": TIMEOUT_S}))
    return await stack.enter_async_context(model)


BUILDERS: dict[str, Builder] = {BARE: chat_litellm_router, FALLBACKS: with_fallbacks, OURS: ours}


@dataclass(frozen=True)
class Try:
    """One call that met a broken primary."""

    seconds: float
    requests: int
    error: str | None = None
    """What it raised instead of answering."""


async def ask(model: Any, mode: str) -> Any:
    """The answer, or its first content if it is streamed."""
    if mode == "ainvoke":
        return (await model.ainvoke("hi")).content
    stream = model.astream("hi")
    try:
        async for chunk in stream:
            if chunk.content:
                return chunk.content
    finally:
        await stream.aclose()
    return None


async def one_try(server: FakeServer, build: Builder, case: Case, mode: str) -> Try:
    async with AsyncExitStack() as stack:
        model = await build(server, stack)
        server.script("primary", "fine")
        await ask(model, mode)
        server.script("primary", case.step)
        server.reset()
        began = time.perf_counter()
        error = None
        try:
            answer = await ask(model, mode)
            assert "back" in str(answer), answer
        except Exception as raised:
            error = type(raised).__name__
        return Try(time.perf_counter() - began, len(server.received("primary")), error)


async def measured(tries: int, mode: str) -> dict[tuple[str, str], list[Try]]:
    """Tries by case and contestant; they take turns."""
    found: dict[tuple[str, str], list[Try]] = defaultdict(list)
    async with FakeServer({"primary": "fine", "backup": "back"}) as server:
        for case in CASES:
            for _ in range(tries):
                for name, build in BUILDERS.items():
                    found[case.name, name].append(await one_try(server, build, case, mode))
    return found


def report(mode: str, found: dict[tuple[str, str], list[Try]]) -> str:
    told = ("answered", "after s", "added by it, s", f"× {BARE}", "requests to primary")
    return table(
        (f"{mode}, primary", "contestant", *told), (row_of(case, name, found) for case in CASES for name in BUILDERS)
    )


def row_of(case: Case, name: str, found: dict[tuple[str, str], list[Try]]) -> tuple[str, ...]:
    own, bare = found[case.name, name], found[case.name, BARE]
    seconds = statistics.median(each.seconds for each in own)
    share = statistics.median(mine.seconds / theirs.seconds for mine, theirs in zip(own, bare, strict=True))
    requests = statistics.median(each.requests for each in own)
    errors = {each.error for each in own if each.error}
    answered = ", ".join(sorted(errors)) if errors else "yes"
    added = f"{seconds - case.fails_after_s:.3f}"
    return (case.name, name, answered, f"{seconds:.3f}", added, times(share), f"{requests:g}")


def verdict(found: dict[tuple[str, str], list[Try]]) -> str:
    added = max(
        statistics.median(each.seconds for each in found[case.name, OURS]) - case.fails_after_s for case in CASES
    )
    word = "met" if added <= GOAL_S else "missed"
    return f"goal: ours adds at most {GOAL_S * 1000:g} ms to the failing answer; {added * 1000:.0f} ms, {word}"


async def main(tries: int, modes: tuple[str, ...]) -> None:
    for mode in modes:
        found = await measured(tries, mode)
        print(f"\n{report(mode, found)}\n\n{verdict(found)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one try each, not streamed: half a minute")
    given = parser.parse_args()
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    asyncio.run(main(1, MODES[:1]) if given.quick else main(3, MODES))
