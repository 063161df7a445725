"""Gemini's documents, whole and in pieces, come to what they say. litellm's reading of a whole reply is the measure,
but for what it gets wrong."""

from __future__ import annotations

import json
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_litellm.chat_models.litellm import _convert_delta_to_message_chunk
from litellm import ModelResponse
from litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini import VertexGeminiConfig

from llm_fallback.chat_model.chunks import ChunkWriter
from llm_fallback.engine.protocol.gemini import GROUNDING, GeminiReader, is_signed
from llm_fallback.engine.protocol.response import Response
from llm_fallback.engine.protocol.values import Unreadable
from llm_fallback.engine.transport import Fault, PartialReply, Reply, StreamEnd
from tests.engine.protocol.spoken import read_plain, read_stream

USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12}
SIGNATURE = "EpwCCpkCAXLI2nwB+/=="
GROUNDED = {
    "webSearchQueries": ["capital of Norway"],
    "searchEntryPoint": {"renderedContent": "<div/>"},
    "groundingChunks": [
        {"web": {"uri": "https://a.test/1", "title": "a.test"}},
        {"web": {"uri": "https://b.test/2", "title": "b.test"}},
    ],
    "groundingSupports": [
        {
            "segment": {"startIndex": 5, "endIndex": 11, "text": "world!"},
            "groundingChunkIndices": [0, 1],
            "confidenceScores": [0.9, 0.4],
        }
    ],
}


def said(*parts: dict[str, Any], finish: str | None = "STOP", usage: dict[str, Any] = USAGE, **rest: Any) -> Any:
    """A document with one candidate of these parts."""
    candidate = {"content": {"role": "model", "parts": [*parts]}, "index": 0, **rest}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", "responseId": "r"}


