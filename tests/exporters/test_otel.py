"""What OpenTelemetry gets of real calls: names, units, attributes, buckets, spans, and nothing of the messages."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from decimal import Decimal
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llm_fallback import Attempt, CallEnded, ChainExhausted, Record, Skip, StreamBroken, build_chat_model
from llm_fallback.events import Usage
from llm_fallback.exporters.names import provider_and_model
from llm_fallback.exporters.otel import OTelExporter
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, Stall
from tests.asking import MODES, STREAMED, ask
from tests.exporters.fleets import a_fleet
from tests.exporters.priced import KEY_CANARY, PROMPT_CANARY, REPLY_CANARY, TAG_CANARY, priced_model

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
CALL_SECONDS = (*SECONDS, 163.84, 327.68)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

OPERATION = {
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "llm_fallback.chain",
    "llm_fallback.deployment",
}
DEPLOYMENT = {"llm_fallback.chain", "llm_fallback.deployment"}
ENDING = {"llm_fallback.outcome", "llm_fallback.failure"}

METRICS = {
    # name: (unit, buckets or None for a counter, every attribute it may have)
    "gen_ai.client.operation.duration": ("s", SECONDS, {*OPERATION, "error.type", "llm_fallback.outcome"}),
    "gen_ai.client.operation.time_to_first_chunk": ("s", SECONDS, OPERATION),
    "gen_ai.client.token.usage": ("{token}", TOKENS, {*OPERATION, "gen_ai.token.type"}),
    "llm_fallback.call.duration": ("s", CALL_SECONDS, {"llm_fallback.chain", *ENDING}),
    "llm_fallback.call.time_to_first_token": ("s", CALL_SECONDS, {"llm_fallback.chain"}),
    "llm_fallback.attempts": ("{attempt}", None, {*DEPLOYMENT, *ENDING}),
    "llm_fallback.unpriced_attempts": ("{attempt}", None, DEPLOYMENT),
    "llm_fallback.cost": ("{USD}", None, DEPLOYMENT),
    "llm_fallback.fallbacks": ("{fallback}", None, {*DEPLOYMENT, "llm_fallback.failure"}),
    "llm_fallback.breaker_openings": ("{opening}", None, {"llm_fallback.deployment", "llm_fallback.failure"}),
}


class Telemetry:
    """An exporter into memory, and what it exported."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.memory = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = self.tracers.get_tracer("tests")
        self.exporter = OTelExporter(MeterProvider([self.reader]), self.tracers)

    def metrics(self) -> dict:
        """Every metric by its name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list:
        metrics = self.metrics()
        return list(metrics[name].data.data_points) if name in metrics else []

    def counts(self, name: str, *attributes: str) -> dict:
        """Values of a counter, or counts of a histogram, by the attributes named."""
        values: dict = {}
        for point in self.points(name):
            key = tuple(point.attributes.get(attribute) for attribute in attributes)
            values[key] = values.get(key, 0) + (point.value if hasattr(point, "value") else point.count)
        return values

    def spans(self) -> SimpleNamespace:
        """The one call's span and its attempts', in the order they began."""
        ours = [span for span in self.memory.get_finished_spans() if span.instrumentation_scope.name == "llm_fallback"]
        (call,) = [span for span in ours if span.name.startswith("llm_fallback ")]
        attempts = sorted((span for span in ours if span is not call), key=lambda span: span.start_time)
        return SimpleNamespace(call=call, attempts=attempts)

    def everything(self) -> str:
        """All that was exported, as text."""
        spans = "\n".join(span.to_json() for span in self.memory.get_finished_spans())
        data = self.reader.get_metrics_data()
        return spans + ("" if data is None else data.to_json())


@pytest.fixture
def telemetry():
    return Telemetry()


def call_ended(*attempts, **facts):
    """A call that ended with these attempts."""
    record = Record("assistant", "a", "m", False, attempts, (), 1.0, None)
    return CallEnded(chain="assistant", record=record, at=1_000_000.0, **facts)


@pytest.mark.parametrize("mode", MODES)
async def test_every_metric_has_the_name_unit_buckets_and_attributes_of_the_table(mode, telemetry):
    """Of a call that fell back and of one where all failed; nothing else is exported."""
    with FakeServer({"a": Fail(503), "b": ["hello", Fail(429)]}) as server:
        with priced_model(server, telemetry.exporter, retries={"max": 0}) as model:
            await ask(model, mode)
            with pytest.raises(ChainExhausted):
                await ask(model, mode)
    telemetry.exporter(call_ended(Attempt("a", "m", "succeeded", cost_usd=None)))
    for name, metric in telemetry.metrics().items():
        unit, buckets, attributes = METRICS[name]
        assert metric.unit == unit
        for point in metric.data.data_points:
            assert getattr(point, "explicit_bounds", None) == buckets
            assert set(point.attributes) <= attributes
            assert all(isinstance(value, str) for value in point.attributes.values())
    missing = set(METRICS) - set(telemetry.metrics())
    streamed = {"gen_ai.client.operation.time_to_first_chunk", "llm_fallback.call.time_to_first_token"}
    assert missing == (set() if mode in STREAMED else streamed)


@pytest.mark.parametrize("mode", MODES)
async def test_a_fallback_is_counted_attempt_by_attempt(mode, telemetry):
    """The failed attempt with its failure, the other with its tokens and cost, the call once."""
    with FakeServer({"a": Fail(429), "b": Reply("hello", usage=(7, 3))}) as server:
        with priced_model(server, telemetry.exporter) as model:
            await ask(model, mode)
    by = ("llm_fallback.deployment", "llm_fallback.outcome", "llm_fallback.failure")
    assert telemetry.counts("llm_fallback.attempts", *by) == {
        ("a", "failed", "rate_limited"): 1,
        ("b", "succeeded", None): 1,
    }
    assert telemetry.counts("gen_ai.client.operation.duration", by[0], "error.type", "gen_ai.response.model") == {
        ("a", "rate_limited", None): 1,
        ("b", None, "b"): 1,
    }
    assert telemetry.counts("llm_fallback.call.duration", "llm_fallback.chain", *by[1:]) == {
        ("default", "succeeded", None): 1
    }
    assert telemetry.counts("llm_fallback.fallbacks", by[0], by[2]) == {("a", "rate_limited"): 1}
    assert telemetry.counts("llm_fallback.breaker_openings", by[0], by[2]) == {("a", "rate_limited"): 1}
    assert telemetry.counts("llm_fallback.cost", by[0]) == {("a",): 0.0, ("b",): 13.0}
    tokens = {point.attributes["gen_ai.token.type"]: point for point in telemetry.points("gen_ai.client.token.usage")}
    assert {kind: (point.sum, point.count) for kind, point in tokens.items()} == {"input": (7, 1), "output": (3, 1)}
    assert {point.attributes["llm_fallback.deployment"] for point in tokens.values()} == {"b"}


@pytest.mark.parametrize("mode", MODES)
async def test_the_time_to_the_first_chunk_is_of_streams_only(mode, telemetry):
    """An attempt's from its own request on, the call's from the start of the first attempt."""
    with FakeServer({"a": Fail(503, delay_s=0.1), "b": "hello"}) as server:
        with priced_model(server, telemetry.exporter) as model:
            facts = (await ask(model, mode)).response_metadata["llm_fallback"]
    attempts = telemetry.points("gen_ai.client.operation.time_to_first_chunk")
    calls = telemetry.points("llm_fallback.call.time_to_first_token")
    if mode not in STREAMED:
        assert attempts == calls == []
        return
    (attempt,), (call,) = attempts, calls
    assert attempt.attributes["llm_fallback.deployment"] == "b"
    assert attempt.sum == pytest.approx(facts["attempts"][1]["time_to_first_token_s"], abs=1e-5)
    assert call.sum == pytest.approx(facts["time_to_first_token_s"], abs=1e-5)
    assert call.sum > attempt.sum + 0.1


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_is_a_span_with_its_attempts_inside(mode, telemetry):
    """Parent, kinds, times and attributes are those of what happened."""
    with FakeServer({"a": Fail(503, delay_s=0.1), "b": Reply("hello", usage=(7, 3))}) as server:
        with (
            priced_model(server, telemetry.exporter) as model,
            telemetry.tracer.start_as_current_span("request") as request,
        ):
            before = time.time_ns()
            message = await ask(model, mode)
            after = time.time_ns()
    facts = message.response_metadata["llm_fallback"]
    call, (first, second) = telemetry.spans().call, telemetry.spans().attempts
    assert call.parent.span_id == request.get_span_context().span_id
    assert call.context.trace_id == request.get_span_context().trace_id
    assert (call.name, call.kind, call.status.status_code) == (
        "llm_fallback default",
        SpanKind.INTERNAL,
        StatusCode.UNSET,
    )
    assert call.attributes["llm_fallback.fell_back"] is True
    assert call.attributes["llm_fallback.deployment"] == "b"
    assert call.attributes["llm_fallback.cost_usd"] == 13.0
    assert not [name for name in call.attributes if name.startswith("gen_ai.")]
    for span, attempt in zip((first, second), facts["attempts"], strict=True):
        assert span.parent.span_id == call.context.span_id
        assert span.kind == SpanKind.CLIENT
        assert span.name == f"chat {attempt['deployment']}"
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(attempt["latency_s"], abs=1e-5)
    assert before - 2_000_000 <= call.start_time <= first.start_time
    assert first.end_time <= second.start_time
    assert second.end_time <= call.end_time <= after
    assert (call.end_time - call.start_time) / 1e9 == pytest.approx(facts["latency_s"], abs=2e-3)
    assert first.status.status_code == StatusCode.ERROR
    assert first.status.description == "overloaded (503)"
    assert first.attributes["error.type"] == first.attributes["llm_fallback.failure"] == "overloaded"
    assert second.status.status_code == StatusCode.UNSET
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai_compatible",
        "gen_ai.request.model": "b",
        "gen_ai.response.model": "b",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "http.response.status_code": 200,
        "llm_fallback.chain": "default",
        "llm_fallback.deployment": "b",
        "llm_fallback.outcome": "succeeded",
        "llm_fallback.cost_usd": 13.0,
    }
    attributes = dict(second.attributes)
    time_to_first_chunk = attributes.pop("gen_ai.response.time_to_first_chunk", None)
    assert (time_to_first_chunk is not None) == attributes.pop("gen_ai.request.stream", False) == (mode in STREAMED)
    assert attributes == expected


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_nobody_answers_is_an_error(mode, telemetry):
    """Its span and both attempts' are errors with the failure as their type."""
    with FakeServer({"a": Fail(503), "b": Fail(400)}) as server:
        with priced_model(server, telemetry.exporter, retries={"max": 0}) as model, pytest.raises(ChainExhausted):
            await ask(model, mode)
    spans = telemetry.spans()
    assert [span.attributes["error.type"] for span in (*spans.attempts, spans.call)] == [
        "overloaded",
        "bad_request",
        "bad_request",
    ]
    assert {span.status.status_code for span in (*spans.attempts, spans.call)} == {StatusCode.ERROR}
    assert telemetry.counts("llm_fallback.call.duration", "llm_fallback.outcome", "llm_fallback.failure") == {
        ("failed", "bad_request"): 1
    }


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_stream_that_breaks_is_an_error(mode, telemetry):
    """The attempt had a first chunk, and failed; without a price its cost is not known, and is said not to be."""
    with FakeServer({"a": Cut(after_chunks=2)}) as server:
        with build_chat_model(server.spec(), listeners=[telemetry.exporter]) as model, pytest.raises(StreamBroken):
            await ask(model, mode)
    spans = telemetry.spans()
    assert spans.call.attributes["error.type"] == spans.attempts[0].attributes["error.type"] == "stream_broken"
    assert "gen_ai.response.time_to_first_chunk" in spans.attempts[0].attributes
    assert telemetry.counts("llm_fallback.unpriced_attempts", "llm_fallback.deployment") == {("a",): 1}
    assert "llm_fallback.cost" not in telemetry.metrics()
    assert "llm_fallback.cost_usd" not in spans.call.attributes


