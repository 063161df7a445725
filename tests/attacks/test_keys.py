"""A server that echoes a key shows it to nobody: by no way of echoing it, at no exit of what is told of a call.

Each way is played once, by a failing deployment before a healthy one and by one alone; then every exit is searched.
"""

from __future__ import annotations

import html
import io
import json
import logging
import pickle
import re
import warnings
from base64 import b32encode, b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from click.testing import CliRunner
from langchain_core.load import dumps
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from llm_fallback import build_chat_model, load_spec
from llm_fallback.cli import main
from llm_fallback.exporters.jsonl import CallLog
from llm_fallback.exporters.otel import OTelExporter
from llm_fallback.exporters.prometheus import PrometheusExporter
from llm_fallback.ledger import Ledger
from llm_fallback.testing import FakeServer
from tests.attacks.servers import Answer, Asked, Play, Server
from tests.end_to_end.test_secrets import shown_by
from tests.thinning import combinations

KEY = "sk-Canary7f3A9b2C4d5E6f8G0hJ1kL"
"""The deployment's key."""
WAYS_TO_ASK = ("invoke", "stream")
OWN = {"backend": "vllm", "model": "m"}
LONG = "x" * 470

WHOLE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}
FINE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}


def error(message: str, **words: Any) -> bytes:
    return json.dumps({"error": {"message": message, "code": "invalid_api_key", **words}}).encode()


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


def event(document: Any) -> bytes:
    return b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"


