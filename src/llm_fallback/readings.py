"""Documents of OpenAI's protocol in the engine's words, and in the form LangChain's integration reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_fallback.events import Usage
from llm_fallback.exchange import Piece, ToolCallPart

_NO_SIGN_OF_LIFE = frozenset({"role"})


class Chunks:
    """Frames of one stream as pieces."""

    def __init__(self, spelled: Callable[[str], str] = str) -> None:
        self._spelled = spelled
        """The one spelling of a word for how a reply ended."""
        self.content_came = False
        self._calls_came = self._usage_came = False

    def piece(self, frame: Mapping[str, Any]) -> Piece | None:
        """What a frame brings; None if that is nothing, and no sign of life: a role alone, or usage.

        Usage is left to the end: it may stand in every frame, each with the sum so far.
        """
        choices = frame.get("choices")
        if not choices:
            return None
        said = choices[0].get("delta") or {}
        if not (choices[0].get("finish_reason") or any(map(said.get, said.keys() - _NO_SIGN_OF_LIFE))):
            return None
        delta = _delta_of(said)
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
        return piece._replace(raw=raw, text=text, reasoning="")

    def _finish_of(self, choice: Mapping[str, Any]) -> str | None:
        word = choice.get("finish_reason")
        if word is None:
            return None
        finish = self._spelled(word)
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
