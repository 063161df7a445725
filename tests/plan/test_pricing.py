"""Usage times price: by hand, to the last digit, and never less for more."""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.events import Usage
from llm_fallback.plan.pricing import FREE, Prices

PLAIN = Prices(input=Decimal("3"), output=Decimal("15"))
FULL = Prices(
    input=Decimal("3"),
    output=Decimal("15"),
    cached_input=Decimal("0.30"),
    cache_write=Decimal("3.75"),
    reasoning=Decimal("20"),
    audio_input=Decimal("40"),
    audio_output=Decimal("80"),
)


@pytest.mark.parametrize(
    ("prices", "usage", "dollars"),
    [
        (PLAIN, Usage(), "0"),
        (PLAIN, Usage(1000, 200), "0.006"),
        (PLAIN, Usage(1, 1), "0.000018"),
        (PLAIN, Usage(1000, 0, cached_tokens=900, cache_write_tokens=50), "0.003"),
        (PLAIN, Usage(0, 1000, reasoning_tokens=700), "0.015"),
        (FULL, Usage(1000, 0, cached_tokens=900), "0.00057"),
        (FULL, Usage(1000, 0, cached_tokens=1000), "0.0003"),
        (FULL, Usage(1000, 0, cache_write_tokens=400), "0.0033"),
        (FULL, Usage(1000, 0, cached_tokens=500, cache_write_tokens=300), "0.001875"),
        (FULL, Usage(0, 1000, reasoning_tokens=600), "0.018"),
        (FULL, Usage(1000, 0, audio_input_tokens=1000), "0.04"),
        (FULL, Usage(1000, 1000, audio_input_tokens=100, audio_output_tokens=200), "0.0347"),
        (FULL, Usage(100, 100, 10, 20, 30, 40, 50), "0.006668"),
    ],
)
def test_each_kind_of_token_costs_its_own_price_or_the_plain_one(prices, usage, dollars):
    """Tokens of a kind with a price leave the plain ones; without one they pay like the rest."""
    assert prices.cost(usage) == Decimal(dollars)


def test_a_price_of_zero_is_a_price():
    """Cached tokens for nothing are not cached tokens at the plain price."""
    prices = replace(PLAIN, cached_input=Decimal(0))
    assert prices.cost(Usage(1000, 0, cached_tokens=1000)) == 0


def test_a_request_may_cost_beside_its_tokens():
    """`per_request` is added once."""
    assert replace(PLAIN, per_request=Decimal("0.01")).cost(Usage(1000, 200)) == Decimal("0.016")


def test_a_gpu_of_one_s_own_costs_by_the_time_it_is_kept_busy():
    """Half an hour at 2.50 dollars, and nothing for its tokens."""
    prices = Prices(Decimal(0), Decimal(0), per_gpu_hour=Decimal("2.50"))
    assert prices.cost(Usage(10**9, 10**9), seconds=1800) == Decimal("1.25")
    assert prices.cost(Usage(10**9, 10**9)) == 0
    assert prices.cost(Usage(), seconds=0.36) == Decimal("0.00025")


def test_what_is_declared_free_costs_nothing():
    """0, which is known, and not None, which is not."""
    assert FREE.cost(Usage(10**6, 10**6, 10, 10, 10, 10, 10), seconds=3600) == 0


def test_a_long_prompt_pays_its_own_price_for_every_token():
    """Also for those below the threshold and those of the reply; at the threshold itself it is not long yet."""
    prices = replace(PLAIN, above=((1000, Prices(Decimal(6), Decimal(30))), (2000, Prices(Decimal(9), Decimal(30)))))
    costs = [prices.cost(Usage(tokens, 100)) for tokens in (1000, 1001, 2000, 2001)]
    assert costs == [Decimal(text) for text in ("0.0045", "0.009006", "0.015", "0.021009")]


def test_money_is_exact_where_floats_are_not():
    """A million calls at 0.1 dollars per million tokens come to exactly ten cents."""
    each = Prices(Decimal("0.1"), Decimal("0.2")).cost(Usage(1, 0))
    assert sum((each for _ in range(1000)), Decimal(0)) == Decimal("0.0001")
    assert 0.1 / 1_000_000 + 0.2 / 1_000_000 != 0.3 / 1_000_000
    assert Prices(Decimal("0.1"), Decimal("0.2")).cost(Usage(1, 1)) == Decimal("0.0000003")


def test_more_special_tokens_than_tokens_never_pay_back():
    """Some servers count cached tokens beside the input tokens; the plain part is then none, not negative."""
    assert FULL.cost(Usage(100, 0, cached_tokens=1000)) == Decimal("0.0003")


COUNTS = st.integers(0, 10**7)
DOLLARS = st.decimals(0, 1000, places=4)


@st.composite
def usages(draw) -> Usage:
    parts = [draw(COUNTS) for _ in range(5)]
    cached, written, heard, thought, spoken = parts
    return Usage(
        cached + written + heard + draw(COUNTS),
        thought + spoken + draw(COUNTS),
        cached,
        written,
        thought,
        heard,
        spoken,
    )


PRICES = st.builds(
    Prices,
    DOLLARS,
    DOLLARS,
    *[st.one_of(st.none(), DOLLARS)] * 5,
    per_request=DOLLARS,
    per_gpu_hour=DOLLARS,
)


KINDS = [field.name for field in fields(Prices) if field.name != "above"]


@given(PRICES, usages(), COUNTS, COUNTS, st.floats(0, 1e5), st.floats(0, 1e5))
def test_more_tokens_and_more_time_never_cost_less(prices, usage, more_input, more_output, seconds, more_seconds):
    """And nothing costs less than nothing."""
    larger = replace(
        usage, input_tokens=usage.input_tokens + more_input, output_tokens=usage.output_tokens + more_output
    )
    assert 0 <= prices.cost(usage, seconds) <= prices.cost(larger, seconds + more_seconds)


@given(PRICES, usages(), st.sampled_from(KINDS), DOLLARS, st.floats(0, 1e5))
def test_a_higher_price_never_costs_less(prices, usage, name, dearer, seconds):
    """Whichever of the prices it is."""
    price = getattr(prices, name)
    if price is not None:
        assert prices.cost(usage, seconds) <= replace(prices, **{name: price + dearer}).cost(usage, seconds)


@given(PRICES, usages())
def test_what_has_no_price_of_its_own_costs_as_if_it_had_the_plain_one(prices, usage):
    """None and the plain price are the same bill."""
    spelled_out = replace(
        prices,
        **{
            name: prices.input
            for name in ("cached_input", "cache_write", "audio_input")
            if getattr(prices, name) is None
        },
        **{name: prices.output for name in ("reasoning", "audio_output") if getattr(prices, name) is None},
    )
    assert prices.cost(usage) == spelled_out.cost(usage)
