"""`llm-fallback check`: what it says and how it ends."""

import json

import pytest

from tests.cli.conftest import FINE

CANARY = "sk-canary-0123456789abcdef"


def test_a_fine_spec_is_summed_up_by_chain(write, run):
    """Tiers, the most requests and the most seconds of one call."""
    write()
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout == (
        "llm-fallback.yaml:2 note deployments.own\n"
        "    what calls of own, other cost is not known; write price, or price: free\n"
        "\n"
        "llm-fallback.yaml: no errors, 1 note\n"
        "  assistant (default): own, then other\n"
        "      one call: at most 4 requests, 30 s\n"
    )


def test_who_may_see_a_prompt_is_told_by_chain(write, run):
    """Where zones are written."""
    write(
        FINE.replace("tiers: [own, other]", "tiers: [own, other]\n    zones: [house]").replace(
            "  own:", "  own:\n    zone: house"
        )
    )
    result = run("check")
    assert "assistant (default): own\n" in result.stdout
    assert result.stdout.endswith("      its prompts may go to house (own)\n")


def test_every_mistake_is_told_with_file_line_path_and_remedy(write, run):
    """All of them, not only the first."""
    write(FINE.replace("tiers: [own, other]", "tiers: [own, othr]").replace("total_s: 30", "total_s: -1"))
    result = run("check")
    assert result.exit_code == 1
    assert "llm-fallback.yaml:12 error chains.assistant.tiers[1]\n" in result.stdout
    assert "did you mean 'other'?" in result.stdout
    assert "llm-fallback.yaml:13 error chains.assistant.timeouts.total_s\n" in result.stdout
    assert result.stdout.endswith("llm-fallback.yaml: 2 errors\n")


def test_a_warning_is_fine_unless_strict(write, run):
    """--strict makes the exit code 1; the text is the same."""
    write(FINE.replace("tiers: [own, other]", "tiers: [own]"))
    relaxed, strict = run("check"), run("check", "--strict")
    assert (relaxed.exit_code, strict.exit_code) == (0, 1)
    assert "warning chains.assistant.tiers\n    'own' is alone" in relaxed.stdout
    assert relaxed.stdout == strict.stdout


def test_an_unset_variable_is_a_warning_and_with_env_an_error(write, run, monkeypatch):
    """The machine that checks need not be the one that asks."""
    monkeypatch.delenv("OWN_URL", raising=False)
    write(FINE.replace("${OWN_URL:-http://localhost:8000}", "${OWN_URL}"))
    relaxed, with_env = run("check"), run("check", "--env")
    assert (relaxed.exit_code, with_env.exit_code) == (0, 1)
    assert "llm-fallback.yaml:5 warning deployments.own.api_base\n" in relaxed.stdout
    assert "llm-fallback.yaml:5 error deployments.own.api_base\n" in with_env.stdout
    monkeypatch.setenv("OWN_URL", "http://localhost:1")
    assert run("check", "--env").exit_code == 0


def test_json_has_findings_and_chains(write, run):
    """The same facts as data."""
    write(FINE.replace("tiers: [own, other]", "tiers: [own]"))
    printed = json.loads(run("check", "--json").stdout)
    assert printed["ok"] is True
    assert {(finding["severity"], finding["path"], finding["line"]) for finding in printed["findings"]} == {
        ("warning", "chains.assistant.tiers", 12),
        ("warning", "deployments.other", 6),
        ("note", "deployments.own", 2),
    }
    (chain,) = printed["chains"]
    assert (chain["chain"], chain["tiers"], chain["max_requests"], chain["max_seconds"]) == (
        "assistant",
        [["own"]],
        3,
        30,
    )


def test_json_of_a_wrong_spec_has_its_mistakes(write, run):
    """And no chains: there is no telling what they would do."""
    write(FINE.replace("model: Qwen/Qwen3-32B", "modell: Qwen/Qwen3-32B"))
    result = run("check", "--json")
    printed = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (printed["ok"], printed["chains"]) == (False, [])
    assert {finding["severity"] for finding in printed["findings"]} == {"error"}


def test_later_files_are_overlays(write, run):
    """-f may be given several times."""
    base = write(FINE, "base.yaml")
    top = write({"chains": {"assistant": {"timeouts": {"total_s": 50}}}}, "top.yaml")
    result = run("check", "-f", base, "-f", top)
    assert "base.yaml, top.yaml: no errors" in result.stdout
    assert "at most 4 requests, 50 s" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["-f", "nowhere.yaml"], ["-f", "."], ["--nonsense"]])
def test_wrong_usage_is_2_and_names_the_remedy(run, arguments):
    """No file, a file that is not there, a folder, an unknown option."""
    result = run("check", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_key_in_clear_is_found_and_never_printed(write, run):
    """Not in a mistake, not in a finding, not in JSON."""
    spec = FINE.replace("backend: vllm\n", f"backend: vllm\n    api_key: {CANARY}\n")
    write(spec)
    text = run("check")
    assert "a secret in clear" in text.stdout
    write(spec.replace("tiers:", "tires:"))
    for result in (text, run("check", "--json"), run("check", "--env")):
        assert CANARY not in result.output


def test_a_file_that_is_no_yaml_is_a_finding(write, run):
    """With its line, and without a traceback."""
    write("deployments: [\n")
    result = run("check")
    assert result.exit_code == 1
    assert "llm-fallback.yaml" in result.stdout
    assert "Traceback" not in result.output


def test_an_accept_that_cannot_be_imported_is_no_mistake_here(write, run):
    """Nothing of the user's is run to check a spec."""
    write(FINE.replace("tiers: [own, other]", "tiers: [own, other]\n    accept: nowhere.to:be_found"))
    assert run("check").exit_code == 0
