"""Who serves models: litellm's providers by name, and self-hosted serving systems, one row each.

A spec is checked without importing litellm. litellm gains providers faster than this list does, so an unknown provider
never makes a spec invalid; the list only helps to word warnings.

A serving system gets a row if it speaks OpenAI's chat protocol over HTTP and differs from the others only in the fields
of a row: litellm's prefix, names, the variables litellm reads a key from, and the paths for health, models and metrics.
Anything that needs a branch is code elsewhere. Another protocol is a provider of litellm's (`ollama/...`,
`sagemaker/...`). Another wording of an error is a line in `engine/protocol/dialects.py`, which does not depend on the
row, because a gateway passes on the errors of whatever is behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llm_fallback.errors import did_you_mean

_CHAT_PROVIDERS = """
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
_OTHER_PROVIDERS = """
    a2a a2a_agent abliteration aiand aihubmix apertis assemblyai auto_router aws_polly aws_textract
    azure_speech bedrock_mantle bespoke bigmodel black_forest_labs charity_engine chutes clf_ai_gateway
    cognition coralbricks cortecs crusoe cursor darkbloom databricks_agent deepgram dotprompt edenai
    elevenlabs empiriolabs eu_jev fal_ai gdc gmi hostinger_router humanloop inferenceapis infinity jina_ai
    kyma langflow langfuse laya libertai litellm_agent llamagate manus meta microsoft_365_copilot milvus
    mongodb nace nadir neosantara nvidia_riva opencode_go openinfer opensearch parallel_ai parasail
    pg_vector pinstripes prism qwen_ai_platform ragflow recraft reducto refuseless reka runwayml s3_vectors
    sagemaker_nova sail sarvam scaledown scx-ai soniox stability strands_decider streamlake tencent
    tensormesh text-completion-inception topaz transcribe typesafe valkey veniceai wally zerogpu
"""
_SELF_HOSTED = """
    docker_model_runner hosted_vllm lemonade litellm_proxy llamafile lm_studio ollama ollama_chat
    oobabooga petals triton vllm xinference
"""

PROVIDERS = frozenset(_CHAT_PROVIDERS.split())
"""Chat providers of litellm 1.106."""

KNOWN_PROVIDERS = PROVIDERS | frozenset(_OTHER_PROVIDERS.split())
"""Every provider litellm 1.106 has a name for, also those of few users, of other things than chats, and gateways."""

LOCAL = frozenset(_SELF_HOSTED.split())
"""Providers that are self-hosted even where a spec has no `api_base`."""

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
"""Names that LangChain and others use for a provider, and litellm's name for it."""


def unknown_provider(provider: str, *, has_address: bool) -> str:
    """What is said of a provider that nobody knows, and the remedy. With an address it may be a server of one's own."""
    backend = "for a server of your own name its backend"
    if meant := misspelt_provider(provider):
        remedy = f"{meant} {backend.capitalize()}" if has_address else meant
    elif has_address:
        remedy = backend
    else:
        remedy = did_you_mean(provider, PROVIDERS, "write litellm's name for it, as in 'openai/gpt-4.1'")
    return f"no provider is known as {provider!r}; {remedy}"


def misspelt_provider(provider: str) -> str:
    """`did you mean 'groq'?` for a provider that is clearly another one's name, or what others call it; else empty."""
    if provider in KNOWN_PROVIDERS:
        return ""
    if provider in ELSEWHERE:
        return f"did you mean {ELSEWHERE[provider]!r}?"
    return did_you_mean(provider, PROVIDERS, likeness=0.75)


