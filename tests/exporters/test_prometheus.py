"""What Prometheus scrapes of real calls: names, labels, buckets, and nothing of the messages."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from decimal import Decimal
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from llm_fallback import (
    Attempt,
    BreakerOpened,
    CallEnded,
    ChainExhausted,
    FellBack,
    Record,
    StreamBroken,
    build_chat_model,
)
from llm_fallback.events import Usage
from llm_fallback.exporters.prometheus import PrometheusExporter
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, Stall
from tests.asking import MODES, STREAMED, ask
from tests.exporters.fleets import a_fleet
from tests.exporters.priced import KEY_CANARY, PROMPT_CANARY, REPLY_CANARY, TAG_CANARY, priced_model

SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300]
DEPLOYMENT = {"chain", "deployment"}
METRICS = {
    # name: (type, labels)
    "llm_fallback_calls": ("counter", {"chain", "outcome", "failure"}),
    "llm_fallback_call_duration_seconds": ("histogram", {"chain", "outcome"}),
    "llm_fallback_call_time_to_first_token_seconds": ("histogram", {"chain"}),
    "llm_fallback_attempts": ("counter", {*DEPLOYMENT, "outcome", "failure"}),
    "llm_fallback_attempt_duration_seconds": ("histogram", {*DEPLOYMENT, "outcome"}),
    "llm_fallback_attempt_time_to_first_token_seconds": ("histogram", DEPLOYMENT),
    "llm_fallback_tokens": ("counter", {*DEPLOYMENT, "type"}),
    "llm_fallback_cost_usd": ("counter", DEPLOYMENT),
    "llm_fallback_unpriced_attempts": ("counter", DEPLOYMENT),
    "llm_fallback_fallbacks": ("counter", {*DEPLOYMENT, "failure"}),
    "llm_fallback_breaker_openings": ("counter", {"deployment", "failure"}),
}


@pytest.fixture
def exporter():
    return PrometheusExporter()


def families(exporter):
    """What a scrape shows, without the times at which series were made."""
    all_families = text_string_to_metric_families(exporter.metrics().decode())
    return {family.name: family for family in all_families if not family.name.endswith("_created")}


def values(exporter, sample, *labels):
    """A sample's values by the labels named."""
    return {
        tuple(measured.labels.get(label) for label in labels): measured.value
        for family in families(exporter).values()
        for measured in family.samples
        if measured.name == sample
    }


def call_ended(**facts):
    """A streamed call with one attempt that used a token each way and cost a dollar."""
    attempt = Attempt(
        "a", "m", "succeeded", latency_s=1.0, time_to_first_token_s=0.3, cost_usd=Decimal(1), usage=Usage(1, 1)
    )
    record = Record("assistant", "a", "m", False, (attempt,), (), 1.0, 0.3)
    return CallEnded(chain="assistant", record=record, streamed=True, at=1_000_000.0, **facts)


def test_every_metric_has_the_name_type_labels_and_buckets_of_the_table(exporter):
    """Nothing else is exported; times are in seconds, money in dollars."""
    exporter(call_ended())
    exporter(FellBack("assistant", "a", "b", "timeout"))
    exporter(BreakerOpened("assistant", "a", "timeout", 30.0))
    unpriced = Record("assistant", "a", "m", False, (Attempt("a", "m", "succeeded"),), (), 1.0, None)
    exporter(CallEnded("assistant", unpriced))
    exported = families(exporter)
    assert {name: family.type for name, family in exported.items()} == {
        name: kind for name, (kind, _) in METRICS.items()
    }
    for name, family in exported.items():
        assert {label for sample in family.samples for label in sample.labels} - {"le"} == METRICS[name][1]
        buckets = [float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels]
        if family.type == "histogram":
            assert buckets[: len(SECONDS)] == SECONDS
            assert buckets[len(SECONDS)] == float("inf")


@pytest.mark.parametrize("mode", MODES)
async def test_a_fallback_is_counted_attempt_by_attempt(mode, exporter):
    """The failed attempt with its failure, the other with its tokens and cost, the call once."""
    with FakeServer({"a": Fail(429), "b": Reply("hello", usage=(7, 3))}) as server:
        with priced_model(server, exporter) as model:
            await ask(model, mode)
    ending = ("outcome", "failure")
    assert values(exporter, "llm_fallback_calls_total", "chain", *ending) == {("default", "succeeded", ""): 1}
    assert values(exporter, "llm_fallback_attempts_total", "deployment", *ending) == {
        ("a", "failed", "rate_limited"): 1,
        ("b", "succeeded", ""): 1,
    }
    assert values(exporter, "llm_fallback_tokens_total", "deployment", "type") == {
        ("b", "input"): 7,
        ("b", "output"): 3,
    }
    assert values(exporter, "llm_fallback_cost_usd_total", "deployment") == {("a",): 0, ("b",): 13}
    assert values(exporter, "llm_fallback_fallbacks_total", "deployment", "failure") == {("a", "rate_limited"): 1}
    assert values(exporter, "llm_fallback_breaker_openings_total", "deployment", "failure") == {
        ("a", "rate_limited"): 1
    }
    assert values(exporter, "llm_fallback_attempt_duration_seconds_count", "deployment") == {("a",): 1, ("b",): 1}


