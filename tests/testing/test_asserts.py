"""What `assert_attempts` accepts, and what it tells when it does not."""

from decimal import Decimal

import pytest
from langchain_core.messages import AIMessage

from llm_fallback.errors import StreamCut, exhausted
from llm_fallback.events import Attempt, Record, Skip
from llm_fallback.testing import assert_attempts

THROTTLED = Attempt("primary", "m", "failed", "rate_limited", 429, "slow down", latency_s=0.12, cost_usd=Decimal(0))
LOST = Attempt("slow", "m", "cancelled")
ANSWERED = Attempt("backup", "m", "succeeded", None, 200, latency_s=0.8)
SKIPPED = Skip("long", "breaker_open", 21.4)


def reply(*attempts: Attempt, skipped: tuple[Skip, ...] = ()) -> AIMessage:
    record = Record("default", "backup", "m", True, attempts, skipped, 0.93, None)
    return AIMessage("hello", response_metadata={"llm_fallback": record.as_metadata()})


def test_the_course_of_a_reply_is_compared_in_order() -> None:
    """A failed attempt reads by its failure, any other by its outcome."""
    message = reply(THROTTLED, LOST, ANSWERED)
    assert_attempts(message, "primary: rate_limited", "slow: cancelled", "backup: succeeded")
    with pytest.raises(AssertionError):
        assert_attempts(message, "backup: succeeded", "primary: rate_limited", "slow: cancelled")


@pytest.mark.parametrize("expected", [[], ["primary: rate_limited", "backup: succeeded", "third: succeeded"]])
def test_too_few_and_too_many_both_fail(expected: list[str]) -> None:
    """All attempts are expected, and no others."""
    with pytest.raises(AssertionError):
        assert_attempts(reply(THROTTLED, ANSWERED), *expected)


def test_a_failure_shows_the_whole_course() -> None:
    """Expected and actual, with status, time, message and what was passed over."""
    with pytest.raises(AssertionError) as caught:
        assert_attempts(reply(THROTTLED, ANSWERED, skipped=(SKIPPED,)), "primary: succeeded")
    assert str(caught.value).splitlines() == [
        "the call went another way",
        "expected:",
        "  primary: succeeded",
        "was:",
        "  primary: rate_limited (429) after 0.12 s: slow down",
        "  backup: succeeded after 0.80 s",
        "  long: skipped, breaker_open",
    ]


def test_an_error_with_attempts_is_asserted_alike() -> None:
    """`ChainExhausted` and `StreamBroken` know their course too."""
    assert_attempts(exhausted("default", "rate_limited", [THROTTLED], [SKIPPED]), "primary: rate_limited")
    assert_attempts(StreamCut("cut", AIMessage("hel"), [THROTTLED]), "primary: rate_limited")


def test_no_attempt_is_a_course_too() -> None:
    """A call that was over before its first request."""
    error = exhausted("default", "timeout", [], [SKIPPED])
    assert_attempts(error)
    with pytest.raises(AssertionError, match="no attempt"):
        assert_attempts(error, "primary: succeeded")


def test_what_has_no_course_is_said_to_have_none() -> None:
    """A message of another model and an error from elsewhere are mistakes in the test."""
    with pytest.raises(AssertionError, match="no response_metadata"):
        assert_attempts(AIMessage("hello"), "primary: succeeded")
    with pytest.raises(AssertionError, match="knows of no attempts: ValueError"):
        assert_attempts(ValueError("x"), "primary: succeeded")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("primary: rate_limted", "did you mean 'rate_limited'"),
        ("primary: ok", "there are succeeded, connection"),
        ("primary", "write it as in"),
        (": succeeded", "write it as in"),
    ],
)
def test_an_expectation_no_call_can_meet_is_the_tests_own_mistake(line: str, hint: str) -> None:
    """It is told as such, with the nearest word, rather than as a difference."""
    with pytest.raises(ValueError, match=hint):
        assert_attempts(reply(THROTTLED, ANSWERED), line, "backup: succeeded")
