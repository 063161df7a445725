"""A streamed reply as LangChain's chunks, each made once, as ChatLiteLLM makes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any
from uuid import UUID

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.utils.utils import LC_ID_PREFIX

from llm_fallback.chat_model.caller import CallContext
from llm_fallback.chat_model.conversion import (
    PROVIDER,
    answered,
    keep_thoughts,
    reply_metadata,
    unreadable_marks,
    usage_metadata,
)
from llm_fallback.chat_model.driver import adrive, drive
from llm_fallback.chat_model.merging import CONTENT, FieldMerger
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.protocol.finishes import openai_finish
from llm_fallback.engine.protocol.reader import GROUNDING, LOGPROBS
from llm_fallback.engine.protocol.thinking import SIGNED
from llm_fallback.engine.protocol.tool_calls import documents_of
from llm_fallback.engine.transport import Chunk

_SPECIFIC = "provider_specific_fields"
_BESIDE = ("reasoning_content", "tool_calls", "annotations")


def iter_chunks(execution: CallExecution, caller: CallContext) -> Generator[AIMessageChunk, None, None]:
    """The chunks of a call driven from a thread; the last one carries the facts. Raises the error it ends with."""
    writer, steps = ChunkWriter(caller.run_id), drive(execution, caller)
    try:
        for chunk in steps:
            yield writer.write(chunk)
    finally:
        steps.close()
    yield writer.write_last(execution)


async def aiter_chunks(execution: CallExecution, caller: CallContext) -> AsyncGenerator[AIMessageChunk, None]:
    """Like iter_chunks, of a call driven from a task."""
    writer, steps = ChunkWriter(caller.run_id), adrive(execution, caller)
    try:
        async for chunk in steps:
            yield writer.write(chunk)
    finally:
        await steps.aclose()
    yield writer.write_last(execution)


class ChunkWriter:
    """The chunks of one stream."""

    def __init__(self, run_id: UUID | None) -> None:
        self._id = None if run_id is None else f"{LC_ID_PREFIX}-{run_id}"
        self._is_first = True
        self._merger: FieldMerger | None = None

    def write(self, chunk: Chunk) -> AIMessageChunk:
        """LangChain's chunk of a chunk, such that it can be added to those before. How the reply ended is told with its
        last chunk: told twice, as some servers do, the words would be added up."""
        raw, usage = chunk.raw, None if chunk.usage is None else usage_metadata(chunk.usage)
        if not raw["choices"]:
            return AIMessageChunk(content="", usage_metadata=usage, id=self._id)
        # Few have more than content, and a function call for each would be felt.
        if len(raw) > 1 or not raw["choices"][0]["delta"].keys() <= CONTENT:
            self._merger = self._merger or FieldMerger()
            raw = self._merger.mergeable(raw)
        [choice] = raw["choices"]
        specific = raw.get(_SPECIFIC) or raw.get(GROUNDING)
        metadata: dict[str, Any] = {}
        if specific and LOGPROBS in specific:
            metadata[LOGPROBS] = specific[LOGPROBS]
        elif specific:
            metadata[_SPECIFIC] = specific
        return self._message(choice["delta"], metadata, usage)

    def write_last(self, execution: CallExecution) -> AIMessageChunk:
        """The last chunk, with how the reply ended and the facts of the call. Raises the error it ended with, if it
        did."""
        answer = answered(execution)
        marks = unreadable_marks(execution.delivered)
        metadata = {
            "finish_reason": openai_finish(answer.finish),
            **reply_metadata(answer.model_name, answer.provenance, answer.record),
        }
        message = self._message({"tool_calls": documents_of(marks)} if marks else {}, metadata)
        message.chunk_position = "last"
        return message

    def _message(
        self, delta: Mapping[str, Any], metadata: dict[str, Any], usage: UsageMetadata | None = None
    ) -> AIMessageChunk:
        beside = {name: delta[name] for name in _BESIDE if delta.get(name)} if len(delta) > 1 else {}
        specific = delta.get(_SPECIFIC) or delta.get(GROUNDING)
        if specific:
            beside[_SPECIFIC] = specific
        if self._is_first or "annotations" in beside:
            # Without the name LangChain shows no citations.
            metadata["model_provider"], self._is_first = PROVIDER, False
        calls = delta.get("tool_calls")
        message = AIMessageChunk(
            content=delta.get("content") or "",
            additional_kwargs=beside,
            tool_call_chunks=[_tool_call_chunk(call) for call in calls] if calls else [],
            response_metadata=metadata,
            usage_metadata=usage,
            id=self._id,
        )
        if specific and SIGNED in specific:
            keep_thoughts(message)
        return message


def _tool_call_chunk(call: Mapping[str, Any]) -> Any:
    function = call["function"]
    return tool_call_chunk(name=function["name"], args=function["arguments"], id=call["id"], index=call["index"])
