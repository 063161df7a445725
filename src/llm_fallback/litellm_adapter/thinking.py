"""Requests to a model that is to think: which thoughts it gets back, and what it refuses beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import litellm

from llm_fallback.engine.protocol.thinking import BLOCKS, ORIGIN, lacks_thoughts, with_thoughts_of
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.plan.plan import Target
from llm_fallback.spec.providers import split_model

logger = logging.getLogger("llm_fallback")

_SWITCHES = ("thinking", "reasoning_effort")
"""Parameters by which a model is asked to think."""


class ThinkingRequest(NamedTuple):
    """A request as one deployment may have it."""

    request: Mapping[str, Any]
    left_out: frozenset[str] = frozenset()
    """Parameters, the deployment's own included, that it does not get this time."""


def for_deployment(target: Target, request: Mapping[str, Any]) -> ThinkingRequest:
    """The request with the thoughts that the deployment signed, and without anybody else's.

    Where it would be refused for want of the thoughts of the turn it goes on with, nothing is thought; where it would
    be for a tool that has to be called, the model may choose, and a warning says so.
    """
    messages, own = request["messages"], target.parameters
    is_asked = "thinking" in request or "thinking" in own or "reasoning_effort" in request or "reasoning_effort" in own
    if not is_asked:
        # Nearly every request comes by here, and has nothing to take out.
        for message in messages:
            if BLOCKS in message or ORIGIN in message:
                return _with_messages(request, with_thoughts_of(messages, target.signer))
        return ThinkingRequest(request)
    words = {**own, **request}
    if _is_off(words):
        return _with_messages(request, with_thoughts_of(messages, None))
    if not _has_a_budget(target, words):
        return _with_messages(request, with_thoughts_of(messages, target.signer))
    if lacks_thoughts(messages, target.signer):
        left_out = frozenset(name for name in _SWITCHES if words.get(name) is not None)
        return ThinkingRequest(_with_messages(request, with_thoughts_of(messages, None)).request, left_out)
    prepared = _with_messages(request, with_thoughts_of(messages, target.signer))
    if not _is_forced(words.get("tool_choice")):
        return prepared
    logger.warning(
        "%s is asked with tool_choice auto in place of %r: a model that thinks refuses to have to call a tool",
        target.name,
        words["tool_choice"],
    )
    return ThinkingRequest({**prepared.request, "tool_choice": "auto"})


def _with_messages(request: Mapping[str, Any], messages: Any) -> ThinkingRequest:
    return ThinkingRequest(request if messages is request["messages"] else {**request, "messages": messages})


def _is_off(words: Mapping[str, Any]) -> bool:
    thinking = words.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") == "disabled"


def _has_a_budget(target: Target, words: Mapping[str, Any]) -> bool:
    """Whether the model is asked to think up to a budget of tokens. Then Anthropic insists on the thoughts of the turn
    and takes no forced tool; of models that think as they see fit it asks neither."""
    thinking, effort = words.get("thinking"), words.get("reasoning_effort")
    rules = provider_called(target.litellm_provider).thinking
    if rules == "passed_on":
        return _is_enabled(thinking)
    if rules == "own" or (rules == "claude" and not target.is_claude):
        return False
    asked = {"thinking": thinking, "reasoning_effort": effort, "max_tokens": words.get("max_tokens")}
    try:
        key = json.dumps({name: value for name, value in asked.items() if value is not None})
    except (TypeError, ValueError):  # Whoever is to send it will refuse.
        return _is_enabled(thinking)
    return _is_enabled(_thinking_sent(*split_model(words["model"]), key))


def _is_enabled(thinking: object) -> bool:
    return isinstance(thinking, Mapping) and thinking.get("type") == "enabled"


@lru_cache(maxsize=256)
def _thinking_sent(provider: str, model: str, asked: str) -> object:
    """What litellm makes of the parameters, which for some models is something else than what they say."""
    words = json.loads(asked)
    try:
        sent = litellm.get_optional_params(model=model, custom_llm_provider=provider, drop_params=True, **words)
    except Exception:  # noqa: BLE001 - litellm says it again when it is asked to send it
        return words.get("thinking")
    return sent.get("thinking")


def _is_forced(choice: object) -> bool:
    """Whether a tool has to be called: any, or the one of that name."""
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    return kind not in (None, False, "auto", "none")
