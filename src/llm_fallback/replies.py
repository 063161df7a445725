"""What comes back from the engine, as LangChain knows it: messages, metadata, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from llm_fallback.driver import Caller, adrive, drive
from llm_fallback.engine import Answered, Broke, Failed, Unaffordable
from llm_fallback.errors import BudgetExceeded, StreamCut, StreamStalled, exhausted
from llm_fallback.exchange import ToolCallPart, Transcript
from llm_fallback.run import Run

KEY = "llm_fallback"
"""Where the facts of a call stand in `response_metadata`."""


def answered(run: Run, caller: Caller) -> Generator[Any, None, None]:
    """The chunks of a call driven from a thread, and what follows them."""
    steps = drive(run, caller)
    try:
        for piece in steps:
            yield piece.raw
    finally:
        steps.close()
    yield _farewell(run)


async def aanswered(run: Run, caller: Caller) -> AsyncGenerator[Any, None]:
    """The chunks of a call driven from a task, and what follows them."""
    steps = adrive(run, caller)
    try:
        async for piece in steps:
            yield piece.raw
    finally:
        await steps.aclose()
    yield _farewell(run)


def _farewell(run: Run) -> Answered | dict[str, Any]:
    """What follows the last piece: the whole plain reply, or a chunk that carries the facts; or the failure."""
    end = run.end
    assert end is not None
    if not isinstance(end, Answered):
        raise _error(end) from (end.fault.cause if isinstance(end, Broke) else end.cause)
    if end.reply is not None:
        return end
    # ChatLiteLLM hands a chunk's own fields through to its message, and so the facts reach `_finish_chunk`.
    return {"choices": [{"delta": {"role": "assistant"}}], "provider_specific_fields": {KEY: end}}


def _error(end: Failed | Broke | Unaffordable) -> Exception:
    if isinstance(end, Unaffordable):
        return BudgetExceeded(*end.overdraft.as_floats, end.record.attempts, end.record.skipped)
    if isinstance(end, Failed):
        record = end.record
        return exhausted(
            record.chain, end.failure, record.attempts, record.skipped, reason=end.reason, out_of_time=end.out_of_time
        )
    stalled = end.fault.failure in ("idle_timeout", "timeout")
    partial = message_of(end.delivered)
    partial.response_metadata[KEY] = end.record.as_metadata()
    text = f"{end.record.attempts[-1].deployment}: the stream broke after a part of it was delivered"
    broken = StreamStalled if stalled else StreamCut
    return broken(f"{text} ({end.fault.message})", partial, end.record.attempts)


def stamp(message: BaseMessage, answer: Answered) -> None:
    for name in ("model_id", "response_cost"):
        message.response_metadata.pop(name, None)
    message.response_metadata |= {"model_name": answer.model_name, KEY: answer.record.as_metadata()}


def message_of(transcript: Transcript) -> AIMessage:
    """What was delivered or is to be judged, as a message; tool calls that do not parse are invalid ones."""
    message = AIMessage(
        content=transcript.text,
        additional_kwargs={"reasoning_content": transcript.reasoning} if transcript.reasoning else {},
        response_metadata={"finish_reason": transcript.finish} if transcript.finish else {},
    )
    # Arguments of a reply that broke off may be lacking where of a whole one there are none.
    unsaid = "" if transcript.finish == "length" else "{}"
    for _, part in sorted(transcript.tool_calls.items()):
        _add_tool_call(message, part, unsaid)
    return message


def _add_tool_call(message: AIMessage, part: ToolCallPart, unsaid: str) -> None:
    """Not by way of AIMessageChunk: that completes arguments that break off, and half a call would pass for one."""
    try:
        arguments = json.loads(part.arguments or unsaid, strict=False)
    except json.JSONDecodeError:
        arguments = None
    if isinstance(arguments, dict):
        message.tool_calls.append(tool_call(name=part.name or "", args=arguments, id=part.id))
    else:
        broken = invalid_tool_call(name=part.name, args=part.arguments, id=part.id, error=None)
        message.invalid_tool_calls.append(broken)
