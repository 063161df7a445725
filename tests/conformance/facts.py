"""What a call came to, without what may differ between a server and a fake: times, and the words of libraries."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.messages import BaseMessage

from llm_fallback import ChainExhausted, StreamBroken
from tests.asking import ask

Outcome = BaseMessage | ChainExhausted | StreamBroken

_SECONDS = re.compile(r"\d+\.\d+ s")
_SPOKEN_FOR = ("the connection was reset", "the reply is not JSON", "a reply without choices")
"""Where no server says anything, each library has its own words, and the fake these."""


async def assert_alike(models: tuple[Any, Any], mode: str, prompt: Any = "hi", **words: Any) -> None:
    """A call of the real model and one of the fake come to the same."""
    real, fake = [facts(await _outcome(model, mode, prompt, words)) for model in models]
    spoken, fake_messages = real.pop("messages"), fake.pop("messages")
    assert fake == real
    assert all(ours == real or ours in _SPOKEN_FOR for ours, real in zip(fake_messages, spoken, strict=True)), (
        fake_messages,
        spoken,
    )


async def _outcome(model: Any, mode: str, prompt: Any, words: dict[str, Any]) -> Outcome:
    try:
        message: BaseMessage = await ask(model, mode, prompt, **words)
    except (ChainExhausted, StreamBroken) as error:
        return error
    return message


def facts(came: Outcome) -> dict[str, Any]:
    """All that is promised of an outcome, as plain data."""
    return _of_message(came) if isinstance(came, BaseMessage) else _of_error(came)


def _of_message(message: Any) -> dict[str, Any]:
    record = message.response_metadata["llm_fallback"]
    named = ("chain", "deployment", "model", "fell_back", "cost_usd", "cost_estimated", "stitched", "stitches")
    return {
        **_of_attempts(record["attempts"], record["skipped"]),
        **{name: record.get(name) for name in named},
        "content": message.content,
        "tool_calls": [(call["name"], call["args"]) for call in message.tool_calls],
        "invalid_tool_calls": [(call["name"], call["args"]) for call in message.invalid_tool_calls],
        "reasoning": message.additional_kwargs.get("reasoning_content"),
        "usage": message.usage_metadata,
        "model_name": message.response_metadata["model_name"],
        "model_provider": message.response_metadata["model_provider"],
        "finish_reason": message.response_metadata.get("finish_reason"),
        "first_token": record["time_to_first_token_s"] is not None,
    }


def _of_error(error: Any) -> dict[str, Any]:
    attempts = [attempt.as_metadata() for attempt in error.attempts]
    skipped = [skip.as_metadata() for skip in error.skipped] if isinstance(error, ChainExhausted) else []
    text = _SECONDS.sub("… s", str(error))
    for attempt in attempts:
        text = text.replace(attempt["message"] or "nothing", "…")
    observed = {
        **_of_attempts(attempts, skipped),
        "class": type(error),
        "text": text,
        "caused": error.__cause__ is not None,
    }
    if isinstance(error, StreamBroken):
        observed["partial"] = error.partial.content
    return observed


def _of_attempts(attempts: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> dict[str, Any]:
    timed = ("latency_s", "time_to_first_token_s", "message")
    return {
        "attempts": [{name: value for name, value in one.items() if name not in timed} for one in attempts],
        "messages": [one["message"] for one in attempts],
        "skipped": [(one["deployment"], one["reason"]) for one in skipped],
    }
