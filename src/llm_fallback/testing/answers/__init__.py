"""The sensible answers of a fake: pure functions of OpenAI's request, so the same request gets the same answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llm_fallback.engine.tokens import read_choices, read_limit
from llm_fallback.testing.answers.answer import Answer, ToolCall, pieces, tokens, usage, words
from llm_fallback.testing.answers.hints import TextHints
from llm_fallback.testing.answers.prompt import Prompt, Request, prompt_tokens, read
from llm_fallback.testing.answers.schema import fill
from llm_fallback.testing.answers.tools import tool_calls
from llm_fallback.testing.scripts import Reply

_LONGEST_ECHO = 200
_DECODER = json.JSONDecoder()


def answer(request: Request) -> Answer:
    """A call of a bound tool, an instance of a requested schema, or an echo of the prompt."""
    prompt = read(request)
    calls = tool_calls(request, prompt)
    uncounted = Answer(tool_calls=calls, finish="tool_calls") if calls else _limited(_text(request, prompt), request)
    return replace(uncounted, usage=count_usage(uncounted, request))


def answer_as(reply: Reply, request: Request) -> Answer:
    """The answer that a scripted reply gives to the request; a sensible one if the script has none."""
    given = answer(request) if reply.is_open else _scripted(reply)
    if isinstance(reply.chunks, int):
        given = replace(given, pieces=pieces(given.text, reply.chunks))
    given = replace(given, model=reply.model, reasoning=reply.reasoning, finish=reply.finish or given.finish)
    given = _continuation(given, request)
    return replace(given, usage=_usage(reply, given, request))


def count_usage(answer: Answer, request: Request) -> dict[str, Any]:
    """Usage of a request and its answer, as a fake counts tokens."""
    calls = "".join(call.arguments + call.name for call in answer.tool_calls)
    reasoning = len(tokens(answer.reasoning or ""))
    completion = len(tokens(answer.text)) + len(tokens(calls)) + reasoning
    choices = read_choices(request.get("n"))
    return usage(prompt_tokens(request), choices * completion, choices * reasoning)


def _continuation(answer: Answer, request: Request) -> Answer:
    """The rest of the answer, if the request ends with its beginning and asks to continue that, as vLLM allows."""
    last = request["messages"][-1] if request.get("messages") else {}
    if not request.get("continue_final_message") or last.get("role") != "assistant":
        return answer
    prefill = last.get("content") or ""
    if not answer.text.startswith(prefill):
        return answer
    return replace(answer, pieces=_without_start(answer.pieces, len(prefill)), reasoning=None)


def _without_start(pieces: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The pieces without their first `count` characters."""
    rest = []
    for piece in pieces:
        rest.append(piece[count:])
        count = max(0, count - len(piece))
    return tuple(piece for piece in rest if piece)


def _scripted(reply: Reply) -> Answer:
    calls = tuple(ToolCall(call["name"], call.get("args", {}), call.get("id")) for call in reply.tool_calls or ())
    return Answer(pieces(reply.text, reply.chunks), tool_calls=calls, finish="tool_calls" if calls else "stop")


def _usage(reply: Reply, answer: Answer, request: Request) -> Mapping[str, Any]:
    if reply.usage is None:
        return count_usage(answer, request)
    return usage(*reply.usage) if isinstance(reply.usage, tuple) else dict(reply.usage)


def _text(request: Request, prompt: Prompt) -> str:
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        return _filled(response_format["json_schema"].get("schema", {}), prompt)
    schema, rest = _schema_in(prompt.question)
    if schema is not None:
        return _filled(schema, replace(prompt, question=rest))
    if response_format.get("type") == "json_object":
        return json.dumps(_object(prompt), ensure_ascii=False)
    if prompt.results:
        return " ".join(f"According to {result.tool}: {result.text}" for result in prompt.results)
    return _echo(prompt)


def _filled(schema: Mapping[str, Any], prompt: Prompt) -> str:
    return json.dumps(fill(schema, TextHints(prompt.everything)), ensure_ascii=False)


def _object(prompt: Prompt) -> dict[str, Any]:
    """An object with the keys that the prompt has in quotation marks, or with `answer` if there are none."""
    hints = TextHints(prompt.everything)
    keys = [key for key in hints.quotations() if key.isidentifier()] or ["answer"]
    subject = hints.subject() or prompt.question[:_LONGEST_ECHO]
    return {key: f"{key} about {subject}" for key in keys}


def _schema_in(question: str) -> tuple[Mapping[str, Any] | None, str]:
    """The last JSON schema in a prompt, as format instructions contain one, and the prompt without JSON objects."""
    if '"properties"' not in question:
        return None, question
    schema, rest = None, question
    for document, source in _documents(question):
        rest = rest.replace(source, "", 1)
        schema = document if isinstance(document.get("properties"), dict) else schema
    return schema, rest


def _documents(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The JSON objects in a text, each with its source."""
    at = text.find("{")
    while at >= 0:
        try:
            document, end = _DECODER.raw_decode(text, at)
            yield document, text[at:end]
        except ValueError:
            end = at + 1
        at = text.find("{", end)


def _echo(prompt: Prompt) -> str:
    question = re.sub(r"\s+", " ", prompt.question).strip()[:_LONGEST_ECHO]
    parts = [question] if question else []
    return " ".join(["A fake answer to:", *parts, *(f"[{kind}]" for kind in prompt.attachments)])


def _limited(text: str, request: Request) -> Answer:
    """The text up to the first stop sequence and within the limit of tokens."""
    text = _before_stop(text, request.get("stop"))
    limit = read_limit(request.get("max_completion_tokens")) or read_limit(request.get("max_tokens"))
    parts = tokens(text)
    if limit is None or len(parts) <= limit:
        return Answer(words(text))
    return Answer(words("".join(parts[:limit])), finish="length")


def _before_stop(text: str, stop: str | list[str] | None) -> str:
    stops = [stop] if isinstance(stop, str) else stop or []
    return text[: min((text.find(one) for one in stops if one in text), default=len(text))]
