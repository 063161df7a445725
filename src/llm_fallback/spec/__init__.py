"""What a user may write.

`model.py` is the whole, `entries.py` its deployments and chains, `settings.py` their small parts; `agreement.py` says
what must fit together, `wording.py` and `translations.py` put mistakes into words.
"""

from llm_fallback.spec.entries import Chain, Defaults, Deployment, RunnableSpec
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
]
