"""A form that replies must have, as a promise of the chain: a reply that does not parse is as useless as an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseLLMOutputParser, JsonOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputToolsParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableSequence
from langchain_core.utils.json import parse_json_markdown
from pydantic import ValidationError

from llm_fallback.errors import ChainExhausted


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
            return f"the reply does not parse: {_flaws(error)}"
        if _may_lack_digits(parsed) and message.response_metadata.get("finish_reason") == "length":
            return "the reply is a number that may have broken off"
        if parsed is None and isinstance(self.parser, JsonOutputToolsParser):
            return "the reply has no call of the schema's tool"
        return True if self.trace_format is None else _has_required_keys(parsed, self.trace_format["schema"])


def _flaws(error: BaseException) -> str:
    """Which fields are wrong, and how, where pydantic says so; else the class of the error. No word of the reply."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ValidationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return type(error).__name__
    told = cause.errors(include_url=False, include_context=False, include_input=False)
    flaws = [f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {_lowered(each['msg'])}" for each in told]
    more = f", and {len(flaws) - _MOST_FLAWS} more" if len(flaws) > _MOST_FLAWS else ""
    return "; ".join(flaws[:_MOST_FLAWS]) + more


_MOST_FLAWS = 5


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def _may_lack_digits(parsed: Any) -> bool:
    """Whether the beginning of a longer document could have been read as this; all others show their end."""
    return isinstance(parsed, int | float) and not isinstance(parsed, bool)


def structured(sequence: Runnable[Any, Any], trace_format: Mapping[str, Any]) -> OutputFormat:
    """The form that a `model | parser` sequence asks for."""
    assert isinstance(sequence, RunnableSequence)
    rest = sequence.steps[1:]
    return OutputFormat(rest[0] if len(rest) == 1 else RunnableSequence(*rest), trace_format)


class RawAndParsed(TypedDict):
    """What `include_raw` gives."""

    raw: AIMessage
    parsed: Any
    parsing_error: Exception | None


def with_raw(sequence: Runnable[Any, Any], form: OutputFormat) -> Runnable[LanguageModelInput, Any]:
    """A `model | parser` sequence that gives the reply beside what it was parsed to. When nobody's reply is of the
    form, it gives the last one that came, and why it is not.

    One step, not LangChain's `{"raw": model} | parser`: what catches errors there catches none of a stream.
    """
    assert isinstance(sequence, RunnableSequence)
    model, parser = sequence.steps[0], form.parser

    def read(input: LanguageModelInput, config: RunnableConfig, **kwargs: Any) -> RawAndParsed:
        try:
            raw = model.invoke(input, config, **kwargs)
        except ChainExhausted as error:
            raw = _last_reply(error)
        try:
            parsed = parser.invoke(raw, config)
        except Exception as error:  # noqa: BLE001 - whatever a parser raises is what is asked for
            return RawAndParsed(raw=raw, parsed=None, parsing_error=error)
        return _judged(raw, parsed, form)

    async def aread(input: LanguageModelInput, config: RunnableConfig, **kwargs: Any) -> RawAndParsed:
        try:
            raw = await model.ainvoke(input, config, **kwargs)
        except ChainExhausted as error:
            raw = _last_reply(error)
        try:
            parsed = await parser.ainvoke(raw, config)
        except Exception as error:  # noqa: BLE001 - whatever a parser raises is what is asked for
            return RawAndParsed(raw=raw, parsed=None, parsing_error=error)
        return _judged(raw, parsed, form)

    return RunnableLambda(read, aread, name="structured output")


def _last_reply(error: ChainExhausted) -> AIMessage:
    if error.last_reply is None:
        raise error
    return error.last_reply


def _judged(raw: AIMessage, parsed: Any, form: OutputFormat) -> RawAndParsed:
    """With our own verdict where a parser takes what is not of the form: half a document, an object without a key."""
    verdict = form.validate(raw)
    if verdict is True:
        return RawAndParsed(raw=raw, parsed=parsed, parsing_error=None)
    error = OutputParserException(str(verdict), llm_output=raw.text)
    return RawAndParsed(raw=raw, parsed=None, parsing_error=error)


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


def _required(schema: Any) -> list[str]:
    """The keys that a schema names as required; of a function without parameters, or a schema that is none, none."""
    named = schema.get("required") if isinstance(schema, Mapping) else None
    return [key for key in named if isinstance(key, str)] if isinstance(named, list) else []


def _has_required_keys(parsed: Any, tool: Mapping[str, Any]) -> bool | str:
    """Whether plain data have the schema's keys; only of pydantic models LangChain's parsers see to that."""
    if parsed is None or isinstance(parsed, str | int | float | list):
        return "the reply is JSON, but no object"
    required = _required(tool["function"].get("parameters")) if isinstance(parsed, Mapping) else []
    missing = [key for key in required if key not in parsed]
    return not missing or f"the reply lacks {', '.join(map(repr, missing))}"
