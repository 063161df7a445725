"""Where a model runs is one line of the spec: the same application on every system, and what each refuses."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from llm_fallback import build_chat_model
from llm_fallback.testing import assert_attempts
from tests.asking import STREAMED, ask
from tests.chat_model.test_foreign_messages import HISTORIES, dropped
from tests.servers.conftest import BACKUP, SpecOf
from tests.servers.fleet import Server
from tests.servers.systems import System, selected

MODES = ("invoke", "ainvoke", "stream", "astream")
LONG_PROMPT = "one two three " * 3000

pytestmark = [
    pytest.mark.servers,
    pytest.mark.parametrize("system", selected(), indirect=True, ids=str),
]


@pytest.mark.parametrize("mode", MODES)
async def test_the_chain_answers_from_where_its_one_line_says(
    mode: str, system: System, server: Server, spec_of: SpecOf
) -> None:
    """The application names neither a system nor an address."""
    with build_chat_model(spec_of(system), temperature=0) as model:
        message = await ask(model, mode, "Count, please.", max_tokens=12)
    assert_attempts(message, f"{system}: succeeded")
    assert message.text.strip()
    assert message.response_metadata["model_name"] == "tiny"


async def test_an_lcel_chain_runs_on_it(system: System, server: Server, spec_of: SpecOf) -> None:
    """A prompt, the model and a parser, called, streamed and in a batch: text comes out."""
    with build_chat_model(spec_of(system), temperature=0, max_tokens=12) as model:
        chain = ChatPromptTemplate.from_template("Count to {number}.") | model | StrOutputParser()
        called = await chain.ainvoke({"number": "ten"})
        streamed = "".join([piece async for piece in chain.astream({"number": "ten"})])
        batch = await chain.abatch([{"number": "ten"}] * 2)
    assert called.strip()
    assert [streamed, *batch] == [called] * 3


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_model_name_is_answered_by_the_next(
    mode: str, system: System, server: Server, spec_of: SpecOf
) -> None:
    """Systems that serve one model whatever it is called answer themselves."""
    spec = spec_of(system, deployments={system.name: {"model": "nobody"}})
    with build_chat_model(spec) as model:
        message = await ask(model, mode, "Count, please.", max_tokens=12)
    assert_attempts(message, *system.course(system.words.wrong_model))


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_key_is_answered_by_the_next(mode: str, system: System, server: Server, spec_of: SpecOf) -> None:
    """Systems without keys answer themselves."""
    spec = spec_of(system, deployments={system.name: {"api_key": "sk-wrong"}})
    with build_chat_model(spec) as model:
        message = await ask(model, mode, "Count, please.", max_tokens=12)
    assert_attempts(message, *system.course(system.words.wrong_key))
    assert "sk-wrong" not in str(message.response_metadata)


@pytest.mark.parametrize("mode", MODES)
async def test_a_prompt_that_is_too_long_is_answered_by_the_next(
    mode: str, system: System, server: Server, spec_of: SpecOf
) -> None:
    """In the system's own words, whatever they are."""
    words = system.words
    with build_chat_model(spec_of(system)) as model:
        message = await ask(model, mode, LONG_PROMPT, max_tokens=12)
    expected = words.long_prompt_streamed if mode in STREAMED else words.long_prompt
    assert_attempts(message, *system.course(expected))


SHOWN = frozenset({"openai_responses_input", "anthropic_input", "bedrock_converse_input", "gemini_input"})
"""Histories with pictures and files, which no tiny model takes."""


@pytest.mark.parametrize("history", sorted(HISTORIES.keys() - SHOWN))
async def test_it_takes_a_history_that_another_integration_made(
    history: str, system: System, server: Server, spec_of: SpecOf
) -> None:
    """Signed thoughts, server-side tools and parts of a Responses call are left out, and nothing it would refuse is
    left in."""
    messages, left_out = HISTORIES[history]
    with build_chat_model(spec_of(system)) as model:
        message = await model.ainvoke(messages, max_tokens=12)
    assert_attempts(message, f"{system}: succeeded")
    assert dropped(message) == [left_out]


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_what_is_too_much_for_it_is_answered_by_the_next(
    mode: str, system: System, server: Server, spec_of: SpecOf
) -> None:
    """Of a crowd that comes at once everybody is answered; whom the system turns away, the backup serves."""
    crowded = {"model": system.crowded_model, "timeouts": system.patience}
    with build_chat_model(spec_of(system, deployments={system.name: crowded})) as model:
        asking = [ask(model, mode, "Count, please.", max_tokens=300) for _ in range(40)]
        messages = await asyncio.gather(*asking)
    answers = [message.response_metadata["llm_fallback"] for message in messages]
    failures = {attempt["failure"] for facts in answers for attempt in facts["attempts"]} - {None}
    assert failures
    assert failures <= system.words.overload
    assert all(message.text.strip() for message in messages)
    assert BACKUP in {message.text for message in messages}