async def test_a_call_its_caller_left_is_cancelled_and_no_error(telemetry):
    """A task that is cancelled, and a stream closed after its first chunk."""
    with FakeServer({"a": Stall()}) as server:
        async with priced_model(server, telemetry.exporter) as model:
            task = asyncio.create_task(model.ainvoke("hi"))
            await server.await_until(server.received)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert_cancelled(telemetry.spans(), telemetry)


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_stream_left_by_its_reader_is_cancelled_and_no_error(mode, telemetry):
    """Closed after its first chunk; its first chunk came all the same."""
    ended = asyncio.Event()
    with FakeServer({"a": Stall(after_chunks=1)}) as server:
        async with priced_model(server, telemetry.exporter, lambda event: ended.set()) as model:
            await leave(model, mode)
            await asyncio.wait_for(ended.wait(), 5)
    assert_cancelled(telemetry.spans(), telemetry)
    assert telemetry.counts("gen_ai.client.operation.time_to_first_chunk", "llm_fallback.deployment") == {("a",): 1}


async def leave(model, mode):
    """Read the first chunk of a stream and no more."""
    if mode == "stream":
        chunks = model.stream("hi")
        next(chunks)
        chunks.close()
    else:
        achunks = model.astream("hi")
        await anext(achunks)
        await achunks.aclose()


