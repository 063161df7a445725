"""litellm kept quiet, and loaded before anybody waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

import litellm
from litellm.integrations.custom_logger import CustomLogger

from llm_fallback._imports import collecting_later

try:
    from litellm._internal_context import is_internal_call
except ImportError:  # A private name: without it litellm logs every call, as it does for everybody else.
    is_internal_call = None

# litellm prints "Give Feedback / Get Help" to standard output for every error it maps.
litellm.suppress_debug_info = True

# For names like llama-3 litellm fetches a tokenizer from a hub, on the event loop, to count tokens of a reply: without
# a network that takes most of a minute, in which no deadline fires.
litellm.disable_hf_tokenizer_download = True

# For Anthropic litellm fetches a list of beta headers from a public host while it translates, and waits for it.
os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")

_LOADED_LATE = (
    "anyio._backends._asyncio",
    "httpcore2",
    "litellm.litellm_core_utils.default_encoding",
    "litellm.llms.anthropic.chat.transformation",
    "litellm.llms.hosted_vllm.chat.transformation",
    "litellm.proxy._types",
    "openai.resources.chat.completions",
)
"""Modules that litellm and its HTTP libraries load during a first request, for half a second or more."""


def warm_up() -> None:
    """Load what a first request would, so that its own limits are not spent on imports."""
    with collecting_later():
        for name in _LOADED_LATE:
            with suppress(ImportError):
                import_module(name)


@contextmanager
def quiet_logging() -> Iterator[None]:
    """litellm's logging off, unless somebody registered a callback that wants to hear."""
    if is_internal_call is None or has_callbacks():
        yield
        return
    token = is_internal_call.set(True)
    try:
        yield
    finally:
        is_internal_call.reset(token)


def has_side_effects() -> bool:
    """Whether litellm was told to do something with every call: report it, cache it, judge it, count it."""
    return has_callbacks() or bool(
        litellm.cache or litellm.max_budget or litellm.pre_call_rules or litellm.post_call_rules
    )


def rewrites_replies() -> bool:
    """Whether somebody in litellm refuses replies or puts others in their place."""
    hooks = ("async_post_call_success_deployment_hook", "async_post_call_streaming_deployment_hook")
    return bool(litellm.post_call_rules) or any(
        getattr(type(callback), hook, None) not in (None, getattr(CustomLogger, hook))
        for callback in callbacks()
        for hook in hooks
    )


def has_callbacks() -> bool:
    """Whether a callback is registered with litellm."""
    return any(not _is_litellms_own(callback) for name in _CALLBACKS for callback in getattr(litellm, name))


def callbacks() -> Iterator[object]:
    """Everything that is registered with litellm to listen there, litellm's own too. For who asks seldom."""
    return (callback for name in _CALLBACKS for callback in getattr(litellm, name))


_CALLBACKS = (
    *("callbacks", "success_callback", "failure_callback"),
    *("_async_success_callback", "_async_failure_callback", "input_callback"),
)
"""litellm's lists of those who listen there."""


def _is_litellms_own(callback: object) -> bool:
    """Whether litellm registered this callback itself: a Router's counters, or `cache` without a cache (importing
    Gemini or Vertex adds it)."""
    is_a_routers = isinstance(getattr(callback, "__self__", None), litellm.Router)
    return is_a_routers or (callback == "cache" and litellm.cache is None)
