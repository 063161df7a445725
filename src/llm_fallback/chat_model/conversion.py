"""Between LangChain and the engine: words of a call as a `Call`, what it brings as messages, metadata and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import Generation
from langchain_core.utils.json import parse_partial_json

from llm_fallback.chat_model.foreign_messages import LEFT_OUT
from llm_fallback.chat_model.structured import OutputFormat
from llm_fallback.engine.budget import Spender
from llm_fallback.engine.encoding import why_not_json
from llm_fallback.engine.engine import Answered, Call, Failed, Mismatch, MismatchedReply, OverBudget, StreamBrokeOff
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.protocol.finishes import openai_finish
from llm_fallback.engine.protocol.gemini import is_signed
from llm_fallback.engine.protocol.thinking import BLOCKS, ORIGIN, SIGNED, stored_blocks
from llm_fallback.engine.protocol.values import Unreadable, decode
from llm_fallback.engine.tokens import estimate_prompt_tokens
from llm_fallback.engine.transport import CUT_FINISHES, PartialReply, Provenance, ToolCallPart
from llm_fallback.errors import BudgetExceeded, StreamBroken, StreamCut, StreamRefused, StreamStalled, exhausted
from llm_fallback.events import Failure, Record, Usage
from llm_fallback.plan.plan import ChainPlan, Feature, Target

_NOT_SENT = ("chain", "model", "stream", "metadata", "run_manager", "callbacks", "timeout", "max_retries", "zones")
"""Words of the merged request that are the chain's or LangChain's, not the deployment's."""

_CHARACTERS_OF_A_PICTURE = 4000


def to_call(
    words: Mapping[str, Any],
    chain: ChainPlan,
    output_format: OutputFormat | None,
    spender: Spender,
    thread: object = None,
) -> Call:
    """The call that ChatLiteLLM's merged words ask of a chain; `thread` names the conversation, if anything does."""
    request = {name: value for name, value in words.items() if name not in _NOT_SENT}
    messages, left_out, signers = _from_elsewhere(request["messages"])
    request["messages"] = _in_parts(messages)
    if words.get("metadata"):
        request["metadata"] = words["metadata"]
    streamed = bool(words.get("stream"))
    if streamed:
        request["stream"] = True
    chain = _limited(chain, words.get("timeout"), words.get("max_retries"))
    return Call(
        chain=chain,
        request=request,
        streamed=streamed,
        validate=_validator(chain, output_format),
        features=_features(request),
        tokens=_prompt_tokens(request),
        spender=spender,
        left_out=left_out,
        signers=signers,
        has_signed_calls=any("tool_calls" in message and is_signed(message) for message in messages),
        conversation=None if chain.affinity == "off" else _conversation(chain, request["messages"], thread),
    )


def _from_elsewhere(
    messages: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], tuple[str, ...], frozenset[str]]:
    """The messages without their marks, by which words is named what of them nobody gets, and whose signed thoughts are
    in them."""
    for message in messages:
        if LEFT_OUT in message or BLOCKS in message:
            names = dict.fromkeys(name for each in messages for name in each.get(LEFT_OUT, ()))
            blocks = [block for each in messages for block in stored_blocks(each) if isinstance(block, Mapping)]
            bare = [{key: value for key, value in each.items() if key != LEFT_OUT} for each in messages]
            return bare, tuple(names), frozenset(str(block.get(ORIGIN)) for block in blocks)
    return messages, (), _NOBODY


_NOBODY: frozenset[str] = frozenset()


def _conversation(chain: ChainPlan, messages: Sequence[Mapping[str, Any]], thread: object) -> bytes:
    """What tells the call's conversation from others, the same in every process: its name, else how its prompt
    begins."""
    if chain.affinity == "prefix" or thread is None:
        said = [message.get("content") for message in _beginning(messages)]
        try:
            written = repr(said)
        except RecursionError:
            written = ""  # Nobody gets what is nested so deeply.
        return blake2b(written.encode(errors="replace"), digest_size=16).digest()
    return blake2b(str(thread).encode(errors="replace"), digest_size=16).digest()


