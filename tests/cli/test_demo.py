"""`llm-fallback demo`: what it shows, and that its spec is a good one."""

import json
import tomllib
from pathlib import Path

import pytest

from llm_fallback import check, load_spec
from llm_fallback.cli.scenes import SCENES, demo_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo():
    """What `demo --json` says, once for all."""
    from click.testing import CliRunner

    from llm_fallback.cli import main

    result = CliRunner().invoke(main, ["demo", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("scene", "failure"),
    [
        ("down", "server_error"),
        ("throttled", "rate_limited"),
        ("hung", "first_token_timeout"),
        ("cut off", "stream_broken"),
        ("garbage", "invalid_response"),
    ],
)
def test_a_scene_is_answered_by_another_deployment(demo, scene, failure):
    """The primary fails as announced; the answer is whole and somebody else's."""
    (played,) = [each for each in demo["scenes"] if each["scene"] == scene]
    facts = played["llm_fallback"]
    assert facts["attempts"][0]["failure"] == failure
    assert facts["fell_back"] is True
    assert facts["deployment"] != facts["attempts"][0]["deployment"]
    assert played["answer"].endswith(".")


def test_in_health_the_primary_answers_at_a_known_cost(demo):
    """One attempt, no fallback."""
    healthy = demo["scenes"][0]
    assert (healthy["scene"], len(healthy["llm_fallback"]["attempts"])) == ("healthy", 1)
    assert healthy["llm_fallback"]["cost_usd"] > 0


def test_in_an_outage_the_breaker_opens_and_closes_again(demo):
    """After three failures; the last call is the probe, and answered."""
    first = [played["llm_fallback"]["attempts"][0]["deployment"] for played in demo["outage"]]
    states = [played["breaker"]["breaker"] for played in demo["outage"]]
    assert states[:2] == ["closed", "closed"]
    assert states[2] in ("open", "half_open")
    assert states[-1] == "closed"
    assert first[-1] == first[0]


@pytest.mark.parametrize("columns", [60, 80])
def test_what_is_shown_fits_a_narrow_terminal_and_a_pipe(run, monkeypatch, columns):
    """No colours, no line too long and no text cut off, every scene and what happens in it, the breaker."""
    monkeypatch.setenv("COLUMNS", str(columns))
    result = run("demo")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= columns
    for number, scene in enumerate(SCENES, 1):
        assert f"{number} {scene.title}" in result.stdout
        assert scene.happens in result.stdout
    assert "7 outage" in result.stdout
    assert "StreamBroken" in result.stdout


def test_the_demo_s_spec_has_nothing_to_find():
    """It is an example to start from."""
    assert check(load_spec(demo_file()), environ={}) == []


def test_there_is_one_spec_of_the_demo_in_a_checkout_and_in_a_wheel():
    """The file under examples/ is put into the wheel, where the demo looks for it."""
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    forced = packed["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert forced == {"examples/demo/llm-fallback.yaml": "llm_fallback/cli/demo.yaml"}
    assert (ROOT / "examples/demo/llm-fallback.yaml").read_text(encoding="utf-8") == demo_file().read_text(
        encoding="utf-8"
    )
