"""A directory to be in, a spec in it, and the command to run on it."""

import os

import pytest
import yaml
from click.testing import CliRunner

from llm_fallback.cli import main
from llm_fallback.testing import FakeServer

FINE = """\
deployments:
  own:
    backend: vllm
    model: Qwen/Qwen3-32B
    api_base: ${OWN_URL:-http://localhost:8000}
  other:
    backend: ray-serve
    model: Qwen/Qwen3-32B
    api_base: ${OTHER_URL:-http://localhost:8001}
chains:
  assistant:
    tiers: [own, other]
    timeouts: {total_s: 30, attempt_s: 12}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The directory the command is run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(here):
    """Writes a spec, as text or data; `llm-fallback.yaml` unless it is named."""

    def write(spec=FINE, name="llm-fallback.yaml"):
        text = spec if isinstance(spec, str) else yaml.safe_dump(spec, sort_keys=False)
        (here / name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.fixture
def run(here, monkeypatch):
    """Runs the command; the result has exit_code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments, stdin=None):
        return CliRunner().invoke(main, arguments, input=stdin, env=dict(os.environ))

    return run


@pytest.fixture
def deployment():
    """What the spec of `serve` says of each deployment; a module may say more."""
    return {"price": {"input_per_million": 1, "output_per_million": 2}}


@pytest.fixture
def serve(write, deployment):
    """Runs a FakeServer with a spec of it as llm-fallback.yaml."""
    servers = []

    def serve(scripts, **chain_settings):
        server = FakeServer(scripts).start()
        servers.append(server)
        write(server.spec(deployments=dict.fromkeys(scripts, deployment), **chain_settings))
        return server

    yield serve
    for server in servers:
        server.close()