def _beginning(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """What stands before the first answer, up to the first words of a human."""
    for message in messages:
        yield message
        if message.get("role") not in ("system", "developer"):
            return


_ROLES = {"human": "user", "ai": "assistant"}


def unwritable(messages: Sequence[BaseMessage], error: Exception) -> list[dict[str, Any]]:
    """Messages that could not be written for `error`, as they are, for the call to be refused as no deployment's fault.
    Raises `error` where it is not that JSON cannot hold them."""
    given = [
        {
            "role": _ROLES.get(message.type, message.type),
            "content": message.content,
            "tool_calls": message.tool_calls if isinstance(message, AIMessage) else None,
        }
        for message in messages
    ]
    if why_not_json({"messages": given}) is None:
        raise error
    return given


def _in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without bare texts among their content; the same list where all of it is text."""
    for message in messages:
        if isinstance(message.get("content"), list):
            return [_with_text_parts(each) for each in messages]
    return messages


def _with_text_parts(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a part in place of each bare text among its content. LangChain allows both, few servers do."""
    content = message.get("content")
    if not isinstance(content, list) or not any(isinstance(part, str) for part in content):
        return message
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content if part]
    return {**message, "content": parts or ""}


def _limited(chain: ChainPlan, timeout: float | None, max_retries: int | None) -> ChainPlan:
    if timeout is not None:
        chain = replace(chain, total_s=timeout)
    if max_retries is not None:
        chain = replace(chain, retries=chain.retries.model_copy(update={"max": int(max_retries)}))
    return chain


def _validator(chain: ChainPlan, output_format: OutputFormat | None) -> Callable[[PartialReply], Any] | None:
    """What says whether a whole reply will do: first the output format asked for, then the chain's `accept`."""
    accept = chain.accept
    if output_format is None:
        return None if accept is None else lambda partial: accept(to_message(partial))

    def validate(partial: PartialReply) -> Any:
        message = to_message(partial)
        verdict = output_format.validate(message)
        if isinstance(verdict, str):
            return Mismatch(verdict)
        return verdict if accept is None else accept(message)

    return validate


def _features(request: Mapping[str, Any]) -> frozenset[Feature]:
    """What the request needs and must not lose on its way to whichever deployment."""
    features: set[Feature] = set()
    if request.get("tools"):
        features.add("tools")
    if request.get("response_format"):
        features.add("response_format")
    if _have_image(request["messages"]):
        features.add("images")
    return frozenset(features)


def _have_image(messages: Sequence[Mapping[str, Any]]) -> bool:
    # Every call comes by here, nearly always with texts alone.
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type") == "image_url" for part in content
        ):
            return True
    return False


def _prompt_tokens(request: Mapping[str, Any]) -> int:
    """About how many tokens the prompt has."""
    characters = _written(request["tools"]) if request.get("tools") else 0
    for message in request["messages"]:
        characters += _characters(message.get("content"))
        if message.get("tool_calls"):
            characters += _written(message["tool_calls"])
    return estimate_prompt_tokens(characters)


_TOKENS_OF_A_MESSAGE = 3
"""What OpenAI's models spend on the frame of each."""


def count_tokens(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], count: Callable[[str], int]
) -> int:
    """About how many tokens written messages and tools have, by what counts those of a text."""
    parts = [part for message in messages for part in _parts(message.get("content"))]
    calls = [message["tool_calls"] for message in messages if message.get("tool_calls")]
    pictures = sum(not isinstance(part.get("text"), str) for part in parts)
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return (
        sum(map(count, texts))
        + sum(count(str(value)) for value in (*calls, *tools))
        + pictures * estimate_prompt_tokens(_CHARACTERS_OF_A_PICTURE)
        + _TOKENS_OF_A_MESSAGE * len(messages)
    )


def _parts(content: Any) -> list[Mapping[str, Any]]:
    parts = content if isinstance(content, list) else [content or ""]
    return [part if isinstance(part, Mapping) else {"text": str(part)} for part in parts]


def _written(value: Any) -> int:
    """About how many characters a value has when it is written."""
    try:
        return len(str(value))
    except (RecursionError, ValueError):  # Whoever is to send it will refuse.
        return 0


