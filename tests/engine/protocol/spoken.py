"""What a system of the corpus says, through the reader of its protocol: bytes in, what a caller gets out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx
from langchain_core.utils._merge import merge_dicts
from litellm import ModelResponse
from litellm.litellm_core_utils.litellm_logging import Logging

from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.engine.protocol.response import Response
from llm_fallback.engine.transport import FINISHES, REFUSED_FINISH, Chunk, Fault, PartialReply, StreamEnd
from llm_fallback.engine.transport import Reply as WholeReply
from llm_fallback.events import Usage
from tests.corpus.cases import Reply, System, systems
from tests.corpus.stage import framed

BESIDE = ("annotations", "thinking_blocks", "provider_specific_fields")


def read_plain(reader: type[ReplyReader], body: Any) -> WholeReply | Fault:
    """What a body comes to."""
    response = Response(reader(), streamed=False)
    response.begin(200, {})
    return response.reply(body if isinstance(body, bytes) else json.dumps(body).encode())


def read_stream(reader: type[ReplyReader], reads: Iterable[bytes]) -> tuple[list[Chunk], StreamEnd | Fault]:
    """The chunks a stream comes to, and its end."""
    response = Response(reader(), streamed=True)
    response.begin(200, {})
    chunks: list[Chunk] = []
    for data in (*reads, None):
        if not response.is_over:
            chunks += response.feed(data)
    end = response.end()
    while isinstance(end, Chunk):
        chunks.append(end)
        end = response.end()
    return chunks, end


def told(came: PartialReply, finish: str | None) -> dict[str, Any]:
    """Text, reasoning, tools, finish and usage."""
    calls = came.tool_calls.values()
    tools = [[call.name, json.loads(call.arguments or "{}")] for call in calls]
    assert all(call.id for call in calls)
    return {
        "text": came.text,
        "reasoning": came.reasoning,
        "tools": tools,
        "finish": finish,
        "usage": counts(came.usage),
    }


def counts(usage: Usage | None) -> dict[str, int]:
    """Usage under LangChain's names."""
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read": usage.cached_tokens,
        "cache_creation": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
    }


def beside(deltas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands beside text, reasoning and tools, added up as LangChain adds chunks up."""
    fields = [{name: said for name, said in delta.items() if name in BESIDE} for delta in deltas]
    merged: dict[str, Any] = merge_dicts({}, *fields)
    return merged


def beside_reply(reply: WholeReply) -> dict[str, Any]:
    """The same of a whole reply."""
    return beside([reply.raw["choices"][0]["message"]])


def beside_chunks(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The same of a stream."""
    return beside(chunk.raw["choices"][0]["delta"] for chunk in chunks if chunk.raw["choices"])


def by_litellm(config: Any, body: Any) -> Mapping[str, Any]:
    """What litellm's own reader makes of a plain reply."""
    log = Logging("m", [], False, "completion", datetime.now(), "1", "1")
    made = config.transform_response(
        model="m",
        raw_response=httpx.Response(200, json=body),
        model_response=ModelResponse(),
        logging_obj=log,
        request_data={},
        messages=[],
        optional_params={},
        litellm_params={},
        encoding=None,
    )
    document: Mapping[str, Any] = made.model_dump()
    return document


def in_parts(whole: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Bytes in reads that end at these places."""
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    return [whole[start:end] for start, end in pairwise(places)]


@dataclass(frozen=True)
class Spoken:
    """A system of the corpus and the reader of its protocol."""

    name: str
    reader: type[ReplyReader]

    @property
    def system(self) -> System:
        (found,) = (one for one in systems() if one.name == self.name)
        return found

    @property
    def replies(self) -> Sequence[Reply]:
        return self.system.replies

    @property
    def streamed(self) -> Sequence[Reply]:
        return [reply for reply in self.replies if reply.frames is not None]

    @property
    def plain(self) -> Sequence[Reply]:
        return [reply for reply in self.replies if reply.body is not None]

    def wire(self, frames: Iterable[Any] | None) -> list[bytes]:
        """Events as they come over the wire."""
        return framed(frames or (), self.system.framing)

    def outcomes(self, reply: Reply) -> Iterable[Mapping[str, Any]]:
        """What it comes to, plain and streamed, as far as the corpus says what it should."""
        if reply.body is not None:
            whole = read_plain(self.reader, reply.body)
            assert isinstance(whole, WholeReply)
            yield self._as_far_as(reply, told(PartialReply(whole), whole.finish))
        if reply.frames is not None:
            chunks, end = read_stream(self.reader, self.wire(reply.frames))
            assert isinstance(end, StreamEnd)
            yield self._as_far_as(reply, told(PartialReply(*chunks), end.finish))

    def _as_far_as(self, reply: Reply, came: dict[str, Any]) -> Mapping[str, Any]:
        if reply.failure is not None:
            return {"finish": came["finish"]}
        return {**came, "usage": {name: came["usage"][name] for name in reply.usage}}

    def expected(self, reply: Reply) -> Mapping[str, Any]:
        """What the corpus says it should come to."""
        if reply.failure is not None:
            assert reply.failure == "content_policy"
            return {"finish": REFUSED_FINISH}
        tools = [list(call) for call in reply.tools]
        return {
            "text": reply.text,
            "reasoning": reply.reasoning,
            "tools": tools,
            "finish": reply.finish,
            "usage": dict(reply.usage),
        }

    def ends_whole(self, reads: Iterable[bytes]) -> bool:
        """Whether a stream passes for whole."""
        _, end = read_stream(self.reader, reads)
        return isinstance(end, StreamEnd) and end.finish in FINISHES


def work_of(action: Callable[[], object]) -> float:
    """Seconds of this thread that an action takes, the least of three."""
    times = []
    for _ in range(3):
        began = time.thread_time()
        action()
        times.append(time.thread_time() - began)
    return min(times)