def in_pieces(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The same reply as a stream with one part in each event; what stands beside the parts comes with the last."""
    (candidate,) = document["candidates"]
    parts = candidate["content"].get("parts") or [{"text": ""}]
    events = [{"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]} for part in parts]
    events[-1] = {**document, "candidates": [{**candidate, "content": {"role": "model", "parts": parts[-1:]}}]}
    return events


def called(name: str, args: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": args}, **rest}


REPLIES: dict[str, Any] = {
    "text": said({"text": "Hello "}, {"text": "world"}),
    "thoughts": said(
        {"text": "Let me ", "thought": True},
        {"text": "see.", "thought": True},
        {"text": "42"},
        {"text": "", "thoughtSignature": SIGNATURE},
        usage={**USAGE, "thoughtsTokenCount": 30, "totalTokenCount": 42},
    ),
    "thoughts counted in the output": said({"text": "42"}, usage={**USAGE, "thoughtsTokenCount": 4}),
    "a call": said(called("get_weather", {"city": "Ålesund", "days": 3})),
    "two calls": said({"text": "I look."}, called("get_weather", {"city": "Oslo"}), called("get_weather", {})),
    "a signed call": said(called("f", {"a": [1, {"b": None}]}, thoughtSignature=SIGNATURE), called("g", {"x": 1.5})),
    "cut": said({"text": "Hello"}, finish="MAX_TOKENS"),
    "cached": said(
        {"text": "Hello"},
        usage={
            **USAGE,
            "cachedContentTokenCount": 4,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 3}, {"modality": "AUDIO", "tokenCount": 2}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
        },
    ),
    "tools of Google's": said(
        {"executableCode": {"language": "PYTHON", "code": "print(6*7)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n"}},
        {"text": "It is 42."},
        usage={**USAGE, "toolUsePromptTokenCount": 10, "totalTokenCount": 22},
    ),
    "grounded": said({"text": "Hello "}, {"text": "world!"}, groundingMetadata=GROUNDED),
    "pictures": said(
        {"text": "Here: "},
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
    ),
    "sound": said({"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": "AAAA"}}),
    "another file": said({"inlineData": {"mimeType": "text/csv", "data": "YQ=="}}),
    "nothing": said(finish="STOP"),
}


def whole(document: dict[str, Any]) -> Reply:
    reply = GeminiReader().read_reply(document)
    assert isinstance(reply, Reply)
    return reply


def streamed(events: list[dict[str, Any]]) -> tuple[PartialReply, AIMessageChunk, Any]:
    """What the chunks of a stream come to: to the engine, to LangChain, and how it ended."""
    chunks, end = read_stream(GeminiReader, map(sse, events))
    deltas = [chunk.raw["choices"][0]["delta"] for chunk in chunks if chunk.raw["choices"]]
    messages = [_convert_delta_to_message_chunk(delta, AIMessageChunk) for delta in deltas]
    return PartialReply(*chunks), reduce(add, messages, AIMessageChunk("")), end


def sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\r\n\r\n"


def by_litellm(document: dict[str, Any]) -> Any:
    return VertexGeminiConfig()._transform_google_generate_content_to_openai_model_response(
        completion_response=json.loads(json.dumps(document)),
        model_response=ModelResponse(),
        model="gemini-2.5-flash",
        logging_obj=SimpleNamespace(optional_params={}, litellm_params={}, model_call_details={}),
        raw_response=httpx.Response(200),
    )


@pytest.mark.parametrize("name", REPLIES)
def test_a_whole_reply_is_what_litellm_makes_of_it(name: str) -> None:
    """Text, reasoning, calls, usage, finish, annotations, what it was looked up in, and pictures."""
    reply, theirs = whole(REPLIES[name]), by_litellm(REPLIES[name])
    ours, message = reply.raw["choices"][0]["message"], theirs.choices[0].message
    assert reply.text == (message.content or "")
    assert reply.reasoning == (getattr(message, "reasoning_content", None) or "")
    assert [(call.name, json.loads(call.arguments)) for call in reply.tool_calls] == [
        (call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()
    ]
    assert reply.raw["choices"][0]["finish_reason"] == theirs.choices[0].finish_reason
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (
        theirs.usage.prompt_tokens,
        theirs.usage.completion_tokens,
    )
    assert ours.get("annotations", []) == (getattr(message, "annotations", None) or [])
    assert reply.raw.get(GROUNDING, []) == theirs.vertex_ai_grounding_metadata
    specific = ours.get("provider_specific_fields", {})
    theirs_specific = message.provider_specific_fields or {}
    assert specific.get("thought_signatures") == theirs_specific.get("thought_signatures")
    assert [image["image_url"] for image in specific.get("images", ())] == [
        image["image_url"] for image in getattr(message, "images", None) or ()
    ]


@pytest.mark.parametrize("name", REPLIES)
def test_a_stream_comes_to_the_same_as_the_whole_reply(name: str) -> None:
    """To the engine, and to LangChain when it has joined the chunks."""
    reply = whole(REPLIES[name])
    partial, message, end = streamed(in_pieces(REPLIES[name]))
    assert (partial.text, partial.reasoning, partial.usage) == (reply.text, reply.reasoning, reply.usage)
    assert [(call.name, call.arguments) for call in partial.tool_calls.values()] == [
        (call.name, call.arguments) for call in reply.tool_calls
    ]
    assert end == StreamEnd(reply.finish)
    joined, ours = message.additional_kwargs, reply.raw["choices"][0]["message"]
    assert joined.get("provider_specific_fields") == ours.get("provider_specific_fields")
    assert joined.get("annotations") == ours.get("annotations")
    assert [call["args"] for call in message.tool_calls] == [json.loads(call.arguments) for call in reply.tool_calls]


@pytest.mark.parametrize("name", [name for name in REPLIES if name != "nothing"])
def test_a_stream_that_is_cut_anywhere_has_no_end(name: str) -> None:
    """Before the event with the finish it is not whole, whatever came."""
    events = in_pieces(REPLIES[name])
    for after in range(len(events)):
        partial, _, end = streamed(events[:after])
        assert end == StreamEnd(None)
        assert partial.finish is None


def test_parallel_calls_have_ids_of_their_own() -> None:
    """Google gives none, and their results must name one."""
    for calls in (whole(REPLIES["two calls"]).tool_calls, streamed(in_pieces(REPLIES["two calls"]))[1].tool_calls):
        ids = {call["id"] if isinstance(call, dict) else call.id for call in calls}
        assert len(ids) == 2
        assert all(len(id_) == len("call_") + 28 for id_ in ids)


def test_the_signature_of_a_thought_stands_in_the_id_of_its_call() -> None:
    """litellm reads it from there when the conversation goes on; an id of Google's own is kept before it."""
    own = said({"functionCall": {"name": "f", "args": {}, "id": "fc-1"}, "thoughtSignature": SIGNATURE})
    signed, unsigned = whole(REPLIES["a signed call"]).tool_calls
    assert signed.id is not None
    assert signed.id.endswith(f"__thought__{SIGNATURE}")
    assert unsigned.id is not None
    assert "__thought__" not in unsigned.id
    assert whole(own).tool_calls[0].id == f"fc-1__thought__{SIGNATURE}"


def test_a_call_without_arguments_has_none() -> None:
    """`args` is left out where there are none."""
    (call,) = whole(said({"functionCall": {"name": "now"}})).tool_calls
    assert (call.name, call.arguments) == ("now", "{}")


def test_a_call_ends_a_reply_as_a_call() -> None:
    """Gemini says STOP for it; agents look at the word."""
    assert whole(REPLIES["a call"]).finish == "tool_calls"
    assert streamed(in_pieces(REPLIES["a call"]))[2] == StreamEnd("tool_calls")


@pytest.mark.parametrize("word", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "IMAGE_SAFETY"])
def test_a_reply_that_was_stopped_for_safety_is_refused(word: str) -> None:
    """Whether it had begun or not; its content is often left out."""
    bare = {"candidates": [{"finishReason": word, "index": 0}], "usageMetadata": USAGE}
    assert whole(bare).finish == "content_filter"
    assert streamed([bare])[2] == StreamEnd("content_filter")


