"""The LangChain chat model that keeps its promise under failure: bounded time, bounded cost, a known answerer."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_fallback.imports import collecting_later

if TYPE_CHECKING:
    from llm_fallback.budget_callback import BudgetCallbackHandler
    from llm_fallback.build import build_chat_model, build_router
    from llm_fallback.callbacks import (
        CostCallbackHandler,
        LatencyCallbackHandler,
        get_cost_callback,
        get_latency_callback,
    )
    from llm_fallback.chat import FallbackChatModel
    from llm_fallback.checks import check
    from llm_fallback.errors import (
        BudgetExceeded,
        ChainExhausted,
        LLMFallbackError,
        Mistake,
        SpecError,
        StreamBroken,
    )
    from llm_fallback.events import (
        Attempt,
        AttemptFailed,
        BreakerOpened,
        CallEnded,
        Event,
        FellBack,
        Record,
        Skip,
    )
    from llm_fallback.ledger import Ledger
    from llm_fallback.loading import load_spec
    from llm_fallback.runnables import build_runnables, fallback_chain
    from llm_fallback.spec import Spec

# Unset, the first import of litellm asks a public host for a list of prices, and waits for it.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

__version__ = "0.1.0"

_HOME = {
    "build": ("build_chat_model", "build_router"),
    "budget_callback": ("BudgetCallbackHandler",),
    "callbacks": ("CostCallbackHandler", "LatencyCallbackHandler", "get_cost_callback", "get_latency_callback"),
    "chat": ("FallbackChatModel",),
    "checks": ("check",),
    "errors": ("BudgetExceeded", "ChainExhausted", "LLMFallbackError", "Mistake", "SpecError", "StreamBroken"),
    "events": ("Attempt", "AttemptFailed", "BreakerOpened", "CallEnded", "Event", "FellBack", "Record", "Skip"),
    "ledger": ("Ledger",),
    "loading": ("load_spec",),
    "runnables": ("build_runnables", "fallback_chain"),
    "spec": ("Spec",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Attempt",
    "AttemptFailed",
    "BreakerOpened",
    "BudgetCallbackHandler",
    "BudgetExceeded",
    "CallEnded",
    "ChainExhausted",
    "CostCallbackHandler",
    "Event",
    "FallbackChatModel",
    "FellBack",
    "LLMFallbackError",
    "LatencyCallbackHandler",
    "Ledger",
    "Mistake",
    "Record",
    "Skip",
    "Spec",
    "SpecError",
    "StreamBroken",
    "build_chat_model",
    "build_router",
    "build_runnables",
    "check",
    "fallback_chain",
    "get_cost_callback",
    "get_latency_callback",
    "load_spec",
]


def __getattr__(name: str) -> Any:
    """Names resolve on first use, so that importing the package loads neither litellm nor LangChain."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collecting_later():
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
