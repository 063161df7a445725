"""OpenAI's chat completions, as OpenAI sends them and as the many do who speak like it.

https://platform.openai.com/docs/api-reference/chat: `choices` with a `message`, or with a `delta` in each event of a
stream. Read beside it: content in parts (Mistral), `reasoning` for `reasoning_content` (vLLM, OpenRouter, Groq), usage
in a choice (Moonshot), sound and pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.reader import Fields, ReplyReader
from llm_fallback.engine.protocol.tool_calls import whole_tool_calls
from llm_fallback.engine.protocol.usage import openai_usage
from llm_fallback.engine.protocol.values import Unreadable, items, mapping, mappings, text
from llm_fallback.engine.transport import Chunk, Fault, Reply

NO_CHOICES = Fault("invalid_response", "a reply without choices", 200)


class OpenAIReader(ReplyReader):
    """A reply in OpenAI's form."""

    _choice_index: object = None
    """The choice that is read, where a server sends several: the first that came."""

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        if "error" in document or document.get("object") == "error":
            self.fault = fault_in_body(document)
            if self.fault is not None:
                self.is_over = True
                return None
        if document.get("usage") is not None:
            self.count(openai_usage(document["usage"]))
        choices = items(document.get("choices"), "choices")
        choice = self._choice(choices) if choices else None
        return None if choice is None else self._read_choice(choice)

    def _choice(self, choices: Any) -> Mapping[str, Any] | None:
        """The choice of an event that belongs to the reply; None if it has only others'."""
        if not self.began:
            self.began = True
            self._choice_index = mapping(choices[0], "a choice").get("index")
        for choice in choices:
            if mapping(choice, "a choice").get("index") == self._choice_index:
                return mapping(choice, "a choice")
        return None

    def _read_choice(self, choice: Mapping[str, Any]) -> Chunk | None:
        if choice.get("usage") is not None:
            self.count(openai_usage(choice["usage"]))
        delta = mapping(choice.get("delta"), "delta")
        if not delta and (choice.get("message") or choice.get("text")):
            raise Unreadable("a choice of a stream without a delta")
        if delta.get("refusal"):
            self.refused = True
        said, calls, word = delta.get("content"), delta.get("tool_calls"), choice.get("finish_reason")
        content, reasoning = (said, "") if type(said) is str else self._content(said)
        return self.chunk(
            content,
            _reasoning(delta) or reasoning,
            self.calls.read(calls) if calls else (),
            None if word is None else self.end_with(word),
            self.fields_once(_fields(delta)) if _FIELDS & delta.keys() else {},
        )

    def _content(self, said: object) -> tuple[str, str]:
        """Text and reasoning in a content that comes in parts."""
        if said is None or isinstance(said, str):
            return said or "", ""
        content: list[str] = []
        reasoning: list[str] = []
        for part in items(said, "content"):
            if isinstance(part, str):
                content.append(part)
                continue
            part = mapping(part, "a part of the content")
            if part.get("type") in ("thinking", "reasoning"):
                reasoning.append(_text_in(part.get("thinking") or part.get("reasoning") or part.get("text")))
            elif part.get("type") == "refusal":
                self.refused = True
            else:
                content.append(text(part.get("text"), "the text of a part"))
        return "".join(content), "".join(reasoning)

    def read_reply(self, document: Mapping[str, Any]) -> Reply | Fault:
        choices = mappings(document.get("choices"), "choices")
        if not choices:
            return fault_in_body(document) or NO_CHOICES
        self.count(openai_usage(document.get("usage")) or openai_usage(choices[0].get("usage")))
        reply = self._read_whole_choice(choices[0])
        # Further choices, which a caller asks for by `n`, are LangChain's further generations.
        others = (OpenAIReader(self.finish_words)._read_whole_choice(choice) for choice in choices[1:])
        reply.raw["choices"] += [other.raw["choices"][0] for other in others]
        fields = document.get("provider_specific_fields")
        if isinstance(fields, dict):
            reply.raw["provider_specific_fields"] = fields
        return reply

    def _read_whole_choice(self, choice: Mapping[str, Any]) -> Reply:
        message = mapping(choice.get("message"), "message")
        if message.get("refusal"):
            self.refused = True
        content, reasoning = self._content(message.get("content"))
        told = _reasoning(message)
        if not (told or reasoning or "reasoning_content" in message or "reasoning" in message):
            reasoning, content = _think_tags(content)
        calls = whole_tool_calls(message.get("tool_calls"))
        self.end_with(choice.get("finish_reason"))
        logprobs = choice.get("logprobs")
        return self.reply(
            content, told or reasoning, calls, _fields(message), logprobs if isinstance(logprobs, dict) else None
        )


_FIELDS = frozenset({"annotations", "audio", "images", "provider_specific_fields", "thinking_blocks"})


def _fields(message: Mapping[str, Any]) -> Fields:
    """What a message or a delta brings beside text, reasoning and tool calls."""
    fields: dict[str, Any] = {}
    specific = dict(mapping(message.get("provider_specific_fields"), "provider_specific_fields"))
    audio = mapping(message.get("audio"), "audio")
    if audio:
        specific["audio"] = {name: value for name, value in audio.items() if isinstance(value, str)}
    if message.get("images"):
        specific["images"] = mappings(message["images"], "images")
    if message.get("annotations"):
        fields["annotations"] = mappings(message["annotations"], "annotations")
    if message.get("thinking_blocks"):
        fields["thinking_blocks"] = mappings(message["thinking_blocks"], "thinking_blocks")
    if specific:
        fields["provider_specific_fields"] = specific
    return fields


def _reasoning(message: Mapping[str, Any]) -> str:
    """Reasoning under either name; `null` under the one says nothing about the other."""
    told = message.get("reasoning_content") or message.get("reasoning")
    return told if type(told) is str else _text_in(told)


def _text_in(said: object) -> str:
    """A text, or the texts of the parts it comes in."""
    if said is None or isinstance(said, str):
        return said or ""
    parts = items(said, "reasoning")
    return "".join(part if isinstance(part, str) else _text_of_part(part) for part in parts)


def _text_of_part(part: object) -> str:
    return text(mapping(part, "a part").get("text"), "the text of a part")


_THOUGHTS = re.compile(r"<(think|thinking)>(.*?)</\1>(.*)", re.DOTALL)


def _think_tags(content: str) -> tuple[str, str]:
    """Reasoning and text of a whole reply whose server leaves the model's own tags in it; litellm does the same."""
    found = _THOUGHTS.match(content) if content.startswith("<think") else None
    return (found[2], found[3]) if found else ("", content)
