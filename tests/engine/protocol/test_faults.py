"""Upstream failures in the contract's words: the bodies real servers send, and the times they name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.dialects import CODES, DIALECTS, STATUSES
from llm_fallback.engine.protocol.faults import (
    FaultCleaner,
    failure_of,
    fault_in_body,
    fault_of_response,
    parse_error_body,
    reset_after_s,
    retry_after_s,
    shortened,
)
from llm_fallback.engine.transport import Fault, UpstreamError
from llm_fallback.events import Failure
from llm_fallback.spec.secrets import Redactor
from tests.corpus.cases import Case, systems
from tests.engine.protocol.spoken import work_of

ANSWERS = [case for one in systems() for case in one.cases if case.status >= 400]
"""Every HTTP error of the corpus, read without a stack around it."""


def name(case: Case) -> str:
    return f"{case.system}-{case.name}"


@pytest.mark.parametrize("case", ANSWERS, ids=name)
def test_what_a_server_says_has_one_word_in_the_contract(case):
    """By its status, headers and body alone."""
    fault = fault_of_response(case.status, case.headers, body_of(case))
    assert (fault.failure, fault.status) == (case.failure, case.status)


@pytest.mark.parametrize("case", [case for case in ANSWERS if case.wait_s is not None], ids=name)
def test_a_time_that_a_server_names_in_its_words_is_a_time(case):
    """Where there is no header: `try again in 7m12s`, `retry after 26 seconds`, Google's retryDelay."""
    assert min(fault_of_response(case.status, case.headers, body_of(case)).retry_after_s, 600) == pytest.approx(
        case.wait_s, abs=1
    )


def test_an_account_without_money_has_none_when_its_limits_are_reset():
    """OpenAI's 429 for want of money tells of limits as every reply does; a 403 that names a time means that."""
    broke = json.dumps({"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}})
    for headers in ({"x-ratelimit-reset-requests": "1s"}, {"retry-after": "2"}):
        fault = fault_of_response(429, headers, broke)
        assert (fault.failure, fault.retry_after_s) == ("quota_exhausted", None)
    told = "Out of call volume quota. Quota will be replenished in 1.00:00:05."
    fault = fault_of_response(403, {}, json.dumps({"message": told}))
    assert (fault.failure, fault.retry_after_s) == ("quota_exhausted", 86_405)


def body_of(case: Case) -> str:
    return case.body if isinstance(case.body, str) else json.dumps(case.body)


MORE: dict[str, tuple[int | None, str, tuple[str, ...], Failure]] = {
    "no_status_at_all": (None, "Connection refused", ("APIConnectionError",), "connection"),
    "a_class_without_a_status": (None, "", ("AuthenticationError",), "auth"),
    "a_class_for_a_status_that_leaves_it_open": (400, "", ("ContentPolicyViolationError",), "content_policy"),
    "a_class_against_a_status": (429, "", ("ContextWindowExceededError",), "rate_limited"),
    "forbidden": (403, "You are not allowed to use this model.", ("PermissionDeniedError",), "auth"),
    "gone": (410, "This model was retired.", (), "not_found"),
    "cloudflare": (520, "", (), "server_error"),
    "conflict": (409, "conflict", (), "server_error"),
    "method_not_allowed": (405, '{"error":{"message":"Method Not Allowed"}}', (), "server_error"),
    "too_large_in_any_words": (413, "maximum context length is 8 tokens", (), "bad_request"),
    "refused_in_plain_words": (400, "temperature must be at most 2", (), "bad_request"),
    "refused_by_a_page": (422, "<html>Unprocessable</html>", (), "server_error"),
    "refused_without_a_word": (400, " ", (), "server_error"),
    "quota_with_a_time": (
        429,
        '{"error":{"code":"insufficient_quota","message":"try again in 5s"}}',
        (),
        "quota_exhausted",
    ),
    "limit_in_words_of_money_with_a_time": (
        429,
        "You exceeded your current quota. Please retry in 5s.",
        (),
        "rate_limited",
    ),
}


@pytest.mark.parametrize("case", MORE)
def test_what_is_said_beside_the_corpus_has_its_word_too(case):
    """Statuses alone, classes of a library alone, and where they contradict each other."""
    status, text, classes, failure = MORE[case]
    assert failure_of(status, parse_error_body(text), classes) == failure


@pytest.mark.parametrize(("status", "failure"), [(401, "auth"), (429, "rate_limited"), (500, "server_error")])
def test_the_status_decides_before_the_wording(status, failure):
    """A 500 whose text talks of context windows is a 500: texts are guesses, statuses are not."""
    assert failure_of(status, parse_error_body("maximum context length, content_filter, invalid model name")) == failure


def test_a_status_nobody_sent_decides_last():
    """Inside of a 200 a 500 is somebody's guess; the words are the server's."""
    said = parse_error_body("maximum context length is 8 tokens")
    assert [failure_of(500, said), failure_of(500, said, guessed=True)] == ["server_error", "context_window"]


@given(st.one_of(st.none(), st.integers(100, 599)), st.text(max_size=200), st.booleans())
def test_every_failure_has_a_word(status, text, guessed):
    """Whatever a server says, and however badly."""
    assert failure_of(status, parse_error_body(text), guessed=guessed) in Failure.__args__


def test_no_code_means_two_failures():
    """Whoever speaks it."""
    codes = [code for dialect in DIALECTS for codes in dialect.codes.values() for code in codes]
    assert len(codes) == len(set(codes)) == len(CODES)
    assert all(code == code.lower() for code in (*CODES, *STATUSES))


@pytest.mark.parametrize(
    ("response", "classes", "fault"),
    [
        ((401, {}, '{"error": {"message": "no"}}'), (), Fault("auth", "no", 401)),
        ((400, {}, b"no\xff"), (), Fault("bad_request", "no\ufffd", 400)),
        (
            (400, {"x-amzn-errortype": "insufficient_quota:http://a"}, '{"message": "no"}'),
            (),
            Fault("quota_exhausted", "no", 400),
        ),
        ((400, {}, '{"message": "no"}'), ("ContentPolicyViolationError",), Fault("content_policy", "no", 400)),
        (
            (403, {}, "Out of call volume quota. Quota will be replenished in 1.02:03:05."),
            (),
            Fault(
                *("quota_exhausted", "Out of call volume quota. Quota will be replenished in 1.02:03:05.", 403, 93_785)
            ),
        ),
    ],
)
def test_a_response_with_an_error_is_its_fault(response, classes, fault):
    """By its status, its headers, its body, and what a library made of it."""
    assert fault_of_response(*response, classes) == fault


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 20 "}, 20.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:30 -0000"}, 90.0),
        ({"retry-after": "Sun, 22 Nov 2026 13:01:30 +0100"}, 90.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after-ms": "-1"}, None),
        ({"retry-after": "0 NOV -1 0:0 2200000000"}, None),
    ],
)
def test_a_server_names_its_time_in_milliseconds_seconds_or_as_a_date(headers, seconds):
    """Nonsense names no time, and neither does a negative or endless one; a date that is past is now."""
    assert retry_after_s(headers, NOW) == seconds


