"""Whether a request can be written as JSON: one that cannot be is no deployment's fault, and no deployment gets it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

_NEVER_SENT = "metadata"
"""A word that stays in the process, where it may hold whatever it likes."""

_SUSPICIOUS = re.compile(r"NaN|Infinity|[eE]\+?\d{3}|\\u[dD][89a-fA-F]")
"""Without any of these a text of JSON has neither a number that JSON cannot hold nor half a character."""


def why_not_json(request: Mapping[str, Any]) -> str | None:
    """What keeps a request from being written as JSON; None if nothing does.

    JSON has no lone surrogates, no NaN or infinity, no sets, bytes or dates, and nothing that contains itself. A class
    of pydantic as `response_format` stands there for its schema, and is as good as that. The arguments of tool calls
    are JSON inside of a text, and have to be it: most protocols, and most servers' templates, take them out of it.
    """
    sent = {word: value for word, value in request.items() if word != _NEVER_SENT}
    form = sent.get("response_format")
    try:
        if isinstance(form, type) and issubclass(form, BaseModel):
            sent["response_format"] = form.model_json_schema()
    except Exception as error:  # noqa: BLE001 - a schema that cannot be made is told in exceptions of pydantic's
        return " ".join(str(error).split())
    return _why_not_written(sent) or next(_unwritable_arguments(sent), None)


def _why_not_written(value: Any) -> str | None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=_left_out).encode()
    except UnicodeEncodeError as error:
        return f"the lone surrogate {error.object[error.start]!a} stands for no character"
    except RecursionError:
        return "it is nested too deeply"
    except (TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _unwritable_arguments(sent: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with arguments of tool calls that Python reads as JSON, and JSON cannot hold. What is no JSON at
    all a model may have written; it is for a server to say what it makes of that."""
    for function in _functions_called(sent.get("messages")):
        arguments = function.get("arguments")
        if not isinstance(arguments, str) or not _SUSPICIOUS.search(arguments):
            continue
        try:
            why = _why_not_written(json.loads(arguments))
        except (ValueError, RecursionError):
            continue
        if why is not None:
            yield f"in the arguments of the tool call {function.get('name')!r}: {why}; leave it out, or write null"


def _functions_called(messages: Any) -> Iterator[Mapping[str, Any]]:
    for message in messages if isinstance(messages, list | tuple) else ():
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        for call in calls if isinstance(calls, list | tuple) else ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping):
                yield function


def _left_out(value: Any) -> None:
    """What becomes of a function: it is for whoever sends, as a logger, and no server gets one."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"JSON has no {type(value).__name__}")
