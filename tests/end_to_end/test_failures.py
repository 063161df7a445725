"""Every failure of the table, in every mode: who is asked, how often, how fast, and what is said about it."""

from __future__ import annotations

import time

import pytest

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.testing import Empty, Fail, FakeServer, Garbage, Reply, Stall
from tests.asking import MODES, STREAMED, TWO_MODES, ask
from tests.thinning import combinations

QUICK = {"timeouts": {"total_s": 5, "attempt_s": 0.6, "first_token_s": 0.3, "idle_s": 0.3}}

PRIMARY = {
    "server_error": (Fail(500), "server_error", 500),
    "bad_gateway": (Fail(502), "server_error", 502),
    "gateway_timeout": (Fail(504), "server_error", 504),
    "overloaded": (Fail(503), "overloaded", 503),
    "overloaded_529": (Fail(529), "overloaded", 529),
    "rate_limited": (Fail(429), "rate_limited", 429),
    "rate_limited_for_long": (Fail(429, retry_after=30), "rate_limited", 429),
    "quota": (Fail("quota_exhausted"), "quota_exhausted", 429),
    "payment_required": (Fail(402), "quota_exhausted", 402),
    "auth": (Fail("auth"), "auth", 401),
    "forbidden": (Fail(403), "auth", 403),
    "not_found": (Fail("not_found"), "not_found", 404),
    "context_window": (Fail("context_window"), "context_window", 400),
    "content_policy": (Fail("content_policy"), "content_policy", 400),
    "bad_request": (Fail("bad_request"), "bad_request", 400),
    "unprocessable": (Fail(422), "bad_request", 422),
    "connection_reset": (Fail("connection"), "connection", None),
    "html": (Garbage("html"), "invalid_response", 200),
    "no_choices": (Garbage("no_choices"), "invalid_response", 200),
    "truncated": (Garbage("truncated"), "invalid_response", 200),
    "null": (Garbage("null"), "invalid_response", 200),
    "empty": (Empty(), "empty_response", 200),
    "filtered": (Reply("", finish="content_filter"), "content_policy", 200),
}


@pytest.mark.parametrize(("case", "mode"), combinations(PRIMARY, MODES, fast=lambda case, mode: mode in TWO_MODES))
async def test_a_failing_deployment_is_left_at_once_after_one_request(case, mode):
    """Whatever a deployment fails by, it gets one request, the next one answers without a pause, metadata say why."""
    script, failure, status = PRIMARY[case]
    with FakeServer({"primary": script, "backup": "fine"}) as server:
        with build_chat_model(server.spec()) as model:
            began = time.monotonic()
            message = await ask(model, mode)
            took = time.monotonic() - began
        assert message.content == "fine"
        assert [len(server.received(name)) for name in ("primary", "backup")] == [1, 1]
    facts = message.response_metadata["llm_fallback"]
    assert [(a["deployment"], a["outcome"], a["failure"]) for a in facts["attempts"]] == [
        ("primary", "failed", failure),
        ("backup", "succeeded", None),
    ]
    assert facts["attempts"][0]["status"] == status
    assert facts["fell_back"] is True
    assert facts["deployment"] == "backup"
    assert message.response_metadata["model_name"] == "backup"
    assert took < 4


SLOW = {
    "hang": (Stall(), {"stream": "first_token_timeout", "plain": "timeout"}),
    "keep_alive_comments": (Stall(keep_alive="comments"), {"stream": "first_token_timeout", "plain": "timeout"}),
    "role_chunks": (Stall(keep_alive="roles"), {"stream": "first_token_timeout", "plain": "timeout"}),
}


@pytest.mark.parametrize(("case", "mode"), combinations(SLOW, MODES, fast=lambda case, mode: mode in TWO_MODES))
async def test_a_hanging_deployment_is_left_when_its_limit_is_over(case, mode):
    """Neither silence nor keep-alives nor role chunks hold a call longer than first_token_s or attempt_s."""
    script, failures = SLOW[case]
    with FakeServer({"warm": "warm", "primary": script, "backup": "fine"}) as server:
        spec = server.spec(**QUICK)
        spec["chains"]["default"]["tiers"] = ["primary", "backup"]
        spec["chains"]["warm"] = {"tiers": ["warm"]}
        spec["default_chain"] = "default"
        with build_chat_model(spec) as model:
            await ask(model, mode, chain="warm")
            began = time.monotonic()
            message = await ask(model, mode)
            took = time.monotonic() - began
            assert message.content == "fine"
            server.wait_until(lambda: server.received("primary")[0].client_gone_at is not None)
        assert len(server.received("primary")) == 1
    facts = message.response_metadata["llm_fallback"]
    assert facts["attempts"][0]["failure"] == failures["stream" if mode in STREAMED else "plain"]
    limit = 0.3 if mode in STREAMED else 0.6
    assert limit <= facts["attempts"][0]["latency_s"] < limit + 0.25
    assert took < limit + 0.5


@pytest.mark.parametrize("mode", MODES)
async def test_a_dead_port_is_a_connection_failure(mode):
    """A refused connection falls back like any other failure."""
    with FakeServer({"backup": "fine"}) as server:
        spec = server.spec()
        spec["deployments"]["dead"] = {"backend": "vllm", "model": "m", "api_base": "http://127.0.0.1:9"}
        spec["chains"]["default"]["tiers"] = ["dead", "backup"]
        with build_chat_model(spec) as model:
            message = await ask(model, mode)
    assert message.response_metadata["llm_fallback"]["attempts"][0]["failure"] == "connection"


@pytest.mark.parametrize("mode", MODES)
async def test_a_chain_whose_deployments_all_hang_ends_with_total_s(mode):
    """total_s bounds the call, however many deployments are left."""
    with FakeServer({"a": Stall(), "b": Stall(), "c": Stall()}) as server:
        with build_chat_model(server.spec(timeouts={"total_s": 0.7, "attempt_s": 0.5})) as model:
            began = time.monotonic()
            with pytest.raises(TimeoutError) as caught:
                await ask(model, mode)
            took = time.monotonic() - began
    assert isinstance(caught.value, ChainExhausted)
    assert took < 1.9
