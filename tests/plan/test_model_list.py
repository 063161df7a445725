"""litellm's list of prices, read: as litellm itself prices a request, long prompts among them."""

from __future__ import annotations

from decimal import Decimal

import litellm
import pytest
from litellm.exceptions import ModelNotMappedError

from llm_fallback.events import Usage
from llm_fallback.plan.model_list import entry_of, lookup
from llm_fallback.plan.pricing import Prices, prices_in

BY_RANGE = {
    "output_cost_per_token": 4e-6,
    "tiered_pricing": [
        {"range": [32000, 128000], "input_cost_per_token": 2e-6},
        {"range": [0, 32000], "input_cost_per_token": 1e-6, "output_cost_per_token": 3e-6},
    ],
}


def with_thresholds():
    """One chat model of litellm's map for each provider and set of thresholds it has, with its prices.

    Perplexity's are left out, whose own calculator knows no thresholds, and Copilot's, which want to log in.
    """
    found = {}
    for name, entry in litellm.model_cost.items():
        provider, prices = entry.get("litellm_provider"), prices_in(entry)
        if entry.get("mode") == "chat" and prices and provider not in ("perplexity", "github_copilot"):
            found[provider, tuple(threshold for threshold, _ in prices.above)] = name, prices
    return found.values()


def by_litellm(model, tokens):
    """What litellm says the request costs; None where it does not know whose model that is."""
    try:
        return sum(litellm.cost_per_token(model=model, prompt_tokens=tokens, completion_tokens=700))
    except (litellm.BadRequestError, ModelNotMappedError):
        return None


class TestLongPrompts:
    def test_they_cost_what_litellm_says_at_every_threshold_of_its_list(self):
        """One token less, the threshold itself, one more, and far beyond."""
        compared = 0
        for model, prices in with_thresholds():
            for threshold, _ in prices.above:
                for tokens in (threshold - 1, threshold, threshold + 1, threshold + 2, threshold * 3):
                    expected = by_litellm(model, tokens)
                    if expected is not None:
                        assert float(prices.cost(Usage(tokens, 700))) == pytest.approx(expected), (model, tokens)
                        compared += 1
        assert compared > 100

    def test_what_has_no_price_above_a_threshold_keeps_the_one_below(self):
        """Here cached tokens; and a second threshold builds on the first."""
        prices = prices_in(
            {
                "input_cost_per_token": 1e-6,
                "output_cost_per_token": 2e-6,
                "cache_read_input_token_cost": 1e-7,
                "input_cost_per_token_above_128k_tokens": 3e-6,
                "output_cost_per_token_above_256_tokens": 5e-6,
                "input_cost_per_token_above_128k_tokens_priority": 9e-6,
                "cache_creation_input_token_cost_above_1hr": 7e-6,
            }
        )
        small, large = Decimal(256), Decimal(128_000)
        cached = Decimal("0.1")
        assert prices.above == (
            (small, Prices(Decimal(1), Decimal(5), cached)),
            (large, Prices(Decimal(3), Decimal(5), cached)),
        )

    def test_prices_by_ranges_are_read_as_thresholds(self):
        """A range without a price for output has the model's; beyond the last range its prices hold on."""
        prices = prices_in(BY_RANGE)
        assert prices == Prices(Decimal(1), Decimal(3), above=((32000, Prices(Decimal(2), Decimal(4))),))
        assert prices.cost(Usage(10**6, 0)) == Decimal(2)

    def test_xais_higher_prices_begin_at_the_threshold(self):
        """Everybody else's begin above it."""
        entry = {
            "input_cost_per_token": 1e-6,
            "output_cost_per_token": 1e-6,
            "input_cost_per_token_above_200k_tokens": 2e-6,
        }
        at_threshold = Usage(200_000, 0)
        assert prices_in({**entry, "litellm_provider": "xai"}).cost(at_threshold) == Decimal("0.4")
        assert prices_in({**entry, "litellm_provider": "gemini"}).cost(at_threshold) == Decimal("0.2")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"input_cost_per_token": 1e-6},
        {"output_cost_per_second": 1e-3},
        {"tiered_pricing": [{"range": [0, 10], "input_cost_per_token": 1e-6}]},
        {"tiered_pricing": [{"max_results_range": [0, 25], "input_cost_per_query": 5e-3}]},
    ],
)
def test_a_price_that_is_not_whole_is_not_known(entry):
    """Half a price would count the other half as nothing."""
    assert prices_in(entry) is None


