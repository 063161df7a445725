"""Messages of other integrations, in a form that every server takes.

Other chat models keep in a message what only their provider knows: blocks of thought with signatures, tools that ran on
the server, parts of a Responses call. Their text, their tool calls and what a user showed are carried; the rest is left
out and named. A signed thought goes on to who signed it: `engine.protocol.thinking` sees to that for each deployment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from llm_fallback.engine.protocol.gemini import SIGNATURE_MARK
from llm_fallback.engine.protocol.thinking import BLOCKS, ORIGIN
from llm_fallback.plan.plan import Target

LEFT_OUT = "left_out"
"""Where a written message names what of it nobody gets."""

_CALLS = frozenset(
    {"tool_use", "function_call", "tool_call", "tool_call_chunk", "invalid_tool_call", "input_json_delta", "toolUse"}
)
"""Types of blocks that repeat a message's `tool_calls`."""
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning_content"})
_MARKS = {"annotations": "citations", "citations": "citations", "thought_signature": "signature"}
"""Keys of a block of text that are somebody's own, and by which word they are named."""
_SIGNATURES = "__gemini_function_call_thought_signatures__"
"""Where ChatGoogleGenerativeAI keeps the signature of each tool call, by the call's id."""
_BESIDE = {
    "reasoning": "reasoning",
    "audio": "audio",
    _SIGNATURES: "signature",
    "__openai_function_call_ids__": None,
}
"""Keys of `additional_kwargs` of other integrations, and what is named when they are left out."""


class Carried(NamedTuple):
    """A message as it can be written for anybody, and what of it cannot be."""

    message: BaseMessage
    left_out: tuple[str, ...] = ()
    thoughts: tuple[dict[str, Any], ...] = ()
    """Signed ones, with who signed them."""


def carried(messages: Sequence[BaseMessage], deployments: Iterable[Target] = ()) -> list[Carried] | None:
    """Each message as it can be carried; None where all can be as they are, as in nearly every call."""
    for message in messages:
        if type(message.content) is list or not _BESIDE_ALL.isdisjoint(message.additional_kwargs):
            signers = tuple(deployments)
            if any(target.is_gemini for target in signers):
                messages = _with_signed_calls(messages)
            return [_carried(message, signers) for message in messages]
    return None


def mark(documents: list[dict[str, Any]], known: Sequence[Carried]) -> list[dict[str, Any]]:
    """The written messages with the thoughts they carry and the names of what was left out of them."""
    return [_marked(document, each) for document, each in zip(documents, known, strict=True)]


def _marked(document: dict[str, Any], known: Carried) -> dict[str, Any]:
    thoughts = {BLOCKS: list(known.thoughts)} if known.thoughts else {}
    return {**document, **thoughts, **({LEFT_OUT: known.left_out} if known.left_out else {})}


_BESIDE_ALL = frozenset({*_BESIDE, "tool_outputs", "function_call"})


def _carried(message: BaseMessage, deployments: Sequence[Target]) -> Carried:
    if isinstance(message, AIMessage):
        return _reply(message, deployments)
    if isinstance(message, HumanMessage | ToolMessage) and isinstance(message.content, list):
        parts = [taken for part in message.content for taken in _shown(part)]
        if parts != message.content:
            return Carried(message.model_copy(update={"content": parts}))
    return Carried(message)


# What a model said.


def _reply(message: AIMessage, deployments: Sequence[Target]) -> Carried:
    beside, left_out = _beside(message)
    if isinstance(message.content, str):
        return Carried(message.model_copy(update={"additional_kwargs": beside}), left_out)
    texts, thoughts, names = [], [], list(left_out)
    for block in message.content:
        text = _text_of(block)
        if text is not None:
            texts.append(text)
            names += _named_marks(block)
        elif (kind := _kind(block)) in _THOUGHTS:
            thoughts.append(block)
        elif kind not in _CALLS:
            names.append(kind)
    signed = _signed(message, thoughts, deployments)
    if thoughts and not signed:
        names.append("thinking")
    said = message.model_copy(update={"content": _joined(texts), "additional_kwargs": beside})
    return Carried(said, tuple(dict.fromkeys(names)), tuple(signed))


def _beside(message: AIMessage) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What stands beside the content, without what is somebody's own; and what that was."""
    given = message.additional_kwargs
    names = [name for key, name in _BESIDE.items() if given.get(key) and name is not None]
    outputs = given.get("tool_outputs")
    names += [_kind(output) for output in (outputs if isinstance(outputs, list) else [outputs] if outputs else ())]
    # Beside tool calls it is one of them again, and would be a call that nobody answers.
    repeated = {"function_call"} if message.tool_calls else set()
    kept = {key: value for key, value in given.items() if key not in {*_BESIDE, "tool_outputs"} | repeated}
    return kept, tuple(names)


def _kind(block: Any) -> str:
    """By which word a block is named: its type, or, as Bedrock writes it, its only key."""
    if not isinstance(block, Mapping):
        return type(block).__name__
    if block.get("type") == "non_standard" and isinstance(block.get("value"), Mapping):
        return _kind(block["value"])
    return str(block.get("type") or next(iter(block), "block"))


