"""What real servers said when something went wrong, through the whole stack: spec, LangChain, litellm, real HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from llm_fallback import ChainExhausted, FallbackChatModel, StreamBroken, build_chat_model
from llm_fallback.events import Attempt
from tests.corpus.cases import Case, System, Way, systems
from tests.corpus.stage import Stage
from tests.litellm_adapter.test_direct_and_relayed_alike import heard

SYSTEMS = [one for one in systems() if one.cases]
RUNS = [
    pytest.param(
        *(system, by, case, way),
        marks=() if way == case.ways[0] else pytest.mark.slow,
        id=f"{system.name}-{case.name}-{by}-{way}",
    )
    for system in SYSTEMS
    for by, case, way in system.runs()
]


@pytest.fixture(scope="module")
def models() -> Iterator[Mapping[str, FallbackChatModel]]:
    """A model per system: each case is a chain of its own in each way it can be asked."""
    with Stage(SYSTEMS) as stage, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", stage.url)
        built = {one.name: build_chat_model(_spec(one, stage.url)) for one in SYSTEMS}
        yield built
        for model in built.values():
            model.close()


def _spec(system: System, url: str) -> dict[str, Any]:
    deployments = {}
    for by, case, way in system.runs():
        deployments[_chain(by, case, way)] = system.deployment(by, case.place, url)
    return {
        "defaults": {"retries": {"max": 0}, "timeouts": {"total_s": 20}},
        "deployments": deployments,
        "chains": {name: {"tiers": [name]} for name in deployments},
        "default_chain": next(iter(deployments)),
    }


def _chain(by: str, case: Case, way: Way) -> str:
    return f"{case.name}-{by}-{way}"


def _attempt(model: FallbackChatModel, by: str, case: Case, way: Way) -> Attempt:
    """The only attempt of a call, which must not pass for an answer."""
    name = _chain(by, case, way)
    with pytest.raises(StreamBroken if case.after_content else ChainExhausted) as caught:
        model.invoke("hi", chain=name) if way == "plain" else list(model.stream("hi", chain=name))
    assert len(caught.value.attempts) == 1
    return caught.value.attempts[0]


@pytest.mark.parametrize(("system", "by", "case", "way"), RUNS)
def test_what_a_server_says_is_the_failure_it_is(models, system, by, case, way):
    """By status first, then by code, then by wording; never an answer, never another's failure."""
    model, name = models[system.name], _chain(by, case, way)
    attempt = _attempt(model, by, case, way)
    assert (attempt.failure, attempt.status) == (case.failure, case.says or case.status)
    if case.wait_s is not None:
        assert model.state()[name]["retry_in_s"] == pytest.approx(case.wait_s, abs=1)


VLLM = next(one for one in SYSTEMS if one.name == "vllm")
RUDELY = ["context_by_tokens", "bad_model", "bad_key", "overloaded", "overloaded_in_band", "draining"]


def test_a_server_that_compresses_for_nobody_s_asking_is_understood():
    """What is not read off the wire then is read from litellm's account."""
    runs = [run for run in VLLM.runs() if run[1].name in RUDELY]
    with Stage([VLLM], rude=True) as stage, build_chat_model(_spec(VLLM, stage.url)) as model:
        for by, case, way in runs:
            assert _attempt(model, by, case, way).failure == case.failure


@pytest.mark.slow
def test_it_is_the_same_failure_when_somebody_listens_to_litellm():
    """Requests then go through litellm whole."""
    with heard("relayed"), Stage([VLLM]) as stage, build_chat_model(_spec(VLLM, stage.url)) as model:
        for by, case, way in VLLM.runs():
            attempt = _attempt(model, by, case, way)
            assert (case.name, attempt.failure, attempt.status) == (case.name, case.failure, case.says or case.status)
