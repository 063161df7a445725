"""LangChain callback handlers for the cost and the latency of calls, and for limits of their cost."""

from llm_fallback.callbacks.budget import BudgetCallbackHandler
from llm_fallback.callbacks.handlers import (
    CostCallbackHandler,
    LatencyCallbackHandler,
    get_cost_callback,
    get_latency_callback,
)

__all__ = [
    "BudgetCallbackHandler",
    "CostCallbackHandler",
    "LatencyCallbackHandler",
    "get_cost_callback",
    "get_latency_callback",
]
