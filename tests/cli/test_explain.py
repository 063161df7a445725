"""`llm-fallback explain`: what one call may do."""

import json

from tests.cli.conftest import FINE

TWO = FINE + "  cheap:\n    tiers: [[own, other]]\n    accept: nowhere.to:be_found\ndefault_chain: assistant\n"


def test_the_default_chain_is_explained(write, run):
    """Deployments in order with their limits, requests, seconds, notes."""
    write(TWO)
    result = run("explain")
    assert result.exit_code == 0
    for told in ("assistant", "own", "other", "Qwen/Qwen3-32B", "12 s", "at most 4 requests, 30 s"):
        assert told in result.stdout
    assert "Other chains (--chain NAME): cheap" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_another_chain_is_explained_when_it_is_named(write, run):
    """A tier of several shows how they share the load."""
    write(TWO)
    told = run("explain", "--chain", "cheap").stdout
    assert "own 50%" in told
    assert "other 50%" in told


def test_json_is_what_the_model_s_explain_says(write, run):
    """The same keys, and notes on what was left open."""
    write(TWO)
    told = json.loads(run("explain", "--json", "--chain", "cheap").stdout)
    assert list(told) == ["chain", "tiers", "max_requests", "max_seconds", "notes"]
    assert (told["chain"], told["tiers"], told["max_requests"]) == ("cheap", [["own", "other"]], 4)
    assert "variables were not resolved: ${OWN_URL}, ${OTHER_URL}" in told["notes"]
    assert "accept was not imported: nowhere.to:be_found" in told["notes"]


def test_variables_need_not_be_set(write, run, monkeypatch):
    """Who explains need not be who asks."""
    monkeypatch.delenv("OWN_URL", raising=False)
    write(FINE.replace("${OWN_URL:-http://localhost:8000}", "${OWN_URL:?ask the operators}"))
    result = run("explain")
    assert result.exit_code == 0
    assert "variables were not resolved" in result.stdout


def test_a_chain_that_is_not_there_is_wrong_usage(write, run):
    """With the nearest name."""
    write(TWO)
    result = run("explain", "--chain", "chaep")
    assert result.exit_code == 2
    assert "did you mean 'cheap'?" in result.stderr


def test_a_spec_with_mistakes_is_told_without_a_traceback(write, run):
    """Every mistake, exit code 1."""
    write(FINE.replace("tiers: [own, other]", "tiers: [own, othr]"))
    result = run("explain")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "llm-fallback.yaml:12 chains.assistant.tiers[1]" in result.stderr
    assert "Traceback" not in result.stderr
