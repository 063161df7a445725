"""A model whose attempts cost something, watched by an exporter; and texts that must show in nothing it exports."""

from __future__ import annotations

from typing import Any

from llm_fallback import FallbackChatModel, build_chat_model
from llm_fallback.testing import FakeServer

PRICED = {"price": {"input_per_million": 1_000_000, "output_per_million": 2_000_000}}
"""A dollar a token in, two a token out."""
PROMPT_CANARY = "prompt-canary-4d1f"
REPLY_CANARY = "reply-canary-77aa"
KEY_CANARY = "sk-canary-5e0c9b"
TAG_CANARY = "tenant-canary-0b3e"


def priced_model(server: FakeServer, *listeners: Any, **chain: Any) -> FallbackChatModel:
    """A model over the server's deployments, with prices, and these listeners in their order."""
    deployments = dict.fromkeys(server.deployments, PRICED)
    return build_chat_model(server.spec(deployments=deployments, **chain), listeners=listeners)
