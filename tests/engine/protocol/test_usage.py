"""What servers count, in every form they write it in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.usage import (
    anthropic_usage,
    cohere_usage,
    converse_usage,
    fuller,
    gemini_usage,
    ollama_usage,
    openai_usage,
    usage_document,
)
from llm_fallback.events import Usage

anything = st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.booleans())
counts = st.integers(0, 10**6)
usages = st.builds(Usage, *[counts] * 7)
NAMES = ("prompt_tokens", "completion_tokens", "total_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(NAMES, anything),
            "prompt_tokens_details": anything | st.dictionaries(st.sampled_from(["cached_tokens"]), anything),
            "completion_tokens_details": anything | st.dictionaries(st.sampled_from(["reasoning_tokens"]), anything),
        },
    )
    | anything
)
def test_a_count_is_a_whole_number_from_0_on_or_not_known(said):
    """Whatever a server writes there, nothing raises and nothing is borrowed from a neighbour."""
    usage = openai_usage(said)
    if usage is not None:
        assert all(type(value) is int and 0 <= value <= 2 * 10**9 for value in usage_values(usage))
        assert usage_document(usage)["total_tokens"] == usage.input_tokens + usage.output_tokens


def usage_values(usage: Usage) -> list[Any]:
    return [getattr(usage, name) for name in Usage.__slots__]


SAID = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        (SAID, Usage(1000, 10)),
        ({**SAID, "prompt_tokens": "1000", "completion_tokens": 10.0}, Usage(1000, 10)),
        ({**SAID, "prompt_tokens_details": {"cached_tokens": 900}}, Usage(1000, 10, 900)),
        ({**SAID, "prompt_tokens_details": None}, Usage(1000, 10)),
        ({**SAID, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 50}, Usage(1000, 10, 900, 50)),
        ({**SAID, "prompt_cache_hit_tokens": 640, "prompt_cache_miss_tokens": 360}, Usage(1000, 10, 640)),
        ({**SAID, "completion_tokens_details": {"reasoning_tokens": 4}}, Usage(1000, 10, reasoning_tokens=4)),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 47,
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            Usage(5, 42, reasoning_tokens=40),
        ),
        ({**SAID, "prompt_tokens_details": {"cache_creation_tokens": 50}}, Usage(1000, 10, 0, 50)),
        ({**SAID, "prompt_tokens_details": {"cache_write_tokens": 50}}, Usage(1000, 10, 0, 50)),
        ({**SAID, "cached_tokens": 640}, Usage(1000, 10, 640)),
        (
            {
                **SAID,
                "prompt_tokens_details": {"audio_tokens": 7},
                "completion_tokens_details": {"audio_tokens": 8},
            },
            Usage(1000, 10, audio_input_tokens=7, audio_output_tokens=8),
        ),
        ({"prompt_tokens": 1000, "completion_tokens": "0"}, Usage(1000, 0)),
        ({"completion_tokens": 10**9}, Usage(0, 10**9)),
        ({"completion_tokens": 1e9}, Usage(0, 10**9)),
        ({"completion_tokens": 10**9 + 1}, None),
        ({"completion_tokens": True}, Usage(0, 1)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
        (None, None),
        ([], None),
        ({**SAID, "prompt_tokens": -1}, None),
        ({**SAID, "completion_tokens": 12.5}, None),
        ({**SAID, "completion_tokens": 10**25}, None),
        ({**SAID, "completion_tokens": float("inf")}, None),
        ({**SAID, "prompt_tokens_details": [1]}, None),
        ({**SAID, "prompt_tokens_details": {"cached_tokens": [1]}}, None),
    ],
)
def test_counts_are_read_in_the_form_each_server_writes(said, usage):
    """OpenAI's, Anthropic's beside it, DeepSeek's, xAI's, which leaves reasoning out of the completion's; what is no
    count makes the whole account unknown, because it would be billed."""
    assert openai_usage(said) == usage


COHERE = {"billed_units": {"input_tokens": 12}, "tokens": {"input_tokens": 507, "output_tokens": 10}}
CONVERSE = {"inputTokens": 2, "outputTokens": 5, "totalTokens": 7}
CLAUDE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 30,
    "cache_creation_input_tokens": 20,
    "output_tokens": 40,
}
GEMINI = {"promptTokenCount": 12, "candidatesTokenCount": 30, "totalTokenCount": 42}
SOUND = [{"modality": "TEXT", "tokenCount": 3}, {"modality": "AUDIO", "tokenCount": 4}]
OTHERS = (anthropic_usage, cohere_usage, converse_usage, gemini_usage, ollama_usage)


def thoughts_of(tokens: Any) -> dict[str, Any]:
    """What Claude counts on Bedrock."""
    return {"additionalModelResponseFields": {"usage": {"output_tokens_details": {"thinking_tokens": tokens}}}}


@pytest.mark.parametrize(
    ("read", "said", "usage"),
    [
        (cohere_usage, COHERE, Usage(507, 10)),
        (cohere_usage, {**COHERE, "cached_tokens": 448.0}, Usage(507, 10, 448)),
        (cohere_usage, {"billed_units": {"input_tokens": 12, "output_tokens": 7}}, None),
        (cohere_usage, {"tokens": {"input_tokens": -1, "output_tokens": 10}}, None),
        (cohere_usage, {"tokens": [507, 10]}, None),
        (ollama_usage, {"prompt_eval_count": 26, "eval_count": 282}, Usage(26, 282)),
        (ollama_usage, {"eval_count": 282}, Usage(0, 282)),
        (ollama_usage, {"prompt_eval_count": 26, "eval_count": "many"}, None),
        (ollama_usage, {"done": True}, None),
        (converse_usage, {"usage": CONVERSE}, Usage(2, 5)),
        (
            converse_usage,
            {"usage": {**CONVERSE, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 4}},
            Usage(36, 5, 30, 4),
        ),
        (
            converse_usage,
            {"usage": {"inputTokens": 40, "outputTokens": 5, "totalTokens": 45, "cacheReadInputTokens": 30}},
            Usage(40, 5, 30),
        ),
        (
            converse_usage,
            {"usage": {"inputTokens": 34, "outputTokens": 5, "totalTokens": 39, "cacheWriteInputTokens": 34}},
            Usage(34, 5, 0, 34),
        ),
        (converse_usage, {"usage": CONVERSE, **thoughts_of(4)}, Usage(2, 5, reasoning_tokens=4)),
        (converse_usage, {"usage": CONVERSE, **thoughts_of(6)}, Usage(2, 5, reasoning_tokens=5)),
        (converse_usage, {"usage": CONVERSE, **thoughts_of([6])}, None),
        (converse_usage, {"usage": CONVERSE, "additionalModelResponseFields": {"usage": 5}}, Usage(2, 5)),
        (converse_usage, {"usage": {**CONVERSE, "cacheReadInputTokens": [30]}}, None),
        (converse_usage, {}, None),
        (anthropic_usage, CLAUDE, Usage(60, 40, 30, 20)),
        (anthropic_usage, {**CLAUDE, "output_tokens_details": {"thinking_tokens": 9}}, Usage(60, 40, 30, 20, 9)),
        (anthropic_usage, {**CLAUDE, "iterations": [CLAUDE, {"input_tokens": 1}, CLAUDE]}, Usage(121, 80, 60, 40)),
        *((anthropic_usage, {**CLAUDE, "iterations": none}, Usage(60, 40, 30, 20)) for none in ([], None, 5, {})),
        (anthropic_usage, {**CLAUDE, "iterations": [CLAUDE, 5]}, None),
        (gemini_usage, GEMINI, Usage(12, 30, 0, 0, 0)),
        (gemini_usage, {**GEMINI, "toolUsePromptTokenCount": 5, "cachedContentTokenCount": 9}, Usage(17, 30, 9)),
        (gemini_usage, {**GEMINI, "thoughtsTokenCount": 8}, Usage(12, 30, 0, 0, 8)),
        (gemini_usage, {**GEMINI, "thoughtsTokenCount": 8, "totalTokenCount": 50}, Usage(12, 38, 0, 0, 8)),
        (
            gemini_usage,
            {**GEMINI, "promptTokensDetails": SOUND, "candidatesTokensDetails": [*SOUND, *SOUND]},
            Usage(12, 30, audio_input_tokens=4, audio_output_tokens=8),
        ),
        (gemini_usage, {**GEMINI, "promptTokensDetails": "many"}, None),
        (gemini_usage, {**GEMINI, "promptTokensDetails": ["many", {"modality": "AUDIO"}]}, Usage(12, 30)),
        *((read, said, None) for read in OTHERS for said in (None, [], "a", {})),
    ],
)
def test_counts_of_other_protocols_are_read_in_their_forms(read, said, usage):
    """Anthropic's, Gemini's, Cohere's, Ollama's, Bedrock's; what is no count makes the account unknown there, too."""
    assert read(said) == usage


@given(usages, usages)
def test_of_two_accounts_the_fuller_counts(first, second):
    """Sums so far grow, and details may stand in either: the order does not matter, and nothing counts twice."""
    both = fuller(first, second)
    assert both == fuller(second, first) == fuller(both, first)
    assert fuller(first, first) == fuller(first, None) == fuller(None, first) == first


@given(usages)
def test_what_is_written_for_langchain_is_read_back_the_same(usage):
    """Where anything was counted at all. Reasoning is part of the output here."""
    usage = replace(usage, reasoning_tokens=min(usage.reasoning_tokens, usage.output_tokens))
    if usage.input_tokens or usage.output_tokens:
        assert openai_usage(usage_document(usage)) == usage


def test_what_was_not_counted_is_not_written_for_langchain():
    """It would stand in every trace."""
    assert usage_document(Usage(2, 3)) == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert usage_document(Usage(9, 9, 1, 2, 3, 4, 5)) == {
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 1, "cache_creation_tokens": 2, "audio_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 5},
    }