def _text_of(block: Any) -> dict[str, Any] | None:
    """A block of text as OpenAI writes it, what marks the end of a cached beginning with it; None for any other."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, Mapping):
        return None
    text = block.get("refusal") if block.get("type") == "refusal" else block.get("text")
    if block.get("type", "text") not in ("text", "refusal", "output_text") or not isinstance(text, str):
        return None
    return {"type": "text", "text": text, **{key: block[key] for key in ("cache_control",) if block.get(key)}}


def _named_marks(block: Any) -> Iterator[str]:
    if isinstance(block, Mapping):
        for holder in (block, block.get("extras")):
            if isinstance(holder, Mapping):
                yield from (name for key, name in _MARKS.items() if holder.get(key))
                if holder is not block and holder.get("signature"):
                    yield "signature"


def _joined(texts: Sequence[dict[str, Any]]) -> Any:
    """One text, as some servers take no parts of what an assistant said; parts where one of them is to be cached."""
    if any("cache_control" in text for text in texts):
        return list(texts)
    return "".join(text["text"] for text in texts)


# Who signed a thought.

_ANTHROPICS = frozenset({"anthropic", "bedrock", "bedrock_converse", "anthropic_bedrock", "vertex_ai"})
"""By which names integrations call providers of Claude, whose signatures hold at all of them."""
_BEFORE_CLAUDE = re.compile(r"^.*?(?=claude)")
_VERSION = re.compile(r"(-v\d+(:\d+)?|@\w+|-\d{8}|-latest)$")


def _signed(message: AIMessage, thoughts: Sequence[Any], deployments: Sequence[Target]) -> list[dict[str, Any]]:
    """The thoughts with who of the deployments signed them; none where nobody did, or where one is not signed."""
    told = message.response_metadata
    model = str(told.get("model_name") or told.get("model") or told.get("model_id") or "").casefold()
    if not thoughts or str(told.get("model_provider", "anthropic")) not in _ANTHROPICS or "claude" not in model:
        return []
    same = (target for target in deployments if _plain(target.model_identity) == _plain(model))
    signer = next((target.signer for target in same if target.signer.startswith("anthropic/")), None)
    blocks = [_as_anthropic_writes(block) for block in thoughts]
    if signer is None or not all(blocks):
        return []
    return [{**block, ORIGIN: signer} for block in blocks if block is not None]


def _plain(model: str) -> str:
    """The name of a model without the words of who serves it, and without its date."""
    name, before = _BEFORE_CLAUDE.sub("", model.casefold()), ""
    while name != before:
        name, before = _VERSION.sub("", name), name
    return name


def _as_anthropic_writes(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """A signed thought; None for one that is not signed."""
    match block:
        case {"type": "thinking", "thinking": str(said), "signature": str(signature)} if signature:
            return {"type": "thinking", "thinking": said, "signature": signature}
        case {"type": "redacted_thinking", "data": str(data)} if data:
            return {"type": "redacted_thinking", "data": data}
        case {"type": "reasoning_content", "reasoning_content": {"text": str(said), "signature": str(signature)}}:
            return {"type": "thinking", "thinking": said, "signature": signature} if signature else None
    return None


# Who signed a tool call.


def _with_signed_calls(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages with Gemini's signatures where our own replies have them: in the ids of tool calls."""
    known: dict[str | None, str | None] = {}
    return [_with_signed_ids(message, known) for message in messages]


def _with_signed_ids(message: BaseMessage, known: dict[str | None, str | None]) -> BaseMessage:
    """The message with its signed calls under longer ids, which are known from then on for their results."""
    if isinstance(message, ToolMessage):
        return message.model_copy(update={"tool_call_id": known.get(message.tool_call_id, message.tool_call_id)})
    if not isinstance(message, AIMessage):
        return message
    signatures = message.additional_kwargs.get(_SIGNATURES)
    signatures = signatures if isinstance(signatures, Mapping) else {}
    for call in message.tool_calls:
        signature = signatures.get(call["id"])
        known[call["id"]] = f"{call['id']}{SIGNATURE_MARK}{signature}" if signature else call["id"]
    calls = [{**call, "id": known[call["id"]]} for call in message.tool_calls]
    rest = {name: value for name, value in message.additional_kwargs.items() if name != _SIGNATURES}
    return message.model_copy(update={"tool_calls": calls, "additional_kwargs": rest})


# What a user or a tool showed.


def _shown(part: Any) -> Iterator[Any]:
    """A part as ChatLiteLLM and OpenAI take it; itself where it is one already, or nobody knows."""
    match part:
        case {"type": "input_text" | "output_text", "text": str(text)}:
            yield {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            yield {"type": "image_url", "image_url": {"url": url, **_given(part, "detail")}}
        case {"type": "input_file"}:
            yield {"type": "file", "file": _given(part, "file_data", "file_id", "filename")}
        case {"type": "media", "mime_type": str(kind), "data": str(data)} if kind.startswith("image/"):
            yield {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "media", "mime_type": str(kind), "data": str(data)}:
            yield {"type": "file", "file": {"file_data": f"data:{kind};base64,{data}"}}
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            yield {"type": "text", "text": text}
        case {"type": "image" | "document", "source": Mapping()} | {"image": Mapping()} | {"document": Mapping()}:
            yield from _standard(part)
        case {"text": str(text), **rest} if "type" not in part and not rest:
            yield {"type": "text", "text": text}
        case _:
            yield part


def _standard(part: Mapping[str, Any]) -> list[Any]:
    """A picture or a file of Anthropic's or Bedrock's, in LangChain's own form."""
    try:
        blocks: list[Any] = list(HumanMessage([dict(part)]).content_blocks)
    except Exception:  # noqa: BLE001 - what it is not, LangChain finds out by whatever breaks
        return [part]
    known = all(block.get("type") in ("image", "file", "text") for block in blocks)
    return [dict(block) for block in blocks] if known else [part]


def _given(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: part[name] for name in names if part.get(name) is not None}
