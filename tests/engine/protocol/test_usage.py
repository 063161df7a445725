"""What servers count, in every form they write it in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.usage import (
    cohere_usage,
    converse_usage,
    fuller,
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
        (converse_usage, {"usage": {**CONVERSE, "cacheReadInputTokens": [30]}}, None),
        (converse_usage, {}, None),
        *((read, said, None) for read in (cohere_usage, ollama_usage, converse_usage) for said in (None, [], "a", {})),
    ],
)
def test_counts_of_other_protocols_are_read_in_their_forms(read, said, usage):
    """Cohere's, Ollama's, Bedrock's; what is no count makes the whole account unknown there, too."""
    assert read(said) == usage


@given(usages, usages)
def test_of_two_accounts_the_fuller_counts(first, second):
    """Sums so far grow, and details may stand in either: the order does not matter, and nothing counts twice."""
    both = fuller(first, second)
    assert both == fuller(second, first) == fuller(both, first)
    assert fuller(first, first) == fuller(first, None) == fuller(None, first) == first


@given(usages)
def test_what_is_written_for_langchain_is_read_back_the_same(usage):
    """Where anything was counted at all."""
    if usage.input_tokens or usage.output_tokens:
        assert openai_usage(usage_document(usage)) == usage or usage.reasoning_tokens
