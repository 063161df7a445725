"""A call looks up and connects to the deployment's own host, and to no other; nor does loading the library."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

from llm_fallback import LLMFallbackError
from tests.asking import TWO_MODES, ask
from tests.litellm_adapter.test_redirects import KINDS, Server, model_of
from tests.thinning import combinations

OURS = {"127.0.0.1"}


@pytest.fixture
def looked_up(monkeypatch) -> set[str]:
    """Every host that somebody looks up or connects to, whichever library it is."""
    import asyncio
    import socket

    found: set[str] = set()
    looking, connecting = socket.getaddrinfo, asyncio.BaseEventLoop.create_connection

    def look(host: Any, *words: Any, **more: Any) -> Any:
        found.add(str(host))
        return looking(host, *words, **more)

    async def connect(self: Any, factory: Any, host: Any = None, *words: Any, **more: Any) -> Any:
        found.update(() if host is None else (str(host),))
        return await connecting(self, factory, host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    return found


@pytest.mark.parametrize(
    ("kind", "mode"),
    combinations(
        [kind for kind in KINDS if not kind.startswith("huggingface")],
        TWO_MODES,
        fast=lambda kind, mode: mode == "invoke",
    ),
)
async def test_a_call_connects_to_its_deployment_alone(kind, mode, looked_up):
    """Whatever came of it: nobody else is told that there was a call."""
    with Server() as server, model_of(KINDS[kind], server) as model:
        with suppress(LLMFallbackError):  # Not every provider speaks like OpenAI.
            await ask(model, mode, "hi")
        assert server.received
    assert looked_up <= OURS


WATCHED = """
import json, socket
hosts = []
looking = socket.getaddrinfo
def look(host, *words, **more):
    hosts.append(str(host))
    return looking(host, *words, **more)
socket.getaddrinfo = look
{code}
print(json.dumps(sorted(set(hosts))))
"""
USES = {
    "imported": "import llm_fallback",
    "its model imported": "from llm_fallback import FallbackChatModel",
    "a model built": "from llm_fallback import build_chat_model; build_chat_model(['openai/gpt-4o']).explain()",
    "a router built": "from llm_fallback import build_router, load_spec; build_router(load_spec({'deployments': "
    "{'a': {'model': 'anthropic/claude-sonnet-4-5', 'api_key': 'k'}}, 'chains': {'c': {'tiers': ['a']}}}))",
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_loading_it_asks_nobody(use):
    """litellm by itself fetches its list of prices from a public host when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.replace("{code}", USES[use])],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "OPENAI_API_KEY": "k"},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
