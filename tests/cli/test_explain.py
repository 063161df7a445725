"""`llm-fallback explain`: what one call may do."""

import json

from tests.cli.conftest import FINE

TWO = FINE + "  cheap:\n    tiers: [[own, other]]\n    accept: nowhere.to:be_found\ndefault_chain: assistant\n"


def test_the_default_chain_is_explained(write, run):
    """Deployments in order with their limits, requests, seconds, notes."""
    write(TWO)
    result = run("explain")
    assert result.exit_code == 0
    for word in ("assistant", "own", "other", "Qwen/Qwen3-32B", "12 s", "at most 4 requests, 30 s"):
        assert word in result.stdout
    assert "Other chains (--chain NAME): cheap" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_another_chain_is_explained_when_it_is_named(write, run):
    """A tier of several shows how they share the load."""
    write(TWO)
    text = run("explain", "--chain", "cheap").stdout
    assert "own 50%" in text
    assert "other 50%" in text


def test_what_keeps_a_conversation_where_it_is_is_told(write, run):
    """And what a slow answer counts as, and what a budget does at its end."""
    own = "{backend: vllm, model: m, api_base: 'http://a:8000', price: {per_request: 0.01}, breaker: {slow_times: 4}}"
    write(f"""
deployments:
  own: {own}
  other: {own}
chains:
  main: {{tiers: [[own, other]], affinity: thread, budget: {{usd_per_day: 1, on_limit: cheaper}}}}
""")
    notes = json.loads(run("explain", "--json").stdout)["notes"]
    assert any("a conversation stays on one member" in note for note in notes)
    assert any("an answer of own that is 4 times as slow as usual is delivered" in note for note in notes)
    assert any("goes on with those it suffices for" in note for note in notes)


def test_no_line_is_made_of_blanks(write, run):
    """Neither above the table nor below it."""
    write(TWO)
    lines = run("explain").stdout.splitlines()
    assert [line for line in lines if line != line.rstrip() and not line.strip()] == []


def test_json_is_what_the_model_s_explain_says(write, run):
    """The same keys, and notes on what was left open."""
    write(TWO)
    printed = json.loads(run("explain", "--json", "--chain", "cheap").stdout)
    assert list(printed) == ["chain", "tiers", "max_requests", "max_seconds", "roads", "zones", "notes"]
    assert (printed["chain"], printed["tiers"], printed["max_requests"]) == ("cheap", [["own", "other"]], 4)
    assert "accept was not imported: nowhere.to:be_found" in printed["notes"]


def test_variables_need_not_be_set(write, run, monkeypatch):
    """Who explains need not be who asks."""
    monkeypatch.delenv("OWN_URL", raising=False)
    write(FINE.replace("${OWN_URL:-http://localhost:8000}", "${OWN_URL:?ask the operators}"))
    result = run("explain")
    assert result.exit_code == 0
    assert "to be set before a model is built: OWN_URL" in result.stdout
    monkeypatch.setenv("OWN_URL", "http://own:8000")
    assert "to be set" not in run("explain").stdout


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


def test_a_budget_is_told_and_what_of_its_prices_is_not_known_yet(write, run):
    """What is limited, for whom and where it is kept; litellm's list is looked into when a model is built."""
    write(
        """
        deployments:
          own: {backend: vllm, model: m, api_base: "http://own:8000", price: free}
          hosted: {model: openai/gpt-4.1}
        chains:
          main:
            tiers: [own, hosted]
            budget: {usd_per_call: 0.05, usd_per_day: 20, per: tenant, file: "${STATE}/spent"}
        """
    )
    notes = json.loads(run("explain", "--json").stdout)["notes"]
    limits = "$0.05 a call, $20 a day for each tenant"
    assert f"an attempt that could go over {limits} is not made, kept in ${{STATE}}/spent: " in "\n".join(notes)
    assert "to be set before a model is built: STATE" in notes
    assert "prices were not looked up: hosted; a model is not built if litellm's list lacks one" in notes


def test_a_budget_over_a_server_of_ones_own_without_a_price_is_a_mistake(write, run):
    """No list could have it, so it is found before anything is built; with its line and what to write."""
    write(
        """deployments:
  own: {backend: vllm, model: m, api_base: "http://own:8000"}
  spare: {backend: vllm, model: m, api_base: "http://own:8000", weight: 0}
  known: {backend: vllm, model: m, api_base: "http://own:8000", base_model: gpt-4.1}
defaults: {budget: {usd_per_day: 1}}
chains:
  main: {tiers: [own, spare, known]}
  free: {tiers: [spare], budget: null}
default_chain: main
"""
    )
    result = run("check", "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["path"], finding["line"]) == ("deployments.own.price", 2)
    assert finding["message"].startswith(
        "is missing: chain 'main' has a budget, and nobody knows what 'm' costs; write "
    )


def test_names_are_no_markup(run, write):
    """Deployments whose names differ in brackets only are told apart, and an escape never reaches the terminal."""
    names = ["a[/x]", "gpt[4]", "gpt[bold]", "esc\x1b[2J"]
    write(
        json.dumps(
            {"deployments": {name: {"model": "openai/m"} for name in names}, "chains": {"c[/]": {"tiers": names}}}
        ),
        "names.json",
    )
    for command in ("explain", "check"):
        result = run(command, "-f", "names.json")
        assert result.exit_code == 0, result.output
        assert all(name in result.stdout for name in ("a[/x]", "gpt[4]", "gpt[bold]", r"esc\x1b[2J", "c[/]"))
        assert "\x1b" not in result.stdout