@pytest.mark.parametrize(
    "word", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "MALFORMED_RESPONSE", "NEW"]
)
def test_any_other_word_is_no_end(word: str) -> None:
    """The model stopped in the middle."""
    document = said({"text": "Hello"}, finish=word)
    assert whole(document).finish == word
    assert streamed([document])[2] == StreamEnd(word)


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "OTHER"])
def test_a_blocked_prompt_is_refused(reason: str) -> None:
    """There is no candidate then, only what was counted."""
    blocked = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 5}}
    reply = whole(blocked)
    assert (reply.finish, reply.text) == ("content_filter", "")
    assert reply.usage is not None
    assert reply.usage.input_tokens == 5
    for events in ([blocked], [blocked, blocked], [{"modelVersion": "gemini-2.5-flash"}, blocked]):
        partial, _, end = streamed(events)
        assert (partial.finish, end) == ("content_filter", StreamEnd("content_filter"))
    assert finishes([blocked, blocked, said({"text": "Hello"})]) == ["content_filter", None]


def finishes(events: list[dict[str, Any]]) -> list[str | None]:
    """What each chunk of a stream says of its end."""
    response = Response(GeminiReader(), streamed=True)
    chunks = [chunk for event in events for chunk in response.feed(sse(event))]
    return [chunk.raw["choices"][0]["finish_reason"] for chunk in chunks]