def assert_cancelled(spans, telemetry):
    for span in (spans.call, *spans.attempts):
        assert span.attributes["llm_fallback.outcome"] == span.attributes["llm_fallback.failure"] == "cancelled"
        assert span.status.status_code == StatusCode.UNSET
        assert "error.type" not in span.attributes
    assert len(spans.attempts) == 1
    assert telemetry.counts("llm_fallback.call.duration", "llm_fallback.outcome") == {("cancelled",): 1}
    assert telemetry.counts("gen_ai.client.operation.duration", "llm_fallback.outcome", "error.type") == {
        ("cancelled", None): 1
    }


def test_a_stream_dropped_inside_of_another_span_is_not_part_of_it(telemetry):
    """It was begun before, so it belongs to a trace of its own and not to whatever runs when it is let go."""
    with FakeServer({"a": Stall(after_chunks=1)}) as server, priced_model(server, telemetry.exporter) as model:
        chunks = model.stream("hi")
        next(chunks)
        with telemetry.tracer.start_as_current_span("something else") as other:
            chunks.close()
    assert telemetry.spans().call.parent is None
    assert telemetry.spans().call.context.trace_id != other.get_span_context().trace_id


async def test_a_hedge_s_loser_is_a_cancelled_span_beside_the_winner(telemetry):
    """Both attempts are under way at the same time, and only one has an answer."""
    with FakeServer({"a": Stall(), "b": "hello"}) as server:
        with priced_model(server, telemetry.exporter, hedge={"after_s": 0.05}) as model:
            await model.ainvoke("hi")
    first, second = telemetry.spans().attempts
    assert [span.attributes["llm_fallback.outcome"] for span in (first, second)] == ["cancelled", "succeeded"]
    assert first.start_time < second.start_time < first.end_time
    assert first.status.status_code == telemetry.spans().call.status.status_code == StatusCode.UNSET


