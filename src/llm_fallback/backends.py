"""Serving systems one runs oneself, one row each.

A system is a row when it speaks OpenAI's chat protocol over HTTP and differs from the others only in what a
row can say: litellm's prefix, its names, the variables litellm would read a key from, where it says that it is
up, what it serves and how busy it is. What needs a branch is code elsewhere: another protocol is a provider of
litellm's (`ollama/...`, `sagemaker/...`), another wording of an error is a line in `dialects.py`, which asks no row:
a gateway hands on the words of whatever stands behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_VERSION = re.compile(r"/v\d[^/]*(/|$)")


@dataclass(frozen=True, slots=True)
class Backend:
    """A serving system, as `backend:` names it."""

    name: str
    prefix: str
    """litellm's prefix: what stands before the served name in the model litellm is asked for."""
    summary: str
    aliases: tuple[str, ...] = ()
    """What people and other tools call it; a spec that says so is told the name."""
    key_variables: tuple[str, ...] = ()
    """Variables litellm reads a key from when it is handed none; none is ever meant for this server."""
    prefill: Mapping[str, Any] | None = None
    """What a request needs besides an assistant message at its end for the server to go on from it."""
    health: str = "/v1/models"
    """A path, on the server's root, that answers 200 when it is up. While it drains it may still say so."""
    models: str = "/v1/models"
    """A path that lists the served names as OpenAI does; a plain Ray Serve application may have none."""
    metrics: str | None = None
    """A path of metrics in Prometheus' format; some servers have it only when told to. None: not on this port."""

    def model(self, served: str) -> str:
        """litellm's model for a served name."""
        return f"{self.prefix}{served}"

    def base_url(self, api_base: str) -> str:
        """The address requests go to, from one with or without `/v1`; what follows `/v1` by mistake is cut.

        An address with a version of its own in its path (`/api/paas/v4`, `/v1beta/openai`) is left as it is.
        """
        address = api_base.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
        return address if _VERSION.search(urlsplit(address).path) else f"{address}/v1"


_CONTINUE_FINAL: Mapping[str, Any] = {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}
"""vLLM's words, from its protocol of chat completions."""

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
    """The backend that a word from elsewhere means: `trtllm` is `tensorrt-llm`; None for none."""
    return _BY_ALIAS.get(word.lower().replace("_", "-"))
