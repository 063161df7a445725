"""`llm-fallback batch`: a file answered, what is said of it, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llm_fallback.chat_model.batch.survey import Tally
from llm_fallback.cli.batch_progress import LINE_EVERY_S, Pace, figures, showing_progress
from llm_fallback.testing import Fail, Reply


@pytest.fixture(autouse=True)
def prompts(here):
    """A file of five prompts."""
    (here / "prompts.jsonl").write_text("".join(f'{{"prompt": "question {number}"}}\n' for number in range(5)))


def test_every_row_is_answered_and_the_sum_is_told(serve, run, here):
    """Exit code 0; the answers are in the file."""
    serve({"a": Reply("fine", usage=(10, 100))})
    result = run("batch", "prompts.jsonl", "-o", "answers.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("5 of 5 rows answered, 0 failed, $0.0010, ")
    assert result.stdout.endswith(" s: answers.jsonl\n")
    rows = [json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()]
    assert {row["answer"] for row in rows} == {"fine"}


def test_a_row_that_failed_is_an_exit_code_of_1(serve, run):
    """And how to ask it again is told, which it is by that."""
    server = serve({"a": [Fail("bad_request"), *["fine"] * 4, "better"]}, retries={"max": 0})
    result = run("batch", "prompts.jsonl", "-o", "answers.csv")
    assert result.exit_code == 1
    assert "4 of 5 rows answered, 1 failed" in result.stdout
    assert result.stdout.endswith("--retry-failed asks the failed rows again\n")
    finished = run("batch", "prompts.jsonl", "-o", "answers.csv")
    assert finished.exit_code == 0, "it was finished, and did nothing"
    told = "it was finished before, so nothing was asked; --retry-failed asks the failed rows again\n"
    assert finished.stdout.endswith(told)
    again = run("batch", "prompts.jsonl", "-o", "answers.csv", "--retry-failed", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["answered"] == 5
    assert len(server.received()) == 6


def test_json_is_what_batch_file_returns(serve, run):
    """For other programs."""
    serve({"a": Reply("fine", usage=(10, 100))})
    printed = json.loads(run("batch", "prompts.jsonl", "-o", "answers.jsonl", "--json").stdout)
    assert list(printed) == ["rows", "answered", "failed", "cost_usd", "seconds", "complete"]
    assert (printed["rows"], printed["answered"], printed["complete"]) == (5, 5, True)
    assert printed["cost_usd"] == pytest.approx(0.00105)


def test_a_finished_job_does_nothing_the_second_time(serve, run):
    """And exits 0."""
    server = serve({"a": "fine"})
    first = run("batch", "prompts.jsonl", "-o", "answers.jsonl")
    second = run("batch", "prompts.jsonl", "-o", "answers.jsonl")
    assert (first.exit_code, second.exit_code, len(server.received())) == (0, 0, 5)


def test_a_dry_run_sends_nothing_and_estimates(serve, run, here):
    """Requests, tokens and dollars; of what is left."""
    server = serve({"a": "fine"})
    result = run("batch", "prompts.jsonl", "-o", "answers.jsonl", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout == "5 requests for 5 rows; about 10 tokens in, 1,280 out; about $0.0026 at a\n"
    assert server.received() == []
    assert not (here / "answers.jsonl").exists()
    run("batch", "prompts.jsonl", "-o", "answers.jsonl")
    left = json.loads(run("batch", "prompts.jsonl", "-o", "answers.jsonl", "--dry-run", "--json").stdout)
    assert (left["rows"], left["requests"], left["cost_usd"]) == (5, 0, 0.0)


def test_a_budget_stops_it_and_says_so(serve, run):
    """Exit code 1; the same command goes on."""
    serve({"a": Reply("fine", usage=(10, 100))}, budget={"usd_per_day": 0.0005})
    result = run("batch", "prompts.jsonl", "-o", "answers.jsonl", "--concurrency", "1")
    assert result.exit_code == 1
    _, budget, rest = result.stdout.splitlines()
    assert budget.startswith("budget of $0.0005 for chain default, per day would be exceeded")
    assert rest == "the same command goes on with the rest"


def test_a_form_is_imported_from_beside_the_spec(serve, run, here):
    """As `accept` is."""
    (here / "batch_forms.py").write_text("from pydantic import BaseModel\nclass Number(BaseModel):\n    n: int\n")
    serve({"a": '{"n": 3}'})
    assert run("batch", "prompts.jsonl", "-o", "answers.jsonl", "--schema", "batch_forms:Number").exit_code == 0
    assert json.loads((here / "answers.jsonl").read_text().splitlines()[0])["answer"] == {"n": 3}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nowhere.jsonl", "-o", "a.jsonl"], 2, "nowhere.jsonl"),
        (["prompts.jsonl"], 2, "Missing option '-o'"),
        (
            ["prompts.jsonl", "-o", "a.jsonl", "--concurrency", "0"],
            2,
            "'0' is neither 'auto' nor a whole number from 1",
        ),
        (["prompts.jsonl", "-o", "a.jsonl", "--schema", "nowhere:N"], 2, "'nowhere:N' cannot be imported"),
        (["prompts.jsonl", "-o", "a.jsonl", "--chain", "defualt"], 2, "did you mean 'default'?"),
        (["prompts.jsonl", "-o", "prompts.jsonl"], 1, "prompts.jsonl: is source and target; name another target"),
        (["prompts.jsonl", "-o", "a.txt"], 1, "a.txt: its format is told by its suffix, and '.txt' tells none"),
        (["prompts.jsonl", "-o", "a.jsonl", "--prompt", "promt"], 1, "did you mean 'prompt'?"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(serve, run, arguments, code, told):
    """Nothing is sent."""
    server = serve({"a": "fine"})
    result = run("batch", *arguments)
    assert (result.exit_code, server.received()) == (code, [])
    assert told in result.stderr
    assert "Traceback" not in result.output


def test_figures_say_how_far_it_is():
    """Rows, failures, rate, cost and the time that is left."""
    from decimal import Decimal

    tally = Tally(rows=5000, answered=1197, failed=3, cost_usd=Decimal("0.1234"), in_flight=64)
    assert figures(tally, 80.06) == "1,200 of 5,000 rows, 3 failed, 64 in flight, 80.1/s, $0.1234, 0:00:47 left"
    assert figures(Tally(rows=2, answered=2, cost_usd=None), 1.0) == "2 of 2 rows, 0 in flight, 1.0/s"


def test_a_rate_is_that_of_the_last_minute():
    """A slow beginning says nothing of how long the rest takes."""
    pace = Pace(0.0)
    for second in range(60):
        pace.count_row(float(second))
    for tenth in range(1200):
        pace.count_row(60.0 + tenth / 10)
    assert pace.rate(179.9) == pytest.approx(10.0, rel=0.1)
    young = Pace(0.0)
    young.count_row(1.0)
    assert young.rate(2.0) == 0.5


def test_where_there_is_no_terminal_a_line_comes_now_and_then(capsys):
    """Not one for each row."""
    now = 0.0
    tally = Tally(rows=1000, in_flight=8)
    with showing_progress(lambda: now) as told:
        for _ in range(100):
            now += LINE_EVERY_S / 20
            tally.answered += 1
            told(tally)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "20 of 1,000 rows, 8 in flight, 2.0/s, $0.0000, 0:08:10 left"


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    """With the same figures; it is gone at the end."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    tally = Tally(rows=10, answered=4, in_flight=2)
    with showing_progress(lambda: 1.0) as told:
        told(tally)
    shown = capsys.readouterr().err
    assert "4 of 10 rows, 2 in flight" in shown
    assert "━" in shown


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_finishes_and_twice_leaves(serve, here, times):
    """Exit code 130 either way, and the next run goes on with nothing doubled."""
    server = serve({"a": Reply("fine", delay_s=3.0)})
    command = [
        sys.executable,
        "-m",
        "llm_fallback.cli",
        "batch",
        "prompts.jsonl",
        "-o",
        "a.jsonl",
        "--concurrency",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    while len(server.received()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    if times == 2:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    took_s, rows = time.monotonic() - began, (here / "a.jsonl").read_text().splitlines()
    assert process.returncode == 130, err
    assert "finishing what is under way; Ctrl-C again leaves at once" in err
    assert "Traceback" not in err
    assert "the same command goes on with the rest" in out
    assert (len(rows), len(server.received())) == ((2, 2) if times == 1 else (0, 2))
    assert times == 1 or took_s < 3.0
