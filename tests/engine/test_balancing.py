"""Whom of a tier to ask: of two drawn by weight the less loaded."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.engine.balancing import LeastLoaded, by_weight
from llm_fallback.engine.health import Health
from llm_fallback.plan.plan import Tier
from tests.engine.test_load import answer, health_of_tier, tier_of
from tests.thinning import examples


def picker(health: Health, seed: int = 7) -> LeastLoaded:
    return LeastLoaded(Random(seed), health.tier_load, streamed=True)


def shares(pick, tier: Tier, times: int = 4000) -> dict[str, float]:
    counts = Counter(pick(tier, set(), 0.0).name for _ in range(times))
    return {who.name: counts[who.name] / times for who in tier.members}


@pytest.mark.parametrize("make", [lambda health: by_weight(Random(7)), picker])
def test_where_all_are_alike_and_idle_shares_are_the_weights(make):
    """By both ways of balancing."""
    tier = tier_of(4, 2, 1, 1)
    health, _ = health_of_tier(tier)
    assert list(shares(make(health), tier).values()) == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8], abs=0.03)


def test_the_second_is_asked_only_where_it_is_better_by_a_fifth():
    """A little faster is no reason to leave the weights, nor is exactly a fifth."""
    tier = tier_of(1, 1)
    health, _ = health_of_tier(tier)
    answer(health, "m0", 1.0), answer(health, "m1", 0.8)
    assert shares(picker(health), tier)["m1"] == pytest.approx(0.5, abs=0.03)
    for _ in range(20):
        answer(health, "m1", 0.79)
    assert shares(picker(health), tier)["m1"] == 1


def test_a_slow_member_gets_what_the_fast_ones_cannot_take():
    """With ten under way at the fast one, one that takes ten times as long is the better choice."""
    tier = tier_of(1, 1)
    health, _ = health_of_tier(tier)
    answer(health, "m0", 0.1), answer(health, "m1", 1.0)
    pick = picker(health)
    assert pick(tier, set(), 0.0).name == "m0"
    for _ in range(20):
        health["m0"].begin(0.0)
    assert pick(tier, set(), 0.0).name == "m1"


@settings(max_examples=examples(60))
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=6), st.integers(0, 99))
def test_under_load_shares_come_to_the_weights_where_all_are_equally_fast(weights, seed):
    """Each answer takes as long everywhere: what is under way, and so what is asked, is in proportion to capacity."""
    tier = tier_of(*weights)
    health, _ = health_of_tier(tier)
    pick, counts, under_way = picker(health, seed), Counter(), []
    calls, places = 1500, 20 * len(weights)
    for turn in range(calls):
        who = pick(tier, set(), float(turn))
        counts[who.name] += 1
        under_way.append((who.name, health[who.name].begin(float(turn))))
        if len(under_way) > places:
            name, permit = under_way.pop(0)
            health[name].succeeded(permit, float(turn), 1.0)
    for who in tier.members:
        assert counts[who.name] / calls == pytest.approx(who.target.weight / tier.weight, abs=0.06)


@settings(max_examples=examples(100))
@given(st.data(), st.integers(1, 40), st.integers(0, 99))
def test_everybody_is_picked_once_and_nobody_twice(data, size, seed):
    """Whatever is known of their speeds and of what is under way: the order of a call is one of all members."""
    tier = tier_of(*data.draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size)))
    health, _ = health_of_tier(tier)
    for who in tier.members:
        for _ in range(data.draw(st.integers(0, 2))):
            health[who.name].begin(0.0)
        if data.draw(st.booleans()):
            answer(health, who.name, data.draw(st.floats(0, 50)))
    pick, taken = picker(health, seed), set()
    while (who := pick(tier, taken, 1.0)) is not None:
        assert who.name not in taken
        taken.add(who.name)
    assert taken == {who.name for who in tier.members}


def test_a_new_member_is_not_flooded():
    """Of four that each have two under way, one that comes new gets no more than makes up for that."""
    tier = tier_of(1, 1, 1, 1)
    health, _ = health_of_tier(tier)
    for name in ("m0", "m1", "m2"):
        answer(health, name, 0.5)
        health[name].begin(0.0), health[name].begin(0.0)
    pick, counts = picker(health), Counter()
    for _ in range(12):
        who = pick(tier, set(), 0.0)
        counts[who.name] += 1
        health[who.name].begin(0.0)
    assert counts["m3"] <= 6
