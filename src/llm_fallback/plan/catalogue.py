"""Prices, context windows and abilities of models, looked up in litellm's list.

The lookup is passed in: the real model uses litellm's list in memory, others the file litellm ships, which can be read
without importing litellm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_fallback.plan.model_list import entry_of
from llm_fallback.plan.plan import Feature, Target
from llm_fallback.plan.pricing import Prices, prices_in
from llm_fallback.plan.profiles import PROFILE_KEYS, declared
from llm_fallback.spec.litellm_proxy.words import ABILITIES
from llm_fallback.spec.providers import BACKENDS

_LISTED_ABILITIES = {"max_input_tokens": "max_input_tokens", **ABILITIES}
"""Keys of the list, and their names in LangChain's ModelProfile."""


class ListCatalogue:
    """What is known about the models of a spec, from litellm's list. Looked up once per deployment."""

    def __init__(
        self,
        lookup: Callable[[str], Mapping[str, Any] | None],
        supported: Callable[[str], frozenset[str] | None] = lambda model: None,
    ) -> None:
        """`lookup` returns the entry of a model; `supported` the request parameters it takes, None if not known."""
        self._lookup, self._find_supported = lookup, supported
        self._entries: dict[str, dict[str, Any]] = {}
        self._prices: dict[tuple[str, str | None], Prices | None] = {}
        self._supported: dict[str, frozenset[str] | None] = {}

    def prices(self, target: Target, service_tier: str | None = None) -> Prices | None:
        """The listed prices of the model at a service tier; None if it has none."""
        key = target.name, service_tier
        if key not in self._prices:
            self._prices[key] = prices_in(self._entry(target), service_tier)
        return self._prices[key]

    def context_window(self, target: Target) -> int | None:
        """The longest prompt in tokens, from the spec or else the list; None if neither says."""
        if target.context_window is not None:
            return target.context_window
        window = target.profile.get("max_input_tokens", self._entry(target).get("max_input_tokens"))
        return int(window) if isinstance(window, int | float) else None

    def lacks(self, target: Target, feature: Feature) -> bool:
        """Whether the deployment is known not to support a feature."""
        stated = target.profile.get(PROFILE_KEYS[feature])
        if stated is not None:
            return not stated
        if feature == "images":
            return self._entry(target).get("supports_vision") is False
        supported = self._supported_parameters(target)
        return supported is not None and feature not in supported

    def profile(self, target: Target) -> dict[str, Any]:
        """The abilities that the spec declares, and others that the list knows."""
        entry = self._entry(target)
        listed = {
            ability: entry[key] for key, ability in _LISTED_ABILITIES.items() if isinstance(entry.get(key), bool | int)
        }
        lacking = {ability: False for feature, ability in PROFILE_KEYS.items() if self.lacks(target, feature)}
        return {**listed, **lacking, **declared(target)}

    def prefill(self, target: Target) -> Mapping[str, Any] | None:
        """For self-hosted servers from their row in `providers.py`, for hosted models from litellm's list."""
        if target.backend is not None:
            return BACKENDS[target.backend].prefill
        return {"message": {"prefix": True}} if self._entry(target).get("supports_assistant_prefill") else None

    def _entry(self, target: Target) -> dict[str, Any]:
        if target.name not in self._entries:
            entry = entry_of(target.model, target.base_model, target.backend, self._lookup)
            self._entries[target.name] = dict(entry or {})
        return self._entries[target.name]

    def _supported_parameters(self, target: Target) -> frozenset[str] | None:
        if target.backend is not None:
            return None  # A self-hosted server refuses what it does not support; no list can know.
        if target.name not in self._supported:
            self._supported[target.name] = self._find_supported(target.parameters["model"])
        return self._supported[target.name]