@pytest.mark.parametrize("mode", MODES)
async def test_times_are_those_of_the_metadata(mode, exporter):
    """Seconds, the first token of streams only, the call's counted from its first attempt."""
    with FakeServer({"a": Fail(503, delay_s=0.1), "b": "hello"}) as server:
        with priced_model(server, exporter) as model:
            facts = (await ask(model, mode)).response_metadata["llm_fallback"]
    first_tokens = {
        "llm_fallback_call_time_to_first_token_seconds_sum": facts["time_to_first_token_s"],
        "llm_fallback_attempt_time_to_first_token_seconds_sum": facts["attempts"][1]["time_to_first_token_s"],
    }
    for sample, seconds in first_tokens.items():
        measured = list(values(exporter, sample, "deployment").values())
        assert measured == ([pytest.approx(seconds, abs=1e-5)] if mode in STREAMED else [])
    assert values(exporter, "llm_fallback_attempt_duration_seconds_sum", "deployment") == {
        (attempt["deployment"],): pytest.approx(attempt["latency_s"], abs=1e-5) for attempt in facts["attempts"]
    }
    (whole,) = values(exporter, "llm_fallback_call_duration_seconds_sum").values()
    assert whole == pytest.approx(facts["latency_s"], abs=2e-3)


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_nobody_answers_is_counted_as_failed(mode, exporter):
    """With the failure it ended with."""
    with FakeServer({"a": Fail(503), "b": Fail(400)}) as server:
        with priced_model(server, exporter, retries={"max": 0}) as model, pytest.raises(ChainExhausted):
            await ask(model, mode)
    assert values(exporter, "llm_fallback_calls_total", "outcome", "failure") == {("failed", "bad_request"): 1}


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_stream_that_breaks_is_failed_and_without_a_price_its_cost_unknown(mode, exporter):
    """It is counted among the unpriced, not as free."""
    with FakeServer({"a": Cut(after_chunks=2)}) as server:
        with build_chat_model(server.spec(), listeners=[exporter]) as model, pytest.raises(StreamBroken):
            await ask(model, mode)
    assert values(exporter, "llm_fallback_calls_total", "outcome", "failure") == {("failed", "stream_broken"): 1}
    assert values(exporter, "llm_fallback_unpriced_attempts_total", "deployment") == {("a",): 1}
    assert values(exporter, "llm_fallback_cost_usd_total") == {}


@pytest.mark.parametrize("mode", ["ainvoke", *STREAMED])
async def test_a_call_its_caller_left_is_cancelled(mode, exporter):
    """A task that is cancelled, and streams closed after their first chunk."""
    ended = asyncio.Event()
    with FakeServer({"a": Stall(after_chunks=1)}) as server:
        async with priced_model(server, exporter, lambda event: ended.set()) as model:
            if mode == "ainvoke":
                task = asyncio.create_task(model.ainvoke("hi"))
                await server.await_until(server.received)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif mode == "stream":
                chunks = model.stream("hi")
                next(chunks)
                chunks.close()
            else:
                achunks = model.astream("hi")
                await anext(achunks)
                await achunks.aclose()
            await asyncio.wait_for(ended.wait(), 5)
    ending = ("outcome", "failure")
    assert values(exporter, "llm_fallback_calls_total", *ending) == {("cancelled", "cancelled"): 1}
    assert values(exporter, "llm_fallback_attempts_total", *ending) == {("cancelled", "cancelled"): 1}


def test_a_thousand_tenants_and_runs_make_no_new_series(exporter):
    """Runs, tags and metadata never become labels."""
    exporter(call_ended())
    before = len(exporter.metrics().splitlines())
    for number in range(1_000):
        whose = {"tags": (f"tag-{number}",), "metadata": {"tenant": f"tenant-{number}"}, "run_id": f"run-{number}"}
        exporter(dataclasses.replace(call_ended(), **whose))
    assert len(exporter.metrics().splitlines()) == before
    assert values(exporter, "llm_fallback_calls_total") == {(): 1_001}


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_of_messages_keys_or_tags_is_exported(mode, exporter):
    """Also where a server quotes the prompt and the key in its error."""
    echo = {"error": {"message": f"bad prompt {PROMPT_CANARY} with {KEY_CANARY}"}}
    with FakeServer({"a": Fail(400, body=echo), "b": f"hello {REPLY_CANARY}"}) as server:
        deployments = {name: {"api_key": KEY_CANARY} for name in server.deployments}
        with build_chat_model(server.spec(deployments=deployments), listeners=[exporter]) as model:
            config = {"tags": [TAG_CANARY], "metadata": {"tenant": TAG_CANARY}}
            await ask(model, mode, f"say {PROMPT_CANARY}", config=config)
    exported = exporter.metrics().decode()
    assert "llm_fallback_calls_total" in exported
    assert not re.search("canary", exported)


