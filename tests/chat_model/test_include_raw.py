"""Replies that are not of the form asked for, when nobody has a better one: handed over, or in the error."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core import exceptions as langchain
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ValidationError

from llm_fallback import ChainExhausted, StreamBroken
from llm_fallback.testing import Fail, Reply
from tests.asking import MODES, STREAMED, ask
from tests.chat_model.test_history import WORLDS, models

METHODS = ("json_schema", "json_mode", "function_calling")
TALK = Reply("I would rather talk.", usage=(11, 5))


class Out(BaseModel):
    """An answer."""

    city: str


async def came(structured: Any, mode: str, **words: Any) -> Any:
    """The whole of what was parsed, however it came."""
    if mode not in STREAMED:
        return await ask(structured, mode, "x", **words)
    parts = list(structured.stream("x")) if mode == "stream" else [part async for part in structured.astream("x")]
    return {name: value for part in parts for name, value in part.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("world", WORLDS)
async def test_the_last_reply_and_what_is_wrong_with_it_are_handed_over(world, method, mode):
    """After everybody was asked; they were paid for."""
    with models(world, {"a": "Let us talk.", "b": TALK}) as (model, received):
        answer = await came(model.with_structured_output(Out, include_raw=True, method=method), mode)
        assert len(received("a")) >= 1
    assert set(answer) == {"raw", "parsed", "parsing_error"}
    raw = answer["raw"]
    assert isinstance(raw, AIMessage)
    assert raw.text == "I would rather talk."
    assert answer["parsed"] is None
    assert isinstance(answer["parsing_error"], OutputParserException)
    assert raw.usage_metadata["total_tokens"] == 16
    assert raw.response_metadata["model_name"] == "b"
    facts = raw.response_metadata["llm_fallback"]
    assert (facts["deployment"], facts["fell_back"]) == ("b", True)
    assert {attempt["failure"] for attempt in facts["attempts"]} == {"rejected"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", WORLDS)
async def test_a_better_reply_of_another_deployment_is_the_answer(world, mode):
    """Falling back comes first."""
    with models(world, {"a": "talk", "b": '{"city": "Oslo"}'}) as (model, _):
        answer = await came(model.with_structured_output(Out, include_raw=True), mode)
    assert (answer["parsed"], answer["parsing_error"]) == (Out(city="Oslo"), None)
    assert answer["raw"].response_metadata["llm_fallback"]["deployment"] == "b"


@pytest.mark.parametrize("world", WORLDS)
def test_a_reply_is_handed_over_though_the_last_attempt_brought_none(world):
    """It is the last that was received."""
    with models(world, {"a": "talk", "b": Fail(429)}, retries={"max": 0}) as (model, _):
        answer = model.with_structured_output(Out, include_raw=True).invoke("x")
    assert answer["raw"].text == "talk"
    assert isinstance(answer["parsing_error"], OutputParserException)


@pytest.mark.parametrize("world", WORLDS)
def test_without_any_reply_there_is_nothing_to_hand_over(world):
    """The chain is exhausted, as without the raw reply."""
    with models(world, {"a": Fail(500), "b": Fail(429)}, retries={"max": 0}) as (model, _):
        with pytest.raises(langchain.ModelRateLimitError) as caught:
            model.with_structured_output(Out, include_raw=True).invoke("x")
    assert isinstance(caught.value, ChainExhausted)
    assert not isinstance(caught.value, OutputParserException)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [('{"town": "Oslo"}', "lacks 'city'"), ('{"city": "Os', "does not parse"), ("null", "no object")],
)
@pytest.mark.parametrize("world", WORLDS)
def test_what_a_parser_takes_and_the_schema_does_not_is_our_verdict(world, text, verdict):
    """LangChain's parser completes half a document, and asks for no keys."""
    schema = {**Out.model_json_schema(), "title": "Out"}
    with models(world, {"a": text}, retries={"max": 0}) as (model, _):
        answer = model.with_structured_output(schema, include_raw=True).invoke("x")
    assert answer["parsed"] is None
    assert isinstance(answer["parsing_error"], OutputParserException)
    assert verdict in str(answer["parsing_error"])
    assert answer["parsing_error"].llm_output == text


@pytest.mark.parametrize("world", WORLDS)
def test_a_tool_call_with_wrong_arguments_is_handed_over_with_it(world):
    """The error is the one of the schema."""
    wrong = Reply("", tool_calls=[{"name": "Out", "args": {"city": 5}}])
    with models(world, {"a": wrong}, retries={"max": 0}) as (model, _):
        answer = model.with_structured_output(Out, include_raw=True, method="function_calling").invoke("x")
    assert [call["args"] for call in answer["raw"].tool_calls] == [{"city": 5}]
    assert isinstance(answer["parsing_error"], (ValidationError, OutputParserException))


