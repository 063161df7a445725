"""Upstream failures in the contract's words: the bodies real servers send, and the times they name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.events import Failure
from llm_fallback.faults import Fault, failure_of, retry_after_s, shortened


def openai_error(message: str, kind: str = "BadRequestError", code: str = "400") -> str:
    return f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":{code}}}}}'


def flat_error(message: str, code: int = 400) -> str:
    return f'{{"object":"error","message":"{message}","type":"BadRequestError","param":null,"code":{code}}}'


SERVERS: dict[str, tuple[int, str, tuple[str, ...], Failure]] = {
    "vllm_context_by_tokens": (
        400,
        openai_error(
            "This model's maximum context length is 256 tokens. However, your prompt contains at least 257 input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
            "prompt. (parameter=input_tokens, value=257)"
        ),
        ("ContextWindowExceededError", "BadRequestError"),
        "context_window",
    ),
    "vllm_context_by_characters": (
        400,
        openai_error(
            "This model's maximum context length is 256 tokens. However, your prompt contains 36028 characters (more "
            "than 3328 characters, which is the upper bound for 256 input tokens). Please reduce the length of the "
            "input prompt. (parameter=input_text, value=36028)"
        ),
        (),
        "context_window",
    ),
    "vllm_max_tokens_beyond_context": (
        400,
        openai_error(
            "max_tokens=1000000 cannot be greater than max_model_len=256. Please request fewer output tokens. "
            "(parameter=max_tokens, value=1000000)"
        ),
        ("BadRequestError",),
        "context_window",
    ),
    "vllm_bad_model": (
        404,
        openai_error("The model `nope` does not exist. Valid aliases: tiny.", "NotFoundError", "404"),
        ("NotFoundError",),
        "not_found",
    ),
    "vllm_bad_key": (401, '{"error":"Unauthorized"}', ("AuthenticationError",), "auth"),
    "vllm_overload": (
        503,
        openai_error(
            "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
            "instance.",
            "Service Unavailable",
            "503",
        ),
        ("ServiceUnavailableError",),
        "overloaded",
    ),
    "vllm_prefill_backlog": (
        503,
        "The engine has reached its prefill token backlog limit. Please try again later or on a different instance.",
        (),
        "overloaded",
    ),
    "vllm_engine_dead": (
        500,
        openai_error(
            "EngineCore encountered an issue. See stack trace (above) for the root cause.", "InternalServerError", "500"
        ),
        ("InternalServerError",),
        "server_error",
    ),
    "vllm_draining": (
        500,
        openai_error("cannot schedule new futures after shutdown", "InternalServerError", "500"),
        ("InternalServerError",),
        "server_error",
    ),
    "vllm_validation": (
        400,
        openai_error("1 validation error:\\n  {'type': 'missing', 'loc': 'body.messages'}", "Bad Request"),
        ("BadRequestError",),
        "bad_request",
    ),
    "ray_serve_backpressure": (
        503,
        "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2).",
        ("ServiceUnavailableError",),
        "overloaded",
    ),
    "ray_serve_backpressure_as_429": (429, "Request dropped due to backpressure", (), "rate_limited"),
    "ray_serve_replica_died": (500, "Internal Server Error", ("InternalServerError",), "server_error"),
    "ray_serve_booting": (
        404,
        "Path '/v1/chat/completions' not found. Ping http://127.0.0.1:8000/-/routes for available routes.",
        ("NotFoundError",),
        "overloaded",
    ),
    "ray_serve_without_routes": (503, "Route table is not populated yet.", (), "overloaded"),
    "ray_llm_context": (
        400,
        openai_error(
            "Message: This model's maximum context length is 256 tokens. However, you requested 5 output tokens and "
            "your prompt contains at least 252 input tokens, for a total of at least 257 tokens. (Request ID: 1), "
            "Internal exception: ray.llm._internal.serve.core.configs.openai_api_models.OpenAIHTTPException",
            "OpenAIHTTPException",
        ),
        ("ContextWindowExceededError",),
        "context_window",
    ),
    "ray_llm_max_tokens": (
        400,
        openai_error("max_tokens=1000000 cannot be greater than max_model_len=max_total_tokens=256."),
        ("BadRequestError",),
        "context_window",
    ),
    "ray_llm_bad_model": (
        404,
        '{"detail":"Got request for model \\"nope\\". Could not find base model with ID \\"nope\\"."}',
        ("NotFoundError",),
        "not_found",
    ),
    "ray_llm_engine_dead": (
        500,
        openai_error(
            "Message: Internal Server Error (Request ID: 1), original exception: \u001b[36mray::ServeReplica:llm",
            "InternalServerError",
            "500",
        ),
        ("InternalServerError",),
        "server_error",
    ),
    "ray_llm_router_timeout": (408, "Request server side timeout", ("Timeout",), "timeout"),
    "openllm_context": (400, flat_error("This model's maximum context length is 8192 tokens."), (), "context_window"),
    "openllm_bad_model": (404, flat_error("The model `nope` does not exist.", 404), (), "not_found"),
    "bentoml_overload": (429, '{"error":"Too many requests"}', ("RateLimitError",), "rate_limited"),
    "bentoml_timeout": (504, '{"error":"Not able to process the request in 8 seconds"}', ("Timeout",), "server_error"),
    "tensorrt_context_pytorch": (
        400,
        flat_error(
            "The sum of prompt length (72417.0), query length (0) should not exceed max_num_tokens (69632)",
        ),
        ("BadRequestError",),
        "context_window",
    ),
    "tensorrt_context_tensorrt": (
        400,
        flat_error(
            "The sum of prompt length (4000) and query length (0) max_tokens (2048) should not exceed "
            "max_seq_len (4096)"
        ),
        ("BadRequestError",),
        "context_window",
    ),
    "tensorrt_validation": (400, '{"error":"n must be 1"}', ("BadRequestError",), "bad_request"),
    "llama_cpp_context": (
        400,
        '{"error":{"message":"This model\'s maximum context length is 512 tokens. However, you requested 6036 tokens '
        '(6031 in the messages, 5 in the completion).","type":"invalid_request_error","param":"messages",'
        '"code":"context_length_exceeded"}}',
        (),
        "context_window",
    ),
    "llama_cpp_bad_key": (401, '{"detail":"Invalid API key"}', ("AuthenticationError",), "auth"),
    "llama_server_context": (400, '{"error":{"type":"exceed_context_size_error"}}', (), "context_window"),
    "llama_server_loading": (503, "Loading model", (), "overloaded"),
    "transformers_bad_model": (
        400,
        "{\"detail\":\"Server is pinned to 'tiny'; requested 'nope'.\"}",
        ("BadRequestError",),
        "not_found",
    ),
    "litellm_proxy_rate_limit": (429, '{"error":{"type":"throttling_error"}}', ("RateLimitError",), "rate_limited"),
    "litellm_proxy_context": (
        400,
        openai_error("litellm.ContextWindowExceededError: litellm.BadRequestError: this is a mock"),
        ("BadRequestError",),
        "context_window",
    ),
    "litellm_proxy_bad_model": (
        400,
        openai_error("/chat/completions: Invalid model name passed in model=nope"),
        ("BadRequestError",),
        "not_found",
    ),
    "litellm_proxy_bad_key": (
        400,
        openai_error("No connected db.", "no_db_connection", '"400"'),
        ("BadRequestError",),
        "auth",
    ),
}
"""SERVERS.md, section 2: status, body, litellm's classes, and our word."""

