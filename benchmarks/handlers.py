"""What an `ainvoke` costs when a LangChain handler listens, in function calls, beside the least it can cost.

    python -m benchmarks.handlers

The least is a model of LangChain's that does nothing but ask the same server by aiohttp alone, with the same handler.
Each has a process of its own; the calls of all its threads count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel

from benchmarks.contestants import FLOOR, OURS, QUESTION, a_chain, floor_model
from benchmarks.steps import Counter, in_processes
from benchmarks.tables import table, times


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


async def _model(name: str, url: str, stack: AsyncExitStack) -> BaseChatModel:
    if name == OURS:
        own = {"backend": "vllm", "model": "gpt-4.1", "api_base": url, "api_key": "none"}
        model: BaseChatModel = await stack.enter_async_context(a_chain(own))
        return model
    return await floor_model(url, stack)


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
