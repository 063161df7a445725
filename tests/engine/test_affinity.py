"""Which member of a tier a conversation stays on: the same everywhere, in proportion to weights, bounded by load."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_fallback.engine.affinity import REMEMBERED_S, Conversations, Rendezvous, most_in_flight, ranked
from llm_fallback.plan.plan import Tier
from tests.engine.test_load import health_of_tier, tier_of
from tests.thinning import examples

KEYS = [number.to_bytes(16) for number in range(4000)]


def homes(tier: Tier) -> dict[bytes, str]:
    return {key: ranked(tier, key)[0].name for key in KEYS}


def without(tier: Tier, name: str) -> Tier:
    return Tier(tuple(who for who in tier.members if who.name != name))


def test_the_order_is_pinned_because_every_process_must_come_to_the_same():
    """By Python's own hash each would come to another."""
    assert [who.name for who in ranked(tier_of(1, 2, 1, 1), b"conversation 1")] == ["m1", "m2", "m3", "m0"]


def test_conversations_are_spread_by_weight():
    """To a few per cent of four thousand."""
    counts = Counter(homes(tier_of(4, 2, 1, 1)).values())
    assert [counts[f"m{number}"] / len(KEYS) for number in range(4)] == pytest.approx(
        [1 / 2, 1 / 4, 1 / 8, 1 / 8], abs=0.03
    )


def test_whoever_leaves_moves_only_its_own_conversations():
    """And the others' stay; its own are spread over all that are left."""
    tier = tier_of(2, 1, 1, 3)
    before, after = homes(tier), homes(without(tier, "m1"))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == "m1"}
    assert {after[key] for key in moved} == {"m0", "m2", "m3"}


def test_a_member_that_has_more_than_its_share_is_passed_over():
    """One and a quarter of its share of what is under way, rounded up."""
    tier = tier_of(1, 1)
    health, _ = health_of_tier(tier)
    pick, home = Rendezvous(KEYS[0], health.tier_load), ranked(tier, KEYS[0])[0].name
    asked = []
    for _ in range(6):
        who = pick(tier, set(), 0.0)
        asked.append(who.name)
        health[who.name].begin(0.0)
    assert asked[:3] == [home] * 3
    assert set(asked) == {"m0", "m1"}


@settings(max_examples=examples(100))
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.binary(min_size=1, max_size=16), st.data())
def test_somebody_is_always_picked_until_all_are_taken(weights, key, data):
    """Whatever is under way, each member once; and as long as nobody is taken one that is not overloaded."""
    tier = tier_of(*weights)
    health, load = health_of_tier(tier)
    for who in tier.members:
        for _ in range(data.draw(st.integers(0, 5))):
            health[who.name].begin(0.0)
    pick, taken = Rendezvous(key, health.tier_load), set()
    first = pick(tier, set(), 0.0)
    assert load.in_flight(first.name) <= most_in_flight(tier, first, load.all_in_flight) or len(tier) == 1
    while (who := pick(tier, taken, 0.0)) is not None:
        assert who.name not in taken
        taken.add(who.name)
    assert len(taken) == len(tier)


def test_the_bound_is_that_of_the_whole_tier_with_the_request_to_come():
    """ceil(1.25 × (in flight + 1) × weight / all weights)."""
    tier = tier_of(2, 1, 1)
    assert most_in_flight(tier, tier.members[0], 7) == math.ceil(1.25 * 8 / 2)
    assert most_in_flight(tier, tier.members[1], 0) == 1


def test_where_a_conversation_went_is_remembered_for_a_while_since_its_last_use():
    """Each use begins it anew; one of another chain is another."""
    went = Conversations()
    went.remember("assistant", b"one", "m1", 0.0)
    assert went.find("cheap", b"one", 1.0) is None
    assert went.find("assistant", b"one", REMEMBERED_S) == "m1"
    assert went.find("assistant", b"one", 2 * REMEMBERED_S) == "m1"
    assert went.find("assistant", b"one", 3 * REMEMBERED_S + 1) is None


def test_no_more_than_ten_thousand_are_remembered():
    """Those longest without a use are forgotten first."""
    went = Conversations()
    for number in range(10_000):
        went.remember("assistant", number.to_bytes(4), "m1", 0.0)
    assert went.find("assistant", (0).to_bytes(4), 1.0) == "m1"
    went.remember("assistant", b"one more", "m1", 1.0)
    assert went.find("assistant", (0).to_bytes(4), 1.0) == "m1"
    assert went.find("assistant", (1).to_bytes(4), 1.0) is None