KEY_VARIABLES: dict[str, tuple[str, ...]] = {
    "ai21_chat": ("AI21_API_KEY",),
    "aiml": ("AIML_API_KEY",),
    "amazon_nova": ("AMAZON_NOVA_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "anthropic_text": ("ANTHROPIC_API_KEY",),
    "baseten": ("BASETEN_API_KEY",),
    "bytez": ("BYTEZ_API_KEY",),
    "cerebras": ("CEREBRAS_API_KEY",),
    "clarifai": ("CLARIFAI_API_KEY",),
    "cloudflare": ("CLOUDFLARE_API_KEY",),
    "codestral": ("CODESTRAL_API_KEY",),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "cohere_chat": ("COHERE_API_KEY", "CO_API_KEY"),
    "cometapi": ("COMETAPI_KEY",),
    "compactifai": ("COMPACTIFAI_API_KEY",),
    "dashscope": ("DASHSCOPE_API_KEY",),
    "datarobot": ("DATAROBOT_API_TOKEN",),
    "deepinfra": ("DEEPINFRA_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "empower": ("EMPOWER_API_KEY",),
    "featherless_ai": ("FEATHERLESS_AI_API_KEY", "FEATHERLESS_API_KEY"),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"),
    "friendliai": ("FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"),
    "galadriel": ("GALADRIEL_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "gigachat": ("GIGACHAT_API_KEY", "GIGACHAT_CREDENTIALS", "GIGACHAT_ACCESS_TOKEN"),
    "github": ("GITHUB_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "helicone": ("HELICONE_API_KEY",),
    "heroku": ("HEROKU_API_KEY",),
    "huggingface": ("HUGGINGFACE_API_KEY",),
    "hyperbolic": ("HYPERBOLIC_API_KEY",),
    "inception": ("INCEPTION_API_KEY",),
    "lambda_ai": ("LAMBDA_API_KEY",),
    "maritalk": ("MARITALK_API_KEY",),
    "meta_llama": ("LLAMA_API_KEY",),
    "minimax": ("MINIMAX_API_KEY",),
    "mistral": ("MISTRAL_API_KEY", "MISTRAL_AZURE_API_KEY"),
    "modelscope": ("MODELSCOPE_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
    "morph": ("MORPH_API_KEY",),
    "nano-gpt": ("NANOGPT_API_KEY",),
    "nebius": ("NEBIUS_API_KEY",),
    "nlp_cloud": ("NLP_CLOUD_API_KEY",),
    "novita": ("NOVITA_API_KEY",),
    "nscale": ("NSCALE_API_KEY",),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY", "OR_API_KEY"),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "poe": ("POE_API_KEY",),
    "publicai": ("PUBLICAI_API_KEY",),
    "qwencloud": ("QWENCLOUD_API_KEY", "DASHSCOPE_API_KEY"),
    "replicate": ("REPLICATE_API_KEY", "REPLICATE_API_TOKEN"),
    "sambanova": ("SAMBANOVA_API_KEY",),
    "scaleway": ("SCW_SECRET_KEY",),
    "snowflake": ("SNOWFLAKE_JWT",),
    "synthetic": ("SYNTHETIC_API_KEY",),
    "text-completion-codestral": ("CODESTRAL_API_KEY",),
    "text-completion-openai": ("OPENAI_API_KEY",),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHER_AI_TOKEN"),
    "v0": ("V0_API_KEY",),
    "vercel_ai_gateway": ("VERCEL_AI_GATEWAY_API_KEY", "VERCEL_OIDC_TOKEN"),
    "volcengine": ("VOLCENGINE_API_KEY",),
    "wandb": ("WANDB_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "xiaomi_mimo": ("XIAOMI_MIMO_API_KEY",),
    "zai": ("ZAI_API_KEY",),
}
"""The variables litellm reads the key of a hosted provider from, for providers that are not to be asked without one."""

OPENAI_CHAT = frozenset(
    {
        *(
            "ai21",
            "ai21_chat",
            "aiml",
            "azure",
            "azure_ai",
            "baseten",
            "cerebras",
            "cloudflare",
            "codestral",
            "cometapi",
        ),
        *("compactifai", "custom_openai", "dashscope", "databricks", "deepinfra", "deepseek", "docker_model_runner"),
        *("empower", "featherless_ai", "fireworks_ai", "friendliai", "galadriel", "gigachat", "github", "groq"),
        *("helicone", "heroku", "hosted_vllm", "huggingface", "hyperbolic", "inception", "lambda_ai", "lemonade"),
        *("litellm_proxy", "llamafile", "lm_studio", "meta_llama", "minimax", "mistral", "modelscope", "moonshot"),
        *("morph", "nano-gpt", "nebius", "novita", "nscale", "nvidia_nim", "openai", "openrouter", "ovhcloud"),
        *("perplexity", "poe", "publicai", "qwencloud", "sambanova", "scaleway", "snowflake", "synthetic"),
        *("together_ai", "v0", "vercel_ai_gateway", "volcengine", "wandb", "watsonx", "xai", "xiaomi_mimo"),
        *("xinference", "zai"),
    }
)
"""Providers that speak OpenAI's chat protocol."""

DIRECT = OPENAI_CHAT | {
    *("anthropic", "bedrock", "cohere", "cohere_chat", "gemini", "ollama_chat", "vertex_ai"),
}
"""Providers of which litellm only writes the requests: it would send them by an awaited httpx client, in a protocol
that is read here."""

SIGNED_BY = {"bedrock": "anthropic", "vertex_ai": "anthropic"}
"""Whose signatures on thoughts hold at a provider, where they are not its own: Anthropic's platforms are as one."""

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
_VERSION = re.compile(r"/v\d[^/]*(/|$)")
_PROVIDER_COLON_MODEL = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?!/)(.+)", re.DOTALL)


def likely_provider(model: str) -> str | None:
    """The likely provider of a model named without one: `anthropic` for `claude-sonnet-4-5`."""
    return next((provider for family, provider in _FAMILIES if family.search(model)), None)


def split_model(model: str) -> tuple[str, str]:
    """The provider and the name of litellm's `provider/model`; without a slash the whole text is both.

    With nothing after the slash the name is the whole text, too: `name == model` means that no name follows a provider.
    """
    provider, _, name = model.partition("/")
    return provider, name or model


def with_slash(model: str) -> str:
    """LangChain's `provider:model` as litellm's `provider/model`; anything else unchanged."""
    match = _PROVIDER_COLON_MODEL.fullmatch(model)
    return model if match is None else f"{match[1]}/{match[2]}"


@dataclass(frozen=True, slots=True)
class Backend:
    """A serving system, as `backend:` names it."""

    name: str
    prefix: str
    """What precedes the served name in litellm's model: `hosted_vllm/`."""
    summary: str
    aliases: tuple[str, ...] = ()
    """Other names for it; a spec that uses one is told the right name."""
    key_variables: tuple[str, ...] = ()
    """Variables litellm reads a key from if it is given none. Their keys are never meant for this server."""
    prefill: Mapping[str, Any] | None = None
    """What a request must contain, besides a final assistant message, for the server to continue that message."""
    health: str = "/v1/models"
    """A path from the server's root that answers 200 when it is up, and possibly while it shuts down."""
    models: str = "/v1/models"
    """A path that lists the served models as OpenAI does; a plain Ray Serve application may have none."""
    metrics: str | None = None
    """A path with metrics in Prometheus' format, which some servers offer only on request. None: not on this port."""

    def model(self, served: str) -> str:
        """litellm's model for a served name."""
        return f"{self.prefix}{served}"

    def base_url(self, api_base: str) -> str:
        """The address requests go to, given one with or without `/v1`; `/chat/completions` at its end is cut.

        An address with another version in its path (`/api/paas/v4`, `/v1beta/openai`) is left as it is.
        """
        address = api_base.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
        return address if _VERSION.search(urlsplit(address).path) else f"{address}/v1"


_CONTINUE_FINAL: Mapping[str, Any] = {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}
"""Fields of vLLM's chat completion request."""

_ROWS = (
    Backend(
        name="vllm",
        prefix="hosted_vllm/",
        summary="vLLM's OpenAI server (`vllm serve`)",
        prefill=_CONTINUE_FINAL,
        aliases=("hosted-vllm", "vllm-openai", "vllm-server"),
        key_variables=("HOSTED_VLLM_API_KEY",),
        health="/health",
        metrics="/metrics",
    ),
    Backend(
        name="tensorrt-llm",
        prefix="hosted_vllm/",
        summary="NVIDIA TensorRT-LLM (`trtllm-serve`)",
        aliases=("trtllm", "trt-llm", "trtllm-serve", "tensorrt", "tensorrtllm", "nvidia-trtllm"),
        key_variables=("HOSTED_VLLM_API_KEY",),
        health="/health",
        metrics="/prometheus/metrics",  # Its /metrics is JSON.
    ),
    Backend(
        name="openllm",
        prefix="openai/",
        summary="OpenLLM and BentoML services",
        aliases=("bentoml", "bento", "open-llm"),
        key_variables=("OPENAI_API_KEY",),
        health="/readyz",
        metrics="/metrics",
    ),
    Backend(
        name="ray-serve",
        prefix="openai/",
        summary="Ray Serve and Ray Serve LLM",
        aliases=("ray", "rayserve", "ray-serve-llm", "ray-llm", "anyscale-service"),
        key_variables=("OPENAI_API_KEY",),
        health="/-/healthz",
    ),
    Backend(
        name="litellm-proxy",
        prefix="litellm_proxy/",
        summary="a LiteLLM proxy",
        aliases=("litellm", "proxy", "litellm-gateway"),
        key_variables=("LITELLM_PROXY_API_KEY", "OPENAI_API_KEY"),
        health="/health/readiness",
        metrics="/metrics",
    ),
    Backend(
        name="openai-compatible",
        prefix="openai/",
        summary="any other server that speaks OpenAI's chat protocol: llama.cpp, SGLang, TGI, LM Studio",
        aliases=(
            "openai",
            "openai-like",
            "custom-openai",
            "custom",
            "llama.cpp",
            "llama-cpp",
            "sglang",
            "tgi",
        ),
        key_variables=("OPENAI_API_KEY",),
    ),
)

BACKENDS = {backend.name: backend for backend in _ROWS}
"""Every backend by its name."""

_BY_ALIAS = {alias: backend.name for backend in _ROWS for alias in (backend.name, *backend.aliases)}


def backend_called(word: str) -> str | None:
    """The backend known by a name or alias: `tensorrt-llm` for `trtllm`; None if there is none."""
    return _BY_ALIAS.get(word.lower().replace("_", "-"))
