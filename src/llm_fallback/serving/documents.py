"""Replies in OpenAI's form: whole ones, and the events of a stream.

What the engine hands on is in that form already (`engine/protocol/reader.py`), but for what stands where LangChain
looks for it: signed thoughts, sound, probabilities. Here it goes where a client of OpenAI's looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm_fallback.engine.engine import Answered
from llm_fallback.engine.protocol.finishes import openai_finish
from llm_fallback.engine.protocol.reader import GROUNDING, LOGPROBS, MEDIA
from llm_fallback.engine.protocol.thinking import BLOCKS, SIGNED
from llm_fallback.engine.transport import Chunk

DONE = b"data: [DONE]\n\n"
FACTS = "llm_fallback"
"""Where the facts of a call stand in a reply, and in the last chunk of a stream."""
_SPECIFIC = "provider_specific_fields"


def encoded(document: Any) -> bytes:
    """A document as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def event(document: Any) -> bytes:
    """A document as an event of a stream."""
    return b"data: " + encoded(document) + b"\n\n"


def completion(answer: Answered, id_: str, created: int) -> dict[str, Any]:
    """A whole reply, with the facts of its call."""
    reply = answer.reply
    assert reply is not None
    document, provenance = reply.raw, answer.provenance
    whole: dict[str, Any] = {
        "id": provenance.reply_id or id_,
        "object": "chat.completion",
        "created": created,
        "model": answer.model_name,
        "choices": [_choice(choice, index) for index, choice in enumerate(document["choices"])],
        "usage": document["usage"] or None,
    }
    if provenance.system_fingerprint is not None:
        whole["system_fingerprint"] = provenance.system_fingerprint
    if GROUNDING in document:
        whole[GROUNDING] = document[GROUNDING]
    whole[FACTS] = answer.record.as_metadata()
    return whole


def _choice(choice: Mapping[str, Any], index: int) -> dict[str, Any]:
    message = _plain(choice["message"])
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [{name: call[name] for name in call if name != "index"} for call in calls]
        message["content"] = message["content"] or None
    return {
        "index": index,
        "message": message,
        "logprobs": choice[LOGPROBS],
        "finish_reason": choice["finish_reason"],
    }


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """A message or a delta with its further fields under the names they have in OpenAI's protocol, or litellm's."""
    if _SPECIFIC not in said:
        return dict(said)
    specific = dict(said[_SPECIFIC])
    plain = {name: value for name, value in said.items() if name != _SPECIFIC}
    if SIGNED in specific:
        # They say who signed them, and so they come back to whoever did, and to nobody else.
        plain[BLOCKS] = specific.pop(SIGNED)
        specific.pop(BLOCKS, None)
    for name in MEDIA:
        if name in specific:
            plain[name] = specific.pop(name)
    return {**plain, _SPECIFIC: specific} if specific else plain


class ChunkWriter:
    """Writes the chunks of one stream."""

    def __init__(self, id_: str, created: int, model: str) -> None:
        self._head = {"id": id_, "object": "chat.completion.chunk", "created": created, "model": model}
        self._prefix = b"data: " + encoded(self._head)[:-1] + b',"choices":[{"index":0,"delta":'
        self._is_first = True

    def write(self, chunk: Chunk) -> bytes:
        """The event of a chunk; empty if a client learns nothing from it. How the reply ended is told at its end."""
        raw = chunk.raw
        if not raw["choices"]:
            return b""
        (choice,) = raw["choices"]
        delta = choice["delta"]
        if len(delta) > 1:  # Nearly all have a content and nothing else.
            delta = _delta(delta)
        logprobs = (raw.get(_SPECIFIC) or {}).get(LOGPROBS)
        if delta == _NOTHING and logprobs is None and GROUNDING not in raw:
            return b""
        if self._is_first:
            self._is_first, delta = False, {"role": "assistant", **delta}
        if GROUNDING in raw:
            return event({**self._head, "choices": [_of_stream(delta, logprobs)], GROUNDING: raw[GROUNDING]})
        told = b"null" if logprobs is None else encoded(logprobs)
        return self._prefix + encoded(delta) + b',"logprobs":' + told + b',"finish_reason":null}]}\n\n'

    def end(self, answer: Answered, usage: Mapping[str, Any] | None, *, wants_usage: bool) -> bytes:
        """The events that end a whole reply: why it ended, the usage if it is wanted, and on the last of them the facts
        of the call."""
        finish = openai_finish(answer.finish)
        last: dict[str, Any] = {**self._head, "choices": [{**_of_stream({}, None), "finish_reason": finish}]}
        if answer.provenance.system_fingerprint is not None:
            last["system_fingerprint"] = answer.provenance.system_fingerprint
        before = b""
        if wants_usage:
            before, last = event(last), {**self._head, "choices": [], "usage": usage}
        return before + event({**last, FACTS: answer.record.as_metadata()}) + DONE


_NOTHING = {"content": ""}


def _of_stream(delta: Mapping[str, Any], logprobs: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _delta(delta: Mapping[str, Any]) -> dict[str, Any]:
    plain = _plain(delta)
    if calls := plain.get("tool_calls"):
        plain["tool_calls"] = [_part_of_call(call) for call in calls]
    if plain.get("content") == "" and len(plain) > 1:
        del plain["content"]
    return plain


def _part_of_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a tool call, without the names of its beginning where they were told before."""
    function = {name: value for name, value in call["function"].items() if value is not None}
    if call["id"] is None:
        return {"index": call["index"], "function": function}
    return {**call, "function": function}
