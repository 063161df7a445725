"""The textbook's way to a prompt and a model, langchain-classic's `LLMChain`, over a chain that falls back."""

from __future__ import annotations

import pytest
from langchain_classic.chains import LLMChain
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer

pytestmark = pytest.mark.filterwarnings("ignore:The class `LLMChain` was deprecated")
PROMPT = PromptTemplate.from_template("Translate to French: {text}")
ASKED = {"text": "Good night."}


@pytest.fixture
def servers():
    with FakeServer({"primary": Fail(503), "backup": "Bonne nuit."}) as server:
        yield server


async def test_an_llmchain_falls_back_and_says_what_lcel_says(servers):
    """Called, awaited and in a batch; the same prompt reaches the server."""
    with build_chat_model(servers.spec()) as model:
        textbook = LLMChain(llm=model, prompt=PROMPT)
        lcel = PROMPT | model | StrOutputParser()
        assert textbook.invoke(ASKED) == {"text": lcel.invoke(ASKED)} == {"text": "Bonne nuit."}
        assert (await textbook.ainvoke(ASKED))["text"] == await lcel.ainvoke(ASKED)
        assert [reply["text"] for reply in textbook.batch([ASKED, ASKED])] == lcel.batch([ASKED, ASKED])
    prompts = {received.body["messages"][0]["content"] for received in servers.received()}
    assert prompts == {"Translate to French: Good night."}


def test_the_facts_of_the_call_are_in_its_generation(servers):
    """For whoever asks the chain for more than the text."""
    with build_chat_model(servers.spec()) as model:
        result = LLMChain(llm=model, prompt=PROMPT).generate([ASKED])
    facts = result.generations[0][0].message.response_metadata["llm_fallback"]
    assert (facts["deployment"], facts["fell_back"]) == ("backup", True)


def test_an_llmchain_on_another_chain_of_the_spec(servers):
    """`with_chain` and `bind` are as good as anywhere."""
    spec = servers.spec()
    spec["chains"]["direct"] = {"tiers": ["backup"]}
    with build_chat_model({**spec, "default_chain": "default"}) as model:
        LLMChain(llm=model.with_chain("direct"), prompt=PROMPT).invoke(ASKED)
        LLMChain(llm=model.bind(chain="direct"), prompt=PROMPT).invoke(ASKED)
    assert [received.deployment for received in servers.received()] == ["backup", "backup"]
