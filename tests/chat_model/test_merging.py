"""Chunks of a stream, added up as LangChain adds them up: without an exception, to what was said and nothing else."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk

from llm_fallback import build_chat_model
from llm_fallback.chat_model.chunks import ChunkWriter
from llm_fallback.chat_model.merging import CONTENT, FieldMerger
from llm_fallback.engine.protocol.anthropic_messages import AnthropicReader
from llm_fallback.engine.protocol.bedrock_converse import ConverseReader
from llm_fallback.engine.protocol.cohere import CohereReader
from llm_fallback.engine.protocol.gemini import GeminiReader
from llm_fallback.engine.protocol.ollama import OllamaReader
from llm_fallback.engine.protocol.openai_chat import OpenAIReader
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.engine.transport import Chunk, Fault, StreamEnd
from tests.asking import STREAMED, ask
from tests.end_to_end.hostile_servers import STREAM, Play, hostile, take_request
from tests.engine.protocol.spoken import Spoken, read_plain, read_stream

SPOKEN = [
    Spoken("anthropic", AnthropicReader),
    Spoken("gemini", GeminiReader),
    Spoken("bedrock", ConverseReader),
    Spoken("cohere", CohereReader),
    Spoken("ollama", OllamaReader),
    Spoken("openai", OpenAIReader),
    Spoken("litellm_proxy", OpenAIReader),
    Spoken("openrouter", OpenAIReader),
]
WORDS = st.text(st.sampled_from("ab\ud83d\ude00é"), max_size=3) | st.just('{"a": "\\ud83d"}')
ODD = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.5, 2.5]) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["index", "id", "type", "text"]), inner)
    ),
    max_leaves=4,
)


def message_of(chunks: Iterable[Chunk]) -> AIMessageChunk | None:
    """The message that LangChain makes of chunks."""
    writer, whole = ChunkWriter(None), None
    for chunk in chunks:
        message = writer.write(chunk)
        whole = message if whole is None else whole + message
    return whole


def places(document: Any) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in inner:
        yield (name,)
        if isinstance(value, dict | list):
            yield from ((name, *place) for place in places(value))


def texts(document: Any) -> Iterator[str]:
    """The texts in a document."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for inner in document.values() if isinstance(document, dict) else document:
            yield from texts(inner)


@st.composite
def odd_frames(draw: st.DrawFn, spoken: Spoken) -> list[Any]:
    """Events as they were sent, some of them twice, elsewhere, or with something odd in them."""
    reply = draw(st.sampled_from(spoken.streamed))
    frames = copy.deepcopy([frame for frame in reply.frames or () if isinstance(frame, dict)])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(frames) - 1))
        frames.insert(draw(st.integers(0, len(frames))), copy.deepcopy(frames[at]))
    for _ in range(draw(st.integers(0, 4))):
        holder: Any = draw(st.sampled_from(frames))
        place = draw(st.sampled_from([place for place in places(holder) if place[0] not in ("event", "exception")]))
        if place == ("data",):
            continue
        for name in place[:-1]:
            holder = holder[name]
        name = draw(st.sampled_from(["index", "id"])) if isinstance(holder, dict) and draw(st.booleans()) else place[-1]
        holder[name] = draw(ODD)
    return frames


def signed(kind: type[ReplyReader]) -> Any:
    """Makes readers that know who signs thoughts."""

    def make() -> ReplyReader:
        reader = kind()
        reader.signer = "a"
        return reader

    return make


@pytest.mark.parametrize("spoken", SPOKEN, ids=lambda spoken: spoken.name)
@given(st.data())
def test_whatever_a_server_streams_adds_up(spoken, data):
    """Without an exception, to a message that can be encoded."""
    frames = data.draw(odd_frames(spoken))
    chunks, end = read_stream(signed(spoken.reader), spoken.wire(frames))
    message = message_of(chunks)
    assert can_be_encoded([None if message is None else message.model_dump(), end_of(end)])


@pytest.mark.parametrize("spoken", SPOKEN[:3], ids=lambda spoken: spoken.name)
@given(st.data())
def test_no_field_is_made_of_two(spoken, data):
    """What stands beside text and tool calls is as it was said: no signature, id or address is joined to another."""
    chunks, _ = read_stream(signed(spoken.reader), spoken.wire(data.draw(odd_frames(spoken))))
    message = message_of(chunks)
    if message is None:
        return
    said = {text for chunk in chunks for text in texts(beside(chunk.raw))}
    kwargs = {name: value for name, value in message.additional_kwargs.items() if name not in CONTENT}
    kwargs.get("provider_specific_fields", {}).pop("audio", None)
    assert said.issuperset(texts([kwargs, message.response_metadata.get("provider_specific_fields")]))


def can_be_encoded(document: Any) -> bool:
    return bool(json.dumps(document, ensure_ascii=False).encode())


def end_of(end: StreamEnd | Fault) -> list[str | None]:
    return [end.message] if isinstance(end, Fault) else [end.finish]


def beside(raw: Mapping[str, Any]) -> list[Any]:
    deltas = [choice["delta"] for choice in raw["choices"]]
    fields = [value for delta in deltas for name, value in delta.items() if name not in CONTENT]
    return [*fields, [value for name, value in raw.items() if name != "choices"]]


