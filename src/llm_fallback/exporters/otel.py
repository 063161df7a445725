"""Metrics and traces for OpenTelemetry, from the record of each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

try:
    from opentelemetry.context import Context, get_current
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter
    from opentelemetry.trace import (
        Span,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )
except ImportError as error:
    raise ImportError('OTelExporter needs OpenTelemetry: pip install "langchain-llm-fallback[otel]"') from error

from llm_fallback import __version__
from llm_fallback.events import Attempt, BreakerOpened, CallEnded, Event, FellBack, Outcome, Unanswered
from llm_fallback.exporters import names
from llm_fallback.exporters.fleet_gauges import FLEET_GAUGES, FleetGauge, State
from llm_fallback.spec.shown import encodable

Attributes = dict[str, str | bool | int | float | list[str]]

_SCOPE = "llm_fallback"


class OTelExporter:
    """A listener that turns calls into OpenTelemetry's metrics and spans.

        model = build_chat_model(spec, listeners=[OTelExporter()])

    Without providers it uses those set globally, whenever they are set. Names are in `llm_fallback.exporters.names`.

    A call becomes a span with one child per attempt, created when the call has ended, with its real times. Its parent
    is the span that is current where the call ends, unless that began after the call: a stream that was dropped may end
    inside of any other work.

    Attributes of metrics are names of the spec and failures, never a run, a tag or a tenant. Messages are not exported,
    because events have none, and neither are error texts of servers, which may quote them.
    """

    def __init__(
        self, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        self._tracer = get_tracer(_SCOPE, __version__, tracer_provider)
        self._meter = get_meter(_SCOPE, __version__, meter_provider)
        self._instruments = _Instruments(self._meter)
        self._watched: list[State] = []
        """Of the models whose fleets are watched; all by the same instruments."""

    def __call__(self, event: Event) -> None:
        match event:
            case CallEnded():
                self._export(event)
            case FellBack(chain, source, _, failure):
                self._instruments.fallbacks.add(1, _of_deployment(chain, source) | {names.FAILURE: failure})
            case BreakerOpened(_, deployment, failure):
                attributes = {names.DEPLOYMENT: encodable(deployment), names.FAILURE: failure}
                self._instruments.breaker_openings.add(1, attributes)

    def watch_fleet(self, state: State) -> None:
        """Export how a model's fleet stands, read at each collection: `exporter.watch_fleet(model.state)`. The
        exporter keeps the model alive; without a fleet there is nothing to see."""
        self._watched.append(state)
        if len(self._watched) == 1:
            for gauge in FLEET_GAUGES:
                observe = partial(self._observe, gauge)
                self._meter.create_observable_gauge(names.FLEET + gauge.name, [observe], gauge.unit, gauge.text)

    def _observe(self, gauge: FleetGauge, options: CallbackOptions) -> Iterable[Observation]:
        labels = [f"{_SCOPE}.{label}" for label in gauge.labels]
        return [
            Observation(float(value), dict(zip(labels, values, strict=True)))
            for state in self._watched
            for values, value in gauge.readings(state)
        ]

    def _export(self, ended: CallEnded) -> None:
        ends_ns = _ns(ended.at)
        began_ns = ends_ns - _ns(ended.record.latency_s)
        span = self._tracer.start_span(
            f"{_SCOPE} {encodable(ended.chain)}",
            _parent(began_ns),
            SpanKind.INTERNAL,
            _of_call(ended),
            start_time=began_ns,
        )
        context = set_span_in_context(span)
        for attempt in ended.record.attempts:
            self._export_attempt(ended, attempt, context, began_ns, ends_ns)
        _end(span, names.outcome_of(ended), ended.failure, None, ends_ns)
        self._instruments.record_call(ended, context)

    def _export_attempt(
        self, ended: CallEnded, attempt: Attempt, context: Context, call_began_ns: int, call_ends_ns: int
    ) -> None:
        began_ns = call_began_ns + _ns(attempt.started_at)
        span = self._tracer.start_span(
            f"{names.CHAT} {encodable(names.provider_and_model(attempt.model, attempt.provider)[1])}",
            context,
            SpanKind.CLIENT,
            _of_attempt_span(ended, attempt),
            start_time=began_ns,
        )
        ends_ns = min(began_ns + _ns(attempt.latency_s), call_ends_ns)
        _end(span, attempt.outcome, attempt.failure, attempt.status, ends_ns)
        self._instruments.record_attempt(ended, attempt, set_span_in_context(span, context))


class _Instruments:
    """One of each instrument. Values are recorded in a span's context, for exemplars to lead to the trace."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, text: str, buckets: Sequence[float]) -> Histogram:
            return meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=buckets)

        seconds, call_seconds = names.SECONDS_BUCKETS, names.CALL_SECONDS_BUCKETS
        self._operation_duration = histogram(names.OPERATION_DURATION, "s", "Duration of one attempt.", seconds)
        self._time_to_first_chunk = histogram(
            names.TIME_TO_FIRST_CHUNK, "s", "Time to the first content of one streamed attempt.", seconds
        )
        self._token_usage = histogram(
            names.TOKEN_USAGE, "{token}", "Tokens of one attempt, as its server reported them.", names.TOKENS_BUCKETS
        )
        self._call_duration = histogram(
            names.CALL_DURATION, "s", "Duration of a call, all its attempts and waits included.", call_seconds
        )
        self._call_time_to_first_token = histogram(
            names.CALL_TIME_TO_FIRST_TOKEN,
            "s",
            "Time to the first content of a streamed call, failed attempts included.",
            call_seconds,
        )
        self._attempts = meter.create_counter(names.ATTEMPTS, "{attempt}", "Requests to deployments.")
        self._unpriced = meter.create_counter(
            names.UNPRICED_ATTEMPTS, "{attempt}", "Attempts whose cost is not known, and not part of the cost."
        )
        self._cost = meter.create_counter(names.COST, "{USD}", "Cost of attempts in US dollars, where it is known.")
        self.fallbacks = meter.create_counter(
            names.FALLBACKS, "{fallback}", "Times another deployment was asked because this one failed."
        )
        self.breaker_openings = meter.create_counter(
            names.BREAKER_OPENINGS, "{opening}", "Times a deployment was taken out of rotation."
        )

    def record_call(self, ended: CallEnded, context: Context) -> None:
        chain: Attributes = {names.CHAIN: encodable(ended.chain)}
        ending = chain | _without_none({names.OUTCOME: names.outcome_of(ended), names.FAILURE: ended.failure})
        self._call_duration.record(ended.record.latency_s, ending, context)
        if ended.streamed and ended.record.time_to_first_token_s is not None:
            self._call_time_to_first_token.record(ended.record.time_to_first_token_s, chain, context)

    def record_attempt(self, ended: CallEnded, attempt: Attempt, context: Context) -> None:
        self._record_operation(ended, attempt, context)
        deployment = _of_deployment(ended.chain, attempt.deployment)
        failure = _without_none({names.OUTCOME: attempt.outcome, names.FAILURE: attempt.failure})
        self._attempts.add(1, deployment | failure, context)
        if attempt.cost_usd is None:
            self._unpriced.add(1, deployment, context)
        else:
            self._cost.add(float(attempt.cost_usd), deployment, context)

    def _record_operation(self, ended: CallEnded, attempt: Attempt, context: Context) -> None:
        operation = _of_operation(ended.chain, attempt)
        ending = {names.OUTCOME: attempt.outcome} | _error(attempt.outcome, attempt.failure)
        self._operation_duration.record(attempt.latency_s, operation | ending, context)
        if ended.streamed and attempt.time_to_first_token_s is not None:
            self._time_to_first_chunk.record(attempt.time_to_first_token_s, operation, context)
        if attempt.usage is not None:
            for kind, tokens in (
                (names.INPUT, attempt.usage.input_tokens),
                (names.OUTPUT, attempt.usage.output_tokens),
            ):
                self._token_usage.record(tokens, operation | {names.TOKEN_TYPE: kind}, context)


