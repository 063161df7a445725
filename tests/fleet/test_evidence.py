"""What follows from what members report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_fallback.fleet.evidence import (
    Evidence,
    Fact,
    Opening,
    Report,
    Suspicion,
    decode_evidence,
    encode_evidence,
    merge,
)


def fact(reopens_in_s: float = 30.0, **changes: Any) -> Fact:
    values = {
        "deployment": "d",
        "account": "",
        "failure": "connection",
        "reopens_in_s": reopens_in_s,
        "cooldown_s": 30.0,
        "opening": 1,
        "fence": 0,
    }
    return Fact(**{**values, **changes})


def reports(*facts: Fact) -> list[Report]:
    return [Report(f"m{number}", each) for number, each in enumerate(facts)]


def test_without_reports_nothing_follows():
    """Nobody reports a deployment that is well."""
    assert merge([], 0) is None


def test_one_reporter_is_a_suspicion():
    """It may be the reporter that is sick."""
    assert merge(reports(fact()), 0) == Suspicion("m0", 1)


def test_two_reporters_open_it():
    """They are unlikely to be sick both."""
    assert merge(reports(fact(20), fact(30)), 0) == Opening("connection", 20, 30.0)


def test_it_is_open_as_long_as_two_say_so():
    """One that is sick, and waits for five minutes by now, does not decide for all."""
    assert merge(reports(fact(300), fact(20), fact(10)), 0) == Opening("connection", 20, 30.0)


def test_a_fact_about_the_account_needs_no_second_reporter():
    """The provider has said it, about the key that is asked with here, too."""
    limited = fact(60, account="k", failure="rate_limited")
    assert merge(reports(limited), 0, ["k"]) == Opening("rate_limited", 60, 30.0, names_a_time=True)


def test_of_several_facts_about_the_account_the_longest_holds():
    """Whoever reported it first."""
    short, long = (fact(seconds, account="k", failure="auth") for seconds in (20, 60))
    for order in ((short, long), (long, short)):
        assert merge(reports(*order), 0, ["k"]) == Opening("auth", 60, 30.0)


def test_a_fact_about_another_account_is_none_here():
    """Another key may have money left."""
    assert merge(reports(fact(60, account="other")), 0, ["k"]) is None


def test_a_probe_that_succeeded_voids_what_was_reported_before_it():
    """A fact knows the fence of the last probe before it."""
    assert merge(reports(fact(fence=4), fact(fence=4)), 5) is None
    assert merge(reports(fact(fence=4), fact(fence=5)), 5) == Suspicion("m1", 1)


def test_evidence_is_the_same_after_its_way_through_a_store():
    """But for the time that has passed."""
    evidence = Evidence((fact(30, account="k", fence=3),), {"d": 3}, {"d": 2})
    heard = decode_evidence(encode_evidence(evidence)).after(10.0, is_heard_of=True)
    assert heard == Evidence((fact(20, account="k", fence=3),), {"d": 3}, {"d": 2})
    assert encode_evidence(Evidence()) == ""
    for evidence in (Evidence(fences={"d": 1}), Evidence(healed={"d": 1})):
        assert decode_evidence(encode_evidence(evidence)) == evidence
    written = encode_evidence(Evidence((fact(29.12345),), {"d": 3}, {}))
    assert written == '[[["d","","connection",29.123,30.0,1,0]],{"d":3},{}]'


def test_what_a_silent_member_reported_holds_for_the_time_it_named():
    """A process that is killed after a 429 does not take what it has learnt with it."""
    said = Evidence((fact(30),))
    assert said.after(29.0, is_heard_of=False).facts
    assert not said.after(31.0, is_heard_of=False).facts
    assert said.after(31.0, is_heard_of=True).facts


WRITTEN = ["d", "", "timeout", 1.5, 30, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        *("", "?", "[]", "{}", "[[1],{},{}]", '[[["d"]],{},{}]', "null", "[[],[],0]", "[" * 100_000),
        *(json.dumps([[WRITTEN], {"d": float("inf")}, {}]), json.dumps([[WRITTEN], {}, {"d": "x"}])),
        *(
            json.dumps([[[*WRITTEN[:at], odd, *WRITTEN[at + 1 :]]], {}, {}])
            for at, odd in [(0, 5), (2, "a failure of a later version"), (3, -1), (4, float("nan")), (5, None)]
        ),
    ],
)
def test_what_cannot_be_read_is_passed_over(text):
    """Another version may have written it, or somebody who should not."""
    assert decode_evidence(json.dumps([[WRITTEN], {"d": 2}, {"d": 1}])).facts
    assert decode_evidence(text).facts == ()
