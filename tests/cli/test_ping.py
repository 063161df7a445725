"""`llm-fallback ping`: who answers, what is wrong with who does not, and how it ends."""

import json
import re

import pytest

from llm_fallback.testing import Fail, FakeServer, Stall

CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture
def serve(write):
    """Runs a FakeServer with a spec of it as llm-fallback.yaml."""
    servers = []

    def serve(scripts, deployments=None, chains=None):
        server = FakeServer(scripts).start()
        servers.append(server)
        spec = server.spec(deployments=deployments)
        write({**spec, "chains": chains or spec["chains"], "default_chain": next(iter(chains or spec["chains"]))})
        return server

    yield serve
    for server in servers:
        server.close()


def cells(output):
    """The table's rows by their deployment, without the times."""
    rows = (re.split(r"  +", line.strip()) for line in output.splitlines())
    return {row[0]: row[1:6] for row in rows if len(row) == 8}


def test_a_table_says_of_each_deployment_what_is_known(serve, run):
    """Beneath it what to do about who does not work, and how each chain stands; a chain that can answer is fine."""
    serve({"primary": Fail(401), "backup": "hello"}, deployments={"primary": {"api_key": CANARY}})
    result = run("ping")
    assert result.exit_code == 0
    assert cells(result.stdout) == {
        "deployment": ["works", "reachable", "ready", "model", "key"],
        "primary": ["no", "yes", "yes", "yes", "no"],
        "backup": ["yes", "yes", "yes", "yes", "-"],
    }
    assert "primary: auth (401)\n    the server refuses the key in api_key\n" in result.stdout
    assert result.stdout.endswith("default: 1 of 2 work\n")
    assert CANARY not in result.output
    assert max(map(len, result.stdout.splitlines())) <= 81


def test_a_chain_nobody_of_which_works_is_exit_code_1(serve, run):
    """Also where another chain is fine; a deployment of another route does not save it."""
    chains = {"fine": {"tiers": ["a", "b"]}, "bad": {"tiers": ["b"], "on_context_window": ["a"]}}
    serve({"a": "hello", "b": Fail(503)}, chains=chains)
    result = run("ping")
    assert result.exit_code == 1
    assert "fine: 1 of 2 work\nbad: no deployment works\n" in result.stdout


def test_a_chain_may_be_named(serve, run):
    """Then the others are not asked; one that is not there is wrong usage."""
    server = serve({"a": "hello", "b": Fail(503)}, chains={"fine": {"tiers": ["a"]}, "bad": {"tiers": ["b"]}})
    assert run("ping", "--chain", "fine").exit_code == 0
    assert [received.deployment for received in server.received()] == ["a"]
    assert run("ping", "--chain", "find").exit_code == 2


def test_json_has_everything_that_is_known(serve, run):
    """As `model.ping()` has it, with the chains; nothing on stderr."""
    serve({"a": "hello", "b": Stall()}, deployments={"b": {"api_key": CANARY}})
    result = run("ping", "--json", "--timeout", "0.5")
    printed = json.loads(result.stdout)
    assert (result.exit_code, result.stderr, printed["ok"]) == (0, "", True)
    assert printed["chains"] == {"default": {"works": True, "deployments": ["a", "b"]}}
    assert printed["deployments"]["a"]["first_token_s"] > 0
    assert printed["deployments"]["b"]["failure"] == "timeout"
    assert CANARY not in result.output


def test_an_unset_variable_is_told_and_nothing_is_sent(serve, run, monkeypatch):
    """Exit code 1, without a traceback."""
    monkeypatch.delenv("NOT_THERE", raising=False)
    server = serve({"a": "hello"}, deployments={"a": {"api_key": "${NOT_THERE}"}})
    result = run("ping")
    assert result.exit_code == 1
    assert "NOT_THERE" in result.stderr
    assert "Traceback" not in result.stderr
    assert not server.received()


def test_on_a_terminal_the_table_fills_as_they_answer(serve, run, monkeypatch):
    """Who has not answered yet is shown so; what stays in the end is the whole table."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    serve({"quick": "hello", "slow": Stall()})
    output = run("ping", "--timeout", "0.5").stdout
    last = output.rindex("\x1b[2K")
    assert "..." in output[:last]
    assert "..." not in output[last:]


def test_no_time_at_all_is_wrong_usage(serve, run):
    """So is a negative one."""
    serve({"a": "hello"})
    assert [run("ping", "--timeout", word).exit_code for word in ("0", "-1", "soon")] == [2, 2, 2]
