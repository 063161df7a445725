"""Which protocol a deployment speaks on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.plan.plan import Target

_READERS: Mapping[str, type[ReplyReader]] = {
    "anthropic": AnthropicReader,
    "gemini": GeminiReader,
    "vertex_ai": GeminiReader,
}
"""By litellm's name for the provider. All others whose wire is tapped speak OpenAI's."""


def reader_for(target: Target) -> ReplyReader:
    """A reader of one reply of this deployment."""
    reader = _READERS.get(target.litellm_provider, OpenAIReader)(target.finish_reasons)
    reader.signer = target.signer
    return reader


_ADDRESSES: tuple[tuple[re.Pattern[str], type[ReplyReader]], ...] = (
    (re.compile(r"/chat/completions$|/text/chat(_stream)?$"), OpenAIReader),  # The second are watsonx's.
    (re.compile(r"/v1/messages$|/publishers/anthropic/.+:(streamRawPredict|rawPredict)$"), AnthropicReader),
    (re.compile(r":(streamGenerateContent|generateContent)$"), GeminiReader),
    (re.compile(r"/model/.+/converse(-stream)?$"), ConverseReader),
    (re.compile(r"/v2/chat$"), CohereReader),
    (re.compile(r"/api/chat$"), OllamaReader),
)
"""Protocols by the paths of the requests that litellm sends."""

_ASKS_FOR_A_STREAM = re.compile(rb'(?<!\\)"stream": ?true')


def reader_for_sent(request: Any, wanted: DeploymentRequest) -> ReplyReader | None:
    """A reader of the reply to a request that litellm sent; None where only litellm knows what to make of it: another
    protocol, or tools of other names, whose calls it brings into the caller's form."""
    path = request.url.path
    found = next((reader for address, reader in _ADDRESSES if address.search(path)), None)
    if found is None or has_other_tools(request.content, wanted.words):
        return None
    reader = found(wanted.target.finish_reasons)
    reader.signer = wanted.target.signer
    return reader


_WITH_TOOLS = ("tools", "functions", "response_format")


def has_other_tools(body: bytes, words: Mapping[str, Any]) -> bool:
    """Whether litellm sends other tools than the caller's: it replaces names that a provider does not take, asks models
    of which it knows no other way for JSON by a tool of its own, and puts tools into the prompt of those that have
    none."""
    if not any(words.get(word) for word in _WITH_TOOLS):
        return False
    try:
        document = json.loads(body)
    except ValueError:
        return True
    bedrocks = (document.get("toolConfig") or {}).get("tools") or ()
    sent = set(_tool_names((*(document.get("tools") or ()), *bedrocks)))
    return bool(words.get("functions")) or sent != set(_tool_names(words.get("tools") or ()))


def _tool_names(tools: Iterable[Any]) -> Iterator[str]:
    """The names of tools of the caller's, in the form of whichever protocol; a provider's own are left out."""
    for tool in tools:
        if not isinstance(tool, Mapping) or tool.get("type", "custom") not in ("custom", "function"):
            continue
        declared = tool.get("functionDeclarations") or tool.get("function_declarations")
        for one in declared or [tool.get("function") or tool.get("toolSpec") or tool]:
            if isinstance(one.get("name"), str):
                yield one["name"]


def asks_for_a_stream(request: Any) -> bool:
    """Whether a request that litellm sent asks for a stream; where it does not, litellm makes one of a whole reply."""
    return "stream" in request.url.path.rpartition("/")[2].lower() or bool(_ASKS_FOR_A_STREAM.search(request.content))