@pytest.mark.parametrize("spoken", SPOKEN, ids=lambda spoken: spoken.name)
@given(st.data())
def test_whatever_a_server_sends_at_once_can_be_encoded(spoken, data):
    """Half characters are replaced wherever they stand."""
    body = copy.deepcopy(data.draw(st.sampled_from([reply.body for reply in spoken.replies if reply.body])))
    for _ in range(data.draw(st.integers(1, 4))):
        holder: Any = body
        place = data.draw(st.sampled_from(list(places(body))))
        for name in place[:-1]:
            holder = holder[name]
        holder[place[-1]] = data.draw(ODD)
    came = read_plain(spoken.reader, body)
    assert can_be_encoded(end_of(came) if isinstance(came, Fault) else [came.raw, came.finish])


def fields(*told: Mapping[str, Any]) -> Any:
    """What comes of fields of a provider that were told one after the other."""
    raws = ({"choices": [{"delta": {"content": "", "provider_specific_fields": one}}]} for one in told)
    message = message_of(Chunk(raw) for raw in raws)
    assert message is not None
    return message.additional_kwargs["provider_specific_fields"]


@pytest.mark.parametrize(
    ("told", "whole"),
    [
        ([{"a": "x"}, {"a": 2}, {"a": ["y"]}, {"a": None}, {"a": "z"}], {"a": "xz"}),
        ([{"a": 1}, {"a": 1}, {"a": 2}], {"a": 1}),
        ([{"a": 0.5}, {"a": 0.7}, {"a": True}], {"a": 0.5}),
        ([{"a": False}, {"a": True}], {"a": False}),
        (
            [{"box": {"id": "b", "till": "noon"}}, {"box": {"id": "b", "till": "noon"}}],
            {"box": {"id": "b", "till": "noon"}},
        ),
        ([{"box": {"id": "b"}}, {"box": {"id": "c", "size": 1}}], {"box": {"id": "b", "size": 1}}),
        (
            [{"audio": {"id": "1", "data": "AA"}}, {"audio": {"id": "2", "data": "BB"}}],
            {"audio": {"id": "1", "data": "AABB"}},
        ),
        (
            [{"b": [{"index": 0, "s": "x"}]}, {"b": [{"index": 0, "s": "y"}]}],
            {"b": [{"index": 0, "s": "x"}, {"s": "y"}]},
        ),
        ([{"b": [{"index": 0}, {"index": 0}]}, {"b": [{"index": 1}]}], {"b": [{"index": 0}, {}, {"index": 1}]}),
        ([{"b": [1]}, {"b": [1, "x"]}], {"b": [1, 1, "x"]}),
    ],
)
def test_lists_grow_texts_are_joined_and_all_else_is_told_once(told, whole):
    """A name keeps the type it began with, and objects of a list stay apart."""
    assert fields(*told) == whole


def test_content_is_left_as_it_is():
    """It is told in parts that are made to be added up."""
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "go", "arguments": "{}"}}
    delta = {"role": "assistant", "content": "a", "reasoning_content": "b", "tool_calls": [call]}
    raw = {"choices": [{"delta": delta, "finish_reason": None}]}
    merger = FieldMerger()
    assert [merger.mergeable(raw) for _ in range(2)] == [raw, raw]


def streaming(word: str, *told: Mapping[str, Any], finish: str | None) -> Play:
    """A server that streams the word for each of these fields of its own, and is cut where it has no finish."""

    def play(peer: socket.socket) -> None:
        take_request(peer)
        deltas = [{"content": word, "provider_specific_fields": one} for one in told]
        choices = [{"delta": delta, "finish_reason": None} for delta in deltas]
        ended = [{"delta": {}, "finish_reason": finish}] if finish else []
        frames = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in [*choices, *ended]]
        peer.sendall(STREAM + b"Connection: close\r\n\r\n" + "".join(frames).encode())

    return play


@pytest.mark.parametrize("mode", STREAMED)
async def test_fields_of_two_servers_add_up_where_one_goes_on_for_the_other(mode):
    """The first to tell a name says what it is."""
    first = streaming("one ", {"box": {"id": "b", "size": 1}, "notes": [1]}, {"box": "b", "score": 0.5}, finish=None)
    second = streaming("more ", {"box": 7, "notes": [2], "score": 0.7}, {"notes": "none"}, finish="stop")
    with hostile(first) as one, hostile(second) as two:
        backend = {"backend": "vllm", "model": "m"}
        deployments = {"a": {**backend, "api_base": f"http://{one}"}, "b": {**backend, "api_base": f"http://{two}"}}
        chains = {"c": {"tiers": ["a", "b"], "on_stream_break": "continue"}}
        with build_chat_model({"deployments": deployments, "chains": chains}) as model:
            message = await ask(model, mode)
    assert message.response_metadata["llm_fallback"]["deployment"] == "b"
    assert message.additional_kwargs["provider_specific_fields"] == {
        "box": {"id": "b", "size": 1},
        "notes": [1, 2],
        "score": 0.5,
    }