def _parent(call_began_ns: int) -> Context:
    context = get_current()
    # The API does not have the start of a span; spans of the SDK do.
    started_ns = getattr(get_current_span(context), "start_time", None)
    return Context() if started_ns is not None and started_ns > call_began_ns else context


def _end(span: Span, outcome: Outcome, failure: Unanswered | None, status: int | None, ends_ns: int) -> None:
    """End a span, as an error if the call or attempt failed. A call that was left, or an attempt that
    another deployment overtook, is not an error."""
    if outcome == "failed":
        span.set_status(Status(StatusCode.ERROR, f"{failure} ({status})" if status else failure))
    span.end(ends_ns)


def _of_deployment(chain: str, deployment: str) -> Attributes:
    return {names.CHAIN: encodable(chain), names.DEPLOYMENT: encodable(deployment)}


def _of_operation(chain: str, attempt: Attempt) -> Attributes:
    """The attributes of every GenAI metric and span of an attempt."""
    provider, model = map(encodable, names.provider_and_model(attempt.model, attempt.provider))
    attributes: Attributes = {
        names.OPERATION_NAME: names.CHAT,
        names.PROVIDER_NAME: provider,
        names.REQUEST_MODEL: model,
        **_of_deployment(chain, attempt.deployment),
    }
    return attributes | {names.RESPONSE_MODEL: model} if attempt.outcome == "succeeded" else attributes


