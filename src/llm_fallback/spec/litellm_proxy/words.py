"""LiteLLM's keys and values and their counterparts in a spec: `os.environ/NAME` there is `${NAME}` here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llm_fallback.spec.locations import Path

_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_DOLLAR_TO_ESCAPE = re.compile(r"\$(?=[${])")

SETTINGS: Mapping[str, Path] = {
    "weight": ("weight",),
    "rpm": ("limits", "rpm"),
    "tpm": ("limits", "tpm"),
    "max_parallel_requests": ("limits", "max_parallel"),
    "timeout": ("timeouts", "attempt_s"),
    "stream_timeout": ("timeouts", "first_token_s"),
}
"""Keys of `litellm_params`, and their paths in a deployment."""

ABILITIES: Mapping[str, str] = {
    "supports_function_calling": "tool_calling",
    "supports_tool_choice": "tool_choice",
    "supports_response_schema": "structured_output",
    "supports_vision": "image_inputs",
    "supports_pdf_input": "pdf_inputs",
    "supports_audio_input": "audio_inputs",
    "supports_audio_output": "audio_outputs",
    "supports_video_input": "video_inputs",
    "supports_reasoning": "reasoning_output",
    "max_output_tokens": "max_output_tokens",
}
"""Keys of `model_info`, and their names in `profile`."""

_MILLION = Decimal(1_000_000)
PRICES: Mapping[str, tuple[str, Decimal]] = {
    "input_cost_per_token": ("input_per_million", _MILLION),
    "output_cost_per_token": ("output_per_million", _MILLION),
    "cache_read_input_token_cost": ("cached_input_per_million", _MILLION),
    "cache_creation_input_token_cost": ("cache_write_per_million", _MILLION),
    "output_cost_per_reasoning_token": ("reasoning_per_million", _MILLION),
    "input_cost_per_audio_token": ("audio_input_per_million", _MILLION),
    "output_cost_per_audio_token": ("audio_output_per_million", _MILLION),
    "input_cost_per_query": ("per_request", Decimal(1)),
    "input_cost_per_second": ("per_gpu_hour", Decimal(3600)),
}
"""Keys of `model_info` or `litellm_params`, their names in `price`, and the factor from theirs to ours."""

BACKENDS: Mapping[str, str] = {
    "hosted_vllm": "vllm",
    "litellm_proxy": "litellm-proxy",
    "openai": "openai-compatible",
}
"""Providers of LiteLLM's that mean a self-hosted server when an address is given."""

ADDRESSES: Mapping[str, str] = {
    "hosted_vllm": "${HOSTED_VLLM_API_BASE}",
    "litellm_proxy": "${LITELLM_PROXY_API_BASE}",
}
"""The address LiteLLM uses for a provider when none is given."""

ROUTE_BY_KEY: Mapping[str, str] = {
    "fallbacks": "tiers",
    "context_window_fallbacks": "on_context_window",
    "content_policy_fallbacks": "on_content_policy",
}
"""Kinds of fallback in the settings sections, and the route of a chain each becomes."""

AZURE_KEYS = ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY")
"""Where LiteLLM finds the key of an `azure/` row, whatever its address."""

NO_KEY = "no-key"
"""Written for a server that needs no key: without it LiteLLM would send the key of OpenAI."""

NOT_OF_A_REQUEST = frozenset(
    {
        *("tags", "tag_regex", "region_name", "itpm", "otpm", "max_budget", "budget_duration", "model_info"),
        *("num_retries", "max_retries", "allowed_fails_policy", "blocked", "litellm_trace_id", "max_file_size_mb"),
        *("configurable_clientside_auth_params", "litellm_credential_name", "provider_affinity_header"),
        *("default_api_key_rpm_limit", "default_api_key_tpm_limit", "use_in_pass_through", "keepalive_seconds"),
        *("allow_client_keepalive_override", "timeout_by_service_tier", "stream_timeout_by_service_tier"),
        *("tiered_pricing", "vector_store_id", "health_check_model", "health_check_timeout"),
    }
)
"""Keys of `litellm_params` that the proxy itself uses; all others are request parameters, here as there."""

NOT_MISSPELT = frozenset({"callbacks", "default_team_params", "model_fallbacks", "optional_pre_call_checks"})
"""LiteLLM's words without a counterpart that are very like some with one."""

ALREADY_SO: Mapping[str, object] = {
    "drop_params": True,
    "enable_pre_call_checks": True,
    "enable_weighted_failover": True,
    "routing_strategy": "simple-shuffle",
}
"""Settings whose value asks for what this library does anyway."""


def is_price(key: str) -> bool:
    """Whether a key names a price, with a counterpart here or not: it must not go into a request."""
    return key in PRICES or "cost_per" in key or "_cost" in key


def breaker_failures(allowed: Any) -> Any:
    """`breaker.failures` from LiteLLM's `allowed_fails`, which may be 0."""
    return max(1, allowed) if isinstance(allowed, int) else allowed


def convert_references(value: Any) -> Any:
    """Nested data with `os.environ/NAME` turned into `${NAME}`, and every other `$` escaped."""
    match value:
        case str():
            reference = _REFERENCE.fullmatch(value)
            return f"${{{reference[1]}}}" if reference else escaped(value)
        case Mapping():
            return {key: convert_references(item) for key, item in value.items()}
        case list():
            return [convert_references(item) for item in value]
    return value


def is_reference(text: str) -> bool:
    """Whether a text is one variable in LiteLLM's spelling."""
    return _REFERENCE.fullmatch(text) is not None


def escaped(text: str) -> str:
    """The text, escaped so that it contains no reference."""
    return _DOLLAR_TO_ESCAPE.sub("$$", text)


def parse_number(value: Any) -> Any:
    """A number written as text, as LiteLLM accepts it; any other value unchanged."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