def test_an_exporter_can_join_a_registry_and_choose_its_namespace():
    """Its metrics stand among those of the application; one registry takes two that differ in their names."""
    registry = CollectorRegistry()
    Counter("requests", "The application's own.", registry=registry).inc()
    PrometheusExporter(registry, namespace="search")(call_ended())
    PrometheusExporter(registry, namespace="chat")(call_ended())
    exporter = PrometheusExporter(registry)
    assert {"requests", "search_calls", "chat_calls", "llm_fallback_calls"} <= set(families(exporter))


def test_two_exporters_share_nothing():
    """Each has a registry of its own unless it is given one."""
    one, other = PrometheusExporter(), PrometheusExporter()
    one(call_ended())
    assert values(one, "llm_fallback_calls_total") == {(): 1}
    assert values(other, "llm_fallback_calls_total") == {}


def test_concurrent_calls_are_all_counted(exporter):
    """A batch over many threads loses none."""
    with FakeServer({"a": "hello"}) as server, priced_model(server, exporter) as model:
        model.batch(["hi"] * 40, {"max_concurrency": 8})
    assert values(exporter, "llm_fallback_calls_total", "outcome") == {("succeeded",): 40}


def test_the_wsgi_app_serves_a_scrape(exporter):
    """Prometheus gets text it can read, with its content type."""
    exporter(call_ended())
    environ, answered = {}, {}
    setup_testing_defaults(environ)
    body = exporter.wsgi_app()(environ, lambda status, headers: answered.update(dict(headers), status=status))
    assert answered["status"].startswith("200")
    assert answered["Content-Type"].startswith("text/plain")
    assert b"llm_fallback_calls_total{" in b"".join(body)


async def test_the_asgi_app_serves_a_scrape(exporter):
    """The same for an ASGI application."""
    exporter(call_ended())
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    await exporter.asgi_app()(scope, receive, send)
    assert sent[0]["status"] == 200
    assert b"llm_fallback_calls_total{" in sent[1]["body"]


def test_half_characters_of_names_are_escaped_and_stay_apart():
    """Else nothing at all could be scraped any more."""
    exporter, chains = PrometheusExporter(), ["\ud83d", r"\ud83d", 'a"b\nc', "[/x]"]
    for chain in chains:
        exporter(CallEnded(chain, Record(chain, None, None, False, (), (), 0.1, None), "cancelled"))
    families = text_string_to_metric_families(exporter.metrics().decode())
    calls = next(family for family in families if family.name == "llm_fallback_calls")
    found = {sample.labels["chain"] for sample in calls.samples if sample.name.endswith("_total")}
    assert found == {r"\ud83d", r"\\ud83d", 'a"b\nc', "[/x]"}


def test_how_a_fleet_stands_is_read_when_it_is_scraped():
    """Members, whether the store answers, the last exchange, who reports which deployment, limits and money."""
    fleet = a_fleet()
    exporter = PrometheusExporter()
    exporter.watch_fleet(lambda: {"fleet": fleet})
    lines = exporter.metrics().decode().splitlines()
    assert {line for line in lines if line.startswith("llm_fallback_fleet_")} == {
        "llm_fallback_fleet_members 8.0",
        "llm_fallback_fleet_store_answers 1.0",
        "llm_fallback_fleet_exchange_age_seconds 0.2",
        'llm_fallback_fleet_reporters{deployment="claude"} 2.0',
        'llm_fallback_fleet_limits_limit{deployment="claude",limit="rpm"} 600.0',
        'llm_fallback_fleet_limits_limit{deployment="claude",limit="tpm"} 9000.0',
        'llm_fallback_fleet_limits_usage{deployment="claude",limit="rpm"} 214.0',
        'llm_fallback_fleet_limits_held{deployment="claude",limit="rpm"} 6.0',
        'llm_fallback_fleet_limits_held{deployment="claude",limit="tpm"} 0.0',
        'llm_fallback_fleet_budget_limit_usd{scope="chain assistant"} 20.0',
        'llm_fallback_fleet_budget_usage_usd{scope="chain assistant"} 3.81',
        'llm_fallback_fleet_budget_held_usd{scope="chain assistant"} 0.02',
    }
    fleet["store"] = "gone"
    assert "llm_fallback_fleet_store_answers 0.0" in exporter.metrics().decode().splitlines()


def test_without_a_fleet_there_is_nothing_to_see():
    """A model on its own has none."""
    exporter = PrometheusExporter()
    exporter.watch_fleet(dict)
    assert b"llm_fallback_fleet" not in exporter.metrics()