def _of_attempt_span(ended: CallEnded, attempt: Attempt) -> Attributes:
    known = {
        names.OUTCOME: attempt.outcome,
        names.FAILURE: attempt.failure,
        names.HTTP_STATUS: attempt.status,
        names.REQUEST_STREAM: ended.streamed or None,
        names.RESPONSE_TIME_TO_FIRST_CHUNK: attempt.time_to_first_token_s,
        names.COST_USD: None if attempt.cost_usd is None else float(attempt.cost_usd),
        names.COST_ESTIMATED: attempt.cost_estimated or None,
    }
    error = _error(attempt.outcome, attempt.failure)
    return _of_operation(ended.chain, attempt) | _without_none(known) | error | _of_usage(attempt)


def _of_usage(attempt: Attempt) -> Attributes:
    usage = attempt.usage
    if usage is None:
        return {}
    parts = {
        names.CACHE_READ_INPUT_TOKENS: usage.cached_tokens or None,
        names.CACHE_CREATION_INPUT_TOKENS: usage.cache_write_tokens or None,
        names.REASONING_OUTPUT_TOKENS: usage.reasoning_tokens or None,
    }
    return {names.INPUT_TOKENS: usage.input_tokens, names.OUTPUT_TOKENS: usage.output_tokens} | _without_none(parts)


def _of_call(ended: CallEnded) -> Attributes:
    """The attributes of a call's span. Tokens and models are on the spans of its attempts only, to be counted once."""
    record, outcome = ended.record, names.outcome_of(ended)
    attributes = {
        names.CHAIN: encodable(ended.chain),
        names.DEPLOYMENT: record.deployment and encodable(record.deployment),
        names.OUTCOME: outcome,
        names.FAILURE: ended.failure,
        names.FELL_BACK: record.fell_back,
        names.STITCHED: bool(record.stitches) or None,
        names.SKIPPED: [f"{encodable(skip.deployment)}: {skip.reason}" for skip in record.skipped] or None,
        names.TIME_TO_FIRST_TOKEN: record.time_to_first_token_s,
        names.COST_USD: None if record.cost_usd is None else float(record.cost_usd),
        names.COST_ESTIMATED: record.cost_estimated or None,
        names.RUN_ID: ended.run_id,
    }
    return _without_none(attributes) | _error(outcome, ended.failure)


def _error(outcome: Outcome, failure: Unanswered | None) -> Attributes:
    return {names.ERROR_TYPE: failure} if outcome == "failed" and failure is not None else {}


def _without_none(attributes: Mapping[str, Any]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}


def _ns(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