@pytest.mark.parametrize("world", WORLDS)
def test_accept_judges_as_it_does_without_the_raw_reply(world):
    """What it refuses is handed over to nobody."""
    accept = lambda message: "Rome" in message.text  # noqa: E731
    with models(world, {"a": '{"city": "Oslo"}'}, retries={"max": 0}, accept=accept) as (model, _):
        with pytest.raises(ChainExhausted, match="accept said no") as caught:
            model.with_structured_output(Out, include_raw=True).invoke("x")
    assert not isinstance(caught.value, OutputParserException)


@pytest.mark.parametrize("world", WORLDS)
def test_a_call_may_say_more(world):
    """Chain, parameters and configuration reach the model."""
    with models(world, {"a": "talk"}, retries={"max": 0}) as (model, received):
        structured = model.with_structured_output(Out, include_raw=True)
        structured.invoke("x", seed=7)
        structured.bind(seed=8).invoke("x")
        with pytest.raises(ValueError, match="no chain is called 'none'"):
            structured.invoke("x", chain="none")
        with pytest.raises(ValueError, match="no chain is called 'none'"):
            structured.invoke("x", config={"configurable": {"llm_fallback_chain": "none"}})
        assert [request.body["seed"] for request in received("a")] == [7, 8]


@pytest.mark.parametrize("world", WORLDS)
def test_a_reply_that_is_not_of_the_form_is_never_cached(world):
    """The next call asks anew, and gets what is of it."""
    with models(world, {"a": ["talk", '{"city": "Oslo"}']}, retries={"max": 0}, cache=InMemoryCache()) as (model, _):
        structured = model.with_structured_output(Out, include_raw=True)
        assert structured.invoke("x")["parsed"] is None
        assert [structured.invoke("x")["parsed"] for _ in range(2)] == [Out(city="Oslo")] * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("world", WORLDS)
async def test_without_the_raw_reply_the_error_is_also_that_of_a_parser(world, method, mode):
    """So that whoever mends replies gets the text; pickled too, and in the words it always had."""
    with models(world, {"a": "Let us talk.", "b": TALK}, retries={"max": 0}) as (model, _):
        structured = model.with_structured_output(Out, method=method)
        with pytest.raises(OutputParserException) as caught:
            _ = await ask(structured, mode, "x")
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, ChainExhausted)
        assert isinstance(error, langchain.ModelAPIError)
        assert type(error).__name__ == "ChainExhausted"
        assert error.llm_output == "I would rather talk."
        assert str(error).splitlines()[0] == "chain 'default' has no answer"
        assert "docs.langchain.com" not in str(error)
        assert error.is_retryable is False
        assert [attempt.failure for attempt in error.attempts] == ["rejected", "rejected"]
        assert error.last_reply.text == "I would rather talk."


@pytest.mark.parametrize(
    ("last", "kind"), [(Fail(500), OutputParserException), (Fail(429), langchain.ModelRateLimitError)]
)
@pytest.mark.parametrize("world", WORLDS)
def test_the_class_of_the_last_attempt_counts(world, last, kind):
    """A rejected reply before it changes no other class than that of a server's failure."""
    with models(world, {"a": "talk", "b": last}, retries={"max": 0}) as (model, _):
        with pytest.raises(kind) as caught:
            model.with_structured_output(Out).invoke("x")
    assert isinstance(caught.value, OutputParserException) == (kind is OutputParserException)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", WORLDS)
async def test_a_reply_that_refuses_is_a_refusal_to_langchain_too(world, mode):
    """Not a server's word about the request: that is an invalid one alone."""
    refusal = getattr(langchain, "ModelRefusalError", langchain.ModelInvalidRequestError)
    refused = Reply("", finish="content_filter")
    with models(world, {"a": refused}) as (model, _), pytest.raises(refusal) as caught:
        await ask(model, mode)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, ChainExhausted)
        assert isinstance(error, langchain.ModelInvalidRequestError)
        assert isinstance(error, refusal)
    with models(world, {"a": Fail("content_policy")}) as (model, _), pytest.raises(ChainExhausted) as caught:
        await ask(model, mode)
    assert isinstance(caught.value, langchain.ModelInvalidRequestError)
    assert type(caught.value) is not type(error)


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("world", WORLDS)
async def test_a_stream_that_is_refused_on_its_way_is_a_refusal_too(world, mode):
    """Broken it is as well."""
    refusal = getattr(langchain, "ModelRefusalError", langchain.ModelConnectionError)
    with models(world, {"a": Reply("some of it", finish="content_filter")}) as (model, _):
        with pytest.raises(StreamBroken) as caught:
            await ask(model, mode)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, refusal)
        assert isinstance(error, langchain.ModelConnectionError)
        assert error.partial.text == "some of it"
