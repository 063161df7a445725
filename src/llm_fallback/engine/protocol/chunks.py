"""Documents of OpenAI's chat protocol as the engine's chunks and replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm_fallback.engine.protocol.finishes import openai_finish, read_finish
from llm_fallback.engine.transport import REFUSED_FINISH, Chunk, Fault, Reply, ToolCallPart
from llm_fallback.events import Usage

_NO_SIGN_OF_LIFE = frozenset({"role"})


class ChunkReader:
    """The events of one stream as chunks."""

    def __init__(self) -> None:
        self.content_came = False
        self._calls_came = self._usage_came = False

    def read(self, frame: Mapping[str, Any]) -> Chunk | None:
        """The chunk in an event; None if it has no content and is no sign of life: a role alone, or usage.

        Usage is left to the end: it may stand in every event, each with the sum so far.
        """
        choices = frame.get("choices")
        if not choices:
            return None
        delta = choices[0].get("delta") or {}
        if not (choices[0].get("finish_reason") or any(map(delta.get, delta.keys() - _NO_SIGN_OF_LIFE))):
            return None
        delta = _delta_of(delta)
        calls = tool_calls(delta.get("tool_calls"))
        self._calls_came = self._calls_came or bool(calls)
        finish = self._finish_of(choices[0])
        chunk = Chunk(
            raw={"choices": [{"delta": delta, "finish_reason": openai_finish(finish) if finish else None}]},
            text=text_of(delta.get("content")),
            reasoning=delta.get("reasoning_content") or "",
            tool_calls=calls,
            finish=finish,
        )
        self.content_came = self.content_came or chunk.has_content
        return chunk

    def usage(self, usage: dict[str, Any] | None) -> Chunk | None:
        """The usage of the whole stream, once."""
        if usage is None or self._usage_came:
            return None
        self._usage_came = True
        return Chunk({"choices": [], "usage": integral_usage(usage)}, usage=usage_of(usage))

    def with_text(self, chunk: Chunk, text: str) -> Chunk:
        choice = chunk.raw["choices"][0]
        delta = {name: value for name, value in choice["delta"].items() if name != "reasoning_content"}
        raw = {"choices": [{**choice, "delta": {**delta, "content": text}}]}
        return chunk._replace(raw=raw, text=text, reasoning="")

    def _finish_of(self, choice: Mapping[str, Any]) -> str | None:
        word = choice.get("finish_reason")
        if word is None:
            return None
        finish = read_finish(word)
        # Some servers say "stop" where they called a tool; agents look at the word.
        return "tool_calls" if finish == "stop" and self._calls_came else finish


def _delta_of(delta: Mapping[str, Any]) -> dict[str, Any]:
    """A delta under the names LangChain reads, its tool calls with every key that it asks for."""
    known = dict(delta)
    if "reasoning" in known:
        known["reasoning_content"] = known.pop("reasoning")
    if known.get("tool_calls"):
        known["tool_calls"] = [_call_of(call, place) for place, call in enumerate(known["tool_calls"])]
    return known


def _call_of(call: Mapping[str, Any], place: int) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "index": place if call.get("index") is None else call["index"],
        "id": call.get("id"),
        "type": "function",
        "function": {"name": function.get("name"), "arguments": function.get("arguments") or ""},
    }


def tool_calls(calls: Any) -> tuple[ToolCallPart, ...]:
    """The tool calls of a message or a delta, the server's own or litellm's. One without an index has its position."""
    return tuple(
        ToolCallPart(
            index=position if index is None else index,
            id=_field(call, "id"),
            name=_field(function, "name"),
            arguments=_field(function, "arguments") or "",
        )
        for position, call in enumerate(calls or ())
        for index, function in ((_field(call, "index"), _field(call, "function")),)
    )


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def usage_of(usage: Any) -> Usage | None:
    """Usage in our words, from litellm's object or the server's own data.

    Anthropic's cache fields stand beside OpenAI's details; both are read. Of a server that counts in something else
    than whole numbers from 0 on, nothing is known: what it says would be billed.
    """
    try:
        prompt, completion, written = _counts(
            usage, "prompt_tokens", "completion_tokens", "cache_creation_input_tokens"
        )
        if not (prompt or completion):
            return None
        details = _field(usage, "prompt_tokens_details")
        cached, cache_written, audio_in = _counts(details, "cached_tokens", "cache_creation_tokens", "audio_tokens")
        reasoning, audio_out = _counts(_field(usage, "completion_tokens_details"), "reasoning_tokens", "audio_tokens")
    except _NO_COUNT:
        return None
    return Usage(prompt, completion, cached, cache_written or written, reasoning, audio_in, audio_out)


def integral_usage(usage: Any) -> dict[str, Any] | None:
    """A server's usage as LangChain adds it up, with whole numbers; None if it has none."""
    if not isinstance(usage, dict):
        return None
    try:
        prompt, completion, total = _counts(usage, "prompt_tokens", "completion_tokens", "total_tokens")
    except _NO_COUNT:
        return None
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total or prompt + completion,
    }


_NO_COUNT = (TypeError, ValueError, OverflowError)


def _counts(source: Any, *names: str) -> list[int]:
    """Numbers of tokens, 0 where nothing is said. Raises one of _NO_COUNT for what is none."""
    if source is None:
        return [0] * len(names)
    values = map(source.get, names) if isinstance(source, dict) else [getattr(source, name, None) for name in names]
    return [0 if value is None else value if type(value) is int and value >= 0 else _whole(value) for value in values]


def _whole(value: Any) -> int:
    """A whole number that some JSON writer spelled otherwise: 12.0, "12"."""
    count = int(value)
    if count < 0 or count != float(value):
        raise ValueError(f"{value!r} is no number of tokens")
    return count


def _field(source: Any, name: str) -> Any:
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)


def finish_of_choice(choice: Mapping[str, Any]) -> str | None:
    """How a plain reply ended: the server's word, or that the model refuses in a field of its own."""
    refused = (choice.get("message") or {}).get("refusal")
    return REFUSED_FINISH if refused else read_finish(choice.get("finish_reason"))


def reply_in(body: bytes) -> Reply | Fault:
    """The reply a body with status 200 brings, or what is wrong with it."""
    try:
        document = json.loads(body)
    except ValueError:
        return Fault("invalid_response", "the reply is not JSON", 200)
    choices = document.get("choices") if isinstance(document, dict) else None
    if not choices:
        return Fault("invalid_response", "a reply without choices", 200)
    message, finish = choices[0].get("message") or {}, finish_of_choice(choices[0])
    choices[0]["finish_reason"] = openai_finish(finish)
    return Reply(
        raw=document,
        text=text_of(message.get("content")),
        reasoning=message.get("reasoning_content") or "",
        tool_calls=tool_calls(message.get("tool_calls")),
        finish=finish,
        usage=usage_of(document.get("usage")),
    )
