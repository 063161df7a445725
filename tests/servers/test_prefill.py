"""A real prefill: a reply that was cut in the middle and continued elsewhere is the reply that was never cut."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_fallback import build_chat_model
from llm_fallback.testing import assert_attempts
from tests.servers.callers import PROMPT, Manner, caller_of, start
from tests.servers.conftest import SpecOf
from tests.servers.fleet import Server, up
from tests.servers.process import KEY
from tests.servers.systems import SYSTEMS, System, selected

VLLM = [system for system in selected() if system == SYSTEMS["vllm"]]
MANNERS = [Manner(mode, "continue") for mode in ("stream", "astream")]

LONG_PROMPT = PROMPT * 85
"""Leaves some 800 tokens of the window, and so a reply that even a busy machine ends in time."""

pytestmark = pytest.mark.servers


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Server]:
    """A second vLLM with the same weights."""
    with up(Server(SYSTEMS["vllm"], {}, tmp_path / "twin.log")) as twin:
        yield twin


@pytest.mark.parametrize("system", VLLM, indirect=True, ids=str)
def test_a_continued_reply_is_the_reply_that_was_never_cut(
    system: System, server: Server, twin: Server, spec_of: SpecOf
) -> None:
    """To the last character, sync and async: vLLM goes on from what was delivered, and nothing is said twice."""
    deployments = {"backup": {"backend": "vllm", "model": "tiny", "api_base": twin.url, "api_key": KEY}}
    with build_chat_model(spec_of(system, deployments=deployments), temperature=0) as model:
        uncut = model.invoke(LONG_PROMPT)
    callers = [caller_of(system, manner, spec_of, prompt=LONG_PROMPT, deployments=deployments) for manner in MANNERS]
    start(callers)
    server.signal(signal.SIGKILL)
    for caller in callers:
        caller.join()
    server.end()
    assert_attempts(uncut, f"{system}: succeeded")
    for caller in callers:
        assert_attempts(caller.message, f"{system}: stream_broken", "backup: succeeded")
        assert 0 < caller.facts["stitches"][0]["at"] < len(uncut.text)
        assert caller.text == uncut.text