def _characters(content: Any) -> int:
    if isinstance(content, list):
        return sum(_characters_of_part(part) for part in content)
    return len(content or "")


def _characters_of_part(part: Any) -> int:
    """A picture or a recording is as long as its bytes, and is taken for a page of text instead."""
    return len(part["text"]) if isinstance(part.get("text"), str) else _CHARACTERS_OF_A_PICTURE


KEY = "llm_fallback"
"""Where the facts of a call stand in `response_metadata`."""
PROVIDER = "litellm"
"""The provider that replies name, as ChatLiteLLM's do."""


def answered(execution: CallExecution) -> Answered:
    """How a call that was driven to its end was answered. Raises its error if it was not."""
    end = execution.end
    assert end is not None
    if not isinstance(end, Answered):
        raise _error(end) from (end.fault.cause if isinstance(end, StreamBrokeOff) else end.cause)
    return end


def unreadable_marks(delivered: PartialReply) -> list[ToolCallPart]:
    """What is to follow tool calls whose arguments are no object, so that LangChain finds the same: it completes what
    breaks off, and a tool would be called with half of a path."""
    if not delivered.has_tool_calls:
        return []
    calls = [call for call in delivered.tool_calls.values() if _arguments(call, delivered.finish) is None]
    return [ToolCallPart(call.index, None, None, _unreadable_mark(call.arguments)) for call in calls]


def _unreadable_mark(arguments: str) -> str:
    return next((mark for mark in _MARKS if not _is_mended(arguments + mark)), "")


_MARKS = ("", "]", "}", '"]', '"}', '""]', '""}')
"""What closes nothing that may be open: a bracket of the other kind, behind the end of a text that may be."""


def _is_mended(arguments: str) -> bool:
    """Whether LangChain makes an object of arguments as they are."""
    try:
        return isinstance(parse_partial_json(arguments) if arguments else {}, dict)
    except (ValueError, RecursionError):
        return False


def _error(end: Failed | StreamBrokeOff | OverBudget) -> Exception:
    if isinstance(end, OverBudget):
        return BudgetExceeded(*end.shortfall.as_floats, end.record.attempts, end.record.skipped)
    if isinstance(end, Failed):
        record = end.record
        return exhausted(
            record.chain,
            end.failure,
            record.attempts,
            record.skipped,
            reason=end.reason,
            out_of_time=end.out_of_time,
            last_reply=None if end.mismatched is None else _mismatched_message(end.mismatched, record),
        )
    partial = to_message(end.delivered)
    if end.fault.failure != "content_policy":
        partial.response_metadata.clear()  # A "stop" that a gateway says with every chunk was no end.
    partial.response_metadata[KEY] = end.record.as_metadata()
    text = f"{end.record.attempts[-1].deployment}: the stream broke after a part of it was delivered"
    broken = _STREAM_ERRORS.get(end.fault.failure, StreamCut)
    return broken(f"{text} ({end.fault.message})", partial, end.record.attempts)


_STREAM_ERRORS: Mapping[Failure, type[StreamBroken]] = {
    "idle_timeout": StreamStalled,
    "timeout": StreamStalled,
    "content_policy": StreamRefused,
}


def _mismatched_message(mismatched: MismatchedReply, record: Record) -> AIMessage:
    """A reply that was received, but not of the form asked for, as a message that says who gave it."""
    message, target = to_message(mismatched.reply), mismatched.target
    if mismatched.reply.usage is not None:
        message.usage_metadata = usage_metadata(mismatched.reply.usage)
    fell_back = record.attempts[0].deployment != target.name
    told = replace(record, deployment=target.name, model=target.model, fell_back=fell_back)
    message.response_metadata["model_provider"] = PROVIDER
    message.response_metadata |= reply_metadata(target.model_name, mismatched.provenance, told)
    return message


def usage_metadata(usage: Usage) -> UsageMetadata:
    """LangChain's usage, with details of what there was."""
    metadata = UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
    details = InputTokenDetails()
    if usage.cached_tokens:
        details["cache_read"] = usage.cached_tokens
    if usage.cache_write_tokens:
        details["cache_creation"] = usage.cache_write_tokens
    if details:
        metadata["input_token_details"] = details
    if usage.reasoning_tokens:
        metadata["output_token_details"] = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    return metadata


