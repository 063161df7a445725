"""OpenAI's chat completions, as OpenAI sends them and as the many do who speak like it.

https://platform.openai.com/docs/api-reference/chat: `choices` with a `message`, or with a `delta` in each event of a
stream. Read beside it: content in parts (Mistral), `reasoning` for `reasoning_content` (vLLM, OpenRouter, Groq), usage
in a choice (Moonshot) or under `x_groq` (Groq), thoughts between tags in the text, sound and pictures, and the
`function_call` that there was before `tool_calls`, as one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.reader import GROUNDING, NO_FIELDS, Fields, ReplyReader, with_grounding, with_logprobs
from llm_fallback.engine.protocol.think_tags import ThinkTagParser
from llm_fallback.engine.protocol.tool_calls import documents_of, whole_tool_calls
from llm_fallback.engine.protocol.usage import openai_usage
from llm_fallback.engine.protocol.values import Unreadable, encodable, items, mapping, mappings, text, wrong
from llm_fallback.engine.transport import FINISHES, Chunk, Reply


class OpenAIReader(ReplyReader):
    """A reply in OpenAI's form."""

    _choice_index: object = None
    """The choice that is read, where a server sends several: the first that came."""
    _text_began = False
    _tags: ThinkTagParser | None = None
    """Set where the text begins like a tag."""

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        if "error" in document or document.get("object") == "error":
            self.fault = fault_in_body(document)
            if self.fault is not None:
                return None
        if document.get("usage") is not None:
            self.count(openai_usage(document["usage"]))
        elif "x_groq" in document:
            self.count(openai_usage(mapping(document["x_groq"], "x_groq").get("usage")))
        if self.reply_id is None:
            self.take_names(document.get("id"), document.get("system_fingerprint"))
        read: Mapping[str, Any] | None = None
        for choice in items(document.get("choices"), "choices"):
            if type(choice) is not dict:
                raise wrong(choice, "a choice", "object")
            self.began = True
            if self._choice_index is None:
                self._choice_index = choice.get("index")
            if choice.get("index") in (self._choice_index, None):
                read = choice if read is None else _joined(read, choice, "delta")
        if read is None:
            return None
        chunk, grounding = self._read_choice(read), document.get(GROUNDING)
        return with_grounding(chunk, self.untold_grounding(grounding)) if grounding else chunk

    def usage_chunk(self) -> Chunk | None:
        """The usage of the whole stream, and empty arguments, which waited for its end."""
        usage = super().usage_chunk()
        calls = self.calls.close() if self.finish in FINISHES else ()
        if self.fault is not None or not calls:
            return usage
        delta = {"content": "", "tool_calls": documents_of(calls)}
        raw: dict[str, Any] = {"choices": [{"delta": delta, "finish_reason": None}]}
        if usage is not None:
            raw["usage"] = usage.raw["usage"]
        return Chunk(raw, tool_calls=calls, usage=self.usage)

    def _read_choice(self, choice: Mapping[str, Any]) -> Chunk | None:
        if choice.get("usage") is not None:
            self.count(openai_usage(choice["usage"]))
        delta, word = choice.get("delta") or {}, choice.get("finish_reason")
        if type(delta) is not dict:
            raise wrong(delta, "delta", "object")
        if not delta and (choice.get("message") or choice.get("text")):
            raise Unreadable("a choice of a stream without a delta")
        if delta.get("refusal"):
            self.refused = True
        said, calls = delta.get("content"), delta.get("tool_calls")
        if not calls and delta.get("function_call"):
            calls = [{"function": delta["function_call"]}]
        told = delta.get("reasoning_content") or delta.get("reasoning")
        content, reasoning = (said, "") if type(said) is str else self._content(said)
        finish = None if word is None else self.end_with(word)
        if content and not self._text_began:
            self._text_began = True
            self._tags = ThinkTagParser() if content[0] == "<" else None
        if self._tags is not None:
            content, thought = self._tags.split(content, is_last=self.finish in FINISHES)
            reasoning += thought
        chunk = self.chunk(
            content,
            _text_in(told) + reasoning if told else reasoning,
            self.calls.read(calls, waits=True) if calls else (),
            finish,
            _fields(delta) if _FIELDS & delta.keys() else NO_FIELDS,
        )
        logprobs = choice.get("logprobs")
        return chunk if logprobs is None else with_logprobs(chunk, logprobs)

    def _content(self, said: object) -> tuple[str, str]:
        """Text and reasoning in a content that comes in parts."""
        content: list[str] = []
        reasoning: list[str] = []
        for part in items(said, "content"):
            if isinstance(part, str):
                content.append(part)
                continue
            part = mapping(part, "a part of the content")
            if part.get("type") in ("thinking", "reasoning"):
                reasoning += [_text_in(part[name]) for name in _THOUGHTS if part.get(name)]
            elif part.get("type") == "refusal":
                self.refused = True
            else:
                content.append(text(part.get("text"), "the text of a part"))
        return "".join(content), "".join(reasoning)

    def read_reply(self, document: Mapping[str, Any]) -> Reply:
        choices = mappings(document.get("choices"), "choices")
        if not choices:
            raise Unreadable("a reply without choices")
        self.take_names(document.get("id"), document.get("system_fingerprint"))
        self.count(openai_usage(document.get("usage")) or openai_usage(choices[0].get("usage")))
        first, others = choices[0], []
        for choice in choices[1:]:
            if _is_rest_of(first, choice):
                first = _joined(first, choice, "message")
            else:
                others.append(choice)
        reply = self._read_whole_choice(first)
        for choice in others:
            # A caller asks for them by `n`, and LangChain makes further generations of them.
            reply.raw["choices"] += OpenAIReader(self.finish_words)._read_whole_choice(choice).raw["choices"]
        fields = document.get("provider_specific_fields")
        if isinstance(fields, dict):
            reply.raw["provider_specific_fields"] = encodable(fields)
        grounding = document.get(GROUNDING)
        if grounding:
            reply.raw[GROUNDING] = encodable(self.untold_grounding(grounding))
        return reply

    def _read_whole_choice(self, choice: Mapping[str, Any]) -> Reply:
        message = mapping(choice.get("message"), "message")
        if message.get("refusal"):
            self.refused = True
        said = message.get("content")
        content, reasoning = (said, "") if type(said) is str else self._content(said)
        told, calls = message.get("reasoning_content") or message.get("reasoning"), message.get("tool_calls")
        if not calls and message.get("function_call"):
            calls = [{"function": message["function_call"]}]
        if content.startswith("<think"):
            content, thought = ThinkTagParser().split(content, is_last=True)
            reasoning += thought
        if told:
            reasoning = _text_in(told) + reasoning
        self.end_with(choice.get("finish_reason"))
        return self.reply(
            content,
            reasoning,
            whole_tool_calls(calls) if calls else (),
            _fields(message) if _FIELDS & message.keys() else NO_FIELDS,
            logprobs=choice.get("logprobs"),
        )


