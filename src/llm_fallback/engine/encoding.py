"""Whether a request can be written as JSON: one that cannot be is no deployment's fault, and no deployment gets it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_NEVER_SENT = "metadata"
"""A word that stays in the process, where it may hold whatever it likes."""


def why_not_json(request: Mapping[str, Any]) -> str | None:
    """What keeps a request from being written as JSON; None if nothing does.

    JSON has no lone surrogates, no NaN or infinity, no sets, bytes or dates, and nothing that contains itself. A class
    of pydantic as `response_format` stands there for its schema, and is as good as that.
    """
    sent = {word: value for word, value in request.items() if word != _NEVER_SENT}
    form = sent.get("response_format")
    try:
        if isinstance(form, type) and issubclass(form, BaseModel):
            sent["response_format"] = form.model_json_schema()
        json.dumps(sent, ensure_ascii=False, allow_nan=False, default=_left_out).encode()
    except UnicodeEncodeError as error:
        return f"the lone surrogate {error.object[error.start]!a} stands for no character"
    except RecursionError:
        return "it is nested too deeply"
    except Exception as error:  # noqa: BLE001 - a schema that cannot be made is told in exceptions of pydantic's
        return " ".join(str(error).split())
    return None


def _left_out(value: Any) -> None:
    """What becomes of a function: it is for whoever sends, as a logger, and no server gets one."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"JSON has no {type(value).__name__}")
