"""The keyword arguments of `build_chat_model`: settings of a chain, fields of LangChain's, request parameters.

A line for each; what stands nowhere here is refused, by type checkers and as a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict

from llm_fallback.spec.typed_dicts import ChainSettingsDict

if TYPE_CHECKING:
    from langchain_core.caches import BaseCache
    from langchain_core.callbacks import Callbacks
    from langchain_core.language_models import ModelProfile
    from langchain_core.rate_limiters import BaseRateLimiter


class LangChainFields(TypedDict, total=False):
    """Fields that every chat model of LangChain has."""

    name: str | None
    tags: list[str] | None
    metadata: dict[str, Any] | None
    callbacks: Callbacks
    verbose: bool
    cache: BaseCache | bool | None
    """LangChain's cache: True the global one, False none."""
    rate_limiter: BaseRateLimiter | None
    disable_streaming: bool | Literal["tool_calling"]
    output_version: str | None
    """The form of a reply's content, as LangChain's: `v0` or `v1`."""
    profile: ModelProfile | None
    """What the chain can do, in place of what all its deployments can."""
    custom_get_token_ids: Callable[[str], list[int]] | None


class ModelFields(TypedDict, total=False):
    """Request parameters that ChatLiteLLM keeps in fields of their own."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    n: int | None
    max_tokens: int | None
    num_ctx: int | None
    streaming: bool
    """Ask for a stream, also where the whole reply is wanted."""
    stream_options: dict[str, Any] | None
    model_kwargs: Mapping[str, Any]
    """Any further request parameters, as of one provider only."""


class RequestParameters(TypedDict, total=False):
    """Request parameters that litellm knows beside them."""

    max_completion_tokens: int
    stop: str | Sequence[str] | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    min_p: float | None
    best_of: int | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    response_format: Mapping[str, Any] | type[Any] | None
    tools: Sequence[Any]
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool
    functions: Sequence[Any]
    function_call: str | Mapping[str, Any]
    user: str
    reasoning_effort: str | None
    thinking: Mapping[str, Any] | None
    verbosity: str
    modalities: Sequence[str]
    audio: Mapping[str, Any]
    prediction: Mapping[str, Any]
    service_tier: str
    safety_identifier: str
    prompt_cache_key: str
    prompt_cache_retention: str
    store: bool
    web_search_options: Mapping[str, Any]
    extra_body: Mapping[str, Any]
    context_management: Mapping[str, Any]
    guardrailConfig: Mapping[str, Any]
    cache_control_injection_points: Sequence[Mapping[str, Any]]
    guided_json: Any
    guided_choice: Sequence[str]
    guided_regex: str


class LangChainWords(TypedDict, total=False):
    """LangChain's words for settings of a chain."""

    timeout: float | None
    """Seconds for a call: `timeouts.total_s`."""
    max_retries: int | None
    """Requests beyond one per deployment: `retries.max`."""


class ModelOptions(ChainSettingsDict, LangChainWords, LangChainFields, ModelFields, RequestParameters, total=False):
    """What `build_chat_model` takes beside the spec, the chain and the listeners."""


class _Shown(str):
    """A text that a signature shows as it is."""

    __slots__ = ()
    __repr__ = str.__str__


_INTERNAL = ("self", "runtime", "fakes")


def constructor_signature(constructor: Callable[..., None]) -> Signature:
    """What `help()` and editors show of a model's constructor: its own arguments, and every one of `ModelOptions`."""
    own = [
        parameter.replace(annotation=_Shown(parameter.annotation))
        for name, parameter in signature(constructor).parameters.items()
        if name not in _INTERNAL and parameter.kind is not Parameter.VAR_KEYWORD
    ]
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=_Shown("..."), annotation=_Shown(kind.__forward_arg__))
        for name, kind in ModelOptions.__annotations__.items()
    ]
    return Signature([*own, *options])
