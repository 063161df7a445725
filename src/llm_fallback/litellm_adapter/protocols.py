"""The protocols that are read here, and how the address of a request tells which one it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.litellm_adapter.http_client import HTTPRequest
from llm_fallback.litellm_adapter.message_writers import (
    AnthropicWriter,
    ConverseWriter,
    GeminiWriter,
    MessageWriter,
    OllamaWriter,
    OpenAIWriter,
    Unusual,
)
from llm_fallback.plan.plan import Target


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """How requests are written and replies read."""

    paths: re.Pattern[str]
    """How the paths of its requests look."""
    reader: type[ReplyReader]
    messages: MessageWriter | None = None
    """None where only litellm writes them."""

    def reader_for(self, target: Target) -> ReplyReader:
        """A reader of one reply of this deployment."""
        reader = self.reader(target.finish_reasons)
        reader.signer = target.signer
        return reader

    @property
    def writer(self) -> MessageWriter:
        """A writer of messages as they stand in requests. Raises Unusual where only litellm writes them."""
        if self.messages is None:
            raise Unusual
        return self.messages


@dataclass(frozen=True, slots=True)
class TranslatedRequest(HTTPRequest):
    """A request to a model, of which it is known how its reply is read."""

    protocol: Protocol


# The second are watsonx's.
OPENAI_CHAT = Protocol(re.compile(r"/chat/completions$|/text/chat(_stream)?$"), OpenAIReader, OpenAIWriter())
ANTHROPIC_MESSAGES = Protocol(
    re.compile(r"/v1/messages$|/publishers/anthropic/.+:(streamRawPredict|rawPredict)$"),
    AnthropicReader,
    AnthropicWriter(),
)
GEMINI = Protocol(re.compile(r":(streamGenerateContent|generateContent)$"), GeminiReader, GeminiWriter())
BEDROCK_CONVERSE = Protocol(re.compile(r"/model/.+/converse(-stream)?$"), ConverseReader, ConverseWriter())
COHERE_CHAT = Protocol(re.compile(r"/v2/chat$"), CohereReader)
OLLAMA_CHAT = Protocol(re.compile(r"/api/chat$"), OllamaReader, OllamaWriter())

PROTOCOLS = (OPENAI_CHAT, ANTHROPIC_MESSAGES, GEMINI, BEDROCK_CONVERSE, COHERE_CHAT, OLLAMA_CHAT)


@lru_cache(maxsize=1024)
def protocol_at(path: str) -> Protocol | None:
    """The protocol of requests to this path of an address; None for one that is not read here. A provider may serve
    models in several."""
    return next((protocol for protocol in PROTOCOLS if protocol.paths.search(path)), None)
