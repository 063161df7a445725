"""`llm-fallback export`: a spec in another form, on stdout or in a file; what is lost, on stderr."""

import yaml

from llm_fallback import load_spec
from tests.cli.conftest import FINE

CANARY = "sk-canary-0123456789abcdef"
CONFIG = {
    "model_list": [
        {"model_name": "chat", "litellm_params": {"model": "openai/gpt-4.1", "api_key": CANARY, "tags": ["x"]}},
        {"model_name": "backup", "litellm_params": {"model": "anthropic/claude-sonnet-4-5"}},
    ],
    "litellm_settings": {"fallbacks": [{"chat": ["backup"]}]},
}


def test_a_spec_becomes_a_configuration_of_a_proxy(write, run):
    """YAML, and nothing but it, on stdout."""
    write()
    result = run("export", "--to", "litellm-proxy")
    assert result.exit_code == 0
    config = yaml.safe_load(result.stdout)
    assert [row["model_name"] for row in config["model_list"]] == ["assistant", "assistant/2"]
    assert config["router_settings"]["fallbacks"] == [{"assistant": ["assistant/2"]}]


def test_a_configuration_becomes_a_spec(write, run, here):
    """That loads, and has the same chains as the configuration itself."""
    write(CONFIG, "config.yaml")
    result = run("export", "-f", "config.yaml", "--to", "llm-fallback", "--output", "llm-fallback.yaml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert load_spec(here / "llm-fallback.yaml").chains == load_spec(here / "config.yaml").chains
    assert run("check").exit_code == 0


def test_a_file_that_cannot_be_written_is_named(write, run):
    """Without a traceback."""
    write()
    result = run("export", "--to", "litellm-proxy", "--output", "nowhere/config.yaml")
    assert result.exit_code == 1
    assert result.stderr == "main: nowhere/config.yaml: No such file or directory\n"


def test_what_is_lost_is_told_on_stderr_and_is_no_error(write, run):
    """With file, line and path: of what was read, and of what was written."""
    write(CONFIG, "config.yaml")
    result = run("export", "-f", "config.yaml", "--to", "llm-fallback")
    lost, secret = result.stderr.splitlines()
    assert result.exit_code == 0
    assert lost == "note config.yaml:6 model_list[0].litellm_params.tags: has no counterpart here"
    assert secret == "note config.yaml:5 deployments.chat.api_key: is a secret in clear: set CHAT_API_KEY to it"
    assert CANARY not in result.output


def test_no_form_or_an_unknown_one_is_wrong_usage(write, run):
    """Exit code 2, naming the forms."""
    write()
    assert run("export").exit_code == 2
    assert "litellm-proxy" in run("export", "--to", "toml").stderr


def test_a_wrong_spec_is_told_and_nothing_is_written(write, run, here):
    """Exit code 1."""
    write(FINE.replace("tiers: [own, other]", "tiers: [own, othr]"))
    result = run("export", "--to", "litellm-proxy", "--output", "config.yaml")
    assert result.exit_code == 1
    assert "did you mean 'other'?" in result.stderr
    assert not (here / "config.yaml").exists()


def test_check_shows_what_a_configuration_lost_as_notes(write, run):
    """Not even --strict takes them for errors."""
    params = {"model": "openai/x", "tags": []}
    write({"model_list": [{"model_name": name, "litellm_params": params} for name in "ab"]}, "config.yaml")
    result = run("check", "-f", "config.yaml", "--strict")
    assert "config.yaml:5 note model_list[0].litellm_params.tags\n    has no counterpart here" in result.stdout
    assert "2 notes" in result.stdout
