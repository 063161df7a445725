"""What litellm knows about models.

Read from litellm's bundled map, by `base_model` where the spec gives one; never written to, so that building models
leaves `litellm.model_cost` as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import litellm

from llm_fallback.plan.catalogue import ListCatalogue


class LiteLLMCatalogue(ListCatalogue):
    """litellm's map and its lists of supported parameters."""

    def __init__(self) -> None:
        super().__init__(_listed, _supported)


def _listed(name: str) -> Mapping[str, Any] | None:
    entry: Mapping[str, Any] | None = litellm.model_cost.get(name)
    return entry


def _supported(model: str) -> frozenset[str] | None:
    try:
        supported = litellm.get_supported_openai_params(model=model)
    except Exception:  # noqa: BLE001 - an unknown model or provider: nothing is known to be lacking
        return None
    return None if supported is None else frozenset(supported)
