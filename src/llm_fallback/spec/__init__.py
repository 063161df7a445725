"""What a user may write: the models of a spec, reading and writing files, checks, secrets, error messages."""

from llm_fallback.spec.entries import Chain, Defaults, Deployment, Fleet, RunnableSpec
from llm_fallback.spec.load import load_spec
from llm_fallback.spec.model import Spec, json_schema
from llm_fallback.spec.options import ModelOptions
from llm_fallback.spec.settings import (
    Breaker,
    Budget,
    ColdStart,
    Hedge,
    Limits,
    OnStreamBreak,
    Price,
    Retries,
    Serve,
    Timeouts,
)
from llm_fallback.spec.typed_dicts import SpecDict

__all__ = [
    "Breaker",
    "Budget",
    "Chain",
    "ColdStart",
    "Defaults",
    "Deployment",
    "Fleet",
    "Hedge",
    "Limits",
    "ModelOptions",
    "OnStreamBreak",
    "Price",
    "Retries",
    "RunnableSpec",
    "Serve",
    "Spec",
    "SpecDict",
    "Timeouts",
    "json_schema",
    "load_spec",
]
