"""litellm's providers by name, so that a spec can be checked without importing litellm.

litellm gains providers faster than this list; so nothing here makes a spec wrong, it only finds better
words.
"""

from __future__ import annotations

import re

_CHAT = """
    ai21 ai21_chat aiml aiohttp_openai amazon_nova anthropic anthropic_text azure azure_ai azure_text
    baseten bedrock bytez cerebras chatgpt clarifai cloudflare codestral cohere cohere_chat cometapi
    compactifai custom custom_openai dashscope databricks datarobot deepinfra deepseek docker_model_runner
    empower featherless_ai fireworks_ai friendliai galadriel gemini gigachat github github_copilot
    gradient_ai groq helicone heroku hosted_vllm huggingface hyperbolic inception lambda_ai langgraph
    lemonade litellm_proxy llamafile lm_studio maritalk meta_llama minimax mistral modelscope moonshot
    morph nano-gpt nebius nlp_cloud novita nscale nvidia_nim oci ollama ollama_chat oobabooga openai
    openai_like openrouter ovhcloud perplexity petals poe predibase publicai qwencloud replicate sagemaker
    sagemaker_chat sambanova sap scaleway snowflake synthetic text-completion-codestral
    text-completion-openai together_ai triton v0 vercel_ai_gateway vertex_ai vertex_ai_beta vllm
    volcengine voyage wandb watsonx watsonx_text xai xiaomi_mimo xinference zai
"""
_OWN = """
    docker_model_runner hosted_vllm lemonade litellm_proxy llamafile lm_studio ollama ollama_chat
    oobabooga petals triton vllm xinference
"""

PROVIDERS = frozenset(_CHAT.split())
"""Chat providers of litellm 1.106."""

LOCAL = frozenset(_OWN.split())
"""Providers that are servers of one's own even where a spec names no `api_base`."""

ELSEWHERE = {
    "azure_openai": "azure",
    "bedrock_converse": "bedrock",
    "fireworks": "fireworks_ai",
    "google": "gemini",
    "google_genai": "gemini",
    "google_vertexai": "vertex_ai",
    "ibm": "watsonx",
    "mistralai": "mistral",
    "nvidia": "nvidia_nim",
    "together": "together_ai",
    "vertex": "vertex_ai",
}
"""What LangChain and others call a provider, and litellm's name for it."""

KEY_VARIABLES: dict[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks_ai": (
        "FIREWORKS_AI_API_KEY",
        "FIREWORKS_API_KEY",
        "FIREWORKSAI_API_KEY",
        "FIREWORKS_AI_TOKEN",
    ),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY", "OR_API_KEY"),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHER_AI_TOKEN"),
    "xai": ("XAI_API_KEY",),
}
"""Where litellm finds the key of a hosted provider whose only credential is a key."""

_FAMILIES = (
    (re.compile(r"^(gpt-|chatgpt-|o\d(-|$)|ft:gpt)"), "openai"),
    (re.compile(r"^claude"), "anthropic"),
    (re.compile(r"^gemini"), "gemini"),
    (re.compile(r"^(mistral|ministral|magistral|codestral|devstral|pixtral|open-mi)"), "mistral"),
    (re.compile(r"^command"), "cohere"),
    (re.compile(r"^deepseek"), "deepseek"),
    (re.compile(r"^grok"), "xai"),
    (re.compile(r"^(anthropic|amazon|meta|mistral|cohere|ai21)\."), "bedrock"),
)
_COLON = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?!/)(.+)", re.DOTALL)


def likely_provider(model: str) -> str | None:
    """Who most likely serves a model named without its provider: `claude-sonnet-4-5` is anthropic's."""
    return next((provider for family, provider in _FAMILIES if family.search(model)), None)


def with_slash(model: str) -> str:
    """LangChain's `provider:model` as litellm's `provider/model`; anything else unchanged."""
    colon = _COLON.fullmatch(model)
    return model if colon is None else f"{colon[1]}/{colon[2]}"