AS_ASKED_FOR = {
    "anthropic": ("anthropic/{}", "anthropic/{}-2026-01-01"),
    "azure": ("azure/{}", "azure/eu/{}", "azure/us/{}", "azure/{}-2026-01-01"),
    "bedrock": (
        *("bedrock/{}", "bedrock/converse/{}", "bedrock/invoke/{}", "bedrock/us-east-1/{}"),
        *("bedrock/converse/us-west-2/{}", "bedrock/us-gov-west-1/{}", "bedrock/eu.{}", "bedrock/converse/global.{}"),
        *("bedrock/us-west-2/us.{}", "bedrock/arn:aws:bedrock:us-east-1:123456789012:inference-profile/{}"),
    ),
    "databricks": ("databricks/{}", "databricks/{}-001"),
    "fireworks_ai": ("fireworks_ai/{}", "fireworks_ai/accounts/fireworks/models/{}"),
    "gemini": ("gemini/{}", "gemini/{}-001"),
    "ollama": ("ollama/{}", "ollama_chat/{}", "ollama_chat/{}:latest"),
    "openai": ("openai/{}", "openai/{}-2026-01-01", "openai/ft:{}:an-organization:a-suffix:an-id"),
    "vertex_ai": ("vertex_ai/{}", "vertex_ai/{}@20250929", "vertex_ai/{}-001", "vertex_ai_beta/{}"),
    "xai": ("xai/{}", "xai/{}-2026-01-01"),
}
"""Ways to write a model of a provider's in a spec."""


def listed_for(provider):
    """The names of a provider's chat models on litellm's list, whose prices are whole and the same at every hour."""
    for name, entry in litellm.model_cost.items():
        if not str(entry.get("litellm_provider")).startswith(provider) or entry.get("mode") not in (
            "chat",
            "responses",
        ):
            continue
        if prices_in(entry) is not None and "off_peak_pricing" not in entry:
            bare = name.removeprefix(f"{provider}/")
            yield bare.rpartition("/")[2] if provider in ("bedrock", "fireworks_ai", "ollama") else bare


@pytest.mark.parametrize("provider", AS_ASKED_FOR)
def test_a_model_costs_what_litellm_says_however_it_is_asked_for(provider):
    """By whichever route, in whichever region, of whichever version; unknown where litellm raises, or has no entry and
    says 0."""
    names = [way.format(name) for name in sorted(set(listed_for(provider))) for way in AS_ASKED_FOR[provider]]
    expected = {name: by_litellm(name, 1000) for name in names}
    priced = [name for name in names if expected[name]]
    assert len(priced) >= 10 or provider == "ollama"
    for name in priced:
        prices = prices_in(entry_of(name, None, None, litellm.model_cost.get) or {})
        assert prices is not None, name
        assert float(prices.cost(Usage(1000, 700))) == pytest.approx(expected[name]), name


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("bedrock/converse/anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (
            "bedrock/us-west-2/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0:51k", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
        ("openai/GPT-4o", "gpt-4o"),
    ],
)
def test_a_model_is_found_under_the_name_it_is_listed_by(model, listed):
    """And with its price its window and its abilities."""
    assert lookup(listed) is not None
    assert entry_of(model, None, None) is lookup(listed)


@pytest.mark.parametrize(
    "model",
    [
        *("together_ai/gpt-4o", "groq/o3-2099-01-01", "azure/eu/claude-sonnet-4-5", "openai/claude-sonnet-4-5"),
        *("anthropic/gpt-4o", "bedrock/gpt-4o", "vertex_ai/gpt-4o", "openrouter/gpt-4o"),
    ],
)
def test_what_another_provider_takes_for_a_model_is_not_its_price(model):
    """Unknown, as litellm has it; nor are that one's window and abilities. A `base_model` says whose they are."""
    assert not by_litellm(model, 1000)
    assert entry_of(model, None, None) is None
    assert entry_of(model, "gpt-4o", None) is lookup("gpt-4o")


@pytest.mark.parametrize("model", ["azure_ai/gpt-4o", "litellm_proxy/gpt-4o", "github/gpt-4o"])
def test_who_passes_a_model_on_takes_what_its_provider_does(model):
    """As litellm has it."""
    assert entry_of(model, None, None) is lookup("gpt-4o")
    assert by_litellm(model, 1000) == by_litellm("openai/gpt-4o", 1000)


def test_what_is_asked_for_by_an_opaque_name_is_on_no_list():
    """Nor is a model of a server of one's own."""
    profile = "bedrock/arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
    assert entry_of(profile, None, None) is None
    assert entry_of("gpt-4o", None, "vllm") is None
