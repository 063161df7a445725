"""What a translation does to every request, whoever is to get it: it refuses some, and writes out a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from llm_fallback.engine.encoding import why_not_json
from llm_fallback.engine.transport import Fault

_PARTS = frozenset(
    {
        *("text", "image_url", "input_audio", "audio_url", "video_url", "file", "document"),
        *("guarded_text", "grounding_source", "query"),
    }
)
"""Types of the parts of a user's message that litellm takes, whichever provider it is for."""


def refusal(request: Mapping[str, Any]) -> Fault | None:
    """Why litellm would send this request to nobody; None if it would."""
    why = next(_objections(request), None)
    return None if why is None else Fault("bad_request", why)


def _objections(request: Mapping[str, Any]) -> Iterator[str]:
    unwritable = why_not_json(request)
    if unwritable is not None:
        yield f"the request cannot be written as JSON: {unwritable}"
    for number, message in enumerate(request["messages"]):
        content = message.get("content") if message.get("role") == "user" else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and str(part.get("type")) not in _PARTS:
                yield f"message {number} has a part of type {part.get('type')!r}, which is none of OpenAI's"
    choice = request.get("tool_choice")
    if not (choice is None or isinstance(choice, str) or (isinstance(choice, dict) and "type" in choice)):
        yield f"tool_choice is no choice of OpenAI's: {choice!r}"
    form = request.get("response_format")
    if not (form is None or isinstance(form, dict) or _is_model(form)):
        yield f"response_format is neither a mapping nor a class of pydantic: {form!r}"


def as_sent(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request with a class in `response_format` written out as its schema."""
    form = request.get("response_format")
    if form is None or not _is_model(form):
        return request
    schema = {"name": form.__name__, "schema": form.model_json_schema()}
    return {**request, "response_format": {"type": "json_schema", "json_schema": schema}}


def _is_model(form: Any) -> bool:
    return isinstance(form, type) and issubclass(form, BaseModel)
