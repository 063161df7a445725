"""OpenAI's replies and chunks as LangChain's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, InvalidToolCall, convert_to_openai_messages
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCall, default_tool_parser, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

PROVIDER = "litellm"
"""As replies of the real model say."""


def request_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as ChatLiteLLM sends them: without names, with the reasoning that came before."""
    sent = convert_to_openai_messages(messages)
    for message, document in zip(messages, sent, strict=True):
        document.pop("name", None)
        if "reasoning_content" in message.additional_kwargs:
            document["reasoning_content"] = message.additional_kwargs["reasoning_content"]
    return sent


def result_of(document: Mapping[str, Any]) -> ChatResult:
    """A whole reply."""
    usage = document.get("usage") or {}
    generations = [_generation(choice, usage) for choice in document["choices"]]
    return ChatResult(generations=generations, llm_output={"token_usage": dict(usage)})


def chunk_of(chunk: Mapping[str, Any], *, is_first: bool) -> ChatGenerationChunk:
    """A chunk of a stream; the first says where the reply comes from."""
    choice = chunk["choices"][0] if chunk["choices"] else {}
    delta, metadata = choice.get("delta") or {}, {"model_provider": PROVIDER} if is_first else {}
    for name, value in (
        ("finish_reason", choice.get("finish_reason")),
        ("provider_specific_fields", chunk.get("provider_specific_fields")),
    ):
        if value is not None:
            metadata[name] = value
    message = AIMessageChunk(
        content=delta.get("content") or "",
        additional_kwargs=_beside(delta),
        tool_call_chunks=[_part(call) for call in delta.get("tool_calls") or ()],
        usage_metadata=usage_of(chunk["usage"]) if chunk.get("usage") else None,
        response_metadata=metadata,
    )
    return ChatGenerationChunk(message=message)


def usage_of(usage: Mapping[str, Any]) -> UsageMetadata:
    """OpenAI's count of tokens in LangChain's words."""
    given, made = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    total = usage.get("total_tokens")
    metadata = UsageMetadata(
        input_tokens=given, output_tokens=made, total_tokens=given + made if total is None else total
    )
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if cached is not None:
        metadata["input_token_details"] = InputTokenDetails(cache_read=cached)
    if thought is not None:
        metadata["output_token_details"] = OutputTokenDetails(reasoning=thought)
    return metadata


def _generation(choice: Mapping[str, Any], usage: Mapping[str, Any]) -> ChatGeneration:
    told = choice["message"]
    calls, invalid = _calls(told)
    message = AIMessage(
        content=told.get("content") or "",
        additional_kwargs=_beside(told),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage_of(usage),
        response_metadata={"model_provider": PROVIDER},
    )
    return ChatGeneration(message=message, generation_info={"finish_reason": choice.get("finish_reason")})


def _calls(told: Mapping[str, Any]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """As ChatLiteLLM has it: what does not parse is invalid, what is no object is empty."""
    calls, invalid = default_tool_parser(list(told.get("tool_calls") or ()))
    return [{**call, "args": call["args"] if isinstance(call["args"], dict) else {}} for call in calls], invalid


def _beside(told: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside the content."""
    return {name: told[name] for name in ("reasoning_content", "tool_calls") if told.get(name)}


def _part(call: Mapping[str, Any]) -> Any:
    function = call["function"]
    return tool_call_chunk(
        name=function.get("name"), args=function.get("arguments"), id=call.get("id"), index=call.get("index")
    )
