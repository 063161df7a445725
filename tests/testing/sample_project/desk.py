"""A help desk that asks a chain of models."""

from collections.abc import AsyncIterator, Iterator
from typing import Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel

from llm_fallback import ChainExhausted, StreamBroken

PROMPT = ChatPromptTemplate.from_messages([("system", "You help people with their bicycles."), ("user", "{question}")])
SORRY = "Nobody is at the desk right now."


class Ticket(BaseModel):
    """What somebody wants of us."""

    subject: str
    urgency: Literal["low", "high"]


@tool
def stock(part: str) -> str:
    """How many of a part are in stock."""
    return f"3 of {part}"


def answer(model: BaseChatModel, question: str) -> str:
    try:
        return (PROMPT | model).invoke({"question": question}).text
    except ChainExhausted:
        return SORRY


async def answer_soon(model: BaseChatModel, question: str) -> str:
    try:
        return (await (PROMPT | model).ainvoke({"question": question})).text
    except ChainExhausted:
        return SORRY


def typed(model: BaseChatModel, question: str) -> Iterator[str]:
    try:
        for chunk in (PROMPT | model).stream({"question": question}):
            yield chunk.text
    except StreamBroken:
        yield "…"


async def typed_soon(model: BaseChatModel, question: str) -> AsyncIterator[str]:
    try:
        async for chunk in (PROMPT | model).astream({"question": question}):
            yield chunk.text
    except StreamBroken:
        yield "…"


def triage(model: BaseChatModel, mail: str) -> Ticket:
    return model.with_structured_output(Ticket).invoke(mail)


def part_asked_for(model: BaseChatModel, question: str) -> str | None:
    calls = model.bind_tools([stock]).invoke(question).tool_calls
    return calls[0]["args"]["part"] if calls else None