def says(finish: Any = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def refusing(*parts: bytes, status: int = 401, **headers: str) -> Play:
    return lambda asked: Answer(status, parts, {name.replace("_", "-"): text for name, text in headers.items()})


def either(plain: bytes, *stream: bytes) -> Play:
    return lambda asked: Answer(200, stream if asked.is_streamed else (plain,))


def with_finish(word: str) -> Play:
    choice = {**WHOLE["choices"][0], "finish_reason": word}
    return either(json.dumps({"choices": [choice]}).encode(), says(content="fi"), says(word), b"data: [DONE]\n\n")


def halves(body: bytes) -> tuple[bytes, bytes]:
    at = body.index(KEY.encode()) + 12
    return body[:at], body[at:]


BEARER = b64encode(f"user:{KEY}".encode()).decode()
PLAIN = error(f"Incorrect API key provided: {KEY}. You can find it at x.")

ECHOES: dict[str, Play] = {
    "in a message": refusing(PLAIN),
    "across the cut of a message": refusing(error(f"{LONG} {KEY} is wrong")),
    "across the cut of a text": refusing(f"{LONG} {KEY} is wrong".encode(), status=500),
    "far behind in a long message": refusing(error("y " * 4_080 + KEY + " z" * 9_000), status=400),
    "many times": refusing(error(f"{KEY} " * 900), status=400),
    "with JSON's escapes": refusing(PLAIN.replace(KEY.encode(), escaped(KEY).encode())),
    "with a few of JSON's escapes": refusing(PLAIN.replace(b"sk-C", b"s\\u006b-\\u0043")),
    "in JSON in a message": refusing(error(PLAIN.decode().replace(KEY, escaped(KEY)))),
    "in JSON in JSON in a message": refusing(error(json.dumps({"m": PLAIN.decode().replace(KEY, escaped(KEY))}))),
    "in JSON that is cut": refusing(PLAIN.replace(KEY.encode(), escaped(KEY).encode())[:-20]),
    "in base64": refusing(error(f"no {b64encode(KEY.encode()).decode()}")),
    "in base64, without an end": refusing(error(f"no {b64encode(KEY.encode()).decode().rstrip('=')}x")),
    "in base64, in lines": refusing(error("no " + "\r\n".join([BEARER[:20], BEARER[20:40], BEARER[40:]]))),
    "in base32": refusing(error(f"no {b32encode(KEY.encode()).decode()}")),
    "in hexadecimal digits": refusing(error(f"no {KEY.encode().hex()}")),
    "in pairs of digits": refusing(error(f"no {KEY.encode().hex(':')} and {KEY.encode().hex(' ')}")),
    "with a line end in it": refusing(error(f"no {KEY[:13]}\n{KEY[13:]}")),
    "with spaces": refusing(error(f"no {' '.join(KEY)}")),
    "with what is not seen": refusing(
        error(f"no {chr(0x200B).join(KEY)} {chr(0x1B)}[1m{KEY[:9]}{chr(0x1B)}[0m{KEY[9:]}")
    ),
    "across the cut of its name for the request": refusing(error("no"), X_Request_Id=f"{'r' * 500}{KEY}"),
    "across the cut of its name for the reply": either(
        json.dumps({**WHOLE, "id": "r" * 500 + KEY, "choices": []}).encode(), event({"id": "r" * 500 + KEY})
    ),
    "across the cut of a finish word": with_finish(f"{'f' * 66}{KEY}"),
    "across the cut of a body": either((KEY * 3000).encode(), b"x" * 16_370 + KEY.encode() + b"y" * 100_000),
    "as the name of a compression": refusing(error("no"), status=200, Content_Encoding=f"{'c' * 27}{KEY}"),
    "as the login of a user": refusing(error(f"Authorization: Basic {BEARER}")),
    "as a header written out": refusing(error(f"headers: {{'authorization': 'Bearer {KEY}'}}")),
    "in a URL": refusing(error(f"GET /v1/models?key={KEY}&x=1"), status=404),
    "in a URL, quoted": refusing(error("GET /v1?x=" + "".join(f"%{ord(char):02X}" for char in KEY))),
    "in a URL with its user": refusing(error(f"see http://user:{KEY}@host/v1")),
    "on a page": refusing(f"<html><b>no {KEY}</b></html>".encode(), status=502, Content_Type="text/html"),
    "on a page, with HTML's escapes": refusing("".join(f"&#{ord(char)};" for char in KEY).encode(), status=502),
    "in a text": refusing(f"no {KEY} for you".encode(), status=503, Content_Type="text/plain"),
    "in capitals and small letters": refusing(error(f"no {KEY.lower()} nor {KEY.upper()}")),
    "in its code": refusing(error("no", code=KEY, type=KEY, param=KEY)),
    "as the name of a field": refusing(json.dumps({KEY: {KEY: 1}}).encode(), status=400),
    "in two reads": refusing(*halves(PLAIN)),
    "in headers": refusing(
        error("no"), WWW_Authenticate=f'Bearer key="{KEY}"', X_Request_Id=KEY, X_Amzn_ErrorType=KEY, Retry_After=KEY
    ),
    "in a redirect's query": refusing(status=307, Location=f"http://localhost:1/?key={KEY}"),
    "in a redirect's user": refusing(status=307, Location=f"http://user:{KEY}@localhost:1/"),
    "in a redirect's host": refusing(status=307, Location=f"http://{KEY}.example/"),
    "in a redirect's path": refusing(status=302, Location=f"http://localhost:1/{KEY}"),
    "in a redirect that is no address": refusing(status=308, Location=f"http://[{KEY}"),
    "in a finish word": with_finish(KEY),
    "in a long finish word": with_finish(f"{LONG} {KEY}"),
    "in an error with 200": either(PLAIN, event(PLAIN)),
    "in an error in the middle": either(PLAIN, says(content="fi"), event(PLAIN)),
    "in an error in the middle, in two reads": either(PLAIN, says(content="fi"), *halves(event(PLAIN))),
    "in an error in the middle, with its name": either(PLAIN, says(content="fi"), b"event: error\n" + event(PLAIN)),
    "in what is no reply": either(json.dumps({"choices": KEY}).encode(), event({"choices": KEY})),
    "in what is no JSON": either(f'{{"choices": {KEY}'.encode(), says(content="fi"), f"data: {{{KEY}\n\n".encode()),
    "in place of a number": either(
        json.dumps({"choices": [{"message": {"content": 7}, "finish_reason": KEY}]}).encode(),
        says(content="fi"),
        event({"choices": [], "usage": {"prompt_tokens": KEY}}),
    ),
    "in place of an index": either(
        json.dumps({"choices": [{"message": {"tool_calls": [{"index": KEY, "function": KEY}]}}]}).encode(),
        says(tool_calls=[{"index": KEY, "function": KEY}]),
    ),
}


PARTS = (
    {KEY[at : at + 10].lower() for at in range(0, len(KEY) - 9, 5)}
    | {
        part[at : at + 12].lower()
        for part in (b64encode(b"u" * before + KEY.encode()).decode() for before in range(3))
        for at in range(4, len(part) - 16, 6)
    }
    | {
        part[at : at + 20].lower()
        for part in (KEY.encode().hex(), b32encode(KEY.encode()).decode())
        for at in range(0, len(part) - 20, 4)
    }
)
"""Of fourteen characters of the key, which is half of it, one of these is a part; so of eighteen of it in base64."""


_UNSEEN = re.compile(r"\x1b\[\d*m|\\[nr]|\\u200b|\\x1b\[\d*m|[\s\u200b:]")


def leaks(text: str) -> list[str]:
    """The parts of the key that stand in a text, in any of its spellings."""
    spelt = {text}
    if "%" in text or "&" in text:
        spelt |= {unquote(text), html.unescape(text)}
    for _ in range(3):
        spelt |= {json.loads(f'"{one}"') for one in map(_as_json_text, spelt) if one is not None}
    spelt |= {_UNSEEN.sub("", one) for one in spelt}
    small = [one.lower() for one in spelt]
    return [part for part in PARTS if any(part in one for one in small)]


def _as_json_text(text: str) -> str | None:
    """The text, if it can be taken for what stands between the quotes of a text in JSON."""
    if "\\u" not in text:
        return None
    written = text.replace('\\"', "").replace('"', "").replace("\n", " ")
    try:
        json.loads(f'"{written}"')
    except ValueError:
        return None
    return written


class Tracer(BaseTracer):
    """Keeps runs, as LangSmith's tracer sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.runs.append(run)


def fine(asked: Asked) -> Answer:
    return Answer(200, (event(FINE) + b"data: [DONE]\n\n" if asked.is_streamed else json.dumps(WHOLE).encode(),))


def ask(model: Any, how: str, **config: Any) -> Any:
    return list(model.stream("hi", config))[-1] if how == "stream" else model.invoke("hi", config)


@cache
def told_of(echo: str, how: str) -> dict[str, str]:
    """Everything that is told of two calls, by the exit at which it is told: one that is answered by a backup, and one
    that is not answered."""
    told: dict[str, str] = {}
    with TemporaryDirectory() as folder, Server(ECHOES[echo]) as server, Server(fine) as healthy:
        of_calls(told, server, healthy, how, Path(folder))
        _of_commands(told, server, Path(folder))
        _of_tests(told, ECHOES[echo], Path(folder))
        assert any(KEY in str(dict(asked.headers)) for asked in server.received)
    return told


def of_calls(
    told: dict[str, str],
    server: Server,
    healthy: Server,
    how: str,
    folder: Path,
    entry: Mapping[str, Any] = MappingProxyType({**OWN, "api_key": KEY}),
    unread_logs: tuple[str, ...] = ("botocore",),
) -> None:
    """Of calls of a deployment with that entry, at the server's address. `unread_logs` are other libraries' own.

    Amazon's writes what it signs into its log, for who asks it to.
    """
    events: list[Any] = []
    log = io.StringIO()
    tracer, ledger, registry = Tracer(), Ledger(), CollectorRegistry()
    reader, spans, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    otel = OTelExporter(MeterProvider([reader]), tracers)
    calls = CallLog(folder / "calls.jsonl")
    listeners = [events.append, ledger, otel, PrometheusExporter(registry=registry), calls]
    spec = load_spec(
        {
            "deployments": {
                "a": {"api_base": server.url, **entry},
                "b": {**OWN, "api_base": f"{healthy.url}/v1"},
                "alone": {"api_base": server.url, **entry},
            },
            "chains": {"c": {"tiers": ["a", "b"]}, "alone": {"tiers": ["alone"], "retries": {"max": 0}}},
            "default_chain": "c",
        }
    )
    handler = logging.StreamHandler(log)
    handler.addFilter(lambda record: not record.name.startswith(unread_logs))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned, build_chat_model(spec, listeners=listeners) as model:
            warnings.simplefilter("always")
            try:
                message: Any = ask(model, how, callbacks=[tracer])
            except Exception as broken:
                message, told["the error of a stream"] = broken, shown_by(broken)
            told["reply"] = repr(message)
            told["metadata"] = json.dumps(getattr(message, "response_metadata", None))
            with pytest.raises(Exception) as caught:
                ask(model.with_chain("alone"), how, callbacks=[tracer])
            told["exception, its causes and frames"] = shown_by(caught.value)
            told["pickled exception"] = pickle.dumps(caught.value).decode("latin-1")
            told["state"] = json.dumps(model.state())
            told["explanation"] = json.dumps(model.explain())
            told["ping"] = json.dumps(model.ping())
            told["model"] = "\n".join((repr(model), str(model), repr(vars(model)), repr(vars(model.runtime))))
            told["model, dumped"] = "\n".join(
                (str(model.asdict()), repr(model._identifying_params), dumps(model), repr(model._get_ls_params()))
            )
            told["spec"] = "\n".join((repr(spec), str(spec), repr(spec.model_dump()), spec.model_dump_json()))
            told["plan"] = "\n".join((repr(model.runtime.plan), repr(model.runtime.plan.targets)))
            for name, kept in {"model": model, "spec": spec}.items():
                with pytest.raises(Exception) as refused:
                    pickle.dumps(kept)
                told[f"pickling the {name}"] = str(refused.value)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        calls.close()
    told["events"] = repr(events)
    told["log records"] = log.getvalue()
    told["warnings"] = "\n".join(str(warning.message) for warning in warned)
    told["LangChain's runs"] = "\n".join(repr(run.model_dump()) for run in tracer.runs)
    told["OpenTelemetry's spans"] = "\n".join(span.to_json() for span in spans.get_finished_spans())
    told["OpenTelemetry's metrics"] = str(reader.get_metrics_data())
    told["Prometheus's metrics"] = generate_latest(registry).decode()
    told["ledger"] = json.dumps(ledger.snapshot().as_dict(), default=str)
    told["log of calls"] = (folder / "calls.jsonl").read_text(encoding="utf-8")


def _of_commands(told: dict[str, str], server: Server, folder: Path) -> None:
    deployment = {"backend": "vllm", "model": "m", "api_base": server.url, "api_key": KEY}
    path = folder / "llm-fallback.yaml"
    path.write_text(
        yaml.safe_dump({"deployments": {"a": deployment}, "chains": {"c": {"tiers": ["a"], "retries": {"max": 0}}}})
    )
    spec = ("-f", str(path))
    commands: dict[str, tuple[str, ...]] = {
        "ask": ("ask", *spec, "hi"),
        "ask --json": ("ask", *spec, "--json", "hi"),
        "ping": ("ping", *spec),
        "ping --json": ("ping", *spec, "--json"),
        "check": ("check", *spec),
        "check --json": ("check", *spec, "--json"),
        "explain": ("explain", *spec),
        "explain --json": ("explain", *spec, "--json"),
        "export --to litellm-proxy": ("export", *spec, "--to", "litellm-proxy"),
        "export --to llm-fallback": ("export", *spec, "--to", "llm-fallback"),
        "report": ("report", str(folder / "calls.jsonl"), "--html", str(folder / "report.html")),
        "report --json": ("report", str(folder / "calls.jsonl"), "--json"),
    }
    for name, command in commands.items():
        result = CliRunner().invoke(main, command)
        told[f"llm-fallback {name}"] = f"{result.output}\n{result.exception!r}"
    told["llm-fallback report --html"] = (folder / "report.html").read_text(encoding="utf-8")
    told["arguments of the process"] = Path("/proc/self/cmdline").read_text(encoding="utf-8", errors="replace")


def _of_tests(told: dict[str, str], play: Play, folder: Path) -> None:
    """What a recording has of the exchange, and what a fake server shows of a request."""
    with Server(play) as server, FakeServer.record(server.url, folder / "tape.jsonl") as recorder:
        spec = recorder.spec(deployments={"upstream": {"api_key": KEY}}, retries={"max": 0})
        with build_chat_model(spec) as model, pytest.raises(Exception):
            ask(model, "stream")
        told["FakeServer.received"] = repr(recorder.received())
    told["recording"] = (folder / "tape.jsonl").read_text(encoding="utf-8")


EXITS = (
    *("reply", "metadata", "exception, its causes and frames", "pickled exception", "state", "explanation", "ping"),
    *("model", "model, dumped", "spec", "plan", "pickling the model", "pickling the spec", "events", "log records"),
    *("warnings", "LangChain's runs", "OpenTelemetry's spans", "OpenTelemetry's metrics", "Prometheus's metrics"),
    *("ledger", "log of calls", "llm-fallback ask", "llm-fallback ask --json", "llm-fallback ping"),
    *("llm-fallback ping --json", "llm-fallback check", "llm-fallback check --json", "llm-fallback explain"),
    *("llm-fallback explain --json", "llm-fallback export --to litellm-proxy", "llm-fallback export --to llm-fallback"),
    *("llm-fallback report", "llm-fallback report --json", "llm-fallback report --html", "arguments of the process"),
    *("FakeServer.received", "recording"),
)


@pytest.mark.parametrize(
    ("echo", "how"), combinations(ECHOES, WAYS_TO_ASK, fast=lambda echo, how: how == "invoke" or "middle" in echo)
)
def test_no_exit_shows_a_key_that_a_server_echoes(echo, how):
    """Not half of it, in any spelling, at any of the exits."""
    told = told_of(echo, how)
    assert set(EXITS) <= told.keys() <= {*EXITS, "the error of a stream"}
    assert {place: found for place, text in told.items() if (found := leaks(text))} == {}