def test_a_reply_without_candidates_is_none() -> None:
    """Whether it came at once or as a stream."""
    document = {"usageMetadata": USAGE, "modelVersion": "gemini-2.5-flash"}
    fault = read_plain(GeminiReader, document)
    assert isinstance(fault, Fault)
    assert (fault.failure, fault.message) == ("invalid_response", "a reply without candidates")
    end = streamed([document])[2]
    assert isinstance(end, Fault)
    assert end.failure == "invalid_response"


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}, "overloaded"),
        ({"message": "The model is overloaded.", "status": "UNAVAILABLE"}, "overloaded"),
        ({"code": 429, "message": "Resource has been exhausted.", "status": "RESOURCE_EXHAUSTED"}, "rate_limited"),
        ({"code": 500, "message": "An internal error has occurred.", "status": "INTERNAL"}, "server_error"),
    ],
)
def test_an_error_in_a_stream_is_the_fault_it_names(error: dict[str, Any], failure: str) -> None:
    """Before content; behind it the stream broke."""
    assert streamed([{"error": error}])[2].failure == failure
    begun = said({"text": "Hello"}, finish=None)
    assert streamed([begun, {"error": error}])[2].failure == "stream_broken"


def test_a_model_that_stops_in_every_event_stops_once() -> None:
    """Older models say STOP each time; LangChain would join the words."""
    events = [said({"text": text}) for text in ("Hello ", "world")]
    assert finishes(events) == ["stop", None]
    assert streamed(events)[2] == StreamEnd("stop")


def test_usage_is_the_sum_so_far_and_not_added_up() -> None:
    """Each event tells it, on Vertex the last alone; that one tells all, and may take back some of the thoughts."""
    thought_of = [(1, 30), (4, 24), (7, 20)]
    counts: list[dict[str, Any]] = [
        {**USAGE, "candidatesTokenCount": n, "thoughtsTokenCount": thoughts, "totalTokenCount": 5 + n + thoughts}
        for n, thoughts in thought_of
    ]
    for events in (counts, [{"trafficType": "ON_DEMAND"}, counts[-1]], [*counts, {}]):
        partial, _, _ = streamed([said({"text": "a"}, finish=None, usage=count) for count in events])
        assert partial.usage is not None
        assert (partial.usage.input_tokens, partial.usage.output_tokens) == (5, 27)


def test_a_place_at_the_start_of_the_text_is_left_out_by_google() -> None:
    """A zero is; litellm drops such annotations."""
    support = {"segment": {"endIndex": 4}, "groundingChunkIndices": [0, 9]}
    grounding = {**GROUNDED, "groundingSupports": [support]}
    message = whole(said({"text": "Oslo"}, groundingMetadata=grounding)).raw["choices"][0]["message"]
    (annotation,) = message["annotations"]
    assert annotation["url_citation"] == {
        "start_index": 0,
        "end_index": 4,
        "url": "https://a.test/1",
        "title": "a.test",
    }


def test_further_candidates_are_further_choices() -> None:
    """Of a whole reply; of a stream the first that came is read."""
    (first,), (second,) = said({"text": "one"})["candidates"], said({"text": "two"}, index=1)["candidates"]
    both = {"candidates": [first, second], "usageMetadata": USAGE}
    assert [choice["message"]["content"] for choice in whole(both).raw["choices"]] == ["one", "two"]
    assert streamed([{"candidates": [first]}, {"candidates": [second]}])[0].text == "one"
    assert streamed([{"candidates": [second]}, {"candidates": [first]}])[0].text == "two"


@pytest.mark.parametrize("zero", [{}, {"index": 0}])
def test_a_candidate_without_an_index_is_the_first(zero: dict[str, int]) -> None:
    """Google leaves out what is 0, and may do so in one event and not in the next."""

    def event(text: str, place: dict[str, int]) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [{"text": text}]}, **place}]}

    assert streamed([event("one ", zero), event("two", {}), event(" three", {"index": 0})])[0].text == "one two three"
    assert streamed([event("one", zero), event("another", {"index": 1})])[0].text == "one"
    assert streamed([event("one", {"index": 1}), event("another", zero)])[0].text == "one"


