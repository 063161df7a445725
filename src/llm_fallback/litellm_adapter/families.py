"""Which protocol a deployment speaks on the wire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.plan.plan import Target

_READERS: Mapping[str, type[ReplyReader]] = {
    "anthropic": AnthropicReader,
    "gemini": GeminiReader,
    "vertex_ai": GeminiReader,
}
"""By litellm's name for the provider. All others whose wire is tapped speak OpenAI's."""


def reader_for(target: Target) -> ReplyReader:
    """A reader of one reply of this deployment."""
    return _READERS.get(target.litellm_provider, OpenAIReader)(target.finish_reasons)


_ADDRESSES: tuple[tuple[re.Pattern[str], type[ReplyReader]], ...] = (
    (re.compile(r"/chat/completions$|/text/chat(_stream)?$"), OpenAIReader),  # The second are watsonx's.
    (re.compile(r"/v1/messages$|/publishers/anthropic/.+:(streamRawPredict|rawPredict)$"), AnthropicReader),
    (re.compile(r":(streamGenerateContent|generateContent)$"), GeminiReader),
)
"""Protocols by the paths of the requests that litellm sends."""

_ASKS_FOR_A_STREAM = re.compile(rb'(?<!\\)"stream": ?true')
_LITELLMS_TOOL = b"json_tool_call"
"""The tool by which litellm asks for JSON where it knows no other way; it puts what the model calls it with in place of
the reply."""


def reader_for_sent(request: Any, target: Target) -> ReplyReader | None:
    """A reader of the reply to a request that litellm sent; None where only litellm knows what to make of it: another
    protocol, a reply it brings into another form."""
    path, body = request.url.path, bytes(request.content)
    reader = next((reader for address, reader in _ADDRESSES if address.search(path)), None)
    return None if reader is None or _LITELLMS_TOOL in body else reader(target.finish_reasons)


def asks_for_a_stream(request: Any) -> bool:
    """Whether a request that litellm sent asks for a stream; where it does not, litellm makes one of a whole reply."""
    return "stream" in request.url.path.rpartition("/")[2].lower() or bool(_ASKS_FOR_A_STREAM.search(request.content))
