"""JSON read and written, by orjson where it is installed, with one meaning with and without it.

And why a request cannot be written: one that cannot is no deployment's fault, and no deployment gets it. orjson comes
with LangChain, and is ten to a hundred times as fast. What it refuses, or would read or write otherwise than the
standard library, is the standard library's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Never
from uuid import UUID

from pydantic import BaseModel

try:
    import orjson
except ImportError:
    _orjson = None
else:
    _orjson = orjson
    _AS_THE_STANDARD_LIBRARY = (
        orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
    )

_LONG_NUMBER = re.compile(r"\d{19}"), re.compile(rb"\d{19}")
"""Of a whole number of more than 64 bits orjson makes a float."""


def read_json(data: bytes | str, *, strict: bool = True) -> Any:
    """The value of a JSON text. NaN, Infinity and numbers beyond a float are none. Unless `strict`, texts in it may
    hold line ends as they are, as models write them. Raises ValueError or RecursionError."""
    if _orjson is not None and not _LONG_NUMBER[isinstance(data, bytes)].search(data):  # type: ignore[arg-type]
        try:
            return _orjson.loads(data)
        except ValueError:
            pass  # It refuses half characters, too, which the standard library reads.
    return read_json_slowly(data, strict=strict)


def read_json_slowly(data: bytes | str, *, strict: bool = True) -> Any:
    """Like read_json, by the standard library."""
    return _DECODERS[strict].decode(data.decode() if isinstance(data, bytes) else data)


def _refuse(word: str) -> Never:
    raise ValueError(f"JSON has no {word}")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


_DECODERS = {
    strict: json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, strict=strict) for strict in (True, False)
}


def write_json(document: Any) -> bytes:
    """The JSON text of a value; of an Enum its value's, of a UUID that of its text. Raises ValueError."""
    if _orjson is not None:
        try:
            written: bytes = _orjson.dumps(document, option=_AS_THE_STANDARD_LIBRARY)
        except TypeError:
            return write_json_slowly(document)
        if b"null" not in written:
            return written  # Else it may be what orjson makes of NaN.
    return write_json_slowly(document)


def write_json_slowly(document: Any) -> bytes:
    """Like write_json, by the standard library."""
    try:
        return json.dumps(
            document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_plain
        ).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _as_plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


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
