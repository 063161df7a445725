"""Words on a command line, by chance: exit codes that are documented, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.cli import main
from tests.fuzz.spoiling import tries
from tests.fuzz.test_files import calls

WORDS = {
    "check": ["--env", "--strict", "--json"],
    "explain": ["--chain", "assistant", "--json"],
    "simulate": ["--chain", "--down", "--fail", "--slow", "--calls", "3", "--rate", "10/s", "--stream", "--no-stream",
                 "--seed", "--allow", "5%", "a=timeout", "a=timeout:50", "a=10x", "b=2s", "--json"],
    "export": ["--to", "litellm-proxy", "llm-fallback"],
    "report": ["--by", "tenant", "--json", "calls.jsonl"],
    "schema": [],
    "fleet": ["--once", "--json"],
}  # fmt: skip
ANYWHERE = [
    "-f",
    "spec.yaml",
    "gone.yaml",
    ".",
    "-h",
    "--",
    "a",
    "=",
    "a=",
    "=b",
    "-1",
    "0",
    "nan",
    "1e999",
    "[bold]",
    "\x1b[31m",
]
SPEC = """
deployments:
  a: {backend: vllm, model: m, api_base: "http://a:8000"}
  b: {backend: vllm, model: m, api_base: "http://b:8000"}
chains: {assistant: {tiers: [a, b]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the command runs, with a spec and a log."""
    place = tmp_path_factory.mktemp("commands")
    for name in ("spec.yaml", "llm-fallback.yaml"):
        (place / name).write_text(SPEC, encoding="utf-8")
    (place / "calls.jsonl").write_text("\n".join(calls()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield Path(place)


@pytest.mark.parametrize("command", WORDS)
@given(data=st.data())
@tries(60)
def test_any_words_are_a_command_or_are_told_what_is_wrong(command, data, folder):
    """0, 1 for a finding, 2 for wrong usage; what is printed can be."""
    word = st.sampled_from([*WORDS[command], *ANYWHERE]) | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6
    )
    words = [command, *data.draw(st.lists(word, max_size=6))]
    ended = CliRunner().invoke(main, words)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), (words, ended.exception)
    assert ended.exit_code in (0, 1, 2), words
    assert "Traceback" not in ended.output
