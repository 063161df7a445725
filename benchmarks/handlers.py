"""What an `ainvoke` costs when a LangChain handler listens, in function calls, beside the least it can cost.

    python -m benchmarks.handlers

The least is a model of LangChain's that does nothing but ask the same server by aiohttp alone, with the same handler.
Each has a process of its own; the calls of all its threads count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from benchmarks.contestants import MESSAGES, OURS, QUESTION, a_chain
from benchmarks.steps import Counter, in_processes
from benchmarks.tables import table, times

FLOOR = "LangChain and aiohttp"


class Sync(BaseCallbackHandler):
    """Hears how a call ends, in a thread."""

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        pass


class Async(AsyncCallbackHandler):
    """Hears how a call ends, in a task."""

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        pass


class InlineSync(Sync):
    """Hears how a call ends, in the call's task."""

    run_inline = True


class InlineAsync(Async):
    """Hears how a call ends, in the call's task."""

    run_inline = True


def cost_handler() -> BaseCallbackHandler:
    """The library's own."""
    from llm_fallback.callbacks import CostCallbackHandler

    return CostCallbackHandler()


HANDLERS: Mapping[str, Callable[[], BaseCallbackHandler] | None] = {
    "none": None,
    "CostCallbackHandler": cost_handler,
    "sync, run_inline": InlineSync,
    "async, run_inline": InlineAsync,
    "async": Async,
    "sync": Sync,
}


class Bare(BaseChatModel):
    """Asks by aiohttp, and does nothing else."""

    url: str
    session: Any

    @property
    def _llm_type(self) -> str:
        return "bare"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        body, headers = {"model": "gpt-4.1", "messages": MESSAGES}, {"authorization": "Bearer none"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            document = json.loads(await response.read())
        return ChatResult(generations=[ChatGeneration(message=AIMessage(document["choices"][0]["message"]["content"]))])


async def _model(name: str, url: str, stack: AsyncExitStack) -> BaseChatModel:
    if name == OURS:
        own = {"backend": "vllm", "model": "gpt-4.1", "api_base": url, "api_key": "none"}
        model: BaseChatModel = await stack.enter_async_context(a_chain(own))
        return model
    import aiohttp

    return Bare(url=url, session=await stack.enter_async_context(aiohttp.ClientSession()))


async def counted(name: str, url: str) -> dict[str, float]:
    """Function calls per `ainvoke`, by the kind of the handler."""
    counter, found = Counter(), {}
    async with AsyncExitStack() as stack:
        model = await _model(name, url, stack)
        for kind, make in HANDLERS.items():
            config: Any = {} if make is None else {"callbacks": [make()]}
            found[kind] = await counter.in_each(lambda config=config: model.ainvoke(QUESTION, config))
    return found


if __name__ == "__main__":
    result = in_processes(counted, (FLOOR, OURS))
    rows = [
        (
            kind,
            *(f"{result[name][kind]:.0f}" for name in (FLOOR, OURS)),
            times(result[OURS][kind] / result[FLOOR][kind]),
        )
        for kind in HANDLERS
    ]
    print(table(("handler", FLOOR, OURS, f"× {FLOOR}"), rows))
