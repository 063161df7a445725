"""`llm-fallback ask`: the answer on stdout, the steps of the call on stderr."""

import json
from decimal import Decimal

import pytest

from llm_fallback.cli.timeline import dollars
from llm_fallback.testing import Cut, Fail, Stall

CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture
def deployment(deployment):
    """With a key, which nothing may show."""
    return {**deployment, "api_key": CANARY}


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_the_answer_goes_to_stdout_and_the_timeline_to_stderr(serve, run, how):
    """Who was asked, what came of it, latency and cost."""
    serve({"primary": Fail(429), "backup": "Paris."})
    result = run("ask", "What is the capital of France?", how)
    assert result.exit_code == 0
    assert result.stdout == "Paris.\n"
    primary, backup, summary = result.stderr.splitlines()
    assert primary.startswith("primary ")
    assert "rate_limited 429" in primary
    assert backup.startswith("backup ")
    assert "answered" in backup
    assert summary.startswith("answered by backup after ")
    assert "cost $0.0000" in summary
    assert max(map(len, result.stderr.splitlines())) <= 80


def test_json_has_the_answer_and_the_facts(serve, run):
    """And nothing on stderr."""
    serve({"primary": Fail(503), "backup": "Paris."})
    result = run("ask", "Capital?", "--json")
    printed = json.loads(result.stdout)
    assert (result.exit_code, printed["answer"], result.stderr) == (0, "Paris.", "")
    assert [attempt["failure"] for attempt in printed["llm_fallback"]["attempts"]] == ["overloaded", None]


def test_when_nobody_answers_the_error_is_told_and_the_exit_code_is_1(serve, run):
    """A line for each attempt; no traceback, no key."""
    serve({"primary": Fail(401), "backup": Fail(500)}, retries={"max": 0})
    for result in (run("ask", "hi"), run("ask", "hi", "--json")):
        assert result.exit_code == 1
        assert "primary: auth (401)" in result.output
        assert "backup: server_error (500)" in result.output
        assert "Traceback" not in result.output
        assert CANARY not in result.output


@pytest.mark.parametrize("how", ["--stream", "--json"])
def test_a_budget_that_is_used_up_is_told(serve, run, how):
    """Nothing is asked; the exit code is 1."""
    server = serve({"primary": "Paris."}, budget={"usd_per_call": 0})
    result = run("ask", "Capital?", how)
    assert result.exit_code == 1
    assert "budget of $0 for chain default, per call would be exceeded" in result.output
    assert "Traceback" not in result.output
    assert server.received() == []


def test_a_stream_that_breaks_off_is_told(serve, run):
    """What came is on stdout; the exit code is 1."""
    serve({"primary": Cut(3, reply="Paris is the capital."), "backup": "Paris."})
    result = run("ask", "Capital?")
    assert result.exit_code == 1
    assert result.stdout == "Paris is the\n"
    assert "stream_broken" in result.stderr


def test_another_chain_may_be_asked(serve, run, write):
    """By name; one that is not there is wrong usage, and nothing is sent."""
    server = serve({"primary": "one", "backup": "two"})
    spec = server.spec()
    spec["chains"]["cheap"] = {"tiers": ["backup"]}
    write({**spec, "default_chain": "default"})
    assert run("ask", "hi", "--chain", "cheap").stdout == "two\n"
    assert run("ask", "hi", "--chain", "cheep").exit_code == 2
    assert [received.deployment for received in server.received()] == ["backup"]


def test_a_question_of_a_dash_is_read_from_stdin(serve, run):
    """As other commands do."""
    server = serve({"primary": "one"})
    run("ask", "-", stdin="What is long?")
    assert server.received()[0].body["messages"][0]["content"] == "What is long?"


def test_an_accept_beside_the_spec_is_found(serve, run, here):
    """The directory one is in is looked at, as `python -m` does."""
    (here / "judgement.py").write_text("def long(reply):\n    return len(reply.content) > 3\n", encoding="utf-8")
    serve({"primary": "no", "backup": "yes, indeed"}, accept="judgement:long")
    assert run("ask", "hi").stdout == "yes, indeed\n"


def test_an_unset_variable_is_told_without_a_traceback(serve, run, write, monkeypatch):
    """Before anything is sent."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    server = serve({"primary": "one"})
    spec = server.spec(deployments={"primary": {"api_key": "${NOT_THERE}"}})
    write(spec)
    result = run("ask", "hi")
    assert result.exit_code == 1
    assert "NOT_THERE" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_question_it_is_wrong_usage(serve, run):
    """Exit code 2."""
    serve({"primary": Stall()})
    assert run("ask").exit_code == 2


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "$0"), ("0.0000004", "below $0.000001"), ("0.000001", "$0.000001"), ("0.25", "$0.250000"), ("1", "$1.00")],
)
def test_an_amount_is_shown_with_as_many_places_as_say_something(amount, shown):
    """And what is above nothing never as nothing."""
    assert dollars(Decimal(amount)) == shown
