"""The chunks of a stream as LangChain's, made once: those that ChatLiteLLM makes of the same replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_litellm import ChatLiteLLMRouter
from pydantic import PrivateAttr

from llm_fallback.chat_model.chunks import ChunkWriter
from llm_fallback.chat_model.conversion import keep_thoughts
from llm_fallback.chat_model.merging import FieldMerger
from llm_fallback.engine.protocol.reader import LOGPROBS
from llm_fallback.engine.protocol.thinking import SIGNED
from llm_fallback.engine.transport import Chunk
from llm_fallback.testing import Cut, Fail, Reply, fake_chat_model
from tests.chat_model.test_merging import SPOKEN, odd_frames, signed
from tests.engine.protocol.spoken import read_stream


class NoRouter:
    """All that ChatLiteLLM's constructor asks of a Router."""

    model_list = [{"model_name": "group"}]


class Theirs(ChatLiteLLMRouter):
    """ChatLiteLLM, told chunks as litellm would tell them."""

    _told: Sequence[Mapping[str, Any]] = PrivateAttr(default=())

    def completion_with_retry(self, run_manager: Any = None, **kwargs: Any) -> Any:
        return iter(self._told)

    def _reachable_groups(self, params: Any) -> None:
        return None


def theirs(chunks: Sequence[Chunk]) -> Iterator[AIMessageChunk]:
    """What ChatLiteLLM makes of chunks, with what we put elsewhere on purpose put there."""
    model, merger = Theirs(router=NoRouter()), FieldMerger()
    model._told = [merger.mergeable(chunk.raw) if chunk.raw["choices"] else chunk.raw for chunk in chunks]
    for chunk in model._stream([HumanMessage("hi")]):
        message, metadata = chunk.message, chunk.message.response_metadata
        assert isinstance(message, AIMessageChunk)
        metadata.pop("model_name", None)  # It is the chain's; the answerer's stands on the last chunk.
        metadata.pop("finish_reason", None)  # It stands on the last chunk, too.
        if SIGNED in (message.additional_kwargs.get("provider_specific_fields") or ()):
            keep_thoughts(message)
        if LOGPROBS in metadata.get("provider_specific_fields", ()):
            metadata[LOGPROBS] = metadata.pop("provider_specific_fields")[LOGPROBS]
        for call in message.tool_call_chunks:
            call["type"] = "tool_call_chunk"
        yield message


@pytest.mark.parametrize("spoken", SPOKEN, ids=lambda spoken: spoken.name)
def test_chunks_are_those_of_chat_litellm(spoken):
    """Of every stream of the corpus: content, fields beside it, parts of calls, usage and metadata."""
    for reply in spoken.streamed:
        frames = [frame for frame in reply.frames or () if isinstance(frame, dict)]
        chunks, _ = read_stream(signed(spoken.reader), spoken.wire(frames))
        writer = ChunkWriter(None)
        assert [writer.write(chunk) for chunk in chunks] == list(theirs(chunks))


@pytest.mark.parametrize("spoken", SPOKEN, ids=lambda spoken: spoken.name)
@given(st.data())
def test_so_are_chunks_of_odd_streams(spoken, data):
    """With fields twice, elsewhere and of other types."""
    chunks, _ = read_stream(signed(spoken.reader), spoken.wire(data.draw(odd_frames(spoken))))
    writer = ChunkWriter(None)
    assert [writer.write(chunk) for chunk in chunks] == list(theirs(chunks))


def test_each_chunk_bears_the_run_s_id():
    """As LangChain gives it to chunks without one."""
    chunk = Chunk({"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}, "a")
    assert ChunkWriter(UUID(int=7)).write(chunk).id == f"lc_run--{UUID(int=7)}"
    assert ChunkWriter(None).write(chunk).id is None


def test_the_last_chunk_alone_carries_the_facts_and_the_name():
    """Names of two chunks would be joined, and two floats cannot be."""
    chunks = list(fake_chat_model({"a": Reply("one two three")}).stream("hi"))
    assert ["llm_fallback" in chunk.response_metadata for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert ["model_name" in chunk.response_metadata for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]


@pytest.mark.parametrize("script", [Fail("auth"), Cut(after_chunks=1)])
def test_the_error_of_a_stream_is_raised_in_place_of_its_last_chunk(script):
    """Once all that came is handed on."""
    chunks = []
    with pytest.raises(Exception, match="a"):
        for chunk in fake_chat_model({"a": script}).stream("hi"):
            chunks.append(chunk)
    assert not any(chunk.chunk_position for chunk in chunks)
