"""Which protocol a deployment speaks on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.litellm_adapter.clients import provider_of
from llm_fallback.plan.plan import Target

_READERS: Mapping[str, type[ReplyReader]] = {
    "anthropic": AnthropicReader,
    "gemini": GeminiReader,
    "vertex_ai": GeminiReader,
}
"""By litellm's name for the provider. All others of which the wire is read speak OpenAI's."""


def reader_for(target: Target) -> ReplyReader:
    """A reader of one reply of this deployment."""
    return _READERS.get(provider_of(target), OpenAIReader)(target.finish_reasons)
