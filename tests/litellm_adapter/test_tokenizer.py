"""Counting tokens before a call: by litellm's tokenizer where it is here, else by an estimate; never over a network."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.tools import tool

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter.tokenizer import local_encoder
from llm_fallback.testing import fake_chat_model

SPEC = {"deployments": {"a": {"model": "openai/gpt-4.1", "api_key": "k"}}, "chains": {"c": {"tiers": ["a"]}}}
TALK = [SystemMessage("be brief"), HumanMessage("hello there " * 20), AIMessage("hello"), HumanMessage("bye")]
PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.invalid/cat.png"}}
BUILT = {"real": lambda: build_chat_model(SPEC), "fake": lambda: fake_chat_model({"a": "hi"})}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return city


@pytest.fixture(params=BUILT)
def model(request, monkeypatch):
    """Each of the two, without a network."""
    model: Any = BUILT[request.param]()

    def refuse(*_: object) -> None:
        raise AssertionError("counting goes over no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return model


def test_texts_and_messages_are_counted_without_a_network(model):
    """LangChain's own way would fetch GPT-2's tokenizer."""
    assert model.get_num_tokens("hello") == len(model.get_token_ids("hello")) > 0
    assert model.get_num_tokens("") == 0
    more = model.get_num_tokens_from_messages([*TALK, HumanMessage("once more")])
    assert 0 < model.get_num_tokens_from_messages(TALK) < more


def test_tools_tool_calls_and_pictures_count_too(model):
    """A picture is neither fetched nor as long as its bytes."""
    plain = model.get_num_tokens_from_messages([HumanMessage("hi")])
    assert model.get_num_tokens_from_messages([HumanMessage("hi")], tools=[weather]) > plain
    called = AIMessage("hi", tool_calls=[{"name": "weather", "args": {"city": "Oslo"}, "id": "1"}])
    assert model.get_num_tokens_from_messages([called]) > plain
    seen = HumanMessage([{"type": "text", "text": "hi"}, PICTURE])
    assert plain < model.get_num_tokens_from_messages([seen]) < plain + 2000


def test_histories_are_trimmed_by_it(model):
    """As LangChain's `trim_messages` and memories ask any model to."""
    kept = trim_messages(TALK, max_tokens=20, token_counter=model)
    assert [message.text for message in kept] == ["hello", "bye"]


def test_a_counter_of_ones_own_is_asked(model):
    """LangChain's `custom_get_token_ids`."""
    model.custom_get_token_ids = lambda text: [1] * len(text)
    assert model.get_num_tokens("hello") == 5


def test_the_real_model_counts_by_litellms_tokenizer():
    """Words that are one token are one, and words that mean something to a tokenizer are texts like any other."""
    model = build_chat_model(SPEC)
    assert model.get_token_ids("hello") == [15339]
    assert model.get_num_tokens("<|endoftext|>") > 1


def test_without_its_file_the_real_model_estimates(tmp_path, monkeypatch):
    """It would be fetched."""
    monkeypatch.setenv("CUSTOM_TIKTOKEN_CACHE_DIR", str(tmp_path))
    local_encoder.cache_clear()
    try:
        assert build_chat_model(SPEC).get_num_tokens("hello") == fake_chat_model({"a": "x"}).get_num_tokens("hello")
        assert list(tmp_path.iterdir()) == []
    finally:
        local_encoder.cache_clear()


def test_the_fake_estimates_what_the_engine_would():
    """About four characters to a token, in any language, and an id for each."""
    model = fake_chat_model({"a": "hi"})
    assert model.get_num_tokens("twelve chars") == 3
    assert model.get_token_ids("same" * 2) == model.get_token_ids("same") * 2
    assert model.get_num_tokens("漢字\ud800") == 1
