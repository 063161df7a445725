"""Google's generateContent, as the Gemini API and Vertex AI speak it.

https://ai.google.dev/api/generate-content: `candidates` whose content is a list of parts, the same document for a whole
reply and for each event of a stream. Nothing in it is half said: a tool call comes whole, and usage is the sum so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.reader import GROUNDING, Fields, ReplyReader, with_grounding, with_logprobs
from llm_fallback.engine.protocol.tool_calls import new_call_id
from llm_fallback.engine.protocol.usage import gemini_usage
from llm_fallback.engine.protocol.values import Unreadable, encodable, index, items, mapping, mappings, text
from llm_fallback.engine.transport import REFUSED_FINISH, Chunk, Reply, ToolCallPart

SIGNATURE_MARK = "__thought__"
"""litellm's mark in the id of a tool call: what follows is the signature Gemini wants back with the call's result."""
_ID_LENGTH = len("call_") + 28
"""Of an id made here, as litellm makes them."""

_STREAMED_ARGUMENTS = ("partialArgs", "willContinue")


def is_signed(message: Mapping[str, Any]) -> bool:
    """Whether a message, as OpenAI writes it, has a tool call that Gemini signed."""
    return any(SIGNATURE_MARK in str(call.get("id")) for call in message.get("tool_calls") or ())


class _Content(NamedTuple):
    """What one candidate of one document says."""

    text: str
    reasoning: str
    calls: tuple[ToolCallPart, ...]
    fields: Fields


class GeminiReader(ReplyReader):
    """A reply in Gemini's form."""

    _candidate_index: object = None
    """The candidate that is read, where a server sends several: the first that came."""
    _images_count = 0

    def read_event(self, document: Mapping[str, Any]) -> Chunk | None:
        self.fault = fault_in_body(document)
        if self.fault is not None:
            return None
        self._count_anew(document)
        candidate = self._candidate(document)
        if candidate is None:
            return self._refusal(document)
        grounding = self.untold_grounding(candidate.get("groundingMetadata"))
        said = self._read(candidate, grounding)
        finish = self._end_with(candidate)
        chunk = self.chunk(said.text, said.reasoning, said.calls, finish, said.fields)
        return with_logprobs(with_grounding(chunk, grounding), _logprobs(candidate))

    def read_reply(self, document: Mapping[str, Any]) -> Reply:
        candidates = mappings(document.get("candidates"), "candidates")
        self._count_anew(document)
        if not candidates:
            if self._refusal(document) is None:
                raise Unreadable("a reply without candidates")
            return self.reply()
        reply = self._read_whole(candidates[0])
        # Further candidates, which a caller asks for by `n`, are LangChain's further generations.
        others = (GeminiReader(self.finish_words)._read_whole(candidate) for candidate in candidates[1:])
        reply.raw["choices"] += [other.raw["choices"][0] for other in others]
        return reply

    def _read_whole(self, candidate: Mapping[str, Any]) -> Reply:
        grounding = self.untold_grounding(candidate.get("groundingMetadata"))
        said = self._read(candidate, grounding)
        self._end_with(candidate)
        reply = self.reply(*said, logprobs=_logprobs(candidate))
        if grounding:
            reply.raw[GROUNDING] = encodable(grounding)
        return reply

    def _candidate(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The candidate of an event that belongs to the reply; None if it has only others', or none."""
        candidates = mappings(document.get("candidates"), "candidates")
        if candidates and not self.began:
            self.began = True
            self._candidate_index = candidates[0].get("index", 0)
        return next((one for one in candidates if one.get("index", 0) == self._candidate_index), None)

    def _count_anew(self, document: Mapping[str, Any]) -> None:
        """The last account counts: what an earlier one said of thoughts may have been too much."""
        if self.reply_id is None:
            self.take_names(document.get("responseId"))
        self.usage = gemini_usage(document.get("usageMetadata")) or self.usage

    def _refusal(self, document: Mapping[str, Any]) -> Chunk | None:
        """The end of a reply that has no candidate, because the prompt was blocked; None if it was not."""
        feedback = mapping(document.get("promptFeedback"), "promptFeedback")
        if not feedback.get("blockReason"):
            return None
        return self.chunk(finish=self.end_with(REFUSED_FINISH))

    def _end_with(self, candidate: Mapping[str, Any]) -> str | None:
        return self.end_with(text(candidate.get("finishReason"), "finishReason"))

    # What a candidate says.

    def _read(self, candidate: Mapping[str, Any], grounding: Sequence[Mapping[str, Any]]) -> _Content:
        content = mapping(candidate.get("content"), "content")
        parts = mappings(content.get("parts"), "parts")
        said: dict[bool, list[str]] = {True: [], False: []}
        calls: list[ToolCallPart] = []
        specific: dict[str, Any] = {}
        for part in parts:
            signature = text(part.get("thoughtSignature"), "thoughtSignature")
            if signature:
                specific.setdefault("thought_signatures", []).append(signature)
            said[part.get("thought") is True].append(text(part.get("text"), "the text of a part"))
            if part.get("functionCall") is not None:
                calls += self._call(mapping(part["functionCall"], "functionCall"), signature)
            if part.get("inlineData") is not None:
                said[False].append(self._take_data(mapping(part["inlineData"], "inlineData"), specific))
        invocations = [*_invocations(parts)]
        if invocations:
            specific["server_side_tool_invocations"] = invocations
        fields: dict[str, Any] = {"provider_specific_fields": specific} if specific else {}
        annotations = [note for looked_up in grounding for note in _annotations(looked_up)]
        if annotations:
            fields["annotations"] = annotations
        return _Content("".join(said[False]), "".join(said[True]), tuple(calls), fields)

    def _call(self, said: Mapping[str, Any], signature: str) -> tuple[ToolCallPart, ...]:
        if any(said.get(word) for word in _STREAMED_ARGUMENTS):
            raise Unreadable("arguments of a tool call come in parts, which nobody asked for")
        id_ = text(said.get("id"), "the id of a tool call") or new_call_id()[:_ID_LENGTH]
        function = {"name": said.get("name"), "arguments": mapping(said.get("args"), "the arguments of a tool call")}
        if not function["name"]:
            raise Unreadable("a tool call without a name")
        call = {"id": f"{id_}{SIGNATURE_MARK}{signature}" if signature else id_, "function": function}
        return self.calls.read([call])

    def _take_data(self, said: Mapping[str, Any], specific: dict[str, Any]) -> str:
        """Put pictures and sound among the provider's fields; what else comes as bytes is text, as litellm has it."""
        kind, data = text(said.get("mimeType"), "mimeType"), text(said.get("data"), "data")
        address = f"data:{kind};base64,{data}"
        if kind.startswith("image/"):
            # LangChain joins what has the same index.
            image = {"index": self._images_count, "type": "image_url", "image_url": {"url": address, "detail": "auto"}}
            specific.setdefault("images", []).append(image)
            self._images_count += 1
            return ""
        if kind.startswith("audio/"):
            audio = specific.setdefault("audio", {"data": ""})
            audio["data"] += data
            audio["mime_type"] = kind
            return ""
        return address


def _invocations(parts: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Tools that Google itself called, and what they answered, under litellm's names."""
    for part in parts:
        for name, answer in (("toolCall", "args"), ("toolResponse", "response")):
            if part.get(name) is not None:
                tool = mapping(part[name], name)
                invocation = {"tool_type": tool.get("toolType"), "id": tool.get("id"), answer: tool.get(answer)}
                signature = part.get("thoughtSignature")
                yield {**invocation, "thought_signature": signature} if signature else invocation


def _logprobs(candidate: Mapping[str, Any]) -> dict[str, Any] | None:
    """The probabilities of its tokens in OpenAI's form; None if nobody asked for them."""
    result = mapping(candidate.get("logprobsResult"), "logprobsResult")
    if not result:
        return None
    tokens = [_token(chosen) for chosen in mappings(result.get("chosenCandidates"), "chosenCandidates")]
    for token, likely in zip(tokens, mappings(result.get("topCandidates"), "topCandidates"), strict=False):
        token["top_logprobs"] = [_token(one) for one in mappings(likely.get("candidates"), "candidates")]
    return {"content": tokens}


def _token(said: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": text(said.get("token"), "token"), "logprob": said.get("logProbability"), "bytes": None}


def _annotations(grounding: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Which places of the text are from which pages, in OpenAI's form. A place of 0 is left out by Google."""
    pages = [
        mapping(chunk.get("web"), "web") for chunk in mappings(grounding.get("groundingChunks"), "groundingChunks")
    ]
    for support in mappings(grounding.get("groundingSupports"), "groundingSupports"):
        segment = mapping(support.get("segment"), "segment")
        start = index(segment.get("startIndex"), "startIndex") or 0
        end = index(segment.get("endIndex"), "endIndex")
        for place in items(support.get("groundingChunkIndices"), "groundingChunkIndices"):
            number = index(place, "groundingChunkIndices")
            page = pages[number] if number is not None and number < len(pages) else None
            if end is not None and page:
                url, title = text(page.get("uri"), "uri"), text(page.get("title"), "title")
                citation = {"start_index": start, "end_index": end, "url": url, "title": title}
                yield {"type": "url_citation", "url_citation": citation}
