"""The names of exported metrics and attributes.

OpenTelemetry's conventions for generative AI are in development, and names still change. All of them are in this file
only, as in open-telemetry/semantic-conventions-genai with version 1.42 of the general conventions. Names under
`llm_fallback` are this library's and stay.
"""

# ruff: noqa: S105 - tokens are counted here, none is a password.

from __future__ import annotations

from typing import Final

from llm_fallback.events import CallEnded, Outcome
from llm_fallback.spec.providers import BACKENDS, PROVIDERS, likely_provider, split_model, with_slash

# OpenTelemetry's metrics. Each is of one attempt: one request to one deployment.
OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"

SECONDS_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS_BUCKETS: Final = tuple(4**power for power in range(14))
"""1 to 67,108,864."""
CALL_SECONDS_BUCKETS: Final = (*SECONDS_BUCKETS, 163.84, 327.68)
"""A call may take longer than an attempt: by default up to 300 s."""

# OpenTelemetry's attributes.
OPERATION_NAME: Final = "gen_ai.operation.name"
CHAT: Final = "chat"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE: Final = "gen_ai.token.type"
INPUT: Final = "input"
OUTPUT: Final = "output"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
ERROR_TYPE: Final = "error.type"
HTTP_STATUS: Final = "http.response.status_code"

# Metrics of this library.
CALL_DURATION: Final = "llm_fallback.call.duration"
CALL_TIME_TO_FIRST_TOKEN: Final = "llm_fallback.call.time_to_first_token"
ATTEMPTS: Final = "llm_fallback.attempts"
UNPRICED_ATTEMPTS: Final = "llm_fallback.unpriced_attempts"
COST: Final = "llm_fallback.cost"
FALLBACKS: Final = "llm_fallback.fallbacks"
BREAKER_OPENINGS: Final = "llm_fallback.breaker_openings"
FLEET: Final = "llm_fallback.fleet."
"""What the gauges of `llm_fallback.exporters.fleet_gauges` begin with."""

# Attributes of this library. Those of metrics have as many values as the spec has names; the rest are on spans only.
CHAIN: Final = "llm_fallback.chain"
DEPLOYMENT: Final = "llm_fallback.deployment"
OUTCOME: Final = "llm_fallback.outcome"
FAILURE: Final = "llm_fallback.failure"
FELL_BACK: Final = "llm_fallback.fell_back"
STITCHED: Final = "llm_fallback.stitched"
SKIPPED: Final = "llm_fallback.skipped"
COST_USD: Final = "llm_fallback.cost_usd"
COST_ESTIMATED: Final = "llm_fallback.cost_estimated"
TIME_TO_FIRST_TOKEN: Final = "llm_fallback.time_to_first_token"
RUN_ID: Final = "llm_fallback.run_id"

OPENAI_COMPATIBLE: Final = "openai_compatible"
"""The provider of a model on a self-hosted server: all of them speak OpenAI's protocol."""

_PROVIDER_NAMES: Final = {
    "anthropic_text": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_text": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "codestral": "mistral_ai",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "text-completion-codestral": "mistral_ai",
    "text-completion-openai": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "watsonx_text": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""litellm's name of a provider and OpenTelemetry's, where they differ."""


def provider_and_model(model: str, served_by: str = "") -> tuple[str, str]:
    """OpenTelemetry's name of a provider, and the provider's name of the model.

    `served_by` is a backend, whose model names may have slashes, or litellm's name of a provider.
    """
    if served_by in BACKENDS:
        return (OPENAI_COMPATIBLE if served_by == "openai-compatible" else served_by), model
    written = with_slash(model)
    provider, name = split_model(written)
    if provider in PROVIDERS and name != written:
        return _PROVIDER_NAMES.get(provider, provider), name
    family = None if "/" in model else likely_provider(model)
    return (OPENAI_COMPATIBLE if family is None else _PROVIDER_NAMES.get(family, family)), model


def outcome_of(ended: CallEnded) -> Outcome:
    """How a call ended, as one of the outcomes of attempts."""
    match ended.failure:
        case None:
            return "succeeded"
        case "cancelled":
            return "cancelled"
    return "failed"
