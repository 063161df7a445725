"""Metrics for Prometheus, from the record of each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

try:
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Histogram,
        generate_latest,
        make_asgi_app,
        make_wsgi_app,
    )
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        'PrometheusExporter needs prometheus-client: pip install "langchain-llm-fallback[prometheus]"'
    ) from error

from llm_fallback.events import Attempt, BreakerOpened, CallEnded, Event, FellBack
from llm_fallback.exporters.fleet_gauges import FLEET_GAUGES, State
from llm_fallback.exporters.names import INPUT, OUTPUT, outcome_of
from llm_fallback.spec.shown import encodable

_SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
"""Seconds, up to the default of `total_s`, with bounds at the defaults of `idle_s` and `attempt_s`."""


class PrometheusExporter:
    """A listener that counts and measures calls for Prometheus.

        exporter = PrometheusExporter()
        model = build_chat_model(spec, listeners=[exporter])
        app.mount("/metrics", exporter.asgi_app())

    Without a registry it makes a new one; pass `prometheus_client.REGISTRY` to add to the process's other metrics. A
    registry takes one exporter per namespace; one exporter serves many models.

    Labels are names of the spec and failures, never a run, a tag or a tenant. There is no gauge of open breakers: no
    event says that one closes, so a gauge would be wrong until the next opening. Use `model.state()`.
    """

    def __init__(self, registry: CollectorRegistry | None = None, namespace: str = "llm_fallback") -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._namespace = namespace
        self._metrics = _Metrics(self.registry, namespace)

    def __call__(self, event: Event) -> None:
        match event:
            case CallEnded():
                self._metrics.count_call(event)
                for attempt in event.record.attempts:
                    self._metrics.count_attempt(event, attempt)
            case FellBack(chain, source, _, failure):
                self._metrics.fallbacks.labels(encodable(chain), encodable(source), failure).inc()
            case BreakerOpened(_, deployment, failure):
                self._metrics.breaker_openings.labels(encodable(deployment), failure).inc()

    def watch_fleet(self, state: State) -> None:
        """Export how a model's fleet stands, read at each scrape: `exporter.watch_fleet(model.state)`. The
        registry keeps the model alive; without a fleet there is nothing to see."""
        self.registry.register(_FleetCollector(state, self._namespace))

    def metrics(self) -> bytes:
        """The registry in Prometheus's text format."""
        return generate_latest(self.registry)

    def asgi_app(self) -> Callable[..., Any]:
        """An ASGI application that serves the registry."""
        return make_asgi_app(self.registry)

    def wsgi_app(self) -> Callable[..., Any]:
        """A WSGI application that serves the registry."""
        return make_wsgi_app(self.registry)


_UNITS = {"s": "_seconds", "{USD}": "_usd"}


class _FleetCollector(Collector):
    """What `state()["fleet"]` says, as gauges."""

    def __init__(self, state: State, namespace: str) -> None:
        self._state, self._prefix = state, f"{namespace}_fleet"

    def describe(self) -> list[Any]:
        return []  # Else the registry would ask the model while it is registered.

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for gauge in FLEET_GAUGES:
            if readings := gauge.readings(self._state):
                name = f"{self._prefix}_{gauge.name.replace('.', '_')}{_UNITS.get(gauge.unit, '')}"
                family = GaugeMetricFamily(name, gauge.text, labels=gauge.labels)
                for labels, value in readings:
                    family.add_metric(labels, float(value))
                yield family


class _Metrics:
    """The metrics; the client adds `_total` to the names of counters."""

    def __init__(self, registry: CollectorRegistry, namespace: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=namespace, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace=namespace, registry=registry, buckets=_SECONDS_BUCKETS)

        deployment = ("chain", "deployment")
        self._calls = counter("calls", "Calls that ended.", "chain", "outcome", "failure")
        self._call_seconds = seconds(
            "call_duration_seconds", "Duration of a call, all its attempts and waits included.", "chain", "outcome"
        )
        self._call_first_token = seconds(
            "call_time_to_first_token_seconds",
            "Time to the first content of a streamed call, failed attempts included.",
            "chain",
        )
        self._attempts = counter("attempts", "Requests to deployments.", *deployment, "outcome", "failure")
        self._attempt_seconds = seconds("attempt_duration_seconds", "Duration of one attempt.", *deployment, "outcome")
        self._attempt_first_token = seconds(
            "attempt_time_to_first_token_seconds", "Time to the first content of one streamed attempt.", *deployment
        )
        self._tokens = counter("tokens", "Tokens, as servers reported them.", *deployment, "type")
        self._cost = counter("cost_usd", "Cost of attempts in US dollars, where it is known.", *deployment)
        self._unpriced = counter(
            "unpriced_attempts", "Attempts whose cost is not known, and not part of the cost.", *deployment
        )
        self.fallbacks = counter(
            "fallbacks", "Times another deployment was asked because this one failed.", *deployment, "failure"
        )
        self.breaker_openings = counter(
            "breaker_openings", "Times a deployment was taken out of rotation.", "deployment", "failure"
        )

    def count_call(self, ended: CallEnded) -> None:
        outcome, record, chain = outcome_of(ended), ended.record, encodable(ended.chain)
        self._calls.labels(chain, outcome, ended.failure or "").inc()
        self._call_seconds.labels(chain, outcome).observe(record.latency_s)
        if ended.streamed and record.time_to_first_token_s is not None:
            self._call_first_token.labels(chain).observe(record.time_to_first_token_s)

    def count_attempt(self, ended: CallEnded, attempt: Attempt) -> None:
        deployment = (encodable(ended.chain), encodable(attempt.deployment))
        self._attempts.labels(*deployment, attempt.outcome, attempt.failure or "").inc()
        self._attempt_seconds.labels(*deployment, attempt.outcome).observe(attempt.latency_s)
        if ended.streamed and attempt.time_to_first_token_s is not None:
            self._attempt_first_token.labels(*deployment).observe(attempt.time_to_first_token_s)
        if attempt.usage is not None:
            self._tokens.labels(*deployment, INPUT).inc(attempt.usage.input_tokens)
            self._tokens.labels(*deployment, OUTPUT).inc(attempt.usage.output_tokens)
        if attempt.cost_usd is None:
            self._unpriced.labels(*deployment).inc()
        else:
            self._cost.labels(*deployment).inc(float(attempt.cost_usd))
