"""What a user may write, and how it is read: models, files, consistency, secrets, mistakes in words."""

from llm_fallback.spec.entries import Chain, Defaults, Deployment, RunnableSpec
from llm_fallback.spec.load import load_spec
from llm_fallback.spec.model import Spec, json_schema
from llm_fallback.spec.settings import (
    Breaker,
    Budget,
    ColdStart,
    Hedge,
    Limits,
    OnStreamBreak,
    Price,
    Retries,
    Timeouts,
)

__all__ = [
    "Breaker",
    "Budget",
    "Chain",
    "ColdStart",
    "Defaults",
    "Deployment",
    "Hedge",
    "Limits",
    "OnStreamBreak",
    "Price",
    "Retries",
    "RunnableSpec",
    "Spec",
    "Timeouts",
    "json_schema",
    "load_spec",
]