def reply_metadata(model_name: str, provenance: Provenance, record: Record) -> dict[str, Any]:
    """What `response_metadata` says of a reply: who served it, by which names, and the facts of the call."""
    return {"model_name": model_name, **provenance.as_metadata(), KEY: record.as_metadata()}


_OF_NO_CALL: Mapping[str, Any] = {
    "attempts": [],
    "skipped": [],
    "latency_s": None,
    "time_to_first_token_s": None,
    "cost_usd": 0.0,
    "cached": True,
}
"""What the facts of a call are for a reply that no call was made for."""


def as_cached(generation: Generation) -> Generation:
    """A copy of what LangChain's cache holds that says it is from there; the cache's own stays as it is."""
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage) or KEY not in message.response_metadata:
        return generation
    facts = {name: value for name, value in message.response_metadata[KEY].items() if name != "cost_estimated"}
    metadata = {**message.response_metadata, KEY: {**facts, **_OF_NO_CALL}}
    return generation.model_copy(update={"message": message.model_copy(update={"response_metadata": metadata})})


def write_thoughts(
    messages: Sequence[BaseMessage], written: list[dict[str, Any]], deployments: Mapping[str, Target]
) -> list[dict[str, Any]]:
    """The written messages with the signed thoughts of replies; and with who wrote each reply that has none."""
    return [
        _with_thoughts(message, document, deployments) if isinstance(message, AIMessage) else document
        for message, document in zip(messages, written, strict=True)
    ]


def _with_thoughts(message: AIMessage, document: dict[str, Any], deployments: Mapping[str, Target]) -> dict[str, Any]:
    blocks, facts = message.additional_kwargs.get(BLOCKS), message.response_metadata.get(KEY)
    if blocks:
        return {**document, BLOCKS: blocks}
    writer = deployments.get(facts.get("deployment", "")) if isinstance(facts, Mapping) else None
    return document if writer is None else {**document, ORIGIN: writer.signer}


def keep_thoughts(message: BaseMessage) -> None:
    """Put signed thoughts where LangChain's users look for them, and where the next call does."""
    fields = dict(message.additional_kwargs["provider_specific_fields"])
    message.additional_kwargs[BLOCKS] = fields.pop(SIGNED)
    if fields:
        message.additional_kwargs["provider_specific_fields"] = fields
    else:
        del message.additional_kwargs["provider_specific_fields"]


def to_message(partial: PartialReply) -> AIMessage:
    """What was delivered or is to be judged, as a message; tool calls that do not parse are invalid ones."""
    message = AIMessage(
        content=partial.text,
        additional_kwargs={"reasoning_content": partial.reasoning} if partial.reasoning else {},
        response_metadata={"finish_reason": openai_finish(partial.finish)} if partial.finish else {},
    )
    for _, part in sorted(partial.tool_calls.items()):
        add_tool_call(message, part, partial.finish)
    return message


def add_tool_call(message: AIMessage, part: ToolCallPart, finish: str | None) -> None:
    """Add a call of a whole message, or an invalid one where its arguments are no object.

    Not by way of AIMessageChunk: that completes arguments that break off, and half a call would pass for one.
    """
    arguments = _arguments(part, finish)
    if arguments is not None:
        message.tool_calls.append(tool_call(name=part.name or "", args=arguments, id=part.id))
    else:
        broken = invalid_tool_call(name=part.name, args=part.arguments, id=part.id, error=None)
        message.invalid_tool_calls.append(broken)


def _arguments(part: ToolCallPart, finish: str | None) -> dict[str, Any] | None:
    """The arguments of a call; None where they are no object."""
    # Arguments of a reply that broke off may be lacking where of a whole one there are none.
    unsaid = "" if finish in CUT_FINISHES else "{}"
    try:
        arguments = decode(part.arguments or unsaid, strict=False)
    except Unreadable:  # Nor would a history with it be taken: NaN is no JSON, though Python reads it.
        return None
    return arguments if isinstance(arguments, dict) else None
