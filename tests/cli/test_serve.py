"""`llm-fallback serve`: what keeps it from serving. How it serves: tests/serving/test_server.py."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

SPEC = {
    "deployments": {"only": {"model": "openai/gpt-4.1", "api_key": "sk-1"}},
    "chains": {"main": {"tiers": ["only"]}},
}


def test_a_key_that_is_not_set_is_told_before_it_listens(
    run: Callable[..., Any], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file's line."""
    monkeypatch.delenv("CALLER_KEY", raising=False)
    write({**SPEC, "serve": {"keys": ["${CALLER_KEY}"]}})
    result = run("serve")
    assert result.exit_code == 1
    assert "serve.keys[0]: the variable CALLER_KEY is not set" in result.output


def test_a_port_that_is_taken_is_told(run: Callable[..., Any], write: Callable[..., str]) -> None:
    """As one line, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        write({**SPEC, "serve": {"port": port}})
        result = run("serve")
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("keys", [[], ["sk-1"]])
def test_a_proxy_s_key_that_the_spec_does_not_name_is_told(
    keys: list[str], run: Callable[..., Any], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LiteLLM proxy takes it from the process; here it is none, and only this machine is answered."""
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-of-the-process")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # It is told before it listens, and then it ends.
        write({**SPEC, "serve": {"port": taken.getsockname()[1], "keys": keys}})
        output = run("serve").output
    assert ("LITELLM_MASTER_KEY is set" in output) is (not keys)
    assert "sk-of-the-process" not in output


def test_the_variable_names_the_spec(run: Callable[..., Any], write: Callable[..., str], monkeypatch: Any) -> None:
    """For every command, with the separator of the system between several files; -f wins."""
    monkeypatch.setenv("LLM_FALLBACK_SPEC", write(SPEC, "elsewhere.yaml"))
    assert run("check").exit_code == 0
    assert run("check", "-f", write("chains: 5", "wrong.yaml")).exit_code == 1
