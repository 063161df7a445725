"""A whole reply as LangChain's message, the one that ChatLiteLLM makes of it, without the objects on its way there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from llm_fallback.chat_model.conversion import PROVIDER, add_tool_call, keep_thoughts, reply_metadata, usage_metadata
from llm_fallback.engine.engine import Answered
from llm_fallback.engine.protocol.reader import GROUNDING, LOGPROBS
from llm_fallback.engine.protocol.thinking import SIGNED
from llm_fallback.engine.transport import ToolCallPart

_SPECIFIC = "provider_specific_fields"


def to_result(answer: Answered, *, several: bool) -> ChatResult:
    """LangChain's result of a whole reply; `several`: whether the caller asked for more than one choice."""
    reply = answer.reply
    assert reply is not None
    document = reply.raw
    choices = document["choices"] if several else document["choices"][:1]
    usage = None if reply.usage is None else usage_metadata(reply.usage)
    output = {"token_usage": document["usage"], "model_name": answer.model_name}
    specific = document.get(_SPECIFIC) or document.get(GROUNDING)
    if specific:
        output[_SPECIFIC] = specific
    return ChatResult(generations=[_generation(choice, usage, answer) for choice in choices], llm_output=output)


def _generation(choice: Mapping[str, Any], usage: UsageMetadata | None, answer: Answered) -> ChatGeneration:
    document, finish, logprobs = choice["message"], choice["finish_reason"], choice[LOGPROBS]
    metadata = reply_metadata(answer.model_name, answer.provenance, answer.record)
    metadata["model_provider"], told = PROVIDER, {"finish_reason": finish}
    if logprobs is not None:
        metadata[LOGPROBS] = told[LOGPROBS] = logprobs
    beside = {name: document[name] for name in _KEPT if document.get(name)}
    specific = document.get(_SPECIFIC) or document.get(GROUNDING)
    if specific:
        beside[_SPECIFIC] = specific
    message = AIMessage(
        content=document["content"] or "", additional_kwargs=beside, response_metadata=metadata, usage_metadata=usage
    )
    if SIGNED in (specific or ()):
        keep_thoughts(message)
    calls = document.get("tool_calls")
    if calls:
        # Not by the constructor, which makes calls of them by itself, and fails for arguments that are no object.
        message.additional_kwargs["tool_calls"] = calls
    for call in calls or ():
        function = call["function"]
        add_tool_call(message, ToolCallPart(0, call["id"], function["name"], function["arguments"]), finish)
    return ChatGeneration(message=message, generation_info=told)


_KEPT = ("reasoning_content", "annotations")
