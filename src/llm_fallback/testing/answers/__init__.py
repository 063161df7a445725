"""How a fake answers without a script: sensibly, always the same, as pure functions over OpenAI's request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

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
    meant = Answer(tool_calls=calls, finish="tool_calls") if calls else _limited(_text(request, prompt), request)
    return replace(meant, usage=counted(meant, request))


def answer_as(reply: Reply, request: Request) -> Answer:
    """What a scripted reply says to the request; without a text it says what makes sense."""
    meant = answer(request) if reply.is_open else _scripted(reply)
    if isinstance(reply.chunks, int):
        meant = replace(meant, pieces=pieces(meant.text, reply.chunks))
    meant = replace(meant, model=reply.model, reasoning=reply.reasoning, finish=reply.finish or meant.finish)
    meant = _going_on(meant, request)
    return replace(meant, usage=_usage(reply, meant, request))


def _going_on(meant: Answer, request: Request) -> Answer:
    """What is left to say when the request hands over the beginning of the reply, in vLLM's way."""
    last = request["messages"][-1] if request.get("messages") else {}
    if not request.get("continue_final_message") or last.get("role") != "assistant":
        return meant
    begun = last.get("content") or ""
    if not meant.text.startswith(begun):
        return meant
    return replace(meant, pieces=_after(meant.pieces, len(begun)), reasoning=None)


def _after(said: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The pieces without their first `count` characters."""
    left = []
    for piece in said:
        left.append(piece[count:])
        count = max(0, count - len(piece))
    return tuple(piece for piece in left if piece)


def counted(meant: Answer, request: Request) -> dict[str, Any]:
    """Usage of a request and its answer, by this fake's own count."""
    called = "".join(call.arguments + call.name for call in meant.tool_calls)
    thought = len(tokens(meant.reasoning or ""))
    choices = int(request.get("n") or 1)
    said = len(tokens(meant.text)) + len(tokens(called)) + thought
    return usage(prompt_tokens(request), choices * said, choices * thought)


def _scripted(reply: Reply) -> Answer:
    calls = tuple(ToolCall(call["name"], call.get("args", {}), call.get("id")) for call in reply.tool_calls)
    return Answer(pieces(reply.text, reply.chunks), tool_calls=calls, finish="tool_calls" if calls else "stop")


def _usage(reply: Reply, meant: Answer, request: Request) -> Mapping[str, Any]:
    if reply.usage is None:
        return counted(meant, request)
    return usage(*reply.usage) if isinstance(reply.usage, tuple) else dict(reply.usage)


def _text(request: Request, prompt: Prompt) -> str:
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return _filled(wanted["json_schema"].get("schema", {}), prompt)
    schema, rest = _schema_told(prompt.question)
    if schema is not None:
        return _filled(schema, replace(prompt, question=rest))
    if wanted.get("type") == "json_object":
        return json.dumps(_object(prompt), ensure_ascii=False)
    return _after_tools(prompt) if prompt.results else _echo(prompt)


def _filled(schema: Mapping[str, Any], prompt: Prompt) -> str:
    return json.dumps(fill(schema, TextHints(prompt.everything)), ensure_ascii=False)


def _object(prompt: Prompt) -> dict[str, Any]:
    """An object with the keys the prompt has in quotation marks, if it has any that look like keys."""
    hints = TextHints(prompt.everything)
    keys = [key for key in hints.quotations() if key.isidentifier()] or ["answer"]
    subject = hints.subject() or prompt.question[:_LONGEST_ECHO]
    return {key: f"{key} about {subject}" for key in keys}


def _schema_told(question: str) -> tuple[Mapping[str, Any] | None, str]:
    """The last JSON schema a prompt spells out, as format instructions do, and what else it says."""
    if '"properties"' not in question:
        return None, question
    schema, rest = None, question
    for document, source in _documents(question):
        rest = rest.replace(source, "", 1)
        schema = document if isinstance(document.get("properties"), dict) else schema
    return schema, rest


def _documents(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    at = text.find("{")
    while at >= 0:
        try:
            document, end = _DECODER.raw_decode(text, at)
            yield document, text[at:end]
        except ValueError:
            end = at + 1
        at = text.find("{", end)


def _after_tools(prompt: Prompt) -> str:
    return " ".join(f"According to {result.tool}: {result.text}" for result in prompt.results)


def _echo(prompt: Prompt) -> str:
    about = re.sub(r"\s+", " ", prompt.question).strip()[:_LONGEST_ECHO]
    heard = [about] if about else []
    return " ".join(["A fake answer to:", *heard, *(f"[{kind}]" for kind in prompt.attachments)])


def _limited(text: str, request: Request) -> Answer:
    """The text up to the first stop sequence and within the limit of tokens."""
    said = _before_stop(text, request.get("stop"))
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    within = tokens(said)
    if limit is None or len(within) <= limit:
        return Answer(words(said))
    return Answer(words("".join(within[:limit])), finish="length")


def _before_stop(text: str, stop: str | list[str] | None) -> str:
    stops = [stop] if isinstance(stop, str) else stop or []
    return text[: min((text.find(one) for one in stops if one in text), default=len(text))]