def test_a_reply_has_the_name_that_google_gives_it() -> None:
    """A stream the first that is told."""
    reader = GeminiReader()
    reader.read_reply(said({"text": "Hello"}))
    assert reader.reply_id == "r"
    reader = GeminiReader()
    for event in ({"usageMetadata": USAGE}, {"responseId": "first"}, {"responseId": "second"}, {}):
        reader.read_event(event)
    assert reader.reply_id == "first"


def test_what_a_stream_was_looked_up_in_is_told_beside_its_choices_once() -> None:
    """As of a whole reply."""
    document = said({"text": "Hello world!"}, groundingMetadata=GROUNDED)
    response = Response(GeminiReader(), streamed=True)
    told = [chunk.raw.get(GROUNDING) for _ in range(2) for chunk in response.feed(sse(document))]
    assert told == [[GROUNDED], None]
    assert whole(document).raw[GROUNDING] == [GROUNDED]


def test_pictures_and_sound_are_told_apart_from_the_text() -> None:
    """Pictures by their number, sound as one; whole, and in a stream, where LangChain adds its parts up."""
    pictures = [{"inlineData": {"mimeType": "image/png", "data": data}} for data in ("AAAA", "BBBB", "CCCC")]
    sound = [{"inlineData": {"mimeType": "audio/L16", "data": data}} for data in ("DDDD", "EEEE")]
    images = [
        {"index": place, "type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "auto"}}
        for place, data in enumerate(("AAAA", "BBBB", "CCCC"))
    ]
    reply = whole(said(*pictures, *sound))
    assert reply.text == ""
    assert reply.raw["choices"][0]["message"]["provider_specific_fields"] == {
        "images": images,
        "audio": {"data": "DDDDEEEE", "mime_type": "audio/L16"},
    }
    response, writer = Response(GeminiReader(), streamed=True), ChunkWriter(None)
    chunks = [chunk for event in in_pieces(said(*pictures, *sound)) for chunk in response.feed(sse(event))]
    message = reduce(add, map(writer.write, chunks))
    assert message.additional_kwargs == {
        "provider_specific_fields": {"images": images, "audio": {"data": "DDDDEEEE", "mime_type": "audio/L16"}}
    }


LIKELY: dict[str, Any] = {
    "chosenCandidates": [{"token": "He", "logProbability": -0.5}, {"token": "llo", "logProbability": -0.1}],
    "topCandidates": [
        {"candidates": [{"token": "He", "logProbability": -0.5}, {"token": "Hi", "logProbability": -1.5}]},
        {"candidates": []},
    ],
}


def test_the_probabilities_of_tokens_are_in_openai_s_form() -> None:
    """Of a whole reply beside its message, of a chunk among the provider's fields."""

    def token(text: str, logprob: float, *others: Any) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": [*others]}

    tops = [{"token": text, "logprob": value, "bytes": None} for text, value in (("He", -0.5), ("Hi", -1.5))]
    content = {"content": [token("He", -0.5, *tops), token("llo", -0.1)]}
    document = said({"text": "Hello"}, logprobsResult=LIKELY)
    assert whole(document).raw["choices"][0]["logprobs"] == content
    chunk = GeminiReader().read_event(document)
    assert chunk is not None
    assert chunk.raw["provider_specific_fields"] == {"logprobs": content}
    assert whole(said({"text": "Hello"})).raw["choices"][0]["logprobs"] is None
    fewer = {**LIKELY, "topCandidates": LIKELY["topCandidates"][:1]}
    *_, last = whole(said({"text": "Hello"}, logprobsResult=fewer)).raw["choices"][0]["logprobs"]["content"]
    assert last == {"token": "llo", "logprob": -0.1, "bytes": None}


def test_tools_that_google_called_itself_are_told_with_what_they_answered() -> None:
    """Under litellm's names, in the order of the parts; signed where Google signed them."""
    tool_call = {"toolType": "GOOGLE_SEARCH", "id": "t1", "args": {"queries": ["Oslo"]}}
    answer = {"toolType": "GOOGLE_SEARCH", "id": "t1", "response": {"found": 1}}
    document = said({"toolCall": tool_call, "thoughtSignature": "s"}, {"toolResponse": answer})
    fields = whole(document).raw["choices"][0]["message"]["provider_specific_fields"]
    assert fields["server_side_tool_invocations"] == [
        {"tool_type": "GOOGLE_SEARCH", "id": "t1", "args": {"queries": ["Oslo"]}, "thought_signature": "s"},
        {"tool_type": "GOOGLE_SEARCH", "id": "t1", "response": {"found": 1}},
    ]


def test_a_message_is_signed_if_one_of_its_calls_is() -> None:
    """By the mark in the call's id."""
    signed, unsigned = {"id": f"c1__thought__{SIGNATURE}"}, {"id": "c2"}
    assert is_signed({"tool_calls": [unsigned, signed]})
    assert not is_signed({"tool_calls": [unsigned, {}]})
    assert not is_signed({"tool_calls": None})
    assert not is_signed({"content": "c1__thought__"})


@pytest.mark.parametrize("word", ["partialArgs", "willContinue"])
def test_arguments_in_parts_are_refused(word: str) -> None:
    """Nobody asked for them, and what is read would be a part of what the model said."""
    with pytest.raises(Unreadable, match=r"^arguments of a tool call come in parts, which nobody asked for$"):
        whole(said({"functionCall": {"name": "f", word: [{}]}}))


def test_a_call_without_a_name_is_refused() -> None:
    """Nothing could be called."""
    with pytest.raises(Unreadable, match=r"^a tool call without a name$"):
        whole(said({"functionCall": {"args": {}}}))


EVERYTHING = said(
    {"text": "a", "thoughtSignature": "s"},
    called("f", {}, toolCall={}, toolResponse={}),
    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
    groundingMetadata=GROUNDED,
    logprobsResult=LIKELY,
)
PART, LOOKED_UP = ("candidates", 0, "content", "parts"), ("candidates", 0, "groundingMetadata")
SUPPORT, LOGPROBS = (*LOOKED_UP, "groundingSupports", 0), ("candidates", 0, "logprobsResult")
NAMED: list[tuple[tuple[Any, ...], str]] = [
    (("candidates",), "candidates is a number, not the list"),
    (("candidates", 0), "candidates is a number, not the object"),
    (("candidates", 0, "finishReason"), "finishReason is a number, not the text"),
    (("candidates", 0, "content"), "content is a number, not the object"),
    (PART, "parts is a number, not the list"),
    ((*PART, 0, "thoughtSignature"), "thoughtSignature is a number, not the text"),
    ((*PART, 0, "text"), "the text of a part is a number, not the text"),
    ((*PART, 1, "functionCall"), "functionCall is a number, not the object"),
    ((*PART, 1, "functionCall", "id"), "the id of a tool call is a number, not the text"),
    ((*PART, 1, "functionCall", "args"), "the arguments of a tool call is a number, not the object"),
    ((*PART, 1, "toolCall"), "toolCall is a number, not the object"),
    ((*PART, 1, "toolResponse"), "toolResponse is a number, not the object"),
    ((*PART, 2, "inlineData"), "inlineData is a number, not the object"),
    ((*PART, 2, "inlineData", "mimeType"), "mimeType is a number, not the text"),
    ((*PART, 2, "inlineData", "data"), "data is a number, not the text"),
    ((*LOOKED_UP, "groundingChunks"), "groundingChunks is a number, not the list"),
    ((*LOOKED_UP, "groundingChunks", 0, "web"), "web is a number, not the object"),
    ((*LOOKED_UP, "groundingChunks", 0, "web", "uri"), "uri is a number, not the text"),
    ((*LOOKED_UP, "groundingChunks", 0, "web", "title"), "title is a number, not the text"),
    ((*LOOKED_UP, "groundingSupports"), "groundingSupports is a number, not the list"),
    ((*SUPPORT, "segment"), "segment is a number, not the object"),
    ((*SUPPORT, "segment", "startIndex"), "startIndex is a number, not the position"),
    ((*SUPPORT, "segment", "endIndex"), "endIndex is a number, not the position"),
    ((*SUPPORT, "groundingChunkIndices"), "groundingChunkIndices is a number, not the list"),
    ((*SUPPORT, "groundingChunkIndices", 0), "groundingChunkIndices is a number, not the position"),
    (LOGPROBS, "logprobsResult is a number, not the object"),
    ((*LOGPROBS, "chosenCandidates"), "chosenCandidates is a number, not the list"),
    ((*LOGPROBS, "chosenCandidates", 0, "token"), "token is a number, not the text"),
    ((*LOGPROBS, "topCandidates"), "topCandidates is a number, not the list"),
    ((*LOGPROBS, "topCandidates", 0, "candidates"), "candidates is a number, not the list"),
]


@pytest.mark.parametrize(("place", "why"), NAMED, ids=[".".join(map(str, place)) for place, _ in NAMED])
def test_what_is_of_another_type_is_named_as_google_names_it(place: tuple[Any, ...], why: str) -> None:
    """Whole and in a stream: the words are all that tells who reads of the fault what a server sent."""
    document = json.loads(json.dumps(EVERYTHING))
    holder: Any = document
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = -1.5
    for read in (GeminiReader().read_reply, GeminiReader().read_event):
        with pytest.raises(Unreadable) as raised:
            read(document)
        assert str(raised.value) == f"{why} it should be"


def test_a_word_on_a_prompt_that_is_of_another_type_is_named() -> None:
    """There is no candidate then."""
    with pytest.raises(Unreadable, match=r"^promptFeedback is a number, not the object it should be$"):
        whole({"promptFeedback": 7})


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("candidates",),
    ("usageMetadata",),
    ("promptFeedback",),
    ("usageMetadata", "promptTokenCount"),
    ("usageMetadata", "promptTokensDetails"),
    ("candidates", 0),
    *(("candidates", 0, name) for name in ("content", "index", "finishReason", "groundingMetadata")),
    *(("candidates", 0, "groundingMetadata", name) for name in ("groundingChunks", "groundingSupports")),
    ("candidates", 0, "groundingMetadata", "groundingChunks", 0, "web"),
    *(
        ("candidates", 0, "groundingMetadata", "groundingSupports", 0, name)
        for name in ("segment", "groundingChunkIndices")
    ),
    ("candidates", 0, "content", "parts"),
    ("candidates", 0, "content", "parts", 0),
    *(
        ("candidates", 0, "content", "parts", 0, name)
        for name in ("text", "thought", "thoughtSignature", "functionCall", "inlineData", "toolCall", "toolResponse")
    ),
    *(("candidates", 0, "content", "parts", 0, "functionCall", name) for name in ("name", "args", "id", "partialArgs")),
]


@settings(max_examples=300)
@given(place=st.sampled_from(PLACES), odd=ODD)
def test_no_event_raises_anything_but_that_it_is_unreadable(place: tuple[Any, ...], odd: Any) -> None:
    """Whatever stands where: it is read, is a fault, or has no place there; and what is read can be encoded."""
    document = said(called("f", {"a": 1}), groundingMetadata=GROUNDED)
    document = json.loads(json.dumps(document))
    holder: Any = document
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = odd
    for read in (GeminiReader().read_event, GeminiReader().read_reply):
        try:
            came = read(json.loads(json.dumps(document)))
        except Unreadable:
            continue
        if came is not None and not isinstance(came, Fault):
            assert isinstance(came.text, str)
            assert all(isinstance(call.name, str) and call.name and call.id for call in came.tool_calls)
            json.dumps(came.raw)


@given(
    events=st.lists(st.dictionaries(st.sampled_from(["candidates", "error", "usageMetadata", "x"]), ODD), max_size=4)
)
def test_no_stream_of_oddities_raises(events: list[Any]) -> None:
    """A response makes faults of them."""
    streamed(events)
