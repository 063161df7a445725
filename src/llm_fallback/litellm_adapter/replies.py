"""Whole replies in litellm's form, which LangChain's integration reads."""

from __future__ import annotations

from typing import Any

from litellm.utils import ModelResponse, convert_to_model_response_object

from llm_fallback.engine.protocol.chunks import finish_of_choice, integral_usage, text_of, tool_calls, usage_of
from llm_fallback.engine.protocol.faults import fault_in_body
from llm_fallback.engine.protocol.finishes import read_finish
from llm_fallback.engine.transport import REFUSED_FINISH, Fault, Reply


def reply_of(completion: Any) -> Reply | Fault:
    """A server's plain reply, put into litellm's form for LangChain's eyes."""
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not choices:
        return fault_in_body(completion) or _NO_CHOICES
    usage = integral_usage(completion.get("usage") or {})
    # litellm reads it into a class of its own, and refuses a whole reply for a count that is none.
    whole = {**completion, "usage": usage or {}}
    raw = convert_to_model_response_object(response_object=whole, model_response_object=ModelResponse())
    # litellm has a finish for every word and for none; the server's own is the one that counts.
    return _reply_of_choice(raw)._replace(finish=finish_of_choice(choices[0]))


def reply_of_litellm(raw: Any) -> Reply | Fault:
    """A plain reply of litellm's, which keeps the server's word of how it ended beside its own."""
    if not getattr(raw, "choices", None):
        return _NO_CHOICES
    reply, fields = _reply_of_choice(raw), getattr(raw.choices[0], "provider_specific_fields", None) or {}
    if getattr(raw.choices[0].message, "refusal", None):
        return reply._replace(finish=REFUSED_FINISH)
    return reply._replace(finish=read_finish(fields.get("native_finish_reason") or reply.finish))


_NO_CHOICES = Fault("invalid_response", "a reply without choices", 200)


def _reply_of_choice(raw: Any) -> Reply:
    choice = raw.choices[0]
    return Reply(
        raw=raw,
        text=text_of(choice.message.content),
        reasoning=getattr(choice.message, "reasoning_content", None) or "",
        tool_calls=tool_calls(getattr(choice.message, "tool_calls", None)),
        finish=choice.finish_reason,
        usage=usage_of(getattr(raw, "usage", None)),
    )