def _is_rest_of(first: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
    """Whether a choice is no other answer, but what the first lacks: GitHub's Copilot puts the text into one and the
    tool calls into the next."""
    message, rest = mapping(first.get("message"), "message"), mapping(choice.get("message"), "message")
    return first.get("index") == choice.get("index") and any(
        one.get("tool_calls") and not (one.get("content") or other.get("tool_calls"))
        for one, other in ((message, rest), (rest, message))
    )


def _joined(first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Two choices as one, what they say under `name` added up."""
    said = dict(mapping(first.get(name), name))
    for field, value in mapping(second.get(name), name).items():
        if value is not None:
            said[field] = _sum(said.get(field), value)
    return {**first, **{field: value for field, value in second.items() if value is not None}, name: said}


def _sum(first: object, second: object) -> object:
    """What two parts say: texts and lists one behind the other, of anything else the second."""
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    if isinstance(first, str | list) and isinstance(second, str | list):
        return [*([first] if isinstance(first, str) else first), *([second] if isinstance(second, str) else second)]
    return second


_THOUGHTS = ("thinking", "reasoning", "summary", "text")
"""Where a part of the content has its thoughts: Mistral's, others', Databricks'."""
_FIELDS = frozenset({"annotations", "audio", "images", "provider_specific_fields", "thinking_blocks"})


def _fields(message: Mapping[str, Any]) -> Fields:
    """What a message or a delta brings beside text, reasoning and tool calls."""
    fields: dict[str, Any] = {}
    said = message.get("provider_specific_fields")
    specific = dict(said) if isinstance(said, dict) else {}
    audio = mapping(message.get("audio"), "audio")
    if audio:
        specific["audio"] = {name: value for name, value in audio.items() if isinstance(value, str)}
    if message.get("images"):
        specific["images"] = _without_index(mappings(message["images"], "images"))
    if message.get("annotations"):
        fields["annotations"] = _without_index(mappings(message["annotations"], "annotations"))
    if message.get("thinking_blocks"):
        fields["thinking_blocks"] = mappings(message["thinking_blocks"], "thinking_blocks")
    if specific:
        fields["provider_specific_fields"] = specific
    return fields


def _without_index(said: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Objects that LangChain puts one behind the other: those that bear the same index it would merge."""
    return [{name: value for name, value in one.items() if name != "index"} for one in said]


def _text_in(said: object) -> str:
    """A text, or the texts of the parts it comes in."""
    if isinstance(said, str):
        return said
    parts = items(said, "reasoning")
    return "".join(part if isinstance(part, str) else _text_of_part(part) for part in parts)


def _text_of_part(part: object) -> str:
    return text(mapping(part, "a part").get("text"), "the text of a part")
