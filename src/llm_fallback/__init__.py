"""The LangChain chat model that keeps its promise under failure: bounded time, bounded cost, a known answerer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llm_fallback._imports import lazy_exports

if TYPE_CHECKING:
    from llm_fallback.callbacks import (
        BudgetCallbackHandler,
        BudgetSnapshot,
        CostCallbackHandler,
        CostSnapshot,
        LatencyCallbackHandler,
        LatencySnapshot,
        get_cost_callback,
        get_latency_callback,
    )
    from llm_fallback.chat_model.model_state import ModelState
    from llm_fallback.chat_model.runnables import fallback_chain
    from llm_fallback.engine.health import DeploymentState
    from llm_fallback.engine.ping import PingResult
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
        AttemptMetadata,
        BreakerOpened,
        CallEnded,
        CallMetadata,
        Event,
        Failure,
        FellBack,
        Outcome,
        Record,
        Skip,
        SkipMetadata,
        SkipReason,
    )
    from llm_fallback.fleet.status import FleetStatus
    from llm_fallback.ledger import Ledger
    from llm_fallback.litellm_adapter.build import build_chat_model, build_runnables
    from llm_fallback.litellm_adapter.chat_model import FallbackChatModel
    from llm_fallback.litellm_adapter.recipe import Recipe
    from llm_fallback.litellm_adapter.router import build_router
    from llm_fallback.plan.checks import check
    from llm_fallback.plan.explain import Explanation
    from llm_fallback.spec import ModelOptions, Spec, SpecDict, load_spec

# Unset, the first import of litellm asks a public host for a list of prices, and waits for it.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

__version__ = "0.1.0"

_HOMES = {
    "llm_fallback.callbacks": (
        *("BudgetCallbackHandler", "CostCallbackHandler", "LatencyCallbackHandler"),
        *("BudgetSnapshot", "CostSnapshot", "LatencySnapshot"),
        *("get_cost_callback", "get_latency_callback"),
    ),
    "llm_fallback.chat_model.model_state": ("ModelState",),
    "llm_fallback.chat_model.runnables": ("fallback_chain",),
    "llm_fallback.engine.health": ("DeploymentState",),
    "llm_fallback.engine.ping": ("PingResult",),
    "llm_fallback.errors": (
        *("BudgetExceeded", "ChainExhausted", "LLMFallbackError", "Mistake", "SpecError", "StreamBroken"),
    ),
    "llm_fallback.events": (
        *("Attempt", "AttemptFailed", "BreakerOpened", "CallEnded", "Event", "FellBack", "Record", "Skip"),
        *("AttemptMetadata", "CallMetadata", "SkipMetadata", "Failure", "Outcome", "SkipReason"),
    ),
    "llm_fallback.fleet.status": ("FleetStatus",),
    "llm_fallback.ledger": ("Ledger",),
    "llm_fallback.litellm_adapter.build": ("build_chat_model", "build_runnables"),
    "llm_fallback.litellm_adapter.chat_model": ("FallbackChatModel",),
    "llm_fallback.litellm_adapter.recipe": ("Recipe",),
    "llm_fallback.litellm_adapter.router": ("build_router",),
    "llm_fallback.plan.checks": ("check",),
    "llm_fallback.plan.explain": ("Explanation",),
    "llm_fallback.spec": ("ModelOptions", "Spec", "SpecDict", "load_spec"),
}

__all__ = [
    "Attempt",
    "AttemptFailed",
    "AttemptMetadata",
    "BreakerOpened",
    "BudgetCallbackHandler",
    "BudgetExceeded",
    "BudgetSnapshot",
    "CallEnded",
    "CallMetadata",
    "ChainExhausted",
    "CostCallbackHandler",
    "CostSnapshot",
    "DeploymentState",
    "Event",
    "Explanation",
    "Failure",
    "FallbackChatModel",
    "FellBack",
    "FleetStatus",
    "LLMFallbackError",
    "LatencyCallbackHandler",
    "LatencySnapshot",
    "Ledger",
    "Mistake",
    "ModelOptions",
    "ModelState",
    "Outcome",
    "PingResult",
    "Recipe",
    "Record",
    "Skip",
    "SkipMetadata",
    "SkipReason",
    "Spec",
    "SpecDict",
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


# Names resolve on first use, so that importing the package loads neither litellm nor LangChain.
__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
