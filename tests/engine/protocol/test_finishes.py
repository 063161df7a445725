"""The words by which servers say how a reply ended."""

from __future__ import annotations

import pytest

from llm_fallback.engine.protocol.finishes import openai_finish, read_finish
from llm_fallback.engine.transport import FINISHES, FULL_WINDOW, REFUSED_FINISH


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        *((word, "stop") for word in ("stop", "STOP", "end_turn", "stop_sequence", "COMPLETE", "eos", "eos_token")),
        *((word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length", "token_limit")),
        *((word, "tool_calls") for word in ("tool_calls", "function_call", "tool_use", "TOOL_CALL")),
        *((word, REFUSED_FINISH) for word in ("content_filter", "refusal", "SAFETY", "RECITATION", "sensitive")),
        *((word, REFUSED_FINISH) for word in ("PROHIBITED_CONTENT", "guardrail_intervened", "ERROR_TOXIC")),
    ],
)
def test_a_word_that_its_maker_documents_as_an_end_is_one(word, finish):
    """In OpenAI's spelling, whoever says it."""
    assert read_finish(word) == finish
    assert finish in FINISHES


@pytest.mark.parametrize(
    "word",
    [
        *("abort", "error", "ERROR", "network_error", "insufficient_system_resource", "max_length", "cancelled"),
        *("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "FINISH_REASON_UNSPECIFIED", "time_limit"),
        *("USER_CANCEL", "load", "a word of tomorrow", 7, {"type": "stop"}, True),
    ],
)
def test_any_other_word_is_none_and_stays_as_it_was_said(word):
    """So that whoever reads the failure can look it up."""
    assert read_finish(word) == str(word)
    assert read_finish(word) not in FINISHES


@pytest.mark.parametrize("word", [None, ""])
def test_no_word_is_no_end(word):
    """Some servers write an empty text until the last chunk."""
    assert read_finish(word) is None
    assert None not in FINISHES


def test_a_deployment_may_have_words_of_its_own():
    """As its spec says; what is known of others' words still holds."""
    own = {"end": "stop", "STOP": "length"}
    assert [read_finish(word, own) for word in ("end", "STOP", "stop", "max_tokens", "END")] == [
        *("stop", "length", "stop", "length", "END")
    ]


def test_of_an_endless_word_the_length_is_told():
    """It is shown in messages, and a part of it might be a part of a key."""
    assert read_finish("x" * 80) == "x" * 80
    assert read_finish("x" * 10_000) == "of 10000 characters"


def test_a_window_that_is_full_is_told_apart_here_and_a_length_to_openais_clients():
    """They would not know the word; every other is left as it is."""
    assert read_finish("model_context_window_exceeded") == FULL_WINDOW
    assert [openai_finish(finish) for finish in (FULL_WINDOW, "stop", "tool_calls", None)] == [
        *("length", "stop", "tool_calls", None)
    ]


def test_half_a_character_in_a_word_is_replaced():
    """The word is shown in messages, and could not be encoded."""
    assert read_finish("o\ud83dops") == "o\ufffdops"
