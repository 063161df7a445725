"""Tests of an application that asks a chain: from "it answers" to "it survives a provider that dies in mid-stream".

    pytest examples/testing

No server, no key, no network; the fixtures come with the installed package.
"""

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from llm_fallback import ChainExhausted, StreamBroken, get_cost_callback
from llm_fallback.testing import Cut, Fail, Reply, Stall, assert_attempts

# The application. In a project of your own it is imported from there.

PROMPT = ChatPromptTemplate.from_messages([("system", "You are a travel agent."), ("user", "{question}")])


class Trip(BaseModel):
    """A journey somebody wants to make."""

    city: str
    nights: int


def answer(model, question):
    try:
        return (PROMPT | model | StrOutputParser()).invoke({"question": question})
    except ChainExhausted:
        return "We cannot answer right now."


def read_trip(model, mail):
    return model.with_structured_output(Trip).invoke(mail)


def typed_out(model, question):
    try:
        for chunk in model.stream(question):
            yield chunk.text
    except StreamBroken:
        yield " (connection lost)"


# It answers.


def test_it_answers(fake_llm):
    assert answer(fake_llm({"primary": "Take the train."}), "How do I get to Oslo?") == "Take the train."


def test_it_says_who_it_is(fake_llm):
    model = fake_llm()
    answer(model, "How do I get to Oslo?")
    [asked] = model.received()
    assert asked.body["messages"][0] == {"role": "system", "content": "You are a travel agent."}


def test_it_reads_a_trip(fake_llm):
    """Without a script a fake answers sensibly: it fills the schema it is asked for."""
    assert read_trip(fake_llm(), "I want to go to Oslo for 3 nights.") == Trip(city="Oslo", nights=3)


# It falls back.


def test_the_backup_answers_when_the_primary_is_throttled(fake_llm):
    model = fake_llm({"primary": Fail(429, retry_after=20), "backup": "Take the train."})
    assert_attempts(model.invoke("How do I get to Oslo?"), "primary: rate_limited", "backup: succeeded")


def test_a_hanging_primary_costs_its_limit_and_no_more(fake_llm):
    """Three seconds on the model's clock; none of yours."""
    model = fake_llm({"primary": Stall(), "backup": "Take the train."}, timeouts={"attempt_s": 3})
    facts = model.invoke("How do I get to Oslo?").response_metadata["llm_fallback"]
    assert (facts["deployment"], facts["latency_s"]) == ("backup", 3.0)


def test_a_reply_that_is_no_trip_is_asked_for_elsewhere(fake_llm):
    model = fake_llm({"primary": "Oslo sounds nice!", "backup": '{"city": "Oslo", "nights": 3}'})
    assert read_trip(model, "I want to go to Oslo.") == Trip(city="Oslo", nights=3)


def test_when_everybody_is_down_it_says_so(fake_llm):
    model = fake_llm({"primary": Fail(503), "backup": Fail("connection")})
    assert answer(model, "How do I get to Oslo?") == "We cannot answer right now."
    assert {asked.deployment for asked in model.received()} == {"primary", "backup"}


def test_a_primary_that_was_throttled_is_asked_again_when_its_time_is_over(fake_llm):
    model = fake_llm({"primary": [Fail(429, retry_after=20), "I am back."], "backup": "Take the train."})
    assert model.invoke("hi").text == "Take the train."
    assert model.invoke("hi").text == "Take the train."
    model.clock.advance(21)
    assert model.invoke("hi").text == "I am back."


# It survives a provider that dies in mid-stream.

DIES = Cut(after_chunks=3, reply="Take the night train to Oslo.")


def test_a_reader_is_told_that_the_stream_broke(fake_llm):
    model = fake_llm({"primary": DIES, "backup": "unused"})
    assert "".join(typed_out(model, "hi")) == "Take the night (connection lost)"


def test_another_deployment_goes_on_where_it_broke(fake_llm):
    model = fake_llm({"primary": DIES, "backup": "Take the night train to Oslo."}, on_stream_break="continue")
    assert "".join(typed_out(model, "hi")) == "Take the night train to Oslo."
    assert [asked.deployment for asked in model.received()] == ["primary", "backup"]


@pytest.mark.asyncio
async def test_it_survives_it_in_async_code_too(fake_llm):
    model = fake_llm({"primary": DIES, "backup": "Take the bus."}, on_stream_break="hold")
    assert "".join([chunk.text async for chunk in model.astream("hi")]) == "Take the bus."


# The chain that runs in production.


@pytest.fixture
def spec(request):
    return request.path.with_name("llm-fallback.yaml")


def test_our_own_chain_falls_back_to_the_hosted_model(fake_llm, spec):
    """Its deployments are fakes, all else is as declared; no variable is set, no key is needed."""
    model = fake_llm({"own": Fail(503)}, spec=spec)
    assert_attempts(model.invoke("hi"), "own: overloaded", "hosted: succeeded")


def test_what_a_call_costs_when_our_own_server_answers(fake_llm, spec):
    model = fake_llm({"own": Reply("Take the train.", usage=(1_000, 500))}, spec=spec)
    with get_cost_callback() as cost:
        model.invoke("hi")
    assert cost.snapshot()["total_usd"] == pytest.approx(1_500 * 0.20 / 1_000_000)


def test_the_careful_chain_survives_it_as_well(fake_llm, spec):
    model = fake_llm({"own": DIES, "hosted": "Take the night train to Oslo."}, spec=spec, chain="careful")
    assert "".join(typed_out(model, "hi")) == "Take the night train to Oslo."
