"""Calls whose handlers listen: past LangChain's steps, and the same for whoever asks and whoever listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler

from llm_fallback.chat_model import base, with_handlers
from llm_fallback.errors import ChainExhausted
from llm_fallback.testing import Fail, Reply, fake_chat_model
from tests.chat_model.test_without_handlers import FORMS, by_langchain, plainly, two_chains

TOLD = ("on_chat_model_start", "on_llm_new_token", "on_llm_end", "on_llm_error", "on_custom_event")


def note_of(name: str) -> Any:
    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        self.told.append((name, args, kwargs))

    return note


def async_note_of(name: str) -> Any:
    async def note(self: Any, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        self.told.append((name, args, kwargs))

    return note


class Sync(BaseCallbackHandler):
    def __init__(self) -> None:
        self.told: list[Any] = []


class Async(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.told: list[Any] = []


for _name in TOLD:
    setattr(Sync, _name, note_of(_name))
    setattr(Async, _name, async_note_of(_name))


class InlineSync(Sync):
    run_inline = True


class InlineAsync(Async):
    run_inline = True


HANDLERS = (Sync, InlineSync, Async, InlineAsync)


@contextmanager
def counted_steps() -> Iterator[list[str]]:
    """Notes which calls go through LangChain's steps."""
    noted: list[str] = []
    ask = with_handlers.message_with_handlers

    async def note(*args: Any) -> AIMessage | None:
        message = await ask(*args)
        noted.append("through" if message is None else "past")
        return message

    with patch.object(base, "message_with_handlers", note):
        yield noted


def comparable(told: list[Any]) -> list[Any]:
    """What a handler was told, errors by what they say."""
    return [
        (name, *(repr(each) if isinstance(each, Exception) else each for each in args), kwargs)
        for name, args, kwargs in told
    ]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("form", FORMS)
async def test_message_and_events_are_those_that_langchain_gives(form, handler):
    """The message with id and metadata; and the handler is told the same of the same run."""
    script, prompt, words = FORMS[form]
    answers, told = [], []
    shared = {"run_id": uuid4(), "metadata": {"customer": "x"}, "tags": ["t"], "run_name": "capital"}
    with counted_steps() as steps:
        for asking in (plainly, by_langchain):
            hears = handler()
            answers.append(
                await asking(two_chains(script), "ainvoke", prompt, {**shared, "callbacks": [hears]}, **words)
            )
            told.append(comparable(hears.told))
    assert steps == ([] if form == "content of older forms" else ["past"])
    assert answers[0].model_dump() == answers[1].model_dump()
    assert told[0] == told[1]
    assert [event[0] for event in told[0]] == ["on_chat_model_start", "on_llm_end"]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_fallback_is_told_the_same(handler):
    """As custom events of the call's run, between its beginning and its end."""
    told = []
    run_id = uuid4()
    for asking in (plainly, by_langchain):
        hears = handler()
        model = fake_chat_model({"a": Fail("overloaded"), "b": "fine"}, tags=["own"], metadata={"own": 1})
        await asking(model, "ainvoke", "hi", {"run_id": run_id, "callbacks": [hears]})
        told.append(comparable(hears.told))
    assert told[0] == told[1]
    assert [event[0] for event in told[0]].count("on_custom_event") == 2


class Refused(Exception):
    """As an SDK's errors: with a response."""

    class response:
        status_code = 418
        headers = {"x-request-id": "r"}


def refuse(message: AIMessage) -> bool:
    raise Refused("no")


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("accept", [None, refuse])
async def test_an_error_is_told_and_raised_the_same(handler, accept):
    """With what LangChain reads of a response, where the error has one."""
    errors, told, run_id = [], [], uuid4()
    for asking in (plainly, by_langchain):
        hears = handler()
        model = fake_chat_model({"a": "fine" if accept else Fail("auth")}, accept=accept)
        with pytest.raises((ChainExhausted, Refused)) as caught:
            await asking(model, "ainvoke", "hi", {"run_id": run_id, "callbacks": [hears]})
        errors.append((type(caught.value), str(caught.value)))
        told.append(comparable(hears.told))
    assert errors[0] == errors[1]
    assert told[0] == told[1]
    assert told[0][-1][0] == "on_llm_error"


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_call_that_is_cancelled_is_told_the_same(handler):
    """Of its beginning alone."""
    told, run_id = [], uuid4()
    for asking in (plainly, by_langchain):
        hears, waits = handler(), asyncio.Event()

        async def accept(message: AIMessage, waits: asyncio.Event = waits) -> bool:
            waits.set()
            return await asyncio.Event().wait()

        model = fake_chat_model({"a": "fine"}, accept=accept)
        call = asyncio.ensure_future(asking(model, "ainvoke", "hi", {"run_id": run_id, "callbacks": [hears]}))
        await waits.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        told.append(comparable(hears.told))
    assert told[0] == told[1]
    assert [event[0] for event in told[0]] == ["on_chat_model_start"]


@pytest.mark.parametrize("moment", ["on_chat_model_start", "on_llm_end"])
async def test_a_handler_that_raises_stops_the_call(moment):
    """Where it says `raise_error`."""

    class Raises(InlineSync):
        raise_error = True

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise KeyError(moment)

    setattr(Raises, moment, fail)
    for asking in (plainly, by_langchain):
        with pytest.raises(KeyError, match=moment):
            await asking(fake_chat_model({"a": "fine"}), "ainvoke", "hi", {"callbacks": [Raises()]})


async def test_the_run_around_it_is_told():
    """A chain's handlers hear of the call as of a part of the chain."""
    runs = []
    for asking in (plainly, by_langchain):
        hears, model, run_id = Sync(), fake_chat_model({"a": "fine"}), uuid4()

        async def ask(_: Any, asking: Any = asking, model: Any = model) -> AIMessage:
            return await asking(model, "ainvoke", "hi")

        await RunnableLambda(ask).ainvoke("x", {"run_id": run_id, "callbacks": [hears]})
        runs.append([(name, kwargs["parent_run_id"] == run_id) for name, _, kwargs in hears.told])
    assert runs[0] == runs[1] == [("on_chat_model_start", True), ("on_llm_end", True)]


async def test_who_wants_a_stream_gets_one():
    """Handlers of either kind that LangChain streams for go its way, and hear of each token."""

    class WantsEvents(Async, _V2StreamingCallbackHandler):
        pass

    with counted_steps() as steps:
        model = fake_chat_model({"a": Reply("one two")})
        events = [event["event"] async for event in RunnableLambda(model.ainvoke).astream_events("hi")]
        assert [request.stream for request in model.received()] == [True]
        assert "on_chat_model_stream" in events
        model = fake_chat_model({"a": Reply("one two")})
        await model.ainvoke("hi", {"callbacks": [WantsEvents()]})
        assert [request.stream for request in model.received()] == [True]
    assert steps == ["through", "through"]


async def test_where_langchain_has_moved_its_steps_calls_go_its_way(monkeypatch):
    """Nobody is told twice."""
    monkeypatch.setattr(with_handlers, "_HAS_STEPS", False)
    hears = Sync()
    with counted_steps() as steps:
        await fake_chat_model({"a": "fine"}).ainvoke("hi", {"callbacks": [hears]})
    assert steps == ["through"]
    assert [name for name, *_ in hears.told] == ["on_chat_model_start", "on_llm_end"]