def test_a_date_is_compared_with_the_clock_on_the_wall():
    """Without a `now` of the caller's."""
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after_s({"retry-after": ahead}) <= 100


@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"[0-9 :,+A-Za-z-]{0,40}", fullmatch=True),
        st.builds(
            "Sun, {} Nov {} {}:{}:{} {}".format,
            *[st.integers(-3, 99999)] * 5,
            st.sampled_from(["GMT", "+9999", "-0000", "+99999999999", ""]),
        ),
    )
)
def test_no_header_however_odd_fails_a_call(text):
    """It is a number of seconds from 0 up, or nothing."""
    seconds = retry_after_s({"retry-after": text}, NOW)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("text", "short"),
    [("", ""), ("one\n two\t\tthree ", "one two three"), ("a" * 500, "a" * 500), ("a" * 501, "a" * 499 + "…")],
)
def test_messages_are_one_line_of_at_most_500_characters(text, short):
    """So that a server's stack trace fits a log record."""
    assert shortened(text) == short


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        *((data, None) for data in (None, 5, [], [5], {}, {"error": None}, {"object": "list"}, [{"error": ""}])),
        ({"error": "Overloaded"}, Fault("overloaded", "Overloaded", 500)),
        ({"object": "error", "message": "no"}, Fault("server_error", "no", 500)),
        ([{}, {"error": "no"}, {"error": "Overloaded"}], Fault("server_error", "no", 500)),
        ({"error": {"code": 429, "message": "try again in 5s"}}, Fault("rate_limited", "try again in 5s", 429, 5)),
        ({"error": {"code": 500, "message": "Overloaded"}}, Fault("server_error", "Overloaded", 500)),
        ({"error": {"type": "Overloaded_Error", "message": "no"}}, Fault("overloaded", "no", 529)),
    ],
)
def test_an_error_inside_of_a_200_is_the_fault_it_names(data, fault):
    """A status among its codes is the server's; without one its words decide."""
    assert fault_in_body(data) == fault


def test_a_cleaned_fault_has_no_secret_and_a_cause_that_says_the_same():
    """In one line; the cause is named after what a library raised, if one did."""
    cleaner = FaultCleaner(Redactor(["sk-of-the-spec"]))
    cleaner.add("sk-of-today", "sk-of-the-hour")
    said = Fault("auth", "no sk-of-the-spec,\nno sk-of-today, no sk-of-the-hour", 401, 7)
    for error, kind in ((None, "UpstreamError"), (TimeoutError("sk-of-the-spec"), "TimeoutError")):
        cleaned = cleaner(said, error)
        assert cleaned == Fault("auth", "no ***, no ***, no ***", 401, 7)
        assert isinstance(cleaned.cause, UpstreamError)
        assert str(cleaned.cause) == f"{kind} (401): no ***, no ***, no ***"


