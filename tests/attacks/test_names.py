"""Names with markup, escapes and half characters move no cursor, break no page and are not taken for each other."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest

from llm_fallback import build_chat_model
from llm_fallback.cli import main
from llm_fallback.exporters.jsonl import CallLog
from llm_fallback.exporters.prometheus import PrometheusExporter
from llm_fallback.testing import fake_chat_model

NAMES: dict[str, tuple[str, str]] = {
    "rich's markup": ("gpt[bold]", "gpt"),
    "markup that ends": ("a[/x]", "a[/]"),
    "a colour": ("a\x1b[31m", r"a\x1b[31m"),
    "a title of the window": ("a\x1b]0;x\x07", "a]0;x"),
    "a line break": ("a\nb", r"a\nb"),
    "a carriage return": ("safe\revil", "evil"),
    "a backspace": ("ab\x08c", "ac"),
    "half a character": ("a\ud83d", r"a\ud83d"),
    "the other direction": ("a\u202eb", "ab"),
    "no width": ("a\u200bb", "ab"),
    "a NUL": ("a\x00b", "ab"),
    "C1's escape": ("a\x9b31m", "a31m"),
    "HTML": ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    "the end of a script": ("</script>", "<\\/script>"),
    "a label's end": ('a"} 1\nb{c="', "a"),
    "a table's line": ("a │ b", "a | b"),
}
"""Two names that may be taken for each other."""
EXITS = ("explain", "explain --json", "check", "check --json", "ask", "report", "report --html", "prometheus")


def shown_at(way_out: str, name: str, folder: Path) -> str:
    """What is shown where a deployment and a chain have this name."""
    spec = folder / "spec.json"
    deployment = {"backend": "vllm", "model": "m", "api_base": "http://127.0.0.1:1"}
    chain = {"tiers": [name], "retries": {"max": 0}}
    spec.write_text(json.dumps({"deployments": {name: deployment}, "chains": {name: chain}}))
    command, *options = way_out.split()
    if command == "prometheus":
        registry = CollectorRegistry()
        fake_chat_model({"a": "hi"}, chain=name, listeners=[PrometheusExporter(registry=registry)]).invoke("x")
        return "\n".join(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)
    if command == "report":
        with CallLog(folder / "calls.jsonl") as log:
            fake_chat_model({"a": "hi"}, chain=name, listeners=[log]).invoke("x")
        page = ("--html", str(folder / "page.html")) if options else ()
        result = CliRunner().invoke(main, ["report", str(folder / "calls.jsonl"), *page])
        assert result.exception is None
        return (folder / "page.html").read_text(encoding="utf-8") if options else result.output
    question = ["hi"] if command == "ask" else []
    result = CliRunner().invoke(main, [command, *options, "-f", str(spec), *question])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.parametrize("way_out", EXITS)
@pytest.mark.parametrize("kind", NAMES)
def test_a_name_is_shown_as_text(kind, way_out, tmp_path):
    """Nothing in it moves a cursor or ends what is around it, and what looks like it is another."""
    shown = [shown_at(way_out, name, tmp_path) for name in NAMES[kind]]
    for text in shown:
        if way_out != "prometheus":  # Whose labels are data, of which only half characters are none.
            assert not [char for char in text if not char.isprintable() and char != "\n"]
        text.encode()
        assert way_out != "report --html" or "<script>alert" not in text
    if way_out != "report --html":  # Of a page the times differ, too.
        assert without_blanks(shown[0]) != without_blanks(shown[1])


def without_blanks(text: str) -> str:
    return "".join(text.split())


def test_two_names_that_look_alike_are_two(tmp_path):
    """In one table, too."""
    pairs = [name for pair in NAMES.values() for name in pair]
    deployments = {name: {"backend": "vllm", "model": "m", "api_base": "http://127.0.0.1:1"} for name in pairs}
    spec = {"deployments": deployments, "chains": {"c": {"tiers": list(deployments)}}}
    with build_chat_model(spec) as model:
        assert len(model.state()) == len(deployments)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    told = io.StringIO(CliRunner().invoke(main, ["explain", "-f", str(tmp_path / "spec.json")]).output)
    rows = [line for line in told if "120 s" in line]
    assert len(rows) == len(deployments)