HOSTED: dict[str, tuple[int | None, str, tuple[str, ...], Failure]] = {
    "openai_quota": (
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        ("RateLimitError",),
        "quota_exhausted",
    ),
    "openai_quota_by_code": (429, '{"error":{"code":"insufficient_quota"}}', (), "quota_exhausted"),
    "openai_billing_limit": (400, "Billing hard limit has been reached", (), "quota_exhausted"),
    "openai_account_not_active": (
        429,
        "Your account is not active, please check your billing details on our website.",
        (),
        "quota_exhausted",
    ),
    "openai_small_account_rate_limit": (
        429,
        "Rate limit reached for gpt-4.1 on requests per min. Limit: 3 / min. Please try again in 20s. You can increase "
        "your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing.",
        ("RateLimitError",),
        "rate_limited",
    ),
    "anthropic_credit": (400, "Your credit balance is too low to access the Anthropic API.", (), "quota_exhausted"),
    "anthropic_overloaded": (529, '{"error":{"type":"overloaded_error"}}', ("InternalServerError",), "overloaded"),
    "anthropic_context": (400, "prompt is too long: 210000 tokens > 200000 maximum", (), "context_window"),
    "anthropic_body_too_large": (413, "request_too_large", (), "context_window"),
    "azure_filter": (
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        (),
        "content_policy",
    ),
    "azure_filter_by_class": (400, "", ("ContentPolicyViolationError", "BadRequestError"), "content_policy"),
    "google_key": (400, "API key not valid. Please pass a valid API key.", (), "auth"),
    "no_credit": (402, "Insufficient balance.", (), "quota_exhausted"),
    "forbidden": (403, "You are not allowed to use this model.", ("PermissionDeniedError",), "auth"),
    "gone": (410, "This model was retired.", (), "not_found"),
    "unprocessable": (422, '{"detail":[{"msg":"Field required"}]}', (), "bad_request"),
    "bad_gateway": (502, "<html>502 Bad Gateway</html>", (), "server_error"),
    "cloudflare": (520, "", (), "server_error"),
    "no_status_at_all": (None, "Connection refused", ("APIConnectionError",), "connection"),
    "a_class_without_a_status": (None, "", ("AuthenticationError",), "auth"),
}


@pytest.mark.parametrize("case", [*SERVERS, *HOSTED])
def test_what_a_server_says_has_one_word_in_the_contract(case):
    """By status, body and litellm's class, for each body that was seen on the wire."""
    status, text, classes, failure = (SERVERS | HOSTED)[case]
    assert failure_of(status, text, classes) == failure


@pytest.mark.parametrize("case", [name for name, row in SERVERS.items() if row[0] == 400])
def test_the_words_are_the_same_where_litellm_has_only_its_general_class(case):
    """BadRequestError for everything is what litellm knows of several of these servers."""
    status, text, _, failure = SERVERS[case]
    assert failure_of(status, text, ("BadRequestError",)) == failure


@pytest.mark.parametrize(("status", "failure"), [(401, "auth"), (429, "rate_limited"), (500, "server_error")])
def test_the_status_decides_before_the_wording(status, failure):
    """A 500 whose text talks of context windows is a 500: texts are guesses, statuses are not."""
    assert failure_of(status, "maximum context length, content_policy, invalid model name") == failure


@given(st.one_of(st.none(), st.integers(100, 599)), st.text(max_size=200))
def test_every_failure_has_a_word(status, text):
    """Whatever a server says, and however badly."""
    assert failure_of(status, text) in Failure.__args__


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


def test_two_faults_that_say_the_same_are_equal_whatever_caused_them():
    """The upstream exception is for `__cause__`, not for comparisons."""
    assert Fault("auth", "no", 401, cause=ValueError()) == Fault("auth", "no", 401)
