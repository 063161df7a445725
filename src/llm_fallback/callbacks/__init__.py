"""LangChain callback handlers for the cost and the latency of calls, and for limits of their cost."""

from llm_fallback.callbacks.budget import BudgetCallbackHandler, BudgetSnapshot
from llm_fallback.callbacks.handlers import (
    CostCallbackHandler,
    CostSnapshot,
    LatencyCallbackHandler,
    LatencySnapshot,
    get_cost_callback,
    get_latency_callback,
)

__all__ = [
    "BudgetCallbackHandler",
    "BudgetSnapshot",
    "CostCallbackHandler",
    "CostSnapshot",
    "LatencyCallbackHandler",
    "LatencySnapshot",
    "get_cost_callback",
    "get_latency_callback",
]
