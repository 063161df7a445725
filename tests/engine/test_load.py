"""How busy and how fast the members of a tier are: what is expected of each, and what is slow for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.health import Health
from llm_fallback.engine.load import HALF_LIFE_S, TierLoad, median
from llm_fallback.plan.plan import Tier
from llm_fallback.spec import Breaker
from tests.plans import member


def tier_of(*weights: float, policy: Breaker | None = None) -> Tier:
    return Tier(tuple(member(f"m{number}", weight=weight, policy=policy) for number, weight in enumerate(weights)))


def health_of_tier(tier: Tier) -> tuple[Health, TierLoad]:
    health = Health.of_targets(who.target for who in tier.members)
    return health, health.tier_load(tier)


def answer(
    health: Health, name: str, seconds: float, *, at: float = 0.0, streamed: bool = True, tokens: int = 1
) -> bool:
    own = health[name]
    times = {"first_token_s": seconds} if streamed else {"reply_s": seconds}
    return own.succeeded(own.begin(at), at, **times, output_tokens=tokens)


def expected(health: Health, load: TierLoad, name: str, now: float = 0.0, *, streamed: bool = True) -> float | None:
    return load.expected_s(health[name], now, streamed=streamed)


def test_of_a_tier_that_has_not_answered_yet_nobody_knows_anything():
    """All count alike then, and only what is under way tells them apart."""
    tier = tier_of(1, 1)
    health, load = health_of_tier(tier)
    assert expected(health, load, "m0") is None
    health["m0"].begin(0.0)
    a, b = (load.score(who, 0.0, streamed=True) for who in tier.members)
    assert (a, b) == (2, 1)


def test_one_of_which_nothing_is_known_counts_as_its_mates_median():
    """A new replica is neither flooded nor shunned."""
    health, load = health_of_tier(tier_of(1, 1, 1, 1))
    for name, seconds in (("m0", 0.2), ("m1", 0.4), ("m2", 9.0)):
        answer(health, name, seconds)
    assert expected(health, load, "m3") == 0.4


def test_without_an_answer_what_is_known_of_one_drifts_to_its_mates_median():
    """Half of the way in thirty seconds: one that was slow is found again, and is no sudden favourite."""
    health, load = health_of_tier(tier_of(1, 1))
    answer(health, "m0", 1.0)
    answer(health, "m1", 0.2)
    assert expected(health, load, "m0", 0.0) == 1.0
    assert expected(health, load, "m0", HALF_LIFE_S) == pytest.approx(0.6)
    assert expected(health, load, "m0", 20 * HALF_LIFE_S) == pytest.approx(0.2, abs=1e-4)


def test_answers_are_compared_in_their_own_kind():
    """What streams take to begin says nothing of what plain replies take."""
    health, load = health_of_tier(tier_of(1, 1))
    answer(health, "m0", 0.5)
    assert expected(health, load, "m1", streamed=False) is None
    answer(health, "m1", 20.0, streamed=False, tokens=1000)
    assert expected(health, load, "m0", streamed=False) == pytest.approx(0.02)


def test_the_length_of_a_plain_reply_is_no_fault():
    """Ten times the words in ten times the time is as fast; a bare yes is taken for a reply as long as usual."""
    health, load = health_of_tier(tier_of(1, 1))
    answer(health, "m0", 2.0, streamed=False, tokens=100)
    answer(health, "m1", 20.0, streamed=False, tokens=1000)
    a, b = (expected(health, load, name, streamed=False) for name in ("m0", "m1"))
    assert a == b == pytest.approx(0.02)
    health["m0"].record_usage(100, 2.0)
    answer(health, "m0", 0.5, streamed=False, tokens=1)
    assert expected(health, load, "m0", streamed=False) < 0.02


def test_what_is_under_way_counts_by_capacity():
    """Four requests at one of weight 4 are as many as one at one of weight 1."""
    tier = tier_of(4, 1)
    health, load = health_of_tier(tier)
    for name in ("m0", "m0", "m0", "m0", "m1"):
        health[name].begin(0.0)
    assert load.score(tier.members[0], 0.0, streamed=True) == load.score(tier.members[1], 0.0, streamed=True)


def test_failures_and_those_who_lost_to_a_hedge_say_nothing_of_the_latency():
    """One that refuses at once is not fast."""
    health, load = health_of_tier(tier_of(1, 1))
    for _ in range(3):
        health["m0"].failed(health["m0"].begin(0.0), 0.0, "server_error", None)
        health["m1"].cancelled(health["m1"].begin(0.0))
    assert (expected(health, load, "m0"), expected(health, load, "m1")) == (None, None)
    assert load.all_in_flight == 0


def test_in_a_large_tier_the_median_is_that_of_all_as_of_a_second_ago():
    """Nobody looks at a thousand members for each call."""
    tier = tier_of(*[1.0] * 100)
    health, load = health_of_tier(tier)
    for number in range(99):
        answer(health, f"m{number}", 0.3)
    assert expected(health, load, "m99", 0.0) == 0.3
    for number in range(99):
        answer(health, f"m{number}", 30.0)
    assert expected(health, health.tier_load(tier), "m99", 0.5) == 0.3
    assert expected(health, load, "m99", 1.0) > 0.3


@given(st.lists(st.floats(0, 1e6)))
def test_half_of_the_values_are_at_most_the_median(values):
    """And half at least; of none there is none."""
    middle = median(values)
    if middle is None:
        assert not values
    else:
        assert 2 * sum(value <= middle for value in values) >= len(values)
        assert 2 * sum(value >= middle for value in values) >= len(values)


# Slow answers.

SLOW = Breaker(slow_times=4)


def judged(health: Health, tier: Tier, name: str, seconds: float, *, at: float = 0.0, tokens: int = 1, streamed=True):
    """Count an answer that may be slow; True if it opened the breaker."""
    own, load = health[name], health.tier_load(tier)
    times = {"first_token_s": seconds} if streamed else {"reply_s": seconds}
    return own.succeeded(own.begin(at), at, **times, output_tokens=tokens, tier=load)


def warmed_up(*weights: float, seconds: float = 0.5, policy: Breaker = SLOW) -> tuple[Tier, Health]:
    """A tier of which each member has answered a few times."""
    tier = tier_of(*weights, policy=policy)
    health, _ = health_of_tier(tier)
    for who in tier.members * 5:
        judged(health, tier, who.name, seconds)
    return tier, health


def test_a_member_that_got_slow_is_left_alone_after_a_few_answers():
    """Ten times as long as it took, and as its mate takes: by the third its breaker is open."""
    tier, health = warmed_up(1, 1)
    assert [judged(health, tier, "m0", 5.0) for _ in range(6)].count(True) == 1
    assert health["m0"].breaker.state(0.0) == "open"
    assert health["m0"].slow_share(0.0) > 0.3
    assert health["m1"].slow_share(0.0) == 0


@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_no_answer_is_slow_that_took_no_more_than_a_second_or_so_many_times_the_usual(seconds):
    """Of one that takes 0.01 s a second is nothing; of one that takes 0.5 s 2 s is just four times."""
    tier, health = warmed_up(1, 1, seconds=0.01 if seconds == 1.0 else 0.5)
    for _ in range(20):
        judged(health, tier, "m0", seconds)
    assert (health["m0"].slow_share(0.0), health["m0"].is_closed) == (0, True)


def test_one_that_always_was_slow_is_not_slow_for_itself():
    """The larger of both medians counts: a larger model is no failure."""
    tier = tier_of(1, 1, policy=SLOW)
    health, _ = health_of_tier(tier)
    for _ in range(40):
        judged(health, tier, "m0", 5.0)
        judged(health, tier, "m1", 0.5)
    assert (health["m0"].slow_share(0.0), health["m0"].is_closed) == (0, True)


def test_one_that_got_slow_with_its_mates_is_not_slow_among_them():
    """Longer prompts, a busy network: whoever is asked instead would be no faster."""
    tier, health = warmed_up(1, 1, 1, 1)
    for _ in range(40):
        for who in tier.members:
            judged(health, tier, who.name, 5.0)
    assert all(health[who.name].is_closed for who in tier.members)


@pytest.mark.parametrize(("members", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_never_more_than_half_of_a_tier_is_left_alone_for_being_slow(members, most):
    """One alone never is."""
    tier, health = warmed_up(*[1.0] * members)
    names = [who.name for who in tier.members]
    for number, name in enumerate(names, 1):  # One after the other, so that its mates are fast to the end of each.
        for _ in range(10):
            judged(health, tier, name, 50.0, at=100.0 * number)
            for mate in names:
                if mate != name and health[mate].is_closed:
                    judged(health, tier, mate, 0.5, at=100.0 * number)
    assert sum(not health[name].is_closed for name in names) == most


@pytest.mark.parametrize(("members", "opens"), [(3, False), (4, True)])
def test_a_slow_one_stays_where_failures_have_taken_too_many(members, opens):
    """Half of the tier is to be left, whatever the others are left alone for."""
    tier, health = warmed_up(*[1.0] * members)
    health["m1"].failed(health["m1"].begin(0.0), 0.0, "auth", None)
    assert any(judged(health, tier, "m0", 5.0) for _ in range(10)) is opens
    assert health["m0"].slow_share(0.0) > 0


def test_a_slow_one_of_a_large_tier_is_left_alone_too():
    """Its mates are all, as of a second ago."""
    tier, health = warmed_up(*[1.0] * 20)
    assert any(judged(health, tier, "m0", 5.0) for _ in range(10))


def test_what_streams_take_to_begin_makes_no_plain_reply_usual():
    """A server that begins late may still write fast."""
    tier = tier_of(1, 1, policy=SLOW)
    health, _ = health_of_tier(tier)
    for who in tier.members * 5:
        for _ in range(2):
            judged(health, tier, who.name, 5.0)
        judged(health, tier, who.name, 2.0, tokens=100, streamed=False)
    assert health["m0"].slow_share(0.0) == 0
    judged(health, tier, "m0", 30.0, tokens=100, streamed=False)
    assert health["m0"].slow_share(0.0) > 0


def test_a_short_or_a_long_plain_reply_is_not_slow_for_its_length():
    """A thousand words take long, and a bare yes takes long for one word."""
    tier = tier_of(1, 1, policy=SLOW)
    health, _ = health_of_tier(tier)
    for who in tier.members * 5:
        judged(health, tier, who.name, 2.0, tokens=100, streamed=False)
        health[who.name].record_usage(100, 2.0)
    for seconds, tokens in ((40.0, 2000), (1.5, 1), (3.0, 2)):
        judged(health, tier, "m0", seconds, tokens=tokens, streamed=False)
    assert health["m0"].slow_share(0.0) == 0
    judged(health, tier, "m0", 30.0, tokens=100, streamed=False)
    assert health["m0"].slow_share(0.0) > 0


def test_a_probe_that_is_slow_still_leaves_it_alone():
    """It answered, but it is not well."""
    tier, health = warmed_up(1, 1)
    assert any(judged(health, tier, "m0", 5.0) for _ in range(20))
    assert judged(health, tier, "m0", 5.0, at=SLOW.cooldown_s)
    assert health["m0"].breaker.blocked_until(SLOW.cooldown_s) == 3 * SLOW.cooldown_s


def test_without_slow_times_no_answer_is_slow():
    """It is off unless asked for."""
    tier, health = warmed_up(1, 1, policy=Breaker())
    for _ in range(20):
        judged(health, tier, "m0", 50.0)
    assert (health["m0"].is_closed, health["m0"].slow_share(0.0)) == (True, None)