def test_of_a_secret_across_the_end_of_what_is_searched_nothing_is_told():
    """Its first part alone would be no secret that anybody knows."""
    secret = "sk-" + "x" * 8_189
    cleaner = FaultCleaner(Redactor([secret]))
    assert cleaner(Fault("auth", secret * 2)).message == "******"
    assert cleaner(Fault("auth", secret + "-" + secret)).message == "***"
    assert cleaner(Fault("auth", "a" * 20_000)).message == "a" * 499 + "…"


def test_two_faults_that_say_the_same_are_equal_whatever_caused_them():
    """The upstream exception is for `__cause__`, not for comparisons."""
    assert Fault("auth", "no", 401, cause=ValueError()) == Fault("auth", "no", 401)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1d2h"}, 93_600.0),
        ({"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-reset-requests": "2m59.56s"}, 179.56),
        (
            {
                "x-ratelimit-reset-requests": "9m",
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-tokens": "4s",
                "x-ratelimit-remaining-tokens": "0",
            },
            4.0,
        ),
        ({"x-rate-limit-reset-tokens": "55"}, 55.0),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 30)}, 30.0),
        ({"X-RateLimit-Reset": str((int(NOW.timestamp()) + 30) * 1000), "X-RateLimit-Remaining": "0"}, 30.0),
        ({"anthropic-ratelimit-input-tokens-reset": "2026-11-22T12:00:37Z"}, 37.0),
        ({"anthropic-ratelimit-requests-reset": "2026-11-22T13:00:37+01:00"}, 37.0),
        ({"anthropic-ratelimit-requests-reset": "2026-11-22T12:00:37"}, 37.0),
        ({"anthropic-ratelimit-requests-reset": "2026-11-22T11:00:00Z"}, 0.0),
        (
            {
                "X-RateLimit-Reset-Requests": "9m",
                "X-RateLimit-Remaining-Requests": "3",
                "X-RateLimit-Reset-Tokens": "4s",
                "X-RateLimit-Remaining-Tokens": "0",
            },
            4.0,
        ),
        ({"x-ratelimit-reset": "1000000000"}, 1e9),
        ({"x-ratelimit-reset": "1000000001"}, 0.0),
        ({"x-ratelimit-reset": "100000000000"}, 1e11 - NOW.timestamp()),
        ({"x-ratelimit-reset": "100000000001"}, 1e11 + 1),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) - 30)}, 0.0),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-reset": "-3"}, None),
        ({"x-ratelimit-reset": "nan"}, None),
        ({"x-ratelimit-limit-tokens": "6m0s"}, None),
    ],
)
def test_a_server_names_when_its_limits_are_reset(headers, seconds):
    """As a duration, in seconds, or as a moment; of several limits the one that is used up counts."""
    found = reset_after_s(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_only_to_a_refusal_for_a_limit_is_its_reset_a_time_to_wait():
    """Servers name it with every reply, also with a wrong request; and Retry-After says more."""
    reset = {"x-ratelimit-reset-tokens": "6m0s"}
    assert fault_of_response(400, reset, '{"error": {}}').retry_after_s is None
    assert fault_of_response(429, reset, "{}").retry_after_s == 360
    assert fault_of_response(429, {**reset, "retry-after": "0"}, "{}").retry_after_s == 0


def test_openrouter_hands_on_the_headers_of_whom_it_asked():
    """In the body, as a moment in milliseconds."""
    at = int(datetime.now(UTC).timestamp() + 60) * 1000
    body = {"error": {"code": 429, "message": "Limited", "metadata": {"headers": {"X-RateLimit-Reset": str(at)}}}}
    assert 50 < fault_of_response(429, {}, json.dumps(body)).retry_after_s <= 60


HOSTILE = (
    *("input token count word ", "the model ", "account reached ", "try again in 1", "wait for 1min", "1", " ssl:<"),
    *('"retryDelay": "1', "prompt token count of 1", "\\d", " ", "a", "\n", "request body too large for "),
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("nested", [False, True])
def test_an_endless_error_costs_no_more_than_a_long_one(text, nested):
    """Only its beginning is searched for words: the rest is read once, or the event loop would stand still."""

    def read(size: int) -> None:
        said = text * (size // len(text))
        fault_of_response(400, {}, json.dumps({"error": {"message": said, "code": 1}}) if nested else said.encode())

    assert work_of(lambda: read(256_000)) < 4 * work_of(lambda: read(32_000))


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"error":' * 200_000, b'{"error": ' * 300 + b"1" + b"}" * 300])
def test_an_error_nested_without_end_is_read_by_its_status(body):
    """It is no page, so it is the model server's word about the request."""
    assert fault_of_response(400, {}, body).failure == "bad_request"
    assert fault_of_response(500, {}, body).failure == "server_error"
