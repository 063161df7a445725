"""What is asked of a model for a row: its prompt, or its messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages

from llm_fallback.chat_model.batch.rows import Fields
from llm_fallback.engine.encoding import read_json
from llm_fallback.errors import BatchRefused, did_you_mean

_COLUMNS = ("messages", "prompt")


class NoPrompt(ValueError):
    """A row that nothing can be asked for."""


def column_of(fields: Fields, named: str | None, place: str) -> str:
    """The column that holds the prompt or the messages. Raises BatchRefused if there is none."""
    wanted = _COLUMNS if named is None else (named,)
    found = next((column for column in wanted if column in fields), None)
    if found is not None:
        return found
    columns = ", ".join(map(repr, fields)) or "none"
    if named is None:
        raise BatchRefused(f"{place}: has neither 'prompt' nor 'messages'; name a column, of {columns}")
    raise BatchRefused(f"{place}: has no {named!r}; {did_you_mean(named, fields, f'its columns are {columns}')}")


def messages_of(fields: Fields, column: str) -> Sequence[BaseMessage]:
    """What a row asks. Raises NoPrompt if its column holds neither a text nor messages."""
    value = fields[column]
    if isinstance(value, str) and column == "messages":
        value = _parsed(value)
    if isinstance(value, str) and value.strip():
        return [HumanMessage(value)]
    if isinstance(value, list) and value:
        return _converted(value)
    raise NoPrompt(f"{column!r} is {'empty' if not value else 'neither a text nor a list of messages'}")


def _parsed(text: str) -> Any:
    """Messages in a table are JSON."""
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        return text


def _converted(value: Iterable[Any]) -> list[BaseMessage]:
    try:
        return convert_to_messages([tuple(item) if isinstance(item, list) else item for item in value])
    except Exception as error:  # noqa: BLE001 - what they are not, LangChain finds out by whatever breaks
        raise NoPrompt(f"its messages are none of LangChain's or OpenAI's: {error}") from None
