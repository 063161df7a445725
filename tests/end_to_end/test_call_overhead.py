"""What a call costs, counted in function calls: the same on every machine, unlike seconds.

benchmarks/ measures CPU; this only keeps what was reached there from getting lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from benchmarks.contestants import BUILDERS
from benchmarks.handlers import Async, InlineAsync, InlineSync
from benchmarks.protocols import CHUNKS
from benchmarks.serving import served
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from llm_fallback import build_chat_model
from llm_fallback.callbacks import CostCallbackHandler
from llm_fallback.testing import FakeServer, Reply

ROOT = Path(__file__).parents[2]
CONTESTANTS = ("ChatLiteLLMRouter", "ChatOpenAI.with_fallbacks", "ours, vllm", "ours, openai-compatible")


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, float]]:
    """Function calls per call and per chunk, each contestant in a process of its own."""
    only = [word for name in CONTESTANTS for word in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks.steps", "--json", *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["vllm", "openai-compatible"])
@pytest.mark.parametrize(("kind", "most"), [("call", 0.15), ("chunk", 0.25)])
def test_it_costs_a_fraction_of_what_the_router_costs(steps, kind, most, backend):
    """litellm's logs and prices that nobody reads, its wrapper around each chunk, and all translations but the first
    two are left out."""
    assert steps[f"ours, {backend}"][kind] <= most * steps["ChatLiteLLMRouter"][kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["call", "chunk"])
def test_it_costs_half_of_langchains_own_fallbacks(steps, kind):
    """Though those have no breaker, no deadline, no facts and no prices."""
    assert steps["ours, vllm"][kind] <= 0.5 * steps["ChatOpenAI.with_fallbacks"][kind]


async def own_steps(work: Callable[[], Awaitable[Any]]) -> int:
    """Calls of this library's functions in this thread, once what is made on first use is made: the least of a few, as
    a reply may come in several reads."""
    for _ in range(2):
        await work()
    return min([await counted(work) for _ in range(5)])


async def counted(work: Callable[[], Awaitable[Any]], whose: str = "/llm_fallback/") -> int:
    """Function calls of files whose path has `whose` in it."""
    steps = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal steps
        steps += event == "call" and whose in frame.f_code.co_filename

    sys.setprofile(note)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return steps


async def test_a_thousand_deployments_cost_a_call_no_more_than_two():
    """Whom to ask is drawn as needed; nobody looks at the rest."""
    counts = []
    # A request that nobody made before: else one of two deployments has a template by then, and of a thousand none.
    seeds = count()
    with FakeServer({"a": "fine"}) as server:
        [own] = server.spec(backend="vllm")["deployments"].values()
        for size in (2, 1000):
            names = [f"d{number}" for number in range(size)]
            spec = {"deployments": dict.fromkeys(names, own), "chains": {"c": {"tiers": [names]}}}
            async with build_chat_model(spec) as model:
                counts.append(await own_steps(lambda model=model: model.ainvoke("hi", seed=next(seeds))))
    assert counts[1] <= 1.1 * counts[0]


async def test_what_a_call_costs_us_is_known():
    """Course, whom to ask, breaker, deadlines, facts, the request, its sending, the reply and the message: 306, and a
    few where a reply comes in two reads each time, as on a busy machine."""
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            assert await own_steps(lambda: model.ainvoke("hi")) <= 320


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TURN = [
    HumanMessage("What is the weather?"),
    AIMessage("", tool_calls=[{"name": "f", "args": {"city": "Oslo"}, "id": "call_1"}]),
    ToolMessage("rain", tool_call_id="call_1"),
]


async def test_a_turn_of_an_agent_costs_little_more_than_a_plain_call():
    """A tool's answer in the history is written as plain texts are, without litellm."""
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            bound = model.bind_tools([TOOL])
            plain, turn = [await own_steps(lambda said=said: bound.ainvoke(said)) for said in ("hi", TURN)]
    assert turn <= 1.25 * plain


async def test_what_a_chunk_costs_us_is_known():
    """Reading it, the limits, what was delivered, the message: 22. One more for each chunk is one for every token."""

    async def read(model: Any) -> None:
        async for _ in model.astream("hi"):
            pass

    counts = []
    for chunks in (10, 110):
        with FakeServer({"a": Reply("word " * chunks, chunks=chunks)}) as server:
            async with build_chat_model(server.spec(backend="vllm")) as model:
                counts.append(await own_steps(lambda model=model: read(model)))
    assert (counts[1] - counts[0]) / 100 <= 23


async def all_steps(work: Callable[[], Awaitable[Any]]) -> int:
    """Function calls of everybody in this thread, once what is made on first use is made: the least of a few."""
    for _ in range(4):
        await work()
    return min([await counted(work, "") for _ in range(5)])


async def test_a_call_that_nobody_listens_to_costs_little_more_than_nothing():
    """A model of LangChain's that does nothing, and a request by aiohttp alone, come to 579."""
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            assert await all_steps(lambda: model.ainvoke("hi")) <= 615


HEARD = {
    "ours": (CostCallbackHandler, 805),
    "sync, in line": (InlineSync, 772),
    "async, in line": (InlineAsync, 772),
    "async": (Async, 905),
}
"""The thread that LangChain takes for a sync handler makes such a call dearer than this, whatever the model does."""


@pytest.mark.parametrize("kind", HEARD)
async def test_what_a_call_costs_that_a_handler_hears_is_known(kind):
    """The same handler at a model of LangChain's that asks by aiohttp and does nothing else comes to 640 to 780:
    `python -m benchmarks.handlers`."""
    handler, most = HEARD[kind]
    with FakeServer({"a": "fine"}) as server:
        async with build_chat_model(server.spec(backend="vllm")) as model:
            config: Any = {"callbacks": [handler()]}
            assert await all_steps(lambda: model.ainvoke("hi", config)) <= most


MOST = {
    "ours, vllm": (640, 115),
    "ours, azure": (645, 122),
    "ours, ollama": (640, 130),
    "ours, anthropic": (670, 130),
    "ours, gemini": (680, 162),
    "ours, bedrock": (925, 140),
}
"""Function calls of everybody per call and per streamed chunk: Amazon's signature, by botocore, is 250 of them."""


@pytest.mark.parametrize("family", MOST)
async def test_what_each_protocol_costs_is_known(family):
    """No provider is asked through litellm whole, and none reads its replies in a dearer way."""
    most_per_call, most_per_chunk = MOST[family]
    with served() as url:
        async with AsyncExitStack() as stack:
            contestant = await BUILDERS[family](url, stack)

            async def read() -> None:
                async for _ in contestant.stream():
                    pass

            assert await all_steps(contestant.ask) <= most_per_call
            assert await all_steps(read) / CHUNKS <= most_per_chunk
