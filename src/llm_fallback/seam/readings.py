"""Replies and chunks, litellm's and the server's own, in our words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from litellm.litellm_core_utils.core_helpers import map_finish_reason
from litellm.utils import ModelResponse, convert_to_model_response_object

from llm_fallback.events import Usage
from llm_fallback.exchange import Piece, Reply, ToolCallPart
from llm_fallback.faults import Fault, error_in


def reply_of(completion: Any) -> Reply | Fault:
    """A server's plain reply, put into litellm's form for LangChain's eyes."""
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not choices:
        return error_in(completion) or _NO_CHOICES
    finish = choices[0].get("finish_reason")
    raw = convert_to_model_response_object(response_object=completion, model_response_object=ModelResponse())
    return dataclasses.replace(_reply_of_choice(raw), finish=finish)


def reply_of_litellm(raw: Any) -> Reply | Fault:
    """A plain reply of litellm's, which keeps the server's word of how it ended beside its own."""
    if not getattr(raw, "choices", None):
        return _NO_CHOICES
    native = (getattr(raw.choices[0], "provider_specific_fields", None) or {}).get("native_finish_reason")
    reply = _reply_of_choice(raw)
    return dataclasses.replace(reply, finish=native) if native in ("abort", "error") else reply


_NO_CHOICES = Fault("invalid_response", "a reply without choices", 200)


def _reply_of_choice(raw: Any) -> Reply:
    choice = raw.choices[0]
    return Reply(
        raw=raw,
        text=text_of(choice.message.content),
        reasoning=getattr(choice.message, "reasoning_content", None) or "",
        tool_calls=tool_calls_of(choice.message),
        finish=choice.finish_reason,
        usage=usage_of(getattr(raw, "usage", None)),
    )


class Chunks:
    """Frames of one stream as pieces, in the form litellm gives its chunks."""

    def __init__(self) -> None:
        self.content_came = False
        self._calls_came = self._usage_came = False

    def piece(self, frame: Mapping[str, Any]) -> Piece:
        """What a frame brings. Its usage is left out: it may stand in every frame, each with the sum so far."""
        choices = frame.get("choices")
        if not choices:
            return Piece({"choices": []})
        delta = _delta_of(choices[0].get("delta") or {})
        calls = _parts_of(delta.get("tool_calls"))
        self._calls_came = self._calls_came or bool(calls)
        finish = self._finish_of(choices[0])
        piece = Piece(
            raw={"choices": [{"delta": delta, "finish_reason": finish}]},
            text=text_of(delta.get("content")),
            reasoning=delta.get("reasoning_content") or "",
            tool_calls=calls,
            finish=finish,
        )
        self.content_came = self.content_came or piece.has_content
        return piece

    def usage(self, usage: dict[str, Any] | None) -> Piece | None:
        """The usage of the whole stream, once."""
        if usage is None or self._usage_came:
            return None
        self._usage_came = True
        return Piece({"choices": [], "usage": usage}, usage=usage_of(usage))

    def rewritten(self, piece: Piece, text: str) -> Piece:
        choice = piece.raw["choices"][0]
        delta = {name: value for name, value in choice["delta"].items() if name != "reasoning_content"}
        raw = {"choices": [{**choice, "delta": {**delta, "content": text}}]}
        return dataclasses.replace(piece, raw=raw, text=text, reasoning="")

    def _finish_of(self, choice: Mapping[str, Any]) -> str | None:
        word = choice.get("finish_reason")
        if word is None:
            return None
        finish: str = map_finish_reason(word)
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


def _parts_of(calls: list[dict[str, Any]] | None) -> tuple[ToolCallPart, ...]:
    return tuple(
        ToolCallPart(call["index"], call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in calls or ()
    )


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def tool_calls_of(message: Any) -> tuple[ToolCallPart, ...]:
    calls = getattr(message, "tool_calls", None)
    if not calls:
        return ()
    return tuple(
        ToolCallPart(
            index=position if getattr(call, "index", None) is None else call.index,
            id=call.id,
            name=call.function.name,
            arguments=call.function.arguments or "",
        )
        for position, call in enumerate(calls)
    )


def usage_of(usage: Any) -> Usage | None:
    """Usage in our words, from litellm's object or the server's own data.

    Anthropic's cache fields stand beside OpenAI's details; both are read.
    """
    if usage is None or not (_of(usage, "prompt_tokens") or _of(usage, "completion_tokens")):
        return None
    given, made = _of(usage, "prompt_tokens_details"), _of(usage, "completion_tokens_details")
    return Usage(
        input_tokens=_of(usage, "prompt_tokens") or 0,
        output_tokens=_of(usage, "completion_tokens") or 0,
        cached_tokens=_of(given, "cached_tokens") or 0,
        cache_write_tokens=_of(given, "cache_creation_tokens") or _of(usage, "cache_creation_input_tokens") or 0,
        reasoning_tokens=_of(made, "reasoning_tokens") or 0,
        audio_input_tokens=_of(given, "audio_tokens") or 0,
        audio_output_tokens=_of(made, "audio_tokens") or 0,
    )


def _of(source: Any, name: str) -> Any:
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)
