"""Which protocol a deployment speaks on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_fallback.engine.encoding import read_json
from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.litellm_adapter.message_writers import (
    AnthropicWriter,
    ConverseWriter,
    GeminiWriter,
    MessageWriter,
    OllamaWriter,
    OpenAIWriter,
    Unusual,
)
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.plan.plan import Target

_READERS: Mapping[str, type[ReplyReader]] = {
    "anthropic": AnthropicReader,
    "bedrock": ConverseReader,
    "cohere": CohereReader,
    "cohere_chat": CohereReader,
    "gemini": GeminiReader,
    "ollama_chat": OllamaReader,
    "vertex_ai": GeminiReader,
}
"""By litellm's name for the provider: the protocol of most of its models. All others speak OpenAI's."""


def reader_for(target: Target) -> ReplyReader:
    """A reader of one reply of this deployment, as its provider says."""
    return _prepared(_READERS.get(target.litellm_provider, OpenAIReader), target)


def reader_of(url: str, target: Target) -> ReplyReader:
    """A reader of the reply to a request of this deployment: a provider may serve models in several protocols, and the
    address tells which one it is."""
    protocol = _protocol(urlsplit(url).path)
    return _prepared(protocol.reader if protocol else OpenAIReader, target)


def _prepared(kind: type[ReplyReader], target: Target) -> ReplyReader:
    reader = kind(target.finish_reasons)
    reader.signer = target.signer
    return reader


def reader_for_sent(request: Any, wanted: DeploymentRequest) -> ReplyReader | None:
    """A reader of the reply to a request that litellm sent; None where only litellm knows what to make of it: another
    protocol, or tools of other names, whose calls it brings into the caller's form."""
    if not speaks_a_known_protocol(request) or has_other_tools(request.content, wanted.words):
        return None
    return reader_of(str(request.url), wanted.target)


def writer_of(url: str) -> MessageWriter:
    """A writer of messages as they stand in requests to this address. Raises Unusual where only litellm writes them."""
    protocol = _protocol(urlsplit(url).path)
    if protocol is None or protocol.writer is None:
        raise Unusual
    return protocol.writer


def speaks_a_known_protocol(request: Any) -> bool:
    """Whether a request of litellm's has an address by which its protocol is known."""
    return _protocol(request.url.path) is not None


class _Protocol(NamedTuple):
    """A protocol, and how the paths of its requests look."""

    paths: re.Pattern[str]
    reader: type[ReplyReader]
    writer: MessageWriter | None


@lru_cache(maxsize=1024)
def _protocol(path: str) -> _Protocol | None:
    return next((protocol for protocol in _PROTOCOLS if protocol.paths.search(path)), None)


_PROTOCOLS = (
    # The second are watsonx's.
    _Protocol(re.compile(r"/chat/completions$|/text/chat(_stream)?$"), OpenAIReader, OpenAIWriter()),
    _Protocol(
        re.compile(r"/v1/messages$|/publishers/anthropic/.+:(streamRawPredict|rawPredict)$"),
        AnthropicReader,
        AnthropicWriter(),
    ),
    _Protocol(re.compile(r":(streamGenerateContent|generateContent)$"), GeminiReader, GeminiWriter()),
    _Protocol(re.compile(r"/model/.+/converse(-stream)?$"), ConverseReader, ConverseWriter()),
    _Protocol(re.compile(r"/v2/chat$"), CohereReader, None),
    _Protocol(re.compile(r"/api/chat$"), OllamaReader, OllamaWriter()),
)

_ASKS_FOR_A_STREAM = re.compile(rb'(?<!\\)"stream": ?true')


_WITH_TOOLS = ("tools", "functions", "response_format")


def has_other_tools(body: bytes, words: Mapping[str, Any]) -> bool:
    """Whether litellm sends other tools than the caller's: it replaces names that a provider does not take, asks models
    of which it knows no other way for JSON by a tool of its own, and puts tools into the prompt of those that have
    none."""
    if not any(words.get(word) for word in _WITH_TOOLS):
        return False
    try:
        document = read_json(body)
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
