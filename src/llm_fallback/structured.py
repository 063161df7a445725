"""Structured output as a promise of the chain: a reply that does not parse is as useless as an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseLLMOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableSequence


@dataclass(frozen=True, slots=True, eq=False)
class Structured:
    """The form a model's replies must have."""

    traced_as: Mapping[str, Any]
    """What LangSmith shows of it."""
    parser: Runnable[Any, Any]

    def verdict(self, message: AIMessage) -> bool | str:
        """True for a reply that parses and validates, else what is wrong with it."""
        try:
            parsed = _parsed(self.parser, message)
        except Exception as error:  # noqa: BLE001 - a parser of the user's may raise anything, and means no by it
            return f"the reply does not parse: {type(error).__name__}"
        return parsed is not None or "the reply has no call of the schema's tool"


def structured(sequence: Runnable[Any, Any], traced_as: Mapping[str, Any]) -> Structured:
    """The form that a `model | parser` sequence asks for."""
    assert isinstance(sequence, RunnableSequence)
    rest = sequence.steps[1:]
    return Structured(traced_as, rest[0] if len(rest) == 1 else RunnableSequence(*rest))


def _parsed(parser: Runnable[Any, Any], message: AIMessage) -> Any:
    if isinstance(parser, BaseLLMOutputParser):
        # Not invoke(): judging a reply is no step of the user's chain and must not show up in its trace.
        return parser.parse_result([ChatGeneration(message=message)])
    return parser.invoke(message, {"callbacks": []})
