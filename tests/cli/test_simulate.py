"""`llm-fallback simulate`: what becomes of calls when deployments fail."""

import json
import math

import click
import pytest

from llm_fallback.cli.simulate import percent, rate, seconds, troubles
from llm_fallback.simulate import Trouble

SMALL = ("--calls", "60")
NAMES = ("own", "other")


def test_what_becomes_of_the_calls_is_told(write, run):
    """A line for each deployment, then what callers saw, in 80 columns."""
    write()
    result = run("simulate", "--down", "own", *SMALL)
    assert result.exit_code == 0, result.output
    (own,), (other,) = ([line.split() for line in result.stdout.splitlines() if name in line.split()] for name in NAMES)
    asked = int(own[1])
    assert own == ["own", str(asked), "0", str(60 - asked), "1", str(asked), "connection"]
    assert other == ["other", "60", "60", "0", "0", "-"]
    for line in (
        "60 calls of the chain assistant in",
        "answered      60 of 60 (100 %)",
        "fell back     60 of these (100 %)",
        "first token   p50 ",
        "whole answer  p50 ",
        f"requests      {1 + asked / 60:.2f} a call; the most of one call 2, of 4 it may make",
        "of 30 s it may take",
    ):
        assert line in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_same_command_says_the_same(write, run):
    """Whoever quotes a line can find it again; --seed has another course."""
    write()
    command = ("simulate", "--fail", "own=server_error:50%", "--slow", "other=2s", *SMALL)
    assert run(*command).stdout == run(*command).stdout != run(*command, "--seed", "1").stdout


def test_json_is_the_outcome(write, run):
    """For graphs, and for comparing chains."""
    write()
    printed = json.loads(run("simulate", "--json", "--fail", "own=auth", "--no-stream", *SMALL).stdout)
    assert (printed["calls"], printed["answered"], printed["fell_back"], printed["seed"]) == (60, 60, 60, 0)
    assert printed["failures"] == printed["deployments"]["own"]["failures"]
    assert list(printed["failures"]) == ["auth"]
    assert set(printed["latency_s"]) == {"count", "mean", "p50", "p95", "p99"}
    assert printed["time_to_first_token_s"]["count"] == 0


def test_unanswered_calls_end_it_with_1_unless_they_are_allowed(write, run):
    """A build job may ask for a chain that loses nothing while one deployment is down."""
    write()
    broken = ("simulate", "--fail", "own=stream_broken:20%", *SMALL)
    result = run(*broken)
    assert result.exit_code == 1
    assert "unanswered    " in result.stdout
    assert "stream_broken" in result.stdout
    assert run(*broken, "--allow", "50%").exit_code == 0
    assert run("simulate", "--down", "own", "--down", "other", *SMALL, "--allow", "99.9%").exit_code == 1
    assert run("simulate", "--down", "own", "--down", "other", *SMALL, "--allow", "100%").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--down", "onw"], "the chain asks no deployment called 'onw'; did you mean 'own'?"),
        (["--fail", "own=servererror"], "a deployment cannot fail by 'servererror'; did you mean 'server_error'?"),
        (["--fail", "own"], "'own': write NAME=FAILURE[:PERCENT], as in --fail claude=rate_limited:30%"),
        (["--fail", "own=auth:lots"], "'lots' is no percentage from 0% to 100%"),
        (["--fail", "own=auth:130%"], "'130%' is no percentage from 0% to 100%"),
        (["--down", "own=auth"], "'own=auth': write NAME, as in --down claude"),
        (["--slow", "own"], "'own': write NAME=TIME, as in --slow claude=4s"),
        (["--slow", "own=fast"], "'fast' is no time; write one as in 4s, 500ms or 2m"),
        (["--down", "own@soon-later"], "'soon' is no time"),
        (["--down", "own@20-10"], "a trouble ends after it begins, got 20 to 10 s"),
        (["--rate", "0/s"], "'0/s' is no rate; write one as in 50/s or 600/m"),
        (["--calls", "0"], "0 is not in the range x>=1"),
        (["--allow", "few"], "'few' is no percentage"),
        (["--chain", "asistant"], "no chain is called 'asistant'; did you mean 'assistant'?"),
    ],
)
def test_wrong_words_are_wrong_usage(write, run, arguments, message):
    """With what is meant instead, and exit code 2."""
    write()
    result = run("simulate", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_without_a_chain_there_is_nothing_to_simulate(write, run):
    """Whatever is named; a spec without chains is none the less one."""
    write({"deployments": {"own": {"model": "openai/gpt-4.1"}}})
    for arguments in ([], ["--chain", "assistant"]):
        result = run("simulate", *arguments)
        assert result.exit_code == 2
        assert "chains: there is none, so nothing can be asked; write one that has tiers" in result.stderr


def test_a_wrong_spec_is_told_like_everywhere(write, run):
    """Its mistakes, and no traceback."""
    write({"deployments": {}})
    result = run("simulate")
    assert result.exit_code == 1
    assert "mistakes in the spec" in result.stderr or "mistake in the spec" in result.stderr


def test_troubles_are_read_from_their_words():
    """In the order of the options; a span of time may end each."""
    read = troubles(["a", "b@30s-2m"], ["a=auth", "a=rate_limited:30%@0-1h", "b=timeout:5"], ["c=500ms", "c=10x@5s-6s"])
    assert read == [
        Trouble("a", "connection"),
        Trouble("b", "connection", begins_s=30, ends_s=120),
        Trouble("a", "auth"),
        Trouble("a", "rate_limited", 0.3, ends_s=3600),
        Trouble("b", "timeout", 0.05),
        Trouble("c", first_token_s=0.5),
        Trouble("c", times=10, begins_s=5, ends_s=6),
    ]
    assert read[0].ends_s == math.inf


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (seconds, "4", 4),
        (seconds, "1.5m", 90),
        (seconds, "250ms", 0.25),
        (rate, "50/s", 50),
        (rate, "90/min", 1.5),
        (rate, "7200/h", 2),
        (rate, "3", 3),
        (percent, "12.5%", 0.125),
        (percent, "0", 0),
    ],
)
def test_numbers_have_the_units_people_write(read, text, value):
    """And a bare number has the usual one."""
    assert read(text, "--option") == value


@pytest.mark.parametrize("text", ["", "-1s", "4 s", "4x", "inf", "1e3"])
@pytest.mark.parametrize("read", [seconds, rate, percent])
def test_what_is_no_number_is_refused(read, text):
    """Rather than read as something else."""
    with pytest.raises(click.BadParameter):
        read(text, "--option")
