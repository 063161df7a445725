"""Puts the parts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_fallback.chat import FallbackChatModel
from llm_fallback.driver import Listener
from llm_fallback.seam.router import build_router

__all__ = ["build_chat_model", "build_router"]


def build_chat_model(
    source: Any, *, chain: str | None = None, listeners: Sequence[Listener] = (), **overrides: Any
) -> FallbackChatModel:
    """A chat model over a chain of a spec: its default chain, or `chain`.

    `source` is a Spec, a path, a mapping, or a list of model names, which makes a chain in one line. `overrides`
    are chain settings (`timeouts`, `retries`, `accept`, `budget`, `hedge`, `on_stream_break`), LangChain's fields
    and words (`callbacks`, `tags`, `timeout`, `max_retries`, ...) or request parameters (`temperature`, ...).

    Raises SpecError, with every mistake, for a wrong spec, an unset variable or an override that belongs nowhere.
    """
    return FallbackChatModel(spec=source, chain=chain, listeners=tuple(listeners), **overrides)
