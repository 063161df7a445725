"""examples/switching: one app, five specs. It runs on each whose servers can be played here; hosted ones cannot."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from llm_fallback import check, load_spec
from llm_fallback.testing import Fail, FakeServer

FOLDER = Path(__file__).parents[2] / "examples/switching"
SPECS = sorted(FOLDER.glob("*.yaml"))
PLAYED = {
    "fake": {"FAKE_URL": ""},
    "vllm": {"VLLM_A_URL": "/gpu-a", "VLLM_B_URL": "/gpu-b", "VLLM_API_KEY": None},
    "ray-serve": {"RAY_A_URL": "/cluster-a", "RAY_B_URL": "/cluster-b"},
    "litellm-proxy": {"LITELLM_URL": "/proxy", "LITELLM_KEY": None, "OWN_URL": "/own"},
}
"""The variables of each spec whose servers are played: where on the server, or a key."""
KEY = "sk-switching-0123456789"


@pytest.fixture
def translate():
    return runpy.run_path(str(FOLDER / "app.py"))["translate"]


def served(name, monkeypatch, down=()):
    """A server for every deployment of a spec, and the variables that lead there."""
    deployments = load_spec(FOLDER / f"{name}.yaml").deployments
    server = FakeServer({each: Fail(503) if each in down else "Bonne nuit." for each in deployments}).start()
    for variable, place in PLAYED[name].items():
        monkeypatch.setenv(variable, KEY if place is None else f"{server.url}{place}")
    return server


@pytest.mark.parametrize("name", PLAYED)
def test_the_app_runs_on_it(name, translate, monkeypatch):
    """The same prompt to the model the spec names, with the key it names, if any."""
    server = served(name, monkeypatch)
    try:
        translation, facts = translate(FOLDER / f"{name}.yaml", "Good night.")
        (request,) = server.received()
    finally:
        server.close()
    own = load_spec(FOLDER / f"{name}.yaml").deployments[facts["deployment"]]
    assert (translation, facts["fell_back"]) == ("Bonne nuit.", False)
    assert request.path == f"/{facts['deployment']}/v1/chat/completions"
    assert request.body["model"] == own.model
    assert request.body["messages"][0]["content"] == "Translate to French, and say nothing else: Good night."
    assert request.headers.get("authorization") == (f"Bearer {KEY}" if own.api_key else None)


@pytest.mark.parametrize("name", PLAYED)
def test_the_app_goes_on_when_the_first_server_is_down(name, translate, monkeypatch):
    """Whatever kind of server that is."""
    first, second = load_spec(FOLDER / f"{name}.yaml").deployments
    server = served(name, monkeypatch, down=[first])
    try:
        translation, facts = translate(FOLDER / f"{name}.yaml", "Good night.")
    finally:
        server.close()
    assert (translation, facts["deployment"]) == ("Bonne nuit.", second)


def test_on_hosted_providers_it_could_run_and_is_only_checked():
    """They are out of a test's reach, and want money: so the spec is loaded, and has no finding."""
    spec = load_spec(FOLDER / "hosted.yaml")
    keys = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY}
    assert check(spec, env=True, environ=keys) == []


def test_every_spec_has_the_app_s_chain_and_nothing_wrong():
    """And the table of the README has each of them."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in SPECS} == {*PLAYED, "hosted"}
    for path in SPECS:
        spec = load_spec(path)
        assert list(spec.chains) == ["assistant"]
        assert not [found for found in check(spec) if "not set" not in found.message]
        assert f"| `{path.name}` |" in readme


def test_the_app_knows_none_of_the_servers():
    """No backend, deployment, model, address or variable stands in it."""
    app = (FOLDER / "app.py").read_text(encoding="utf-8")
    code = app.split('"""', 2)[2]
    for path in SPECS:
        spec = load_spec(path)
        words = {*spec.deployments, *(own.model for own in spec.deployments.values()), path.stem}
        words |= {reference.name for _, reference in spec.references()}
        assert not [word for word in words if re.search(rf"\b{re.escape(word)}\b", code)]


@pytest.mark.slow
def test_the_fake_runs_as_it_stands():
    """Without a network or a key, as the README says."""
    program = [sys.executable, "fake.py", "Good night."]
    done = subprocess.run(program, cwd=FOLDER, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "Bonne nuit.\n"
    assert done.stderr == "backup (fake), 2 asked\n"


def test_the_proxy_s_own_configuration_would_do_as_well(translate, tmp_path, monkeypatch):
    """The app takes a `config.yaml` like any other spec, as long as it has the chain."""
    row = {"model_name": "assistant", "litellm_params": {"model": "openai/x", "api_base": "os.environ/BASE"}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_list": [row]}), encoding="utf-8")
    with FakeServer({"x": "Bonne nuit."}) as server:
        monkeypatch.setenv("BASE", f"{server.base('x')}/v1")
        assert translate(path, "Good night.")[0] == "Bonne nuit."