async def test_concurrent_calls_are_spans_under_their_own_parents(telemetry):
    """Each task's call is a child of that task's span."""

    async def ask_below(name):
        with telemetry.tracer.start_as_current_span(name) as span:
            await model.ainvoke("hi")
            return span.get_span_context().span_id

    with FakeServer({"a": Reply("hello", delay_s=0.05)}) as server:
        async with priced_model(server, telemetry.exporter) as model:
            parents = await asyncio.gather(*(ask_below(f"task {number}") for number in range(5)))
    calls = [span for span in telemetry.memory.get_finished_spans() if span.name == "llm_fallback default"]
    assert sorted(call.parent.span_id for call in calls) == sorted(parents)


async def test_values_lead_to_the_trace_they_come_from(telemetry):
    """Exemplars of an attempt's duration name the attempt's span."""
    with FakeServer({"a": "hello"}) as server, priced_model(server, telemetry.exporter) as model:
        await model.ainvoke("hi")
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    (exemplar,) = point.exemplars
    assert exemplar.span_id == telemetry.spans().attempts[0].context.span_id


def test_what_was_passed_over_and_stitched_is_on_the_call_s_span(telemetry):
    """Deployments and reasons, without times that differ each time."""
    record = Record("c", "b", "m", True, (), (Skip("a", "breaker_open", 21.4), Skip("d", "limit")), 1.0, None)
    telemetry.exporter(CallEnded("c", record, at=1_000_000.0, run_id="run-1"))
    attributes = telemetry.spans().call.attributes
    assert attributes["llm_fallback.skipped"] == ("a: breaker_open", "d: limit")
    assert attributes["llm_fallback.run_id"] == "run-1"


def test_parts_of_the_usage_are_on_the_attempt_s_span(telemetry):
    """Cached, written to the cache and reasoning tokens, where there are any."""
    usage = Usage(input_tokens=10, output_tokens=5, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2)
    telemetry.exporter(call_ended(Attempt("a", "openai/gpt-5", "succeeded", usage=usage, cost_usd=Decimal(1))))
    (span,) = telemetry.spans().attempts
    used = {name: value for name, value in span.attributes.items() if name.startswith("gen_ai.usage.")}
    assert used == {
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_creation.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
    }


