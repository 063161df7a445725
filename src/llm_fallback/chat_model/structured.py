"""A form that replies must have, as a promise of the chain: a reply that does not parse is as useless as an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseLLMOutputParser, JsonOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputToolsParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.utils.json import parse_json_markdown


@dataclass(frozen=True, slots=True, eq=False)
class OutputFormat:
    """The form a model's replies must have."""

    parser: Runnable[Any, Any]
    trace_format: Mapping[str, Any] | None = None
    """The schema asked for, as LangSmith shows it; None where a parser alone says what is wanted."""

    def validate(self, message: AIMessage) -> bool | str:
        """True for a reply that parses and validates, else what is wrong with it."""
        try:
            parsed = _parsed(self.parser, message)
        except ImportError:
            raise  # What the parser lacks is not here, and no other reply would bring it.
        except Exception as error:  # noqa: BLE001 - a parser of the user's may raise anything, and means no by it
            return f"the reply does not parse: {type(error).__name__}"
        if _may_lack_digits(parsed) and message.response_metadata.get("finish_reason") == "length":
            return "the reply is a number that may have broken off"
        if parsed is None and isinstance(self.parser, JsonOutputToolsParser):
            return "the reply has no call of the schema's tool"
        return True if self.trace_format is None else _has_required_keys(parsed, self.trace_format["schema"])


def _may_lack_digits(parsed: Any) -> bool:
    """Whether the beginning of a longer document could have been read as this; all others show their end."""
    return isinstance(parsed, int | float) and not isinstance(parsed, bool)


def structured(sequence: Runnable[Any, Any], trace_format: Mapping[str, Any]) -> OutputFormat:
    """The form that a `model | parser` sequence asks for."""
    assert isinstance(sequence, RunnableSequence)
    rest = sequence.steps[1:]
    return OutputFormat(rest[0] if len(rest) == 1 else RunnableSequence(*rest), trace_format)


def _parsed(parser: Runnable[Any, Any], message: AIMessage) -> Any:
    if isinstance(parser, JsonOutputParser):
        # LangChain's parser completes a document that breaks off, and half an answer would pass for a whole one.
        parse_json_markdown(message.text, parser=partial(json.loads, strict=False, parse_constant=_no_json))
    if isinstance(parser, BaseLLMOutputParser):
        # Not invoke(): judging a reply is no step of the user's chain and must not show up in its trace.
        return parser.parse_result([ChatGeneration(message=message)])
    return parser.invoke(message, {"callbacks": []})


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is Python's JSON and nobody else's")


def _has_required_keys(parsed: Any, tool: Mapping[str, Any]) -> bool | str:
    """Whether plain data have the schema's keys; only of pydantic models LangChain's parsers see to that."""
    if parsed is None or isinstance(parsed, str | int | float | list):
        return "the reply is JSON, but no object"
    required = tool["function"]["parameters"].get("required", ()) if isinstance(parsed, Mapping) else ()
    missing = [key for key in required if key not in parsed]
    return not missing or f"the reply lacks {', '.join(map(repr, missing))}"