@pytest.mark.parametrize(
    ("model", "provider", "own_name"),
    [
        ("anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
        ("azure/prod-41", "azure.ai.openai", "prod-41"),
        ("bedrock/us.anthropic.claude-sonnet-4-5-v1:0", "aws.bedrock", "us.anthropic.claude-sonnet-4-5-v1:0"),
        ("gemini/gemini-2.5-pro", "gcp.gemini", "gemini-2.5-pro"),
        ("vertex_ai/gemini-2.5-pro", "gcp.vertex_ai", "gemini-2.5-pro"),
        ("mistral/mistral-large", "mistral_ai", "mistral-large"),
        ("xai/grok-4", "x_ai", "grok-4"),
        ("openrouter/anthropic/claude-sonnet-4-5", "openrouter", "anthropic/claude-sonnet-4-5"),
        ("openai:gpt-4.1", "openai", "gpt-4.1"),
        ("gpt-4.1", "openai", "gpt-4.1"),
        ("meta-llama/Llama-3.3-70B-Instruct", "openai_compatible", "meta-llama/Llama-3.3-70B-Instruct"),
        ("llama3.3", "openai_compatible", "llama3.3"),
        ("deepseek-ai/DeepSeek-V3", "openai_compatible", "deepseek-ai/DeepSeek-V3"),
    ],
)
def test_a_provider_has_opentelemetry_s_name_and_its_model_its_own(model, provider, own_name):
    """What no provider's name stands before is served by a server of one's own."""
    assert provider_and_model(model) == (provider, own_name)


def test_a_thousand_tenants_and_runs_are_one_series(telemetry):
    """Runs, tags and metadata never become attributes of a metric."""
    attempt = Attempt("a", "openai/gpt-5", "succeeded", usage=Usage(1, 1), cost_usd=Decimal(1))
    ended = call_ended(attempt, streamed=True)
    for number in range(1_000):
        whose = {"tags": (f"tag-{number}",), "metadata": {"tenant": f"tenant-{number}"}, "run_id": f"run-{number}"}
        telemetry.exporter(dataclasses.replace(ended, **whose))
    series = {name: len(metric.data.data_points) for name, metric in telemetry.metrics().items()}
    assert series.pop("gen_ai.client.token.usage") == 2
    assert set(series.values()) == {1}
    assert telemetry.counts("llm_fallback.attempts") == {(): 1_000}


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_of_messages_keys_or_tags_is_exported(mode, telemetry):
    """Also where a server quotes the prompt and the key in its error."""
    echo = {"error": {"message": f"bad prompt {PROMPT_CANARY} with {KEY_CANARY}"}}
    with FakeServer({"a": Fail(400, body=echo), "b": f"hello {REPLY_CANARY}"}) as server:
        deployments = {name: {"api_key": KEY_CANARY} for name in server.deployments}
        with build_chat_model(server.spec(deployments=deployments), listeners=[telemetry.exporter]) as model:
            config = {"tags": [TAG_CANARY], "metadata": {"tenant": TAG_CANARY}}
            message = await ask(model, mode, f"say {PROMPT_CANARY}", config=config)
    assert PROMPT_CANARY in message.response_metadata["llm_fallback"]["attempts"][0]["message"]
    exported = telemetry.everything()
    assert "gen_ai.request.model" in exported
    for canary in (PROMPT_CANARY, REPLY_CANARY, KEY_CANARY, TAG_CANARY):
        assert canary not in exported


FLEET = {
    # name: (unit, attributes, values)
    "members": ("{process}", (), [8.0]),
    "store_answers": ("1", (), [1.0]),
    "exchange.age": ("s", (), [0.2]),
    "reporters": ("{process}", ("deployment",), [2.0]),
    "limits.limit": ("1", ("deployment", "limit"), [600.0, 9000.0]),
    "limits.usage": ("1", ("deployment", "limit"), [214.0]),
    "limits.held": ("1", ("deployment", "limit"), [6.0, 0.0]),
    "budget.limit": ("{USD}", ("scope",), [20.0]),
    "budget.usage": ("{USD}", ("scope",), [3.81]),
    "budget.held": ("{USD}", ("scope",), [0.02]),
}


def test_how_a_fleet_stands_is_read_when_it_is_collected(telemetry, caplog):
    """Gauges, by the names of the spec; a second model is read by the same instruments."""
    fleet = a_fleet()
    telemetry.exporter.watch_fleet(lambda: {"fleet": fleet})
    telemetry.exporter.watch_fleet(dict)
    found = telemetry.metrics()
    assert found.keys() == {f"llm_fallback.fleet.{name}" for name in FLEET}
    for name, (unit, attributes, values) in FLEET.items():
        metric = found[f"llm_fallback.fleet.{name}"]
        points = metric.data.data_points
        assert (metric.unit, [point.value for point in points]) == (unit, values)
        assert {*attributes} == {key.removeprefix("llm_fallback.") for point in points for key in point.attributes}
    assert "tenant-of-nobody" not in telemetry.everything()
    fleet.update(store="gone", age_s=None)
    assert [point.value for point in telemetry.points("llm_fallback.fleet.store_answers")] == [0.0]
    assert telemetry.points("llm_fallback.fleet.exchange.age") == []
    assert not caplog.records


async def test_a_real_model_s_fleet_is_read(telemetry, tmp_path):
    """Its state has what is read."""
    with FakeServer({"a": "hello"}) as server:
        spec = server.spec(deployments={"a": {"limits": {"rpm": 60}, "price": {"per_request": 0.001}}})
        spec["chains"]["default"]["budget"] = {"usd_per_day": 2}
        spec["fleet"] = {"store": (tmp_path / "fleet.json").as_uri()}
        async with build_chat_model(spec) as model:
            telemetry.exporter.watch_fleet(model.state)
            await asyncio.to_thread(until_answered, model)
            assert telemetry.metrics().keys() == {f"llm_fallback.fleet.{name}" for name in FLEET}


def until_answered(model):
    deadline = time.monotonic() + 10
    while model.state()["fleet"]["store"] != "answers":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_exporters_share_nothing():
    """Each tells its own providers, and a call told to one is not told to the other."""
    one, other = Telemetry(), Telemetry()
    one.exporter(call_ended(Attempt("a", "m", "succeeded")))
    assert one.metrics()
    assert not other.metrics()
    assert not other.memory.get_finished_spans()


def run_python(text):
    """What a fresh interpreter prints, read as JSON."""
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_providers_set_later_are_used():
    """An exporter without providers may be built before the application sets the global ones."""
    text = """
import json
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from llm_fallback import CallEnded, Record
from llm_fallback.exporters.otel import OTelExporter
exporter, reader, memory = OTelExporter(), InMemoryMetricReader(), InMemorySpanExporter()
metrics.set_meter_provider(MeterProvider([reader]))
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(memory))
exporter(CallEnded("c", Record("c", None, None, False, (), (), 1.0, None), at=1000000.0))
print(json.dumps([bool(reader.get_metrics_data()), len(memory.get_finished_spans())]))
"""
    assert run_python(text) == [True, 1]


@pytest.mark.parametrize("module", ["otel", "prometheus"])
def test_importing_an_exporter_imports_no_litellm(module):
    """Nor does the package of the exporters import what the extras bring."""
    text = f"""
import json, sys
import llm_fallback.exporters
heavy = lambda: sorted({{"litellm", "langchain_litellm", "opentelemetry", "prometheus_client"}} & set(sys.modules))
before = heavy()
import llm_fallback.exporters.{module}
print(json.dumps([before, heavy()]))
"""
    brought = {"otel": "opentelemetry", "prometheus": "prometheus_client"}[module]
    assert run_python(text) == [[], [brought]]


@pytest.mark.parametrize(("module", "package"), [("otel", "opentelemetry"), ("prometheus", "prometheus_client")])
def test_a_missing_package_is_named_by_its_extra(module, package):
    """The ImportError says what to install."""
    text = f"""
import json, sys
sys.modules["{package}"] = None
try:
    import llm_fallback.exporters.{module}
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert f'pip install "langchain-llm-fallback[{module}]"' in run_python(text)


def test_half_characters_of_names_are_escaped_and_stay_apart(telemetry):
    """What ships spans and metrics writes UTF-8, and would lose all of them over one."""
    for name in ("\ud83d", r"\ud83d", "[/x]"):
        attempt = Attempt(name, f"m/{name}", "succeeded", None, 200)
        record = Record(name, name, f"m/{name}", False, (attempt,), (Skip(name, "limit"),), 1.0, None)
        telemetry.exporter(CallEnded(chain=name, record=record, at=1_000_000.0))
    everything = [
        telemetry.everything(),
        *(str(dict(span.attributes)) for span in telemetry.memory.get_finished_spans()),
    ]
    assert "\n".join(everything).encode()
    chains = {chain for (chain,) in telemetry.counts("llm_fallback.attempts", "llm_fallback.chain")}
    assert chains == {r"\ud83d", r"\\ud83d", "[/x]"}
